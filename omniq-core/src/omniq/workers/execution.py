"""Running one task: load, call, pack; and what all ways of running tasks are."""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from types import FunctionType
from typing import Any, Final, Self

from msgspec import Struct

from omniq.clock import seconds
from omniq.config.loader import Security
from omniq.config.settings import FORMAT
from omniq.errors import (
    CorruptPayload,
    HeartbeatTimeout,
    InvalidTask,
    PayloadTooLarge,
    Reject,
    ResultError,
    Retry,
    SerializationError,
    SignatureError,
    TaskTimeout,
)
from omniq.logs import about_lines, log_as_json
from omniq.loops import end_child, forks
from omniq.models.config import TEN_YEARS, WorkerConfig
from omniq.models.result import Progress
from omniq.models.task import RetryRule
from omniq.serialization.codec import LoadedCall
from omniq.storage.base import SizeLimit
from omniq.sync import in_running_loop
from omniq.texts import chain, get_logger, let_go, qualified_name, remote_traceback, safe_text, shown_name
from omniq.workers.jobs import SUCCEEDED, Job, Line, RunResult, RunStatus, current
from omniq.workers.stacks import Stack, of_threads

log = get_logger("omniq.worker")

# ── what a task logs ────────────────────────────────────────────────────────


WITH_HANDLERS: Final = frozenset({"dill", "push_response"})
"""Loggers of dill and redis-py that have a handler from their import on, whatever the program wants to see."""


class LogSettings(Struct, array_like=True):
    """How a process logs."""

    levels: dict[str, int]
    """Of the loggers that have a level of their own; the root logger's name is empty."""
    disabled: int
    """The level up to which `logging.disable` has turned everything off."""
    shown: int | None
    """The lowest level that some handler shows; None where there is no handler."""
    about: dict[str, str] | None = None
    """What each line of JSON says besides; None where lines are plain."""

    @classmethod
    def of_this_process(cls) -> Self:
        loggers = [
            logger for logger in list(logging.root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)
        ]
        levels = {logger.name: logger.level for logger in loggers if logger.level != logging.NOTSET}
        own = [logger for logger in (logging.root, *loggers) if logger.name not in WITH_HANDLERS]
        handlers = [handler for logger in own for handler in logger.handlers]
        shown = [handler.level for handler in handlers if not isinstance(handler, logging.NullHandler)]
        lowest = min(shown, default=None)
        return cls({**levels, "": logging.root.level}, logging.root.manager.disable, lowest, about_lines())

    def apply(self) -> None:
        """Let this process log the same to stderr, unless something has set up its logging already."""
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(self.disabled)
        if self.shown is not None and not logging.root.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setLevel(self.shown)
            handler.setFormatter(logging.Formatter(FORMAT))
            logging.root.addHandler(handler)
        if self.about is not None:
            log_as_json(self.about)


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


# ── running ─────────────────────────────────────────────────────────────────


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
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def may_be_async(func: Callable[..., Any]) -> bool:
    """Whether calling it may give a coroutine: a plain wrapper of an async function may, or run it to its end."""
    return is_async(func) or is_async(inspect.unwrap(func))


