"""Waking those who wait in other processes: what one event loop tells them, and hears of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, NamedTuple, TypeAlias, TypeVar

from omniq.batching import Backoff
from omniq.errors import StoreError
from omniq.loops import Background, forget, spawn
from omniq.storage.wakeups import DEAF_WAIT, News, NextDue, Wakeups
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

log = get_logger("omniq.storage")

SEND_INTERVAL = 0.025
"""Seconds between two messages of one loop to other processes, at most; the first one goes at once, unless it tells of
nothing that there isn't somebody here for."""
PER_WRITE = 0.002
"""Seconds for each write that the last message told of: who writes one by one is heard at once, who writes all the time
makes others wait for a whole interval's news."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 1.0
"""Seconds between two attempts to listen."""

QUIET_S = 10.0
"""Seconds of silence after which a server is asked whether it is still there."""
PATIENCE = 5.0
"""Seconds that it may take to answer."""

ALL: Final = 2**31 - 1
"""As many tasks as there may be: calls all idle workers."""
IDLE_AFTER = 0.01
"""Seconds for which a worker waits before it is noted: where tasks come one after the other, noting costs too much."""
ANSWER_TIME = 0.01
"""Seconds within which a worker that was called waits again, since it has looked, or has gone."""

T = TypeVar("T")
Send: TypeAlias = Callable[[News, int], Awaitable[None]]
Call: TypeAlias = Callable[[str], Awaitable[object]]
Note: TypeAlias = Callable[[str, Sequence[str]], Awaitable[None]]
Leave: TypeAlias = Callable[[str], Awaitable[None]]
Listen: TypeAlias = Callable[[], AsyncIterator[News]]


class Channel:
    """Tells other processes what this loop writes, and hears what they do. It belongs to one event loop.

    `send` tells all of some news, about so many tasks, in one message; `listen` yields what it hears until its
    connection is lost, and anything at all as soon as it does hear. It is begun by the first wait, and again after
    every loss. `next_due` is asked for what was there before; `call` calls another process for a task of a queue. Only
    those who wait for results are told of them, as each message wakes a process: `listen` yields them where
    `hears_results` is true, and is begun anew at the first wait for a result.
    """

    def __init__(
        self,
        wakeups: Wakeups,
        *,
        send: Send | None = None,
        listen: Listen | None = None,
        next_due: NextDue | None = None,
        call: Call | None = None,
    ) -> None:
        self.live = False
        """Whether other processes are heard."""
        self._turned = asyncio.Event()
        """Set, and replaced, when that changes."""
        self._wakeups = wakeups
        self._send = send
        self._listen = listen
        self._next_due = next_due
        self._call = call
        self.hears_results = False
        """Whether anybody here has waited for a result of another process."""
        self._due: dict[str, float] = {}
        self._ended: list[str] = []
        self._writes = self._tasks = 0
        self._urgent = asyncio.Event()
        """Set while there is something to tell for which nobody was woken here."""
        self._passing_on: set[Background[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    # ── telling ──────────────────────────────────────────────────────────────

    def tell(self, news: News, *, tasks: int = ALL) -> None:
        """Wake those whom it concerns in this process now, and those in others soon: as many as tasks are due."""
        woken = self._wakeups.tell(news)
        if self._send is None:
            return
        ended = news.ended or ()
        if (news.due and tasks > woken.waiters) or len(ended) > woken.results:
            self._urgent.set()
        for queue, seconds in (news.due or {}).items():
            self._due[queue] = min(seconds, self._due.get(queue, math.inf))
        self._ended.extend(ended)
        self._writes += 1
        self._tasks = min(ALL, self._tasks + (tasks if news.due else 0))
        if self._sending is None and (self._due or self._ended):
            self._sending = spawn(self._send_all(self._send), name="omniq-send")

    async def _send_all(self, send: Send) -> None:
        try:
            while self._due or self._ended:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SEND_INTERVAL):
                        await self._urgent.wait()
                self._urgent.clear()
                news, writes, tasks = News(self._due, self._ended), self._writes, self._tasks
                self._due, self._ended, self._writes, self._tasks = {}, [], 0, 0
                await self._send_once(send, news, tasks)
                await asyncio.sleep(min(SEND_INTERVAL, writes * PER_WRITE))
        finally:
            self._sending = None

    @staticmethod
    async def _send_once(send: Send, news: News, tasks: int) -> None:
        try:
            await send(news, tasks)
        except StoreError as error:
            log.debug("other processes can't be told, and will look by themselves: %s", error)

    # ── hearing ──────────────────────────────────────────────────────────────

    async def for_tasks(self, queues: Sequence[str], timeout: float) -> None:
        """As `Wakeups.for_tasks`, for tasks of other processes too; shorter while those can't be heard."""
        await self._wakeups.for_tasks(queues, self._patience(timeout), self._next_due)

    async def hear(self, timeout: float) -> None:
        """Let `Wakeups` be told of others' results for `timeout` seconds; shorter while those can't be heard."""
        if not self.hears_results:
            self.hears_results = True
            if self.live:
                await self._stop_listening()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience(timeout)):
                await self._turned.wait()

    def _patience(self, timeout: float) -> float:
        if self._listen is not None and (self._listening is None or self._listening.done()):
            self._listening = spawn(self._keep_listening(self._listen), name="omniq-listen")
        return timeout if self.live else min(timeout, DEAF_WAIT)

    async def _keep_listening(self, listen: Listen) -> None:
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while not is_cancelled():
            hears_results = self.hears_results
            try:
                async with aclosing(listen()) as heard:  # type: ignore[type-var]
                    await self._hear(heard, backoff, hears_results)
            except StoreError as error:
                log.debug("other processes can't be heard, looking instead: %s", error)
            if self.hears_results is hears_results:
                await backoff.pause()

    async def _hear(self, heard: AsyncIterator[News], backoff: Backoff, hears_results: bool) -> None:
        """Tell what is heard, until the connection is lost, or was opened before somebody waited for a result."""
        try:
            async for news in heard:
                if self.hears_results is not hears_results:
                    break
                self._tell_heard(news)
                backoff.reset()
        finally:
            self._set_live(False)

    def _tell_heard(self, news: News) -> None:
        if news.is_call:
            self._wakeups.unanswered.update(news.due or ())
        if self.live:
            self._wakeups.tell(news)
        self._set_live(True)
        if news.is_call and news.due and self._call is not None:
            passing_on = spawn(self._pass_on(list(news.due), self._call), name="omniq-pass-on")
            self._passing_on.add(passing_on)
            passing_on.add_done_callback(self._passing_on.discard)

    def look(self, queues: Sequence[str]) -> bool:
        """Note that somebody looks for tasks of these queues, and return whether this process hears of it, and wakes
        somebody, when it is called for one."""
        if self._wakeups.unanswered:
            self._wakeups.unanswered.difference_update(queues)
        return self.live and self._wakeups.is_awaited(queues)

    async def _pass_on(self, queues: Sequence[str], call: Call) -> None:
        """Have others called if nobody has looked here: a worker has stopped, or has become busy."""
        await asyncio.sleep(ANSWER_TIME)
        try:
            for queue in queues:
                if queue in self._wakeups.unanswered:
                    self._wakeups.unanswered.discard(queue)
                    await call(queue)
        except StoreError as error:
            log.debug("a call for tasks can't be passed on: %s", error)

    def _set_live(self, live: bool) -> None:
        """Note whether others are heard. Whoever waits looks: at what wasn't heard, or to wait for less long."""
        if live is not self.live:
            self.live = live
            self._wakeups.hears(live)
            self._turned.set()
            self._turned = asyncio.Event()

    # ── the end ──────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Send what is left, and listen no longer."""
        if self._sending is not None:
            self._urgent.set()
            await asyncio.wait([self._sending])
        self._listen = None
        await self._stop_listening()
        for passing_on in list(self._passing_on):
            await cancel_and_wait(passing_on)

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            await cancel_and_wait(self._listening)

    def abandon(self) -> None:
        """Its loop has ended."""
        forget(self._sending)
        forget(self._listening)
        for passing_on in self._passing_on:
            forget(passing_on)
        self._set_live(False)


