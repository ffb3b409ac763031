"""What a task sees of its run, its time limits, and errors as text."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable
from contextlib import suppress
from contextvars import Context, ContextVar
from types import TracebackType
from typing import Any

from omniq.errors import NoCurrentTask, TaskTimeout
from omniq.loops import inside
from omniq.models.task import Call
from omniq.storage.records import TaskRecord
from omniq.texts import MAX_MESSAGE, MAX_TRACEBACK, cut


class TaskContext:
    """The task that is running here: `omniq.current_task()`."""

    __slots__ = (
        "_cancelled",
        "attempt",
        "deadline",
        "epoch",
        "id",
        "max_retries",
        "metadata",
        "queue_name",
        "schedule_id",
    )

    def __init__(self, record: TaskRecord, call: Call) -> None:
        self.id = record.id
        self.queue_name = record.queue_name
        self.attempt = record.attempts + 1
        """1 for the first attempt."""
        self.max_retries = call.max_retries
        self.epoch = record.epoch
        """Rises with every claim: a fencing token for the task's own writes elsewhere."""
        self.deadline = None if call.timeout is None else time.monotonic() + call.timeout
        """On `time.monotonic()`'s clock; None when the task has no timeout."""
        self.metadata = call.metadata
        self.schedule_id = record.schedule_id
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop: it was cancelled, timed out or lost its lease.

        Async tasks are cancelled by themselves; a long task on a thread looks here.
        """
        return self._cancelled

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancel(self) -> None:
        """Set `cancelled`; for the worker."""
        self._cancelled = True


current: ContextVar[TaskContext] = inside


def current_task() -> TaskContext:
    """The task that is running here. Raises `NoCurrentTask` outside one."""
    try:
        return current.get()
    except LookupError:
        raise NoCurrentTask("current_task() was called outside a running task") from None


# ── time limits ─────────────────────────────────────────────────────────────


async def within(timeout: float | None, awaitable: Awaitable[Any]) -> Any:
    """Await it for at most `timeout` seconds. Raises `TaskTimeout`; a `TimeoutError` of its own stays one."""
    if timeout is None:
        return await awaitable
    limit = _Limit(timeout)
    try:
        return await awaitable
    except asyncio.CancelledError:
        if limit.reached and limit.alone:
            raise TaskTimeout from None
        raise
    finally:
        limit.lift()


class _Limit:
    """Cancels the current task after some seconds.

    Unlike that of `asyncio.timeout`, its timer keeps nothing of the task: a loop forgets cancelled timers late.
    """

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.reached = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._reach, context=Context())

    @property
    def alone(self) -> bool:
        """Whether nobody else has cancelled the task."""
        return self._task.cancelling() <= self._cancelling + 1

    def lift(self) -> None:
        """Let the task be."""
        self._timer.cancel()
        if self.reached:
            self._task.uncancel()

    def _reach(self) -> None:
        self.reached = True
        asyncio.Task.cancel(self._task)  # not what a worker makes of cancellations by others


class GracePeriod:
    """How long a stopping worker still waits; it can only get shorter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long it is from the beginning."""
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + seconds
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, seconds: float | None) -> None:
        """End in so many seconds, if that is sooner; None changes nothing."""
        if seconds is not None:
            self.seconds = min(self.seconds, seconds)
            self._ends_at = min(self._ends_at, self._loop.time() + seconds)
            if self._timeout is not None:
                self._timeout.reschedule(self._ends_at)

    async def wait_for(self, event: Awaitable[object]) -> None:
        """Wait for the event, or until it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at) as self._timeout:
                await event
        self._timeout = None


# ── errors as text ──────────────────────────────────────────────────────────


MAX_CHAIN = 100
"""Errors that are followed from one to its cause."""


def qualified_name(cls: type) -> str:
    """`module.qualname`; the bare name for builtins."""
    try:
        module, name = type.__getattribute__(cls, "__module__"), type.__getattribute__(cls, "__qualname__")
    except BaseException:  # a class may make properties of them
        return str(_NAME.__get__(cls))
    return _encodable(str(name) if module == "builtins" else f"{module}.{name}")


def safe_text(error: BaseException) -> str:
    """The error's text, cut to `MAX_MESSAGE`; a task's own `__str__` may raise as well."""
    try:
        return _encodable(cut(str(error), MAX_MESSAGE))
    except BaseException as second:
        return f"(its text can't be had: {qualified_name(type(second))})"


def remote_traceback(error: BaseException, hidden: str) -> str:
    """The traceback from the task's own first line on, without the frames of the file `hidden` before it.

    It is cut to `MAX_TRACEBACK`.
    """
    try:
        frames = _frames(error)
        while frames is not None and frames.tb_frame.f_code.co_filename == hidden:
            frames = frames.tb_next
        return _encodable(cut("".join(traceback.format_exception(type(error), error, frames)), MAX_TRACEBACK))
    except BaseException as second:
        return f"(the traceback can't be had: {qualified_name(type(second))})"


def chain(error: BaseException) -> list[BaseException]:
    """The error and those that led to it."""
    links: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(links) < MAX_CHAIN:
        link = waiting.pop()
        if link is not None and not any(link is known for known in links):
            links.append(link)
            waiting += [_CAUSE.__get__(link), _CONTEXT.__get__(link)]
    return links


def let_go(error: BaseException) -> None:
    """Free the frames that the error passed through, and so what the task held: it may be part of a cycle."""
    for link in chain(error):
        BaseException.with_traceback(link, None)


# As Python itself finds them: a class may define properties of these names.
_NAME = vars(type)["__name__"]
_CAUSE = vars(BaseException)["__cause__"]
_CONTEXT = vars(BaseException)["__context__"]
_TRACEBACK = vars(BaseException)["__traceback__"]


def _frames(error: BaseException) -> TracebackType | None:
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    return frames


def _encodable(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 can't carry; of the very type `str`."""
    return str.encode(text, "utf-8", "backslashreplace").decode()
