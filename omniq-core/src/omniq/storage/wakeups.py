"""Waking those who wait for tasks or results: at once for what this process writes, soon for what others do.

`Wakeups` knows everybody in this process who waits at one place. A store that can push gives each event loop an
`omniq.storage.channel.Channel` besides, which tells other processes and hears from them. All of it is a hint: nothing
depends on it, and whoever waits looks again before long.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from omniq.errors import StoreError
from omniq.loops import PerLoop
from omniq.texts import get_logger
from omniq.threads import new_lock

log = get_logger("omniq.storage")

DEAF_WAIT = 1.0
"""Seconds that a wait lasts at most while other processes can't be heard."""
LONGEST_WAIT = 86_400.0
"""Seconds after which is looked again for what is due later than that, or at a time that makes no sense."""

NextDue: TypeAlias = Callable[[Sequence[str]], Awaitable[Mapping[str, float]]]
"""Asks a store in how many seconds each queue has something to claim; queues that have nothing are left out."""


class News(Struct, frozen=True, array_like=True):
    """What somebody has written at one place."""

    due: Mapping[str, float] | None = {}
    """Queues that have got tasks, and in how many seconds the first of those is due. None: any queue, now."""
    ended: Collection[str] | None = ()
    """Tasks that have got results. None: any task."""
    is_call: bool = False
    """Whether it was told to one process alone, which has others called if nobody there waits any more."""


class Woken(NamedTuple):
    """How many who wait for tasks some news have woken in this process, and for how many results somebody waits."""

    waiters: int
    results: int


ANYTHING = News(due=None, ended=None)
"""Whoever waits had better look: it isn't known what was written."""


# ── inside one process ───────────────────────────────────────────────────────


class _Waiter:
    """Somebody on one event loop, whom any thread can wake."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.done = False
        """Whether there may be what it waits for; else it was woken to see how long it still has to wait."""
        self.told: set[str] = set()
        """The tasks that it waits for and that have ended, as far as it was told."""
        _loops.get()

    @property
    def is_over(self) -> bool:
        """Its loop was closed before it could stop waiting."""
        return self._loop.is_closed()

    def wake(self, *, done: bool) -> None:
        self.done = self.done or done
        with suppress(RuntimeError):  # its loop was closed
            self._loop.call_soon_threadsafe(self.event.set)

    async def until(self, when: float) -> bool:
        """Wait until it is woken, or for a time on `time.monotonic()`'s clock; returns whether that has come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, when - time.monotonic())):
                await self.event.wait()
        self.event.clear()
        return time.monotonic() >= when