class _Wait(NamedTuple):
    queues: Sequence[str]
    since: float


class IdleWorkers:
    """Those of one loop that wait for a task, which a store notes so that they are called one by one.

    `note` notes a worker and from which queues it claims; `leave` takes it out.
    """

    def __init__(self, note: Note, leave: Leave) -> None:
        self._note = note
        self._leave = leave
        self._waiting: dict[str, _Wait] = {}
        self._noted: set[str] = set()
        self._noting: Background[None] | None = None

    def waits(self, worker: str, queues: Sequence[str] | None) -> None:
        """Let a worker be called for a task of these queues, if it still waits in a moment; or no longer (None)."""
        if queues is None:
            self._waiting.pop(worker, None)
        elif worker not in self._waiting or self._waiting[worker].queues != queues:
            self._waiting[worker] = _Wait(queues, time.monotonic())
        if self._noting is None and self._waiting.keys() != self._noted:
            self._noting = spawn(self._synchronize(), name="omniq-idle")

    def called(self, worker: str) -> None:
        """A worker was called, and is noted no longer."""
        self._noted.discard(worker)
        self._waiting.pop(worker, None)

    def forget(self) -> None:
        """It isn't known any more who is noted."""
        self._noted.clear()

    async def _synchronize(self) -> None:
        try:
            while self._waiting.keys() != self._noted:
                for worker in self._noted - self._waiting.keys():
                    self._noted.discard(worker)
                    await self._leave(worker)
                await asyncio.sleep(IDLE_AFTER)
                long_ago = time.monotonic() - IDLE_AFTER
                for worker, wait in list(self._waiting.items()):
                    if worker not in self._noted and wait.since <= long_ago:
                        self._noted.add(worker)
                        await self._note(worker, wait.queues)
        except StoreError as error:
            self._noted.clear()
            log.debug("idle workers can't be noted, and hear what all hear: %s", error)
        finally:
            self._noting = None

    async def close(self) -> None:
        """Note nobody any more."""
        if self._noting is not None:
            await cancel_and_wait(self._noting)

    def abandon(self) -> None:
        """Its loop has ended."""
        forget(self._noting)


async def next_message(
    receive: Callable[[float], Awaitable[T | None]], ask: Callable[[], Awaitable[object]]
) -> T | None:
    """The next message of a connection, however long it takes; None when this task is cancelled.

    `receive` returns a message or, after so many seconds, None. In a long silence `ask` asks the server for any
    message. Raises `TimeoutError` when it sends none.
    """
    for seconds in (QUIET_S, PATIENCE):
        message = await receive(seconds)
        if is_cancelled():
            return None
        if message is not None:
            return message
        await ask()
    raise TimeoutError("the server doesn't answer")


def is_cancelled() -> bool:
    """Whether this task was cancelled and a driver has swallowed that: nobody may cancel it again, as `asyncio.run`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
