"""Threads for drivers that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

from omniq.background import start_thread
from omniq.errors import StoreUnavailable
from omniq.storage.embedded import let_threads_run

T = TypeVar("T")

_Call: TypeAlias = tuple[Callable[[], Any], "Future[Any]"]


def _nothing() -> None:
    """What there is to do at the end if nothing else is said."""


class JobThreads:
    """Threads that do blocking jobs for any event loop, each job on one of them.

    They work to the interpreter's very end, when OmniQ closes what a program has left open, and workers hand back what
    they hold. (The threads of an executor have ended by then.) They are started by the first job. A forked child has
    none of them: it makes its own `JobThreads`.
    """

    def __init__(self, name: str, number: int = 1) -> None:
        self._name = name
        self._number = number
        self._jobs: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = self._working = 0
        self._ending = False
        self._last: Callable[[], None] = _nothing
        self._ended: Future[None] = Future()

    async def do(self, job: Callable[[], T]) -> T:
        """What the job returns. Cancelling the caller doesn't undo it.

        Raises what the job raises, and `StoreUnavailable` if no thread can be started, or after `end`.
        """
        answer: Future[T] = Future()
        with self._lock:
            self._start()
            self._jobs.put((job, answer))
        with let_threads_run():
            return await asyncio.wrap_future(answer)

    def end(self, last: Callable[[], None] = _nothing) -> Future[None]:
        """Do the jobs that were begun, then `last`, and no more; returns what tells of the end. Called once."""
        with self._lock:
            self._ending, self._last = True, last
            for _ in range(self._started):
                self._jobs.put(None)
            if not self._started:
                self._finish()
        return self._ended

    def _start(self) -> None:
        if self._ending:
            raise StoreUnavailable(f"{self._name}: it was closed meanwhile")
        while self._started < self._number:
            try:
                start_thread(self._work, f"{self._name}-{self._started + 1}")
            except RuntimeError as error:
                if not self._started:
                    raise StoreUnavailable(f"{self._name}: {error}") from error
                return  # those that there are will do
            self._started += 1
            self._working += 1

    def _work(self) -> None:
        while (call := self._jobs.get()) is not None:
            self._answer(*call)
            del call  # keep nothing of it until the next one
        with self._lock:
            self._working -= 1
            if not self._working:
                self._finish()

    def _answer(self, job: Callable[[], Any], answer: Future[Any]) -> None:
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(job())
            except BaseException as error:
                answer.set_exception(error)

    def _finish(self) -> None:
        try:
            self._last()
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
