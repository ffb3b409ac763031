"""Circuit breakers: a store that fails time after time isn't asked for a while, so that nobody waits for it in vain."""

from __future__ import annotations

import inspect
import math
import os
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from omniq import clock
from omniq.batching import Backoff
from omniq.errors import BreakerOpen, StoreError, StoreFull, StoreUnavailable
from omniq.models.config import BreakerConfig
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Store
from omniq.storage.records import BreakerState, BreakerStatus
from omniq.storage.wakeups import Wakeups
from omniq.texts import cut, get_logger
from omniq.threads import new_lock

log = get_logger("omniq.storage")

BLIP: Final = 1.0
"""Seconds for which a store must have failed before its breaker opens: callers repeat their calls for about as long."""
MAX_TEXT: Final = 200
"""Characters of an error that a status shows."""

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

# ── the breaker ─────────────────────────────────────────────────────────────


class Breaker:
    """The circuit breaker of one store in this process, after Nygard, "Release It!" (2007).

    Closed, it lets calls through and counts those that fail in a row. When too many have, it opens: calls are refused
    at once. After a pause it is half-open: one call goes through, as a probe. If that works it closes, else it is open
    again, for twice as long up to a limit. A probe that isn't answered within that limit keeps no other from trying.

    Calls that were under way together fail together, and count as one. From any thread.
    """

    def __init__(self, location: str, config: BreakerConfig) -> None:
        self.location: Final = location
        self.config: Final = config
        self.quiet = True
        """Whether it is closed and the last call worked: then there is nothing to note of one that works."""
        self._lock = new_lock()
        self._state = CLOSED
        self._since = clock.now()
        self._error = ""
        self._pauses = Backoff(min(config.pause, config.max_pause), config.max_pause)
        self._failures = 0
        """In a row."""
        self._first_at = self._last_at = -math.inf
        """When the first and the last of them came, on the clock of `_monotonic`."""
        self._round = 0
        """How many failures have counted: a call that began in an earlier round tells nothing new."""
        self._probe_at = 0.0
        """When an open one lets the next call through."""

    @property
    def status(self) -> BreakerStatus:
        """How it is now."""
        error = None if self._state is CLOSED else cut(self._error, MAX_TEXT)
        return BreakerStatus(location=self.location, state=self._state, since=self._since, error=error)

    def enter(self, *, urgent: bool = False) -> int:
        """Let a call through, unless it is refused; returns its round. Raises `BreakerOpen`.

        An `urgent` call is let through in any case.
        """
        if self._state is not CLOSED and not urgent:
            self._probe()
        return self._round

    def _probe(self) -> None:
        with self._lock:
            now = _monotonic()
            if self._state is CLOSED:
                return
            if now < self._probe_at:
                raise self._refusal()
            self._state, self._probe_at = HALF_OPEN, now + self.config.max_pause
        log.debug("%s: a call is let through, to see whether it works again", self.location)

    def _refusal(self) -> BreakerOpen:
        since = f"{clock.utc(self._since):%Y-%m-%d %H:%M:%S} UTC"
        message = f"{self.location}: it has been failing since {since}, so it isn't asked just now: {self._error}"
        return BreakerOpen(message, self.location, self._since, self._error)

    def succeeded(self, round_: int) -> None:
        """A call of that round has worked."""
        with self._lock:
            if round_ != self._round:
                return
            reopened, took = self._state is not CLOSED, clock.now() - self._since
            self._failures, self.quiet = 0, True
            if reopened:
                self._state, self._since = CLOSED, clock.now()
                self._pauses.reset()
        if reopened:
            log.warning("%s: it works again, after %.1f s; its circuit breaker is closed", self.location, took)

    def failed(self, round_: int, error: StoreUnavailable) -> None:
        """A call of that round has failed."""
        with self._lock:
            if round_ != self._round:
                error.logged = self._state is not CLOSED
                return
            self._round += 1
            self._error = str(error).removeprefix(f"{self.location}: ")
            opened = self._state is CLOSED and self._count()
            if opened or self._state is HALF_OPEN:
                self._state, self._probe_at = OPEN, _monotonic() + self._pauses.step()
            error.logged = self._state is not CLOSED
        if opened:
            text = "%s: its circuit breaker is open, and it is tried again every %g s: %s"
            log.warning(text, self.location, self.config.max_pause, self._error)

    def _count(self) -> bool:
        """Count a failure; returns whether it is one too many."""
        now = _monotonic()
        if not self._failures or now - self._last_at > self.config.window:
            self._failures, self._first_at = 0, now
        self._failures, self._last_at, self.quiet = self._failures + 1, now, False
        took, most = now - self._first_at, self.config.failures
        if not most or self._failures < most or took < BLIP:
            return False
        self._since = clock.now() - took
        return True

    def ended(self, round_: int, error: BaseException) -> None:
        """A call of that round has raised: an error by which a store answers tells that it works."""
        if isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull | BreakerOpen):
            self.failed(round_, error)
        elif isinstance(error, StoreError) and not isinstance(error, BreakerOpen):
            self.succeeded(round_)
        else:
            self.told_nothing(round_)

    def told_nothing(self, round_: int) -> None:
        """A call of that round was given up, or works without the store: if it was the probe, the next one is."""
        if self._state is HALF_OPEN:
            with self._lock:
                if self._state is HALF_OPEN and round_ == self._round:
                    self._state, self._probe_at = OPEN, _monotonic()

    def forget(self) -> None:
        """Begin anew, in a forked child: what is under way is the parent's, and so is whoever holds the lock."""
        self._lock = new_lock()
        self._state, self._failures, self.quiet = CLOSED, 0, True


