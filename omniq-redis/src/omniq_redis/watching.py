"""Waking those who wait: one subscription per event loop, which hears what any process adds and stores.

A hint only: while there is no subscription, waits end after a second, so that their callers look for themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import msgspec
from omniq.background import spawn
from omniq.backoff import Backoff
from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.loops import forget
from omniq.sync import cancel_and_wait
from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub

from omniq_redis.config import ServerSettings
from omniq_redis.opening import Client, close_client, hang_up, open_subscriber, store_errors

POLL = 1.0
"""Seconds that a wait takes at most while nothing can be heard."""
QUIET = 10.0
"""Seconds of silence after which the server is asked whether it is still there."""
PATIENCE = 5.0
"""Seconds that it may take to answer."""
LONG = 86_400.0
"""Seconds after which is looked again, for what is due later than that."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 1.0
"""Seconds between two attempts to subscribe."""

_log = get_logger("omniq.redis")
_decode_tasks = msgspec.msgpack.Decoder(tuple[str, list[tuple[str, float]]]).decode
_decode_results = msgspec.msgpack.Decoder(tuple[str, list[str]]).decode

NextDue = Callable[[Sequence[str]], Awaitable[dict[str, float]]]
"""Asks from when on, in seconds from now, each of the queues has something to claim; empty ones are left out."""


class _Watch:
    """What one waiter waits for."""

    def __init__(self, wake: Callable[[], None], names: Collection[str]) -> None:
        self.wake = wake
        self.names = frozenset(names)


class Watcher:
    """The subscription of one loop; it begins with the first wait."""

    def __init__(self, settings: ServerSettings, sender: str, next_due: NextDue) -> None:
        self._settings = settings
        self._sender = sender
        self._next_due = next_due
        self._queues: set[_Watch] = set()
        self._results: set[_Watch] = set()
        self._known: set[str] = set()
        """The queues of which every change of the next due task has been heard."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._up = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._client: Client | None = None

    @contextmanager
    def for_tasks(self, queues: Collection[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when one of the queues has something due."""
        with _member(self._queues, _Watch(wake, queues)):
            yield

    @contextmanager
    def for_results(self, ids: Collection[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when one of the results arrives."""
        with _member(self._results, _Watch(wake, ids)):
            yield

    async def patience(self, timeout: float, queues: Sequence[str] = ()) -> float:
        """For how long to wait at most: `timeout`, once everything is heard that may end the wait; else no longer
        than `POLL`. What is due already, or is so later, will call `wake`."""
        began = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, POLL)):
                await self._hear(queues)
                return timeout - (time.monotonic() - began)
        return min(timeout, POLL) - (time.monotonic() - began)

    async def close(self) -> None:
        """End the subscription."""
        if self._listener is not None:
            await cancel_and_wait(self._listener)
            self._listener = None
        self._forget()

    def abandon(self) -> None:
        """Hang up at once: its loop has ended."""
        forget(self._listener)
        if self._client is not None:
            hang_up(self._client)

    async def _hear(self, queues: Sequence[str]) -> None:
        """Return once the subscription stands and the queues' next tasks are known."""
        if self._listener is None or self._listener.done():
            self._listener = spawn(self._run(), name="omniq-redis-subscriber")
        while True:
            await self._up.wait()
            unknown = [queue for queue in queues if queue not in self._known]
            if not unknown:
                return
            try:
                due = await self._next_due(unknown)
            except StoreError as error:  # whoever claims gets it too
                _log.debug("asking for the next due task failed: %s", error)
                await asyncio.sleep(POLL)
                continue
            self._known.update(unknown)
            for queue, seconds in due.items():
                self._learn(queue, seconds)

    def _learn(self, queue: str, seconds: float) -> None:
        """The queue has something due so many seconds from now."""
        if not seconds < LONG:  # nor a number that a loop can't wait for
            seconds = LONG
        if seconds <= 0:
            self._ring(queue)
        elif queue in self._known:
            if queue in self._timers:
                self._timers[queue].cancel()
            self._timers[queue] = asyncio.get_running_loop().call_later(seconds, self._due, queue)

    def _due(self, queue: str) -> None:
        self._known.discard(queue)  # what comes next isn't known
        del self._timers[queue]
        self._ring(queue)

    def _ring(self, name: str) -> None:
        for watch in [watch for watch in self._queues if name in watch.names]:
            watch.wake()

    def _forget(self) -> None:
        """What was heard is out of date: let everybody look for themselves."""
        self._up.clear()
        self._known.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for watch in [*self._queues, *self._results]:
            watch.wake()

    async def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while not _is_cancelled():
            try:
                await self._listen()
            except StoreError as error:
                _log.debug("the subscription ended: %s", error)
            if self._up.is_set():
                backoff.reset()
            self._forget()
            await backoff.pause()

    async def _listen(self) -> None:
        """Subscribe, and pass on what comes, until the connection breaks. Raises `StoreError`."""
        with store_errors(self._settings):
            await self._subscribe()

    async def _subscribe(self) -> None:
        tasks, results = f"{self._settings.namespace}tasks", f"{self._settings.namespace}results"
        client = self._client = await open_subscriber(self._settings)
        try:
            async with aclosing(client.pubsub()) as subscription:
                await subscription.subscribe(tasks, results)
                while not _is_cancelled():
                    message = await _next_message(subscription)
                    if message is not None:
                        self._take(message["type"], message["channel"] == tasks.encode(), message["data"])
        finally:
            await close_client(client)

    def _take(self, kind: str, of_tasks: bool, data: Any) -> None:
        """Pass a message on."""
        if kind == "subscribe" and data == 2:
            self._up.set()
        elif kind == "message" and of_tasks:
            sender, news = _decode_tasks(data)
            for queue, seconds in news:
                if seconds > 0 or sender != self._sender:  # else `hints` has told everybody here
                    self._learn(queue, seconds)
        elif kind == "message" and self._results:
            sender, ids = _decode_results(data)
            if sender != self._sender:
                self._stored(ids)

    def _stored(self, ids: Sequence[str]) -> None:
        for watch in [watch for watch in self._results if not watch.names.isdisjoint(ids)]:
            watch.wake()


@contextmanager
def _member(watches: set[_Watch], watch: _Watch) -> Iterator[None]:
    watches.add(watch)
    try:
        yield
    finally:
        watches.discard(watch)


def _is_cancelled() -> bool:
    """Whether this task was cancelled and redis-py has swallowed that: nobody may cancel it again, as `asyncio.run`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _next_message(subscription: PubSub) -> Any:
    """The next message, however long it takes; None when this task is cancelled.

    Raises `TimeoutError` of redis-py when the server is gone.
    """
    message = await subscription.get_message(timeout=QUIET)
    while message is None and not _is_cancelled():
        await subscription.ping()
        message = await subscription.get_message(timeout=PATIENCE)
        if message is None and not _is_cancelled():
            raise redis_errors.TimeoutError("the server doesn't answer")
    return message
