"""The ends of event loops, and of what hangs on them: values of one loop, calls that wait, sockets left open."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

from omniq.errors import Closed

T = TypeVar("T")


def _leave(_: Any) -> None:
    """Do nothing with a value whose loop has ended."""


class PerLoop(Generic[T]):
    """One value per event loop, since connections and futures can't cross loops.

    When a loop ends, its value is taken away and `end` is called with it: in the loop if that is shut down as
    `asyncio.run` does it; if it was merely closed, when a value is made for another loop, in whichever thread that is.
    """

    def __init__(self, make: Callable[[], T], end: Callable[[T], None] = _leave) -> None:
        self._make = make
        self._end = end
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """This loop's value, made at the first call."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            value = self._values[loop] = self._make()
            _watch(loop).registries.add(self)
            self._end_closed()
        return value

    def pop(self) -> T | None:
        """Take this loop's value away, to close it."""
        return self._values.pop(asyncio.get_running_loop(), None)

    def clear(self) -> list[T]:
        """Take all loops' values away: they are those of the parent, after a fork."""
        values = list(self._values.values())
        self._values.clear()
        return values

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop has ended."""
        value = self._values.pop(loop, None)
        if value is not None:
            self._end(value)

    def _end_closed(self) -> None:
        for loop in list(self._values):
            if loop.is_closed():
                self.end(loop)


class _Watch:
    """Notices that a loop is shut down: then it closes its asynchronous generators, and so this one."""

    def __init__(self) -> None:
        self.registries: weakref.WeakSet[PerLoop[Any]] = weakref.WeakSet()
        self._generator = self._until_shutdown()
        with suppress(StopIteration):
            self._generator.asend(None).send(None)  # to its first yield, without a turn of the loop

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            for registry in list(self.registries):
                registry.end(loop)


_watches: dict[asyncio.AbstractEventLoop, _Watch] = {}


def _watch(loop: asyncio.AbstractEventLoop) -> _Watch:
    """That of the running loop."""
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = _Watch()
        for other in list(_watches):
            if other.is_closed():
                _watches.pop(other, None)
    return watch


def close_transport(transport: asyncio.WriteTransport) -> None:
    """Close a transport at once, and its socket even if its loop was closed, which keeps it from doing that itself."""
    try:
        transport.abort()
    except RuntimeError:  # the loop is closed
        socket = transport.get_extra_info("socket")
        getattr(socket, "_sock", socket).close()


def forget(task: asyncio.Task[Any] | None) -> None:
    """Let a task go whose loop was closed under it: nobody can end it any more, so asyncio needn't complain."""
    if task is not None:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


class Waits:
    """The calls of one loop that wait on an object, to be ended when it is closed."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.closed = False
        self.open: set[Wait] = set()

    def close(self) -> None:
        """End them: each raises `Closed`, as do those that are only about to wait."""
        self.closed = True
        for wait in list(self.open):
            wait.close(self.what)


class Wait:
    """A context that can be left by `Closed`, from outside; as `asyncio.timeout` is left by `TimeoutError`.

    In it the running task waits on all the objects whose `Waits` are given.
    """

    __slots__ = ("_cancelling", "_closed", "_task", "_waits")

    def __init__(self, *waits: Waits) -> None:
        self._waits = waits
        self._closed: str | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        for waits in self._waits:
            if waits.closed:
                raise _closed(waits.what)
        for waits in self._waits:
            waits.open.add(self)

    def close(self, what: str) -> None:
        """Leave it now, since that was closed."""
        if self._closed is None:
            self._closed = what
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for waits in self._waits:
            waits.open.discard(self)
        # One that somebody else has cancelled meanwhile stays cancelled.
        if self._closed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise _closed(self._closed) from None


def _closed(what: str) -> Closed:
    return Closed(f"{what} was closed while a call waited on it")
