"""Running one task: the same few steps on a loop, on a thread and in a child process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any

from omniq import clock
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
from omniq.models.config import TEN_YEARS
from omniq.models.times import seconds
from omniq.serialization.calls import LoadedCall
from omniq.storage.sizes import SizeLimit
from omniq.texts import MAX_MESSAGE, MAX_TRACEBACK, cut, shown_name
from omniq.workers.context import current
from omniq.workers.job import End, Job, Ran

log = logging.getLogger("omniq.worker")

Await = Callable[[Awaitable[Any]], Any]
"""Runs an awaitable to its end on a loop of this thread."""


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
            return failure(job, error)

    async def run_async(self, job: Job, call: LoadedCall) -> Ran:
        """Run an async function on the running loop, in a task and so in a context of its own."""
        try:
            self._enter(job)
            value = await within(job.call.timeout, call.func(*call.args, **call.kwargs))
            return self._success(job, value)
        except BaseException as error:
            return failure(job, error)

    def run_sync(self, job: Job, call: LoadedCall, await_: Await) -> Ran:
        """Run any function on this thread, in a context of its own; what it awaits runs through `await_`."""
        return copy_context().run(self._run_sync, job, call, await_)

    def _run_sync(self, job: Job, call: LoadedCall, await_: Await) -> Ran:
        try:
            self._enter(job)
            value = call.func(*call.args, **call.kwargs)
            if inspect.isawaitable(value):
                value = await_(value)
            return self._success(job, value)
        except BaseException as error:
            return failure(job, error)

    def _enter(self, job: Job) -> None:
        job.started_at = clock.now()
        current.set(job.make_context())

    def _success(self, job: Job, value: Any) -> Ran:
        try:
            value_format, packed = self._serialization.dump_value(value)
            self.max_result.check(len(packed), "the result")
        except (SerializationError, PayloadTooLarge) as error:
            return failure(job, error, fatal=True)
        return Ran(end=End.SUCCESS, value=packed, value_format=value_format, started_at=job.started_at)


async def within(timeout: float | None, awaitable: Awaitable[Any]) -> Any:
    """Await it for at most `timeout` seconds. Raises `TaskTimeout`; a `TimeoutError` of its own stays one."""
    if timeout is None:
        return await awaitable
    try:
        async with asyncio.timeout(timeout) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise TaskTimeout from None
        raise


def failure(job: Job, error: BaseException, *, fatal: bool = False) -> Ran:
    """What came of a run that raised."""
    if job.ended_by is not None and isinstance(error, asyncio.CancelledError):
        return Ran(end=job.ended_by, started_at=job.started_at)
    if isinstance(error, TaskTimeout) and not error.args:
        error = TaskTimeout(f"ran longer than its timeout of {job.call.timeout:g} s")
    broken = fatal or isinstance(error, CorruptPayload | SignatureError)
    return Ran(
        end=End.FATAL if broken else End.ERROR,
        error_type=shown_name(qualified_name(type(error))),
        error_message=safe_text(error),
        traceback=remote_traceback(error),
        delay=_delay(error),
        started_at=job.started_at,
    )


def _delay(error: BaseException) -> float | None:
    """The delay that a task asked for, if it is one."""
    if not isinstance(error, Retry):
        return None
    try:
        delay = seconds("delay", error.delay)
        return None if delay is None else min(delay, TEN_YEARS)
    except InvalidTask as wrong:
        log.warning("a task asks to be run again after no real time, its own backoff holds: %s", wrong)
        return None


def _encodable(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 can't carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def qualified_name(cls: type) -> str:
    """`module.qualname`; the bare name for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def safe_text(error: BaseException) -> str:
    """The error's text, cut to `MAX_MESSAGE`; a task's own `__str__` may raise as well."""
    try:
        return _encodable(cut(str(error), MAX_MESSAGE))
    except BaseException as second:
        return f"(its text can't be had: {type(second).__name__})"


def remote_traceback(error: BaseException) -> str:
    """The traceback from the task's own first line on, without this module's frames, cut to `MAX_TRACEBACK`."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        return _encodable(cut("".join(traceback.format_exception(type(error), error, frames)), MAX_TRACEBACK))
    except BaseException as second:
        return f"(the traceback can't be had: {type(second).__name__})"
