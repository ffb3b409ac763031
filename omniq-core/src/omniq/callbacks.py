"""Callbacks for a whole `OmniQ` or worker: what becomes of its tasks, told to functions of the program."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Literal, TypeAlias, TypeVar

from msgspec import Struct

from omniq.batching import within
from omniq.clock import Duration, now, seconds, utc
from omniq.errors import ConfigError
from omniq.loops import Background, PerLoop, end_task, in_callback, spawn
from omniq.models.config import Abridged
from omniq.models.result import ResultStatus, TaskResult
from omniq.serialization.base import display_name
from omniq.storage.records import NewTask, TaskRecord
from omniq.texts import get_logger, qualified_name
from omniq.threads import new_lock, new_queue, start_thread

log = get_logger("omniq.callbacks")

TIMEOUT: Final = 30.0
"""Seconds that one callback may take by default."""
CAPACITY: Final = 10_000
"""Calls that wait on one event loop at most."""
LOOK_INTERVAL: Final = 0.5
"""Seconds between two looks at how long a call on a thread has taken."""

# ── what is told ────────────────────────────────────────────────────────────


Kind: TypeAlias = Literal["enqueued", "started", "retried", "ended"]


class TaskUpdate(Abridged, Struct, frozen=True, kw_only=True):
    """What a callback is told of a task. It carries no arguments."""

    kind: Kind
    """What has happened."""
    task_id: str
    name: str
    """The function, as `Task.func`."""
    queue_name: str
    at: dt.datetime
    """When, on the clock of this process."""
    schedule_id: str | None = None
    worker: str | None = None
    """The worker that ran it; None for `enqueued`, and for a task that has ended without a run."""
    attempt: int | None = None
    """1 for the first attempt; None for `enqueued`."""
    error_type: str | None = None
    """Qualified name of the exception that the attempt ended with, if it did."""
    error_message: str | None = None
    retry_in: float | None = None
    """Seconds until the next attempt, for `retried`."""
    result: TaskResult | None = None
    """How the task has ended, for `ended`."""


Callback: TypeAlias = Callable[[TaskUpdate], Any]
F = TypeVar("F", bound=Callback)

# ── the manager ─────────────────────────────────────────────────────────────


class CallbackManager:
    """Functions that are called with a `TaskUpdate` when tasks are enqueued, started, retried or have ended.

    `on_enqueued` is for the process that enqueues, once the store has the task; the others are for the process of the
    worker, with process workers too. Each registers a sync or async function, and may be used as a decorator.

    They are called behind the tasks' backs: sync ones one after the other on a thread of their own, async ones one
    after the other on the event loop; for each loop by itself, of which a blocking `OmniQ` and its worker have one
    each. What they raise is logged and changes nothing. One that takes longer than
    `timeout` is given up: an async one is cancelled, a sync one goes on by itself while the others go on without it.
    `CAPACITY` calls wait at most; what is more is dropped, counted in `dropped` and logged. At most once: a process
    that dies calls nobody. What must happen belongs into a task.
    """

    def __init__(self, *, timeout: Duration = TIMEOUT) -> None:
        """`timeout`: seconds that one call may take. Raises `InvalidTask`."""
        self._timeout = seconds("timeout", timeout, minimum=0.001) or TIMEOUT
        self.enqueued: list[Callback] = []
        """The functions, in the order in which they were registered; so are the next three."""
        self.started: list[Callback] = []
        self.retried: list[Callback] = []
        self.ended: list[Callback] = []
        self.dropped = 0
        """Calls that weren't made, since too many were waiting."""
        self._lanes = PerLoop(lambda: _Lanes(self._timeout), _Lanes.abandon)

    def copy(self) -> CallbackManager:
        """Another manager with the same functions, to which others can be added."""
        other = CallbackManager(timeout=self._timeout)
        for mine, its in zip(self._lists(), other._lists(), strict=True):
            its.extend(mine)
        return other

    def _lists(self) -> tuple[list[Callback], ...]:
        return self.enqueued, self.started, self.retried, self.ended

    # ── registering ──────────────────────────────────────────────────────────

    def on_enqueued(self, function: F) -> F:
        """Call it when a task was enqueued here. Raises `ConfigError` for what can't be called."""
        return _register(self.enqueued, "on_enqueued", function)

    def on_started(self, function: F) -> F:
        """Call it when a task starts here, at each attempt. Raises `ConfigError` for what can't be called."""
        return _register(self.started, "on_started", function)

    def on_retried(self, function: F) -> F:
        """Call it when an attempt has failed, and another one will be made. Raises `ConfigError`."""
        return _register(self.retried, "on_retried", function)

    def on_ended(self, function: F) -> F:
        """Call it when a task has ended, in whichever way. Raises `ConfigError` for what can't be called."""
        return _register(self.ended, "on_ended", function)

    def on_success(self, function: F) -> F:
        """Call it when a task has succeeded. Raises `ConfigError` for what can't be called."""
        self.on_ended(_Only(_check("on_success", function), succeeded=True))
        return function

    def on_failure(self, function: F) -> F:
        """Call it when a task has ended without success: it failed for good, was cancelled or has expired. Raises
        `ConfigError` for what can't be called."""
        self.on_ended(_Only(_check("on_failure", function), succeeded=False))
        return function

    # ── telling ──────────────────────────────────────────────────────────────

    def tell(self, functions: Sequence[Callback], update: TaskUpdate) -> None:
        """Let these functions be called soon; returns at once. On an event loop."""
        lanes = self._lanes.get()
        for function in functions:
            if isinstance(function, _Only):
                if not function.concerns(update):
                    continue
                function = function.function
            if not lanes.take(function, update):
                self._drop()

    def tell_enqueued(self, tasks: Iterable[NewTask], at: float) -> None:
        """Tell of new tasks that the store has had since that time."""
        for task in tasks:
            update = TaskUpdate(
                kind="enqueued",
                task_id=task.id,
                name=task.name,
                queue_name=task.queue_name,
                at=utc(at),
                schedule_id=task.schedule_id,
            )
            self.tell(self.enqueued, update)

    def tell_ended(self, record: TaskRecord, result: TaskResult) -> None:
        """Tell of a task that has just ended without a run."""
        update = TaskUpdate(
            kind="ended",
            task_id=record.id,
            name=record.name,
            queue_name=record.queue_name,
            at=utc(now()),
            schedule_id=record.schedule_id,
            error_type=result.error_type,
            error_message=result.error_message,
            result=result,
        )
        self.tell(self.ended, update)

    async def close(self, patience: float | None = None) -> None:
        """Wait until what was told on this loop is done, at most so many seconds (`timeout` if not given)."""
        if (lanes := self._lanes.pop()) is not None:
            await lanes.close(self._timeout if patience is None else patience)

    def _drop(self) -> None:
        if self.dropped % CAPACITY == 0:
            log.warning("calls of callbacks are dropped, %d so far: they take too long", self.dropped + 1)
        self.dropped += 1


