"""Event loops on threads of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

from omniq import forks
from omniq.background import Background, begin, clear_loop, drive, keep_to_ourselves, run_once, start_thread
from omniq.errors import Closed
from omniq.logs import get_logger

log = get_logger("omniq.sync")

R = TypeVar("R")

CLEARING = 0.5
"""Seconds that what is left on a portal's loop has to end."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's when it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    reopen_standard_files()  # libuv gives up the process when it is to close a descriptor of theirs
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def reopen_standard_files() -> None:
    """Open the descriptors 0 to 2 where they are closed: the next file or connection would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # none is left: the next look will see to it
                _open_null(number)


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:  # somebody else has got it by now
        os.close(opened)


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _at_exit() -> None:
    """A loop of uvloop that still runs when the interpreter goes can take the process down."""
    for portal in list(_portals):
        if portal.alive:
            portal.stop()


atexit.register(_at_exit)


class Portal:
    """An event loop on a thread of its own, to which other threads hand coroutines.

    Code on it may raise `SystemExit` or stop it: it goes on until `end` or `stop`. If it can't, such as without its
    selector, it closes, and whoever waits for it gets a `RuntimeError`.
    """

    def __init__(self, name: str) -> None:
        self.on_death: Callable[[Exception], None] = lambda error: None
        """Told, on its thread, when the loop can't run any more."""
        self._ending = False
        self._forks = forks.count
        self._pending: set[Future[Any]] = set()
        self.loop = new_event_loop()
        keep_to_ourselves(self.loop)
        try:
            self.thread = start_thread(self._run, name)
        except BaseException:
            self.loop.close()
            raise
        _portals.add(self)

    @property
    def alive(self) -> bool:
        """Whether it takes coroutines: not after its end, and not in a forked child."""
        return self.thread.is_alive() and not self._ending and not self.of_parent

    @property
    def of_parent(self) -> bool:
        """Whether this process is a forked child of the one that has the portal."""
        return self._forks != forks.count

    def submit(self, coroutine: Coroutine[Any, Any, R]) -> Future[R]:
        """Run the coroutine on the portal's loop, in a copy of this context. Raises `RuntimeError` after its end."""
        future: Future[R] = Future()
        try:
            self.loop.call_soon_threadsafe(self._begin, coroutine, future, copy_context(), context=Context())
        except BaseException:
            coroutine.close()
            raise
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        if self.loop.is_closed():
            self._refuse_pending()
        return future

    def call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run the coroutine on the portal's loop and wait; Ctrl-C cancels it there.

        Raises `Closed` if the portal is stopped meanwhile.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise Closed(f"{self.thread.name} was stopped while a call waited on it") from None
        except BaseException:
            future.cancel()
            raise

    def end(self) -> None:
        """Let the loop end soon; for its own coroutines, too."""
        self._ending = True
        with suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self.loop.stop)

    def stop(self) -> None:
        """End the loop and wait for that."""
        self.end()
        self.thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._ending:
                run_once(self.loop)
        except Exception as error:
            self._ending = True
            log.exception("the event loop of the thread %s can't run any more", self.thread.name)
            self.on_death(error)
            self._close()
        else:
            self._close()

    def _close(self) -> None:
        try:
            drive(self.loop, clear_loop(CLEARING))
            drive(self.loop, self.loop.shutdown_asyncgens())
        except Exception as error:  # it can't run any more
            log.debug("an event loop couldn't be cleared: %r", error)
        with suppress(OSError, RuntimeError):
            self.loop.close()
        self._refuse_pending()

    def _begin(self, coroutine: Coroutine[Any, Any, R], future: Future[R], context: Context) -> None:
        if future.cancelled():
            coroutine.close()
            return
        # Tasks of a worker may be on this loop, too: they can't cancel it.
        task = begin(coroutine, self.loop, context)
        task.add_done_callback(partial(_hand_over, future))
        future.add_done_callback(partial(self._end_if_cancelled, task))

    def _end_if_cancelled(self, task: Background[Any], future: Future[Any]) -> None:
        if future.cancelled():
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(task.end)

    def _refuse_pending(self) -> None:
        for future in list(self._pending):
            with suppress(InvalidStateError):  # it has just been done
                future.set_exception(Closed(f"the event loop of the thread {self.thread.name} has ended"))


def _hand_over(future: Future[R], task: asyncio.Task[R]) -> None:
    """Tell who waits in another thread what came of the task."""
    with suppress(InvalidStateError):  # nobody waits any more
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())
