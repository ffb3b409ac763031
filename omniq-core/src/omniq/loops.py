"""Event loops and forks: what belongs to one loop or process, its end, and our work on loops that tasks share."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from omniq.errors import Closed
from omniq.texts import get_logger

# ── forks ───────────────────────────────────────────────────────────────────


_forks = 0


def forks() -> int:
    """How many forks lie between this process and the first that imported OmniQ: its parent's values differ."""
    return _forks


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def end_child(error: BaseException | None = None) -> NoReturn:
    """End this forked child as a program ends that raised `error`, without any of the parent's clean-up.

    Its exit handlers, buffers and finalizers would close what the parent goes on using.
    """
    try:
        _complain(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(_exit_code(error))


def _complain(error: BaseException | None) -> None:
    """Say on stderr what Python would say."""
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    return 0 if error is None else 1


# ── what hangs on a loop, and ends with it ──────────────────────────────────


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


# ── our own work on loops that tasks share ──────────────────────────────────


log = get_logger("omniq.sync")


inside: ContextVar[Any] = ContextVar("omniq_current_task")
"""The context of the worker's task whose code runs here, if it is one's."""


_ours: ContextVar[bool] = ContextVar("omniq_ours", default=False)
"""Whether it is work in the background that runs here, or a timer of its own."""
in_callback: ContextVar[bool] = ContextVar("omniq_in_callback", default=False)
"""Whether a task's callback runs here."""

_own_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def is_a_tasks_code() -> bool:
    """Whether the code that runs here is that of a worker's task."""
    return inside.get(None) is not None or in_callback.get()


def keep_to_ourselves(loop: asyncio.AbstractEventLoop) -> None:
    """Note that the loop is OmniQ's own: the program has nothing to cancel on it."""
    _own_loops.add(loop)


def is_own(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop is OmniQ's own."""
    return loop in _own_loops


class Background(asyncio.Task[T]):
    """A task of OmniQ's own: it can be cancelled by its owner, and by the program whose loop it is on."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, unless it is a worker's task that asks, as one does that cancels all there is on its loop."""
        refused = is_a_tasks_code() or (is_own(self.get_loop()) and not _ours.get())
        return not refused and super().cancel(msg)

    def end(self) -> None:
        """Cancel it, whoever's context this is: for its owner."""
        super().cancel()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str | None = None) -> Background[T]:
    """Run it in the background of the running loop, in an empty context: whoever comes first isn't special."""
    return begin(coroutine, asyncio.get_running_loop(), Context(), name=name)


def begin(
    coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, context: Context, *, name: str | None = None
) -> Background[T]:
    """Run it in the background of that loop, in that context."""
    context.run(_ours.set, True)
    return Background(coroutine, loop=loop, name=name, context=context)


async def persist(part: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Run a part, and again when somebody has cancelled what it waited for, but not the part itself."""
    me = asyncio.current_task()
    assert me is not None
    while True:
        try:
            return await part()
        except asyncio.CancelledError:
            if me.cancelling():
                raise
            log.warning("%s was disturbed by a cancellation, it begins again", name)


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns. Cancelling the caller doesn't cut it short: it takes effect after that."""
    task = spawn(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def in_empty_context(coroutine: Coroutine[Any, Any, T], drop: Callable[[T], object] | None = None) -> T:
    """What the coroutine returns. What it opens, such as a connection, keeps nothing of the caller's context.

    A caller who is cancelled just when it is there doesn't get it: `drop` does then.
    """
    task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=Context())
    try:
        return await task
    except asyncio.CancelledError:
        if drop is not None and task.done() and not task.cancelled() and task.exception() is None:
            drop(task.result())
        raise


def drive(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], *, context: Context | None = None) -> T:
    """Run the coroutine on a loop of this thread and return what it returns, or raise what it raises.

    Other code on that loop may exit or stop it: it runs again, until the coroutine has ended.
    """
    task = asyncio.Task(coroutine, loop=loop, context=context or Context())
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        run_once(loop)
    return task.result()


def run_once(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, or code on it exits; in a forked child, end that.

    Raises `OSError` and `RuntimeError` when the loop can't run any more.
    """
    before = forks()
    error: BaseException | None = None
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as exit_:
        error = exit_
        log.debug("%s was raised on the event loop of the thread %s", type(exit_).__name__, _thread_name())
    if forks() != before:
        end_child(error)


def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task that is the caller's own."""
    if isinstance(task, Background):
        task.end()
    else:
        task.cancel()


async def clear_loop(patience: float) -> bool:
    """Cancel everything else on the running loop; returns whether all of it has ended in `patience` seconds."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if not rest:
        return True
    for task in rest:
        end_task(task)
    ended, pending = await asyncio.wait(rest, timeout=patience)
    for task in ended:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a coroutine that was left behind ended by %s", type(error).__name__)
    return not pending


def _thread_name() -> str:
    return threading.current_thread().name


# ── forks inside a worker's task ─────────────────────────────────────────────

_forking: dict[int, asyncio.AbstractEventLoop] = {}
"""By thread: the loop on which a task is just forking."""


def _before_fork() -> None:
    if inside.get(None) is not None and (loop := asyncio._get_running_loop()) is not None:
        _forking[threading.get_ident()] = loop


def _after_fork_in_parent() -> None:
    _forking.pop(threading.get_ident(), None)


def _forget_the_parents() -> None:
    """The loop is the parent's: when the task's code in the child comes back to it, the child ends."""
    loop = _forking.pop(threading.get_ident(), None)
    _forking.clear()
    if loop is not None:
        loop.call_soon(end_child, context=Context())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_forget_the_parents)