class _Only:
    """A function that is called for one kind of end."""

    def __init__(self, function: Callback, *, succeeded: bool) -> None:
        self.function = function
        self._succeeded = succeeded

    def __call__(self, update: TaskUpdate) -> Any:
        return self.function(update)

    def concerns(self, update: TaskUpdate) -> bool:
        """Whether the task has ended so."""
        return update.result is not None and (update.result.status is ResultStatus.SUCCESS) is self._succeeded


def _register(functions: list[Callback], name: str, function: F) -> F:
    functions.append(_check(name, function))
    return function


def _check(name: str, function: F) -> F:
    if not callable(function):
        raise ConfigError(f"{name}: expected a function that takes a TaskUpdate, got {type(function).__name__}")
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def check_callbacks(value: object) -> CallbackManager:
    """The manager, a new one for None. Raises `ConfigError` for what is none."""
    if value is None:
        return CallbackManager()
    if isinstance(value, CallbackManager):
        return value
    raise ConfigError(f"callbacks: expected a CallbackManager, got {type(value).__name__}")


# ── calling ─────────────────────────────────────────────────────────────────


Call: TypeAlias = tuple[Callback, TaskUpdate]


class _Lanes:
    """The calls that wait on one event loop: of async functions there, of others on a thread beside it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._calls: deque[Call] = deque()
        self._runner: Background[None] | None = None
        self._thread = _ThreadLane(timeout)

    @property
    def waiting(self) -> int:
        return len(self._calls) + self._thread.waiting

    def take(self, function: Callback, update: TaskUpdate) -> bool:
        """Put a call in line; returns whether there was room."""
        if self.waiting >= CAPACITY:
            return False
        if is_async(function):
            self._calls.append((function, update))
            if self._runner is None or self._runner.done():
                self._runner = spawn(self._run(), name="omniq-callbacks")
        else:
            self._thread.put((function, update))
        return True

    async def close(self, patience: float) -> None:
        """Wait for all of them, at most so many seconds; those that are left aren't made."""
        deadline = time.monotonic() + patience
        if self._runner is not None:
            await asyncio.wait([self._runner], timeout=patience)
        while self._thread.waiting and time.monotonic() < deadline:  # noqa: ASYNC110 (on a thread, and soon)
            await asyncio.sleep(0.005)
        if self.waiting:
            log.warning("%d calls of callbacks are given up", self.waiting)
        if self._runner is not None and not self._runner.done():
            end_task(self._runner)
        self.abandon()

    def abandon(self) -> None:
        """Make no more calls: the loop has ended."""
        self._calls.clear()
        self._thread.close()

    async def _run(self) -> None:
        in_callback.set(True)  # it has no more rights than a task: it can't cancel what is ours
        while self._calls:
            function, update = self._calls[0]
            try:
                await within(self._timeout, harmless(partial(function, update), partial(_complain, function, update)))
            except TimeoutError:
                _complain_of_time(function, update)
            self._calls.popleft()