def _monotonic() -> float:
    return time.monotonic() + clock.offset()


# ── all there are ───────────────────────────────────────────────────────────


_breakers: weakref.WeakValueDictionary[tuple[str, BreakerConfig], Breaker] = weakref.WeakValueDictionary()
_making = new_lock()


def breaker_at(location: str, config: BreakerConfig) -> Breaker:
    """That of the store, shared by all in this process who configure it alike."""
    with _making:
        breaker = _breakers.get((location, config))
        if breaker is None:
            breaker = _breakers[location, config] = Breaker(location, config)
        return breaker


def breakers_of(*stores: Store | None) -> tuple[BreakerStatus, ...]:
    """How the breakers of these stores are now, each once."""
    guarded = {store.breaker: store.breaker.status for store in stores if isinstance(store, GuardedStore)}
    return tuple(guarded.values())


def _after_fork_in_child() -> None:
    global _making
    _making = new_lock()
    for breaker in list(_breakers.values()):
        breaker.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# ── stores behind their breakers ────────────────────────────────────────────


UNGUARDED: Final = frozenset({"close", "drop", "hear", "wait"})
"""They must work without the store, or wait for hints and reconnect by themselves."""
URGENT: Final = frozenset({"beat", "connect", "extend"})
"""Never refused: they are few, each has a time limit of its own, and a lease that isn't renewed is lost."""
VAGUE: Final = frozenset({"beat", "connect", "guarantees", "now"})
"""They may work without the store being asked, so that they don't tell whether it works."""

S = TypeVar("S", bound=Store)


class GuardedStore(Store):
    """A store whose calls go through its breaker. What isn't of the contract is the store's own."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in dir(cls):
            if not name.startswith("_") and inspect.iscoroutinefunction(getattr(cls, name)):
                setattr(cls, name, _passed_on(name) if name in UNGUARDED else _guarded(name))

    def __init__(self, store: Store, config: BreakerConfig) -> None:
        self.store: Final = store
        """The one whose calls these are."""
        self.breaker: Final = breaker_at(store.location, config)
        for name in ("capabilities", "max_bytes", "max_items", "networked"):
            setattr(self, name, getattr(store, name))

    def __getattr__(self, name: str) -> Any:
        if name == "store":  # there is none yet
            raise AttributeError(name)
        return getattr(self.store, name)

    @property
    def location(self) -> str:
        return self.breaker.location

    @property
    def max_item_bytes(self) -> int:
        return self.store.max_item_bytes

    @property
    def wakeups(self) -> Wakeups:
        return self.store.wakeups


def _guarded(name: str) -> Callable[..., Awaitable[Any]]:
    """The call of that name, through the breaker."""
    urgent, vague = name in URGENT, name in VAGUE

    async def call(self: GuardedStore, *args: Any, **kwargs: Any) -> Any:
        breaker = self.breaker
        round_ = breaker.enter(urgent=urgent)
        try:
            answer = await getattr(self.store, name)(*args, **kwargs)
        except BaseException as error:
            breaker.ended(round_, error)
            raise
        if not breaker.quiet:
            breaker.told_nothing(round_) if vague else breaker.succeeded(round_)
        return answer

    return call


def _passed_on(name: str) -> Callable[..., Awaitable[Any]]:
    """The call of that name, as it is."""

    async def call(self: GuardedStore, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.store, name)(*args, **kwargs)

    return call


class GuardedQueue(GuardedStore, BaseTaskQueue):
    """A task queue behind its breaker, which its results share."""

    def result_storage(self) -> BaseResultStorage | None:
        results = cast("BaseTaskQueue", self.store).result_storage()
        return None if results is None else guarded(results, self.breaker.config)


class GuardedResults(GuardedStore, BaseResultStorage):
    """A result storage behind its breaker."""


class GuardedEvents(GuardedStore, BaseEventStorage):
    """An event storage behind its breaker."""


def guarded(store: S, config: BreakerConfig | None) -> S:
    """The store behind a circuit breaker so configured; one that is behind another is taken from there.

    Without a configuration, it stays as it is.
    """
    if config is None or (isinstance(store, GuardedStore) and store.breaker.config == config):
        return store
    found = unguarded(store)
    guard = _guard_of(found)
    return store if guard is None else cast("S", guard(found, config))


def unguarded(store: S) -> S:
    """The store itself."""
    return cast("S", store.store) if isinstance(store, GuardedStore) else store


def _guard_of(store: Store) -> type[GuardedStore] | None:
    match store:
        case BaseTaskQueue():
            return GuardedQueue
        case BaseResultStorage():
            return GuardedResults
        case BaseEventStorage():
            return GuardedEvents
    return None