class Execution:
    """Loads, runs and packs; it never raises: whatever a task does ends as a `RunResult`."""

    def __init__(self, security: Security, max_result: SizeLimit) -> None:
        self.security = security
        self.max_result = max_result
        self.on_report: Callable[[Job, Progress | None], None] | None = None
        """Told, on any thread, what running tasks say of themselves."""
        self._serialization = security.manager()
        self._forks = forks()

    def load(self, job: Job) -> LoadedCall | RunResult:
        """The function and its arguments, or what became of trying."""
        try:
            if job.parents:
                return self._serialization.load_child(job.call, job.parents)
            return self._serialization.load_call(job.call)
        except ResultError as error:  # of a parent, and it stays so
            return failure(job, error.with_traceback(None), fatal=True)
        except BaseException as error:
            return scarcity(error) or failure(job, error)

    async def run_async(self, job: Job, call: LoadedCall) -> RunResult:
        """Run an async function on the running loop, in a task and so in a context of its own."""
        try:
            job.begin(self.on_report)
            current.set(job)
            work = call.func(*call.args, **call.kwargs)
            timeout = job.call.timeout
            ran = self._success(job, await (work if timeout is None else within(timeout, work)))
        except BaseException as error:
            if forks() != self._forks:
                end_child(error)  # only the task's own code is the child's business
            if isinstance(error, GeneratorExit) and not in_running_loop():
                raise  # the loop is gone, and with it all that could be done
            return failure(job, error)
        if forks() != self._forks:
            end_child()
        return ran

    def run_sync(self, job: Job, call: LoadedCall, await_: Await) -> RunResult:
        """As `run_here`, on a thread of the worker's, which has no event loop afterwards."""
        try:
            return self.run_here(job, call, await_)
        finally:
            _leave_no_loop()

    def run_here(self, job: Job, call: LoadedCall, await_: Await) -> RunResult:
        """Run any function on this thread, in a context of its own; what it awaits runs through `await_`."""
        return copy_context().run(self._run_sync, job, call, await_)

    def _run_sync(self, job: Job, call: LoadedCall, await_: Await) -> RunResult:
        try:
            job.begin(self.on_report)
            current.set(job)
            value = call.func(*call.args, **call.kwargs)
            if type(value) not in PLAIN and inspect.isawaitable(value):
                value = await_(value)
            ran = self._success(job, value)
        except BaseException as error:
            if forks() != self._forks:
                end_child(error)  # only the task's own code is the child's business
            return failure(job, error)
        if forks() != self._forks:
            end_child()
        return ran

    def _success(self, job: Job, value: Any) -> RunResult:
        try:
            value_format, packed = self._serialization.dump_value(value)
            if len(packed) > self.max_result.bytes:
                self.max_result.check(len(packed), "the result")
        except (SerializationError, PayloadTooLarge) as error:
            return failure(job, error, fatal=True)
        return RunResult(end=SUCCEEDED, value=packed, value_format=value_format, started_at=job.started_at)


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


def scarcity(error: BaseException) -> RunResult | None:
    """What comes of a task that couldn't be begun for lack of descriptors or threads; None for other errors."""
    if any(_is_scarcity(link) for link in chain(error)):
        log.warning("a task can't be begun, it goes back: %s", safe_text(error))
        return RunResult(end=RunStatus.RELEASED, delay=SCARCITY_PAUSE)
    return None


def _is_scarcity(error: BaseException) -> bool:
    if type(error) is OSError:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return issubclass(type(error), OutOfResources)


def failure(job: Job, error: BaseException, *, fatal: bool = False) -> RunResult:
    """What came of a run that raised. The error is of no use after that: it lets go of what the task held."""
    try:
        return _failure(job, error, fatal)
    except Exception as second:  # ours, and better told than the end of a worker
        log.exception("task %s: what it raised can't be told", job.record.id)
        name = qualified_name(type(error))
        message = f"(it can't be told: {qualified_name(type(second))})"
        return RunResult(end=RunStatus.ERROR, error_type=name, error_message=message, started_at=job.started_at)
    finally:
        let_go(error)