async def harmless(call: Callable[[], Awaitable[object]], complain: Callable[[BaseException], None]) -> None:
    """Make a call of a callback, in a task of its own. What it raises is complained of, and goes no further."""
    try:
        await call()
    except BaseException as error:  # a SystemExit would take the loop along
        me = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
            raise
        complain(error)


class _ThreadLane:
    """Makes calls one after the other on a thread, and leaves that to another thread when one takes too long."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[Call | None] = new_queue()
        self._lock = new_lock()
        self._taken = self._done = 0
        self._worker: object = None
        """Names the thread whose turn it is."""
        self._making: tuple[Call, float] | None = None
        """The call that is being made, and since when."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many calls are waiting or being made."""
        return self._taken - self._done

    def put(self, call: Call) -> None:
        """Put a call in line."""
        self._taken += 1
        self._calls.put(call)
        if self._timer is None:
            self._look()

    def close(self) -> None:
        """Make no more calls."""
        self._worker = None
        self._taken = self._done
        self._calls.put(None)  # for a thread that waits
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """See to it that there is a thread as long as there are calls, and leave alone one that takes too long."""
        with self._lock:
            if self._making is not None and time.monotonic() - self._making[1] > self._timeout:
                _complain_of_time(*self._making[0])
                self._end_call()
                self._worker = None
        if self._worker is None and self.waiting:
            self._start()
        again = min(LOOK_INTERVAL, self._timeout / 2)
        self._timer = self._loop.call_later(again, self._look, context=Context()) if self.waiting else None

    def _start(self) -> None:
        me = self._worker = object()
        try:
            start_thread(partial(self._work, me), "omniq-callbacks")
        except (RuntimeError, MemoryError) as error:
            self._worker = None
            log.warning("callbacks have to wait, there is no thread for them: %s", error)

    def _work(self, me: object) -> None:
        in_callback.set(True)
        while self._worker is me and (call := self._calls.get()) is not None:
            self._making = (call, time.monotonic())
            self._make(*call)
            with self._lock:
                if self._worker is not me:  # it was left alone
                    return
                self._end_call()

    def _make(self, function: Callback, update: TaskUpdate) -> None:
        complain = partial(_complain, function, update)
        try:
            answer = function(update)
            if inspect.isawaitable(answer):  # as of an async function that something wraps
                self._until_done(harmless(lambda: answer, complain))
        except BaseException as error:  # a SystemExit would take the thread along, and the calls behind it
            complain(error)

    def _until_done(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work on the loop, and wait for it here."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop is closed
            work.close()
            raise
        future.result()

    def _end_call(self) -> None:
        self._making = None
        self._done += 1


def _complain(function: Callback, update: TaskUpdate, error: BaseException) -> None:
    # Neither its text nor a traceback, which may hold what the task returned.
    name, kind = display_name(function), qualified_name(type(error))
    log.error("task %s: the callback %s (%s) raised %s", update.task_id, name, update.kind, kind)


def _complain_of_time(function: Callback, update: TaskUpdate) -> None:
    name = display_name(function)
    log.error("task %s: the callback %s (%s) takes too long and is given up", update.task_id, name, update.kind)
