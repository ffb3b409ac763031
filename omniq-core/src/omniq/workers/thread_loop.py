"""An event loop and a thread that each task finds as if it were the first."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import signal
import sys
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import suppress
from sys import getprofile, getrecursionlimit, gettrace
from time import monotonic
from typing import Any, TextIO, cast

from omniq.batching import Backoff
from omniq.loops import clear_loop, drive
from omniq.sync import reopen_standard_files
from omniq.texts import get_logger
from omniq.workers.execution import OutOfResources, within

log = get_logger("omniq.worker")

LEFT_PATIENCE = 0.5
"""Seconds that coroutines which a task has left behind have to end."""
OPEN_PATIENCE = 10.0
"""Seconds for which a loop is tried to be made, when descriptors have run out."""


class ThreadLoop:
    """An event loop of one thread, made when the first async task comes, and anew after one that broke it.

    What a task leaves behind on it, coroutines and asynchronous generators, is ended with the task. It isn't the
    thread's current loop outside async tasks, so that sync ones can't get hold of it.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._begun = False
        """Whether a task has begun others."""
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()

    def run(self, awaitable: Awaitable[Any], *, timeout: float | None) -> Any:
        """Run it to its end. Raises `TaskTimeout` after `timeout` seconds, `OutOfResources` if there is no loop for it.

        It runs in a copy of the caller's context.
        """
        try:
            loop = self._usable() or self._open()
        except OutOfResources:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise
        whole = False
        try:
            value = drive(loop, self._limited(awaitable, timeout), context=contextvars.copy_context())
            whole = True
            return value
        except Exception:
            whole = True
            raise
        finally:
            if not (whole and self._left_clean(loop)):
                self.close()

    @property
    def busy(self) -> bool:
        """Whether something runs on it."""
        return self._task is not None

    def cancel(self) -> None:
        """Cancel what runs; from any thread."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with suppress(RuntimeError):  # it has just been closed
                loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Close the loop, with what is left on it."""
        loop, self._loop = self._loop, None
        if loop is None or loop.is_closed():
            return
        try:
            drive(loop, clear_loop(LEFT_PATIENCE))
            drive(loop, loop.shutdown_asyncgens())
            loop.close()
        except Exception as error:  # a task has broken it
            log.debug("the loop of a thread couldn't be closed: %r", error)

    def _usable(self) -> asyncio.AbstractEventLoop | None:
        return None if self._loop is None or self._loop.is_closed() else self._loop

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = _new_loop()
        loop.set_task_factory(self._begin)
        return loop

    def _begin(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Make a task of a coroutine, as the loop asks where a worker's task begins another one."""
        self._begun = True
        return asyncio.Task(coroutine, loop=loop, **options)

    async def _limited(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:
        self._task = asyncio.current_task()
        self._note_generators()
        try:
            return await within(timeout, awaitable)
        finally:
            self._task = None

    def _note_generators(self) -> None:
        """Note which asynchronous generators are begun here. The loop puts its hooks back when it stops."""
        hooks = sys.get_asyncgen_hooks()

        def begun(generator: AsyncGenerator[Any, Any]) -> None:
            self._generators.add(generator)
            if hooks.firstiter is not None:
                hooks.firstiter(generator)

        sys.set_asyncgen_hooks(firstiter=begun)

    def _left_clean(self, loop: asyncio.AbstractEventLoop) -> bool:
        """End what the task has left behind; returns whether nothing of it is left."""
        if loop.is_closed():
            return False
        loop.set_exception_handler(None)
        if not self._begun and not self._generators and loop.get_task_factory() == self._begin:
            return True
        loop.set_task_factory(self._begin)
        clean = drive(loop, self._end_rest())
        self._begun = False
        if not clean:
            log.warning("a task has left coroutines behind that don't end: they are dropped")
        return clean

    async def _end_rest(self) -> bool:
        generators, self._generators = list(self._generators), weakref.WeakSet()
        closing = [asyncio.ensure_future(_close(generator)) for generator in generators]
        if closing:
            await asyncio.wait(closing, timeout=LEFT_PATIENCE)
        return await clear_loop(LEFT_PATIENCE)


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        await generator.aclose()
    except Exception as error:
        log.debug("an asynchronous generator that a task has left behind failed: %s", type(error).__name__)


def _new_loop() -> asyncio.AbstractEventLoop:
    """A new loop, as soon as there are descriptors for it. Raises `OutOfResources`."""
    backoff = Backoff(0.05, 1.0)
    deadline = time.monotonic() + OPEN_PATIENCE
    while True:
        try:
            return asyncio.new_event_loop()
        except OSError as error:
            if time.monotonic() > deadline:
                raise OutOfResources(f"no event loop can be made: {error}") from error
            log.warning("no event loop can be made, trying again in %.1f s: %s", backoff.next, error)
        time.sleep(backoff.step())


# ── a thread's state ────────────────────────────────────────────────────────


LOOK_INTERVAL = 0.05
"""Seconds between two looks at what only the system knows, unless said otherwise."""
STREAMS = ("stdin", "stdout", "stderr")


class ThreadState:
    """A thread as it was before its tasks; what it shares with others of the process, too.

    Put back are the thread's trace and profile functions, its blocked signals, a recursion limit that was
    lowered, and the standard streams and files if they were closed. Everything else that belongs to the process
    stays as a task leaves it: there may be another task that goes by it.
    """

    def __init__(self, interval: float = LOOK_INTERVAL) -> None:
        """Look at what only the system knows each `interval` seconds."""
        self._interval = interval
        self._trace, self._profile = gettrace(), getprofile()
        self._recursion_limit = getrecursionlimit()
        self._streams = [(name, getattr(sys, name)) for name in STREAMS]
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else None
        self._looked = 0.0

    def restore(self) -> None:
        """After a task."""
        if gettrace() is not self._trace:
            sys.settrace(self._trace)
        if getprofile() is not self._profile:
            sys.setprofile(self._profile)
        if getrecursionlimit() < self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        if (now := monotonic()) - self._looked >= self._interval:
            self._looked = now
            self._restore_signals()
            self._restore_streams()

    def _restore_signals(self) -> None:
        if self._signals is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)

    def _restore_streams(self) -> None:
        for name, stream in self._streams:
            if stream is not None and not is_usable(getattr(sys, name, None)):
                setattr(sys, name, stream if is_usable(stream) else reopened(stream, name))
        reopen_standard_files()


def is_usable(stream: Any) -> bool:
    """Whether it is a stream that is neither closed nor detached: a task may have put there, or done, anything."""
    try:
        return not stream.closed
    except Exception:
        return False


def reopened(stream: TextIO, name: str) -> TextIO:
    """Another stream for the standard file of that name, in place of one that can't be used any more."""
    mode, line_buffered = ("r", -1) if name == "stdin" else ("w", 1)
    encoding, errors = getattr(stream, "encoding", None), getattr(stream, "errors", None)
    return cast("TextIO", open(STREAMS.index(name), mode, line_buffered, encoding, errors, closefd=False))
