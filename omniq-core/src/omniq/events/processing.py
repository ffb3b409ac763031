"""What users do with events: follow them, handle them, and choose which are kept."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Self, TypeAlias, TypeVar, Unpack

from omniq.batching import Backoff
from omniq.callbacks import harmless
from omniq.clock import Duration, seconds
from omniq.errors import Closed, ConfigError, InvalidTask
from omniq.events.logger import AsyncEventLogger, EventFields
from omniq.events.storage import AsyncEventStorage, EventConditions, EventStorage, event_filter, event_types
from omniq.events.streams import OVERLAP, POLL_INTERVAL, AsyncEventStream, EventStream, Follower
from omniq.loops import spawn
from omniq.models.event import EventLevel, EventType, TaskEvent
from omniq.sync import cancel_and_wait, portal, refuse_in_loop
from omniq.texts import get_logger, qualified_name
from omniq.threads import on_thread

log = get_logger("omniq.events")

# ── at the front door ───────────────────────────────────────────────────────


class AsyncEvents:
    """`oq.events`: called, the events as an asynchronous iterator; besides, which of them are kept."""

    def __init__(self, storage: AsyncEventStorage[Any] | None, logger: AsyncEventLogger | None) -> None:
        self._storage = storage
        self._logger = logger

    @property
    def storage(self) -> AsyncEventStorage[Any]:
        """Where events are kept. Raises `ConfigError` when no event store is set."""
        if self._storage is None:
            raise ConfigError("event_store: none is configured, so no events are kept")
        return self._storage

    @property
    def logger(self) -> AsyncEventLogger:
        """What takes the events of this process. Raises `ConfigError` when no event store is set."""
        if self._logger is None:
            raise ConfigError("event_store: none is configured, so no events are kept")
        return self._logger

    def __call__(
        self,
        *,
        follow: bool = False,
        after: str | None = None,
        oldest_first: bool = True,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        **conditions: Unpack[EventConditions],
    ) -> AsyncEventStream:
        """All events that match, the oldest first or the newest; behind the cursor `after`, if it is given.

        If they are to `follow`, those that come, without an end: see `AsyncEventStorage.follow`. Raises `ConfigError`
        when no event store is set, `InvalidTask` naming an argument; and `StoreError` at the first step.
        """
        flush = self.logger.flush
        if not follow:
            return self.storage.iterate(oldest_first=oldest_first, after=after, prepare=flush, **conditions)
        if not oldest_first:
            raise InvalidTask("oldest_first: events that are followed come as they happen")
        return self.storage.follow(
            after=after, poll_interval=poll_interval, overlap=overlap, prepare=flush, **conditions
        )

    def configure(
        self,
        *,
        types: Iterable[EventType | str] | None = None,
        level: EventLevel | str | None = None,
        enabled: bool | None = None,
    ) -> None:
        """As `AsyncEventLogger.configure`. Raises `ConfigError`, also when no event store is set."""
        self.logger.configure(types=types, level=level, enabled=enabled)

    @property
    def dropped(self) -> int:
        """How many events this process has dropped, since its buffer was full or the store refused them."""
        return 0 if self._logger is None else self._logger.dropped

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event of your own; returns at once. Raises `ConfigError` when no event store is set."""
        self.logger.log(type, **fields)

    async def flush(self) -> None:
        """Wait until what was logged on this loop is written, or the store has failed."""
        await self.logger.flush()


