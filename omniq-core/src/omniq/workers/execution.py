"""Running one task: the same few steps on a loop, on a thread and in a child process."""

from __future__ import annotations

import asyncio
import errno
import inspect
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from types import FunctionType
from typing import Any

from omniq import clock, forks
from omniq.config.security import Security
from omniq.errors import (
    CorruptPayload,
    InvalidTask,
    PayloadTooLarge,
    Retry,
    SerializationError,
    SignatureError,
    TaskTimeout,
)
from omniq.logs import get_logger
from omniq.models.config import TEN_YEARS
from omniq.models.times import seconds
from omniq.serialization.calls import LoadedCall
from omniq.storage.sizes import SizeLimit
from omniq.sync import in_running_loop
from omniq.texts import shown_name
from omniq.workers.context import current
from omniq.workers.describing import chain, let_go, qualified_name, remote_traceback, safe_text
from omniq.workers.job import End, Job, Ran
from omniq.workers.timeouts import within

log = get_logger("omniq.worker")

PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})
"""Types of values that nobody has to ask whether they can be awaited, which takes longer than many tasks."""
Await = Callable[[Awaitable[Any]], Any]
"""Runs an awaitable to its end on a loop of this thread."""


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine. Plain functions are told apart at once."""
    if type(func) is FunctionType:
        if func.__code__.co_flags & inspect.CO_COROUTINE:
            return True
        if not func.__dict__:  # it isn't marked as one
            return False
    return inspect.iscoroutinefunction(func)


class Execution:
    """Loads, runs and packs; it never raises: whatever a task does ends as a `Ran`."""

    def __init__(self, security: Security, max_result: SizeLimit) -> None:
        self.security = security
        self.max_result = max_result
        self._serialization = security.manager()

    def load(self, job: Job) -> LoadedCall | Ran:
        """The function and its arguments, or what became of trying."""
        try:
            return self._serialization.load_call(job.call)
        except BaseException as error:
            return scarcity(error) or failure(job, error)

    async def run_async(self, job: Job, call: LoadedCall) -> Ran:
        """Run an async function on the running loop, in a task and so in a context of its own."""
        before = forks.count
        try:
            self._enter(job)
            work = call.func(*call.args, **call.kwargs)
            timeout = job.call.timeout
            ran = self._success(job, await (work if timeout is None else within(timeout, work)))
        except BaseException as error:
            if forks.count != before:
                forks.end_child(error)  # only the task's own code is the child's business
            if isinstance(error, GeneratorExit) and not in_running_loop():
                raise  # the loop is gone, and with it all that could be done
            return failure(job, error)
        if forks.count != before:
            forks.end_child()
        return ran

    def run_sync(self, job: Job, call: LoadedCall, await_: Await) -> Ran:
        """Run any function on this thread, in a context of its own; what it awaits runs through `await_`."""
        try:
            return copy_context().run(self._run_sync, job, call, await_)
        finally:
            _leave_no_loop()

    def _run_sync(self, job: Job, call: LoadedCall, await_: Await) -> Ran:
        before = forks.count
        try:
            self._enter(job)
            value = call.func(*call.args, **call.kwargs)
            if type(value) not in PLAIN and inspect.isawaitable(value):
                value = await_(value)
            ran = self._success(job, value)
        except BaseException as error:
            if forks.count != before:
                forks.end_child(error)  # only the task's own code is the child's business
            return failure(job, error)
        if forks.count != before:
            forks.end_child()
        return ran

    def _enter(self, job: Job) -> None:
        job.started_at = clock.now()
        current.set(job.make_context())

    def _success(self, job: Job, value: Any) -> Ran:
        try:
            value_format, packed = self._serialization.dump_value(value)
            if len(packed) > self.max_result.bytes:
                self.max_result.check(len(packed), "the result")
        except (SerializationError, PayloadTooLarge) as error:
            return failure(job, error, fatal=True)
        return Ran(end=End.SUCCESS, value=packed, value_format=value_format, started_at=job.started_at)


def _leave_no_loop() -> None:
    """Let this thread have no event loop: a task may have closed the one it found, or left one there."""
    asyncio._set_running_loop(None)
    try:
        asyncio.set_event_loop(None)
    except BaseException as error:  # it has left a policy, too
        log.warning("a task has left an event loop policy that can't be used: %s", qualified_name(type(error)))
        asyncio.set_event_loop_policy(None)


class OutOfResources(Exception):
    """Raised where the worker lacks what it takes to run a task: that is no fault of the task."""


SCARCITY_PAUSE = 1.0
"""Seconds until a task is tried again for which descriptors or threads were lacking."""


def scarcity(error: BaseException) -> Ran | None:
    """What comes of a task that couldn't be begun for lack of descriptors or threads; None for other errors."""
    if any(_is_scarcity(link) for link in chain(error)):
        log.warning("a task can't be begun, it goes back: %s", safe_text(error))
        return Ran(end=End.RELEASED, delay=SCARCITY_PAUSE)
    return None


def _is_scarcity(error: BaseException) -> bool:
    if type(error) is OSError:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return issubclass(type(error), OutOfResources)


def failure(job: Job, error: BaseException, *, fatal: bool = False) -> Ran:
    """What came of a run that raised. The error is of no use after that: it lets go of what the task held."""
    try:
        return _failure(job, error, fatal)
    except Exception as second:  # ours, and better told than the end of a worker
        log.exception("task %s: what it raised can't be told", job.record.id)
        name = qualified_name(type(error))
        message = f"(it can't be told: {qualified_name(type(second))})"
        return Ran(end=End.ERROR, error_type=name, error_message=message, started_at=job.started_at)
    finally:
        let_go(error)


def _failure(job: Job, error: BaseException, fatal: bool) -> Ran:
    kind = type(error)  # what `isinstance` looks at first, an error may lie about
    if issubclass(kind, OutOfResources):
        return Ran(end=End.RELEASED, delay=SCARCITY_PAUSE)
    if issubclass(kind, asyncio.CancelledError) and (why := job.ended_by or job.disturbed_by):
        return Ran(end=why, started_at=job.started_at)
    if kind is TaskTimeout and not error.args and job.call.timeout is not None:
        error = TaskTimeout(f"ran longer than its timeout of {job.call.timeout:g} s")
    broken = fatal or issubclass(kind, CorruptPayload | SignatureError)
    return Ran(
        end=End.FATAL if broken else End.ERROR,
        error_type=shown_name(qualified_name(kind)),
        error_message=safe_text(error),
        traceback=remote_traceback(error, __file__),
        delay=_delay(error) if issubclass(kind, Retry) else None,
        started_at=job.started_at,
    )


def _delay(error: BaseException) -> float | None:
    """The delay that a task asked for."""
    try:
        delay = seconds("delay", getattr(error, "delay", None))
        return None if delay is None else min(delay, TEN_YEARS)
    except InvalidTask as wrong:
        log.warning("a task asks to be run again after no real time, its own backoff holds: %s", wrong)
    except BaseException as wrong:
        log.warning("a task's delay can't be had, its own backoff holds: %s", qualified_name(type(wrong)))
    return None