class Wakeups:
    """Everybody in this process who waits for tasks or results at one place, on whatever thread and event loop."""

    def __init__(self) -> None:
        self.sender = os.urandom(6).hex()
        """Names this process, at this place, in messages, so that it needn't listen to its own."""
        self.on_wait: set[Callable[[], None]] = set()
        """Called when somebody begins to wait, and nobody did: for a store that looks only while anybody does."""
        self.unanswered: set[str] = set()
        """Queues for a task of which this process was called, and for whose tasks nobody here has looked since."""
        self._lock = new_lock()
        self._by_queue: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self._by_task: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self._due: dict[str, float] = {}
        """When each queue has its next task, on `time.monotonic()`'s clock, as far as it was told."""
        self._known: set[str] = set()
        """Queues that have no task before that time, or none at all, unless news tell so."""
        self._hearing = 0
        """How many channels hear what other processes tell."""

    @staticmethod
    def at(place: str) -> Wakeups:
        """Those of a store's location, or of another place of which somebody tells."""
        with _places_lock:
            return _places[place]

    @property
    def awaited_queues(self) -> list[str]:
        """The queues for whose tasks anybody waits just now."""
        with self._lock:
            return list(self._by_queue)

    @property
    def awaited_tasks(self) -> list[str]:
        """The tasks for whose results anybody waits just now."""
        with self._lock:
            return list(self._by_task)

    @property
    def awaits_results(self) -> bool:
        """Whether anybody waits for results."""
        return bool(self._by_task)

    def is_awaited(self, queues: Sequence[str]) -> bool:
        """Whether anybody waits for tasks of one of these queues."""
        with self._lock:
            return not self._by_queue.keys().isdisjoint(queues)

    def tell(self, news: News) -> Woken:
        """Wake those whom it concerns, now or when it is due; from any thread."""
        waking: dict[_Waiter, bool] = {}
        claiming: set[_Waiter] = set()
        with self._lock:
            if news.due != {}:
                soon, later = self._note(news.due)
                claiming = _members(self._by_queue, self._by_queue if soon is None else soon)
                waking.update(dict.fromkeys(_members(self._by_queue, later), False))
                waking.update(dict.fromkeys(claiming, True))
            awaited = self._awaited(news.ended)
            for task_id in awaited:
                waking.update(dict.fromkeys(self._by_task[task_id], True))
                for waiter in self._by_task[task_id]:
                    waiter.told.add(task_id)
        for waiter, done in waking.items():
            waiter.wake(done=done)
        return Woken(len(claiming), len(awaited))

    def _awaited(self, ended: Collection[str] | None) -> Collection[str]:
        """Those of the tasks for whose results somebody waits; of many that end, mostly none."""
        if ended is None or not self._by_task:
            return self._by_task
        return [task_id for task_id in ended if task_id in self._by_task]

    def _note(self, due: Mapping[str, float] | None) -> tuple[set[str] | None, list[str]]:
        """The queues that have something now (None: any), and those that will; when, is remembered."""
        if due is None:
            return None, []
        later = [queue for queue, seconds in due.items() if seconds > 0]
        for queue in later:
            self._due[queue] = min(_in(due[queue]), self._due.get(queue, math.inf))
        return due.keys() - set(later), later

    async def for_tasks(self, queues: Sequence[str], timeout: float, next_due: NextDue | None = None) -> None:
        """Return when one of the queues may have something due, or after `timeout` seconds.

        What is told from this call's first step on is heard; `next_due` is asked about what was there before.
        """
        until = time.monotonic() + timeout
        with self._waiting(self._by_queue, queues) as waiter:
            if next_due is not None:
                await self._learn(queues, next_due)
            while not waiter.done and not await waiter.until(min(until, self._next(queues))):
                continue
            self._forget_past(queues)

    async def _learn(self, queues: Sequence[str], next_due: NextDue) -> None:
        unknown = [queue for queue in queues if queue not in self._known]
        if unknown:
            try:
                due = await next_due(unknown)
            except StoreError as error:  # whoever claims gets it, too
                log.debug("it isn't known when the next task is due: %s", error)
                return
            with self._lock:
                self._due.update({queue: _in(seconds) for queue, seconds in due.items()})
                if self._hearing:
                    self._known.update(unknown)

    def hears(self, hears: bool) -> None:
        """A channel hears other processes from now on, or no longer. What they told before isn't known."""
        with self._lock:
            self._hearing += 1 if hears else -1
            self._known.clear()
        self.tell(ANYTHING)

    def subscribe(self) -> Subscription:
        """Follow the results of tasks on the running loop."""
        return Subscription(self)

    def _next(self, queues: Sequence[str]) -> float:
        return min((self._due.get(queue, math.inf) for queue in queues), default=math.inf)

    def _forget_past(self, queues: Sequence[str]) -> None:
        """What has come due is looked at now; what comes after that isn't known."""
        now = time.monotonic()
        with self._lock:
            for queue in queues:
                if self._due.get(queue, math.inf) <= now:
                    del self._due[queue]
                    self._known.discard(queue)

    def forget_all(self) -> None:
        """What was told isn't so any more: let everybody look."""
        with self._lock:
            self._due.clear()
            self._known.clear()
            self.unanswered.clear()
        self.tell(ANYTHING)

    @contextmanager
    def _waiting(self, waiters: defaultdict[str, set[_Waiter]], keys: Sequence[str]) -> Iterator[_Waiter]:
        waiter = _Waiter()
        self._register(waiters, keys, waiter)
        try:
            yield waiter
        finally:
            self._unregister(waiters, keys, waiter)

    def _register(self, waiters: defaultdict[str, set[_Waiter]], keys: Sequence[str], waiter: _Waiter) -> None:
        with self._lock:
            is_first = not self._by_queue and not self._by_task
            for key in keys:
                waiters[key].add(waiter)
        if is_first:
            for call in list(self.on_wait):
                call()

    def _unregister(self, waiters: defaultdict[str, set[_Waiter]], keys: Sequence[str], waiter: _Waiter) -> None:
        with self._lock:
            for key in set(keys):
                _discard(waiters, key, {waiter})

    def prune(self) -> None:
        """Let go of those whose loop was closed: nobody there waits any more."""
        over: list[_Waiter] = []  # they live on until the lock is free, which whoever ends with them may want
        with self._lock:
            for waiters in (self._by_queue, self._by_task):
                for key, members in list(waiters.items()):
                    over += (gone := {waiter for waiter in members if waiter.is_over})
                    _discard(waiters, key, gone)


class Subscription:
    """Tells one event loop which of the tasks that it follows may have got results, without a gap in between."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._waiter = _Waiter()

    def follow(self, task_id: str) -> None:
        """Tell of this task from now on, and at once: it may have its result already."""
        self._wakeups._register(self._wakeups._by_task, [task_id], self._waiter)
        self.tell([task_id])

    def leave(self, task_id: str) -> None:
        """Tell of this task no longer."""
        self._wakeups._unregister(self._wakeups._by_task, [task_id], self._waiter)

    def tell(self, task_ids: Iterable[str]) -> None:
        """Let `told` return these tasks, too."""
        with self._wakeups._lock:
            self._waiter.told.update(task_ids)
        self._waiter.event.set()

    async def told(self) -> set[str]:
        """Wait until one of the tasks may have got its result; returns those that may have since the last answer."""
        await self._waiter.event.wait()
        self._waiter.event.clear()
        with self._wakeups._lock:
            told, self._waiter.told = self._waiter.told, set()
        return told


def _in(seconds: float) -> float:
    """That many seconds from now, on `time.monotonic()`'s clock, whatever number a damaged task has."""
    return time.monotonic() + (seconds if seconds < LONGEST_WAIT else LONGEST_WAIT)


def _discard(waiters: defaultdict[str, set[_Waiter]], key: str, gone: set[_Waiter]) -> None:
    waiters[key] -= gone
    if not waiters[key]:
        del waiters[key]


def _members(waiters: Mapping[str, set[_Waiter]], keys: Collection[str]) -> set[_Waiter]:
    return {waiter for key in keys for waiter in waiters.get(key, ())}


_places: defaultdict[str, Wakeups] = defaultdict(Wakeups)
_places_lock = new_lock()


def wake_all() -> None:
    """Tell everybody: the virtual clock has moved."""
    for wakeups in list(_places.values()):
        wakeups.forget_all()


def _prune(_: object) -> None:
    for wakeups in list(_places.values()):
        wakeups.prune()


_loops = PerLoop(object, _prune)
"""Tells when a loop has ended."""


def _after_fork() -> None:
    """The parent's waiters are not the child's, and its locks may have been held."""
    global _places_lock
    _places_lock = new_lock()
    _places.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
