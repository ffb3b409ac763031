"""OmniQ's own work on event loops that it shares with tasks: it runs in no caller's context, and no task ends it."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from omniq import forks
from omniq.logs import get_logger

log = get_logger("omniq.sync")

T = TypeVar("T")

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


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread in an empty context. Raises `RuntimeError` if there can't be one more."""
    thread = threading.Thread(target=Context().run, args=(target,), name=name, daemon=True)
    thread.start()
    return thread


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
    before = forks.count
    error: BaseException | None = None
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as exit_:
        error = exit_
        log.debug("%s was raised on the event loop of the thread %s", type(exit_).__name__, _thread_name())
    if forks.count != before:
        forks.end_child(error)


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


def _after_fork_in_child() -> None:
    """The loop is the parent's: when the task's code in the child comes back to it, the child ends."""
    loop = _forking.pop(threading.get_ident(), None)
    _forking.clear()
    if loop is not None:
        loop.call_soon(forks.end_child, context=Context())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