def _failure(job: Job, error: BaseException, fatal: bool) -> RunResult:
    kind = type(error)  # what `isinstance` looks at first, an error may lie about
    if issubclass(kind, OutOfResources):
        return RunResult(end=RunStatus.RELEASED, delay=SCARCITY_PAUSE)
    if issubclass(kind, asyncio.CancelledError) and (why := job.ended_by or job.disturbed_by):
        return RunResult(end=why, started_at=job.started_at)
    if kind is asyncio.CancelledError and job.silent:
        kind, error = HeartbeatTimeout, job.overdue.with_traceback(error.__traceback__)
    elif kind is TaskTimeout and not error.args and job.call.timeout is not None:
        error = job.overdue
    broken = fatal or issubclass(kind, CorruptPayload | SignatureError | Reject) or _is_final(job.call.retry, kind)
    return RunResult(
        end=RunStatus.FATAL if broken else RunStatus.ERROR,
        error_type=shown_name(qualified_name(kind)),
        error_message=safe_text(error),
        traceback=remote_traceback(error, __file__),
        delay=_delay(error) if issubclass(kind, Retry) else None,
        started_at=job.started_at,
    )


def _is_final(rule: RetryRule | None, kind: type[BaseException]) -> bool:
    """Whether the task's own rule says that such an error is worth no other try; `Retry` always is."""
    if rule is None or issubclass(kind, Retry):
        return False
    return rule.is_final([qualified_name(base) for base in kind.__mro__])


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


# ── runners ─────────────────────────────────────────────────────────────────


class Runner(ABC):
    """Slots that take jobs from their line, run them, and hand in there what came of them."""

    isolates = False
    """Whether a task that kills its process leaves the worker and the other tasks alive."""
    concurrent = True
    """Whether several tasks can run at once."""
    preempts = True
    """Whether a sync task whose time is over, or that is cancelled, is ended or given up: its slot is free at once."""
    forks = True
    """Whether a task may fork the process that runs it, without harm to the tasks beside it."""
    cancels = True
    """Whether an async task that must end gets a `CancelledError` where it waits, and may clean up."""

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        """`config` is of the worker's `config_class`; `max_workers` wins over what it says."""
        self.line = line
        self.execution = execution
        self.max_workers = max_workers
        self.on_start: Callable[[Job], None] | None = None
        """Told, on the running thread, when a job starts, if somebody wants to know."""
        self.on_failure: Callable[[Exception], None] = lambda error: None
        """Told, on the worker's loop, when tasks can't be run any more: the worker ends."""

    @property
    def blocked(self) -> bool:
        """Whether no slot can take a job at present, for lack of threads or processes: nothing is claimed then."""
        return False

    @property
    def abandoned(self) -> int:
        """How many tasks go on running here though they were given up."""
        return 0

    @property
    def slots(self) -> int:
        """How many jobs can run at once as things are, the running ones included; at 0 nothing is claimed."""
        return self.max_workers

    @abstractmethod
    async def open(self) -> None:
        """Start what running tasks takes. Raises `WorkerError`."""

    def resize(self, max_workers: int) -> None:
        """Run so many jobs at once from now on; those that run are left alone. On the worker's loop.

        A kind of worker that starts something for each of its slots has to see to that as well.
        """
        self.max_workers = max_workers
        self.wake()

    @abstractmethod
    def wake(self) -> None:
        """There are jobs in line: let free slots take them. On the worker's loop."""

    @abstractmethod
    def stop_job(self, job: Job, why: RunStatus) -> None:
        """Make a running job end soon, as `why` says. On the worker's loop."""

    @abstractmethod
    def end_silent(self, job: Job) -> None:
        """Make a running job fail soon, as `overdue` says: it gives no sign of life. On the worker's loop."""

    async def stacks(self) -> dict[str, Stack]:
        """Where the tasks are that run, by their ids; from any event loop, even while the worker's own is stuck.

        By default, those on threads of this process.
        """
        return of_threads()

    def take_back(self) -> None:  # noqa: B027 (nothing, where each job that was taken is begun at once)
        """Put jobs that were taken and not begun in line again: the worker stops. On the worker's loop."""

    def call_off(self) -> list[Job]:
        """Let jobs that were taken and not begun never begin, and return them: the worker's loop stands still, or is
        gone. From any thread."""
        return []

    @abstractmethod
    async def close(self) -> None:
        """Stop everything that still runs, and wait for what can be waited for."""