class Events:
    """`oq.events` of the blocking `OmniQ`: called, the events as an iterator; besides, which of them are kept."""

    def __init__(self, aio: AsyncEvents, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.aio = aio
        self._call = call

    def __call__(
        self,
        *,
        follow: bool = False,
        after: str | None = None,
        oldest_first: bool = True,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        **conditions: Unpack[EventConditions],
    ) -> EventStream:
        """As `AsyncEvents`, as a plain iterator."""
        stream = self.aio(
            follow=follow,
            after=after,
            oldest_first=oldest_first,
            poll_interval=poll_interval,
            overlap=overlap,
            **conditions,
        )
        return EventStream(stream, self._call)

    def configure(
        self,
        *,
        types: Iterable[EventType | str] | None = None,
        level: EventLevel | str | None = None,
        enabled: bool | None = None,
    ) -> None:
        """As `AsyncEventLogger.configure`. Raises `ConfigError`, also when no event store is set."""
        self.aio.configure(types=types, level=level, enabled=enabled)

    @property
    def dropped(self) -> int:
        """How many events this process has dropped, since its buffer was full or the store refused them."""
        return self.aio.dropped

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event of your own; returns at once. Raises `ConfigError` when no event store is set."""

        async def log() -> None:
            self.aio.log(type, **fields)

        self._call(log())

    def flush(self) -> None:
        """Wait until what was logged is written, or the store has failed."""
        self._call(self.aio.flush())


# ── handling ────────────────────────────────────────────────────────────────


Handler: TypeAlias = Callable[[TaskEvent], Awaitable[object] | object]
H = TypeVar("H", bound=Handler)
AnyEvents: TypeAlias = AsyncEvents | Events | AsyncEventStorage[Any] | EventStorage

_handled_by: ContextVar[object] = ContextVar("omniq_event_processor", default=None)
"""The processor whose handler runs here, or has begun what runs here."""

GRACE: Final = 10.0
"""Seconds for which a processor that is stopped waits for the handler that runs."""
FIRST_PAUSE, MAX_PAUSE = 0.5, 5.0
"""Seconds until a processor that something has kept from reading begins again."""


class AsyncEventProcessor:
    """Calls handlers with events as they are stored, on the loop that starts it.

        processor = AsyncEventProcessor(oq.events)

        @processor.on(EventType.ERROR, EventType.RETRY)
        async def tell(event: TaskEvent) -> None: ...

        async with processor: ...

    Events come one by one, each to its handlers in the order in which they were added. Handlers that aren't async run
    on threads. One that raises is logged, and nobody else's matter. `source` is `oq.events` or an event storage;
    `after` and the conditions are those of `AsyncEventStorage.follow`.
    """

    def __init__(
        self,
        source: AnyEvents,
        *,
        after: str | None = None,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        **conditions: Unpack[EventConditions],
    ) -> None:
        self._storage = _storage_of(source)
        self._follower = Follower(
            self._storage,
            event_filter(**conditions),
            after=after,
            is_patient=True,
            poll_interval=poll_interval,
            overlap=overlap,
        )
        self._handlers: list[tuple[frozenset[EventType], Handler]] = []
        self._task: asyncio.Task[None] | None = None
        self._in_hand: str | None = None
        self._is_ending = False
        self._handling = asyncio.Lock()

    def on(self, *types: EventType | str) -> Callable[[H], H]:
        """Add the decorated function as a handler of events of these types, or of all. Raises `InvalidTask`."""
        chosen = frozenset(event_types(types) or EventType)

        def add(handler: H) -> H:
            if not callable(handler):
                raise InvalidTask(f"on: expected a function, got {type(handler).__name__}")
            self._handlers.append((chosen, handler))
            return handler

        return add

    @property
    def cursor(self) -> str:
        """What `after` takes to go on where this one is: behind the last event that all its handlers are done with."""
        return self._follower.cursor(without=self._in_hand)

    @property
    def running(self) -> bool:
        """Whether it handles events."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Begin, or go on where it was stopped; returns at once, and waits for a store that is away."""
        if not self.running:
            self._handling, self._is_ending = asyncio.Lock(), False
            self._task = spawn(self._run(), name="omniq-events")

    async def stop(self, grace_period: Duration = GRACE) -> None:
        """End, once the handler that runs is done: it is cancelled after the grace period, and gets its event again.

        Called by a handler, which can't wait for itself, it returns at once.
        """
        patience = seconds("grace_period", grace_period)
        if self._task is None:
            return
        if _handled_by.get() is self and self._handling.locked():
            self._is_ending = True
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._handling.acquire()
        await cancel_and_wait(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _run(self) -> None:
        _handled_by.set(self)
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while True:
            if self._in_hand is not None:
                self._follower.take_back(self._in_hand)
            try:
                async for event in self._follower.run(_at_once):
                    await self._handle(event)
                    if self._is_ending:
                        return
                    backoff.reset()
            except Closed:
                log.info("events are handled no longer, since their storage was closed")
                return
            except Exception:
                log.exception("events can't be handled, trying again")
            await backoff.pause()

    async def _handle(self, event: TaskEvent) -> None:
        self._in_hand = event.id
        async with self._handling:
            for types, handler in self._handlers:
                if event.type in types:
                    await harmless(partial(_call, handler, event), partial(_complain, handler, event))
        self._in_hand = None


async def _at_once() -> None:
    """There is nothing to do before events are followed."""


async def _call(handler: Handler, event: TaskEvent) -> None:
    if inspect.iscoroutinefunction(handler):
        await handler(event)
    elif inspect.isawaitable(answer := await on_thread(partial(handler, event), "omniq-event-handler")):
        await answer


def _complain(handler: Handler, event: TaskEvent, error: BaseException) -> None:
    name = getattr(handler, "__qualname__", type(handler).__name__)
    kind = qualified_name(type(error))
    log.error("the event handler %s failed at event %s (%s): %s", name, event.id, event.type, kind, exc_info=error)


def _storage_of(source: object) -> AsyncEventStorage[Any]:
    core = source.aio if isinstance(source, Events | EventStorage) else source
    storage = core.storage if isinstance(core, AsyncEvents) else core
    if isinstance(storage, AsyncEventStorage):
        return storage
    raise ConfigError(f"source: expected oq.events or an event storage, got {type(source).__name__}")


class EventProcessor:
    """`AsyncEventProcessor` in the background of blocking code; `aio` is its async core."""

    def __init__(
        self,
        source: AnyEvents,
        *,
        after: str | None = None,
        poll_interval: Duration = POLL_INTERVAL,
        overlap: Duration = OVERLAP,
        **conditions: Unpack[EventConditions],
    ) -> None:
        self.aio = AsyncEventProcessor(source, after=after, poll_interval=poll_interval, overlap=overlap, **conditions)

    def on(self, *types: EventType | str) -> Callable[[H], H]:
        """As `AsyncEventProcessor.on`."""
        return self.aio.on(*types)

    @property
    def cursor(self) -> str:
        """As `AsyncEventProcessor.cursor`."""
        return self.aio.cursor

    @property
    def running(self) -> bool:
        """Whether it handles events."""
        return self.aio.running

    def start(self) -> None:
        """Begin, or go on where it was stopped; returns at once, and waits for a store that is away."""
        refuse_in_loop("start()")
        portal().call(self.aio.start())

    def stop(self, grace_period: Duration = GRACE) -> None:
        """As `AsyncEventProcessor.stop`."""
        refuse_in_loop("stop()")
        portal().call(self.aio.stop(grace_period))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
