"""From what a user asks for to a task that a store takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from inspect import BoundArguments
from typing import Any, cast

from msgspec import UNSET, Struct
from msgspec.structs import replace

from omniq.clock import Duration, as_datetime, due_time, seconds, utc
from omniq.config.loader import TaskDefaults
from omniq.errors import ConfigError, InvalidTask, PluginError, SerializationError
from omniq.models.config import TEN_YEARS
from omniq.models.task import (
    DEFAULT_RETRY,
    Call,
    ParentFailure,
    RetryRule,
    Task,
    check_id,
    check_new_id,
    id_of,
    new_id,
)
from omniq.plugins.registry import registry
from omniq.queue.options import NO_OPTIONS, Arguments, FuncArgs, TaskCall, TaskOptions
from omniq.serialization.base import DeclaredFunction, check_arguments, surely_takes
from omniq.serialization.codec import CallOptions
from omniq.serialization.manager import SerializationManager
from omniq.storage.records import NewTask, TaskRecord
from omniq.texts import get_logger, qualified_name, shown_name

# ── from records to tasks ───────────────────────────────────────────────────


log = get_logger("omniq.queue")

RESULT_TTL = 86_400.0
"""Seconds for which a result is kept that nobody said anything about."""
UNREADABLE = Call(func="(unreadable)", args=b"", args_format="", result_ttl=RESULT_TTL)


def verified_call(record: TaskRecord, serialization: SerializationManager) -> Call:
    """The record's call. Raises `SerializationError`, and `KeyMissing` where only the key is missing here."""
    return serialization.read_call(
        record.body, task_id=record.id, queue_name=record.queue_name, schedule_id=record.schedule_id
    )


def read_call(record: TaskRecord, serialization: SerializationManager) -> Call:
    """The record's call; a stand-in, and a warning, where its bytes are damaged or not signed by us."""
    try:
        return verified_call(record, serialization)
    except SerializationError as error:
        log.warning("task %s can't be read: %s", record.id, error)
        return UNREADABLE


def task_view(record: TaskRecord) -> Task:
    """The task as lists show it: by what is kept beside its call."""
    return Task(
        id=record.id,
        func=record.name,
        queue_name=record.queue_name,
        state=record.state,
        priority=record.priority,
        created_at=utc(record.created_at),
        run_at=utc(record.run_at),
        expires_at=as_datetime(record.expires_at),
        finished_at=as_datetime(record.finished_at),
        attempts=record.attempts,
        crashes=record.crashes,
        epoch=record.epoch,
        worker=record.worker,
        cancel_requested=record.cancel_requested,
        depends_on=record.depends_on,
        schedule_id=record.schedule_id,
        damage=record.damage,
    )


def task_details(record: TaskRecord, serialization: SerializationManager) -> Task:
    """The task with all that its call tells, and what is wrong with it."""
    call, damage = UNREADABLE, record.damage
    try:
        call = verified_call(record, serialization)
    except SerializationError as error:
        damage = damage or str(error)
    return replace(
        task_view(record),
        func=call.func,
        max_retries=call.max_retries,
        retry_delay=call.retry_delay,
        timeout=call.timeout,
        heartbeat_timeout=call.heartbeat_timeout,
        result_ttl=call.result_ttl,
        worker_kind=call.worker,
        metadata=call.metadata,
        body=record.body,
        damage=damage,
    )


# ── from calls to tasks ─────────────────────────────────────────────────────


MAX_RETRIES = 1_000_000


class Placing(Struct, frozen=True, gc=False):
    """What a task's options say of where and when it is to run, checked."""

    queue_name: str
    priority: int
    run_at: float | None
    delay: float
    ttl: float | None
    unique: str | None


class RequestBuilder:
    """Checks what a user asks for, field by field, and packs it."""

    def __init__(
        self, serialization: SerializationManager, queues: Sequence[str], defaults: TaskDefaults | None = None
    ) -> None:
        self._serialization = serialization
        self._queues = frozenset(queues)
        self._queue_list = ", ".join(queues)
        self.change_defaults(defaults or TaskDefaults.from_environment())

    def change_defaults(self, defaults: TaskDefaults) -> None:
        """What a task gets from now on that says nothing itself."""
        self._defaults = defaults
        self._without_options = self._call_options(NO_OPTIONS)
        self._placed_without_options: Placing | None = None

    def build(self, func: Callable[..., Any], func_args: FuncArgs, options: TaskOptions) -> NewTask:
        """The task to add. Raises `InvalidTask` or `SerializationError`, naming the argument."""
        task_id = new_id() if options.task_id is None else check_new_id(options.task_id, "task_id")
        placing = self._placing(options)
        call = self.build_call(func, func_args, options)
        return NewTask(
            id=task_id,
            queue_name=placing.queue_name,
            body=self._serialization.reseal(call, task_id=task_id, queue_name=placing.queue_name),
            name=shown_name(call.func),
            priority=placing.priority,
            run_at=placing.run_at,
            delay=placing.delay,
            ttl=placing.ttl,
            depends_on=() if options is NO_OPTIONS and not call.results_of else _parents(options, call, task_id),
            unique=placing.unique,
        )

    def build_many(self, calls: Sequence[TaskCall]) -> tuple[list[TaskOptions], list[NewTask]]:
        """The options and tasks of many calls. Raises as `build` does, naming the call by its index."""
        options: list[TaskOptions] = []
        tasks: list[NewTask] = []
        try:
            for each in calls:
                options.append(checked := TaskOptions.of(each.func, each.options))
                if checked.connection is not None:
                    raise InvalidTask("connection: enqueue within a transaction one task at a time, by enqueue")
                tasks.append(self.build(each.func, each.func_args, checked))
        except (InvalidTask, SerializationError) as error:
            path = f"calls[{len(tasks)}]" + ("." if isinstance(error, InvalidTask) else ": ")
            error.args = (f"{path}{error}", *error.args[1:])
            raise
        return options, tasks

    def check(self, options: TaskOptions) -> None:
        """Raise `InvalidTask`, naming the option, for options that no task can have."""
        self._placing(options)
        self._serialization.build_call(id, (), {}, self._call_options(options))

    def _placing(self, options: TaskOptions) -> Placing:
        """Where and when a task is to run. What it is without options is told once."""
        if options is NO_OPTIONS and self._placed_without_options is not None:
            return self._placed_without_options
        delay, run_at = _due(options)
        placing = Placing(
            queue_name=self.check_queue(options.queue_name),
            priority=check_priority(options.priority),
            run_at=run_at,
            delay=delay,
            ttl=self.ttl(options),
            unique=None if options.unique_key is None else check_id(options.unique_key, "unique_key"),
        )
        if options is NO_OPTIONS:
            self._placed_without_options = placing
        return placing

    def build_call(self, func: Callable[..., Any], func_args: FuncArgs, options: TaskOptions) -> Call:
        """Function, arguments and what a worker must know to run them. Raises like `build`."""
        args, kwargs = check_call(func, func_args)
        checked = self._without_options if options is NO_OPTIONS else self._call_options(options)
        return self._serialization.build_call(func, args, kwargs, checked)

    def _call_options(self, options: TaskOptions) -> CallOptions:
        defaults = self._defaults
        retry_delay = span("retry_delay", options.retry_delay)
        return CallOptions(
            timeout=defaults.timeout if options.timeout is UNSET else span("timeout", options.timeout, minimum=0.001),
            max_retries=defaults.max_retries if options.max_retries is None else _retries(options.max_retries),
            retry_delay=defaults.retry_delay if retry_delay is None else retry_delay,
            result_ttl=defaults.result_ttl if options.result_ttl is UNSET else span("result_ttl", options.result_ttl),
            metadata=_metadata(options.metadata),
            on_success=options.on_success,
            on_failure=options.on_failure,
            on_parent_failure=_parent_failure(options.on_parent_failure),
            retry=self._retry_rule(options),
            heartbeat_timeout=span("heartbeat_timeout", options.heartbeat_timeout, minimum=0.001),
            worker=None if options.worker is None else worker_kind(options.worker),
        )

    def _retry_rule(self, options: TaskOptions) -> RetryRule | None:
        """The task's own rule; None where it is the usual one."""
        defaults = self._defaults
        factor, jitter = options.retry_factor, options.retry_jitter
        maximum = span("retry_max_delay", options.retry_max_delay)
        rule = RetryRule(
            factor=defaults.retry_factor if factor is None else _number("retry_factor", factor, 1.0, 1000.0),
            maximum=defaults.retry_max_delay if maximum is None else maximum,
            jitter=defaults.retry_jitter if jitter is None else _number("retry_jitter", jitter, 0.0, 1.0),
            retry_on=_error_names("retry_on", options.retry_on),
            give_up_on=_error_names("give_up_on", options.give_up_on),
        )
        return None if rule == DEFAULT_RETRY else rule

    def ttl(self, options: TaskOptions) -> float | None:
        """Seconds for which a task may wait to be started."""
        return self._defaults.ttl if options.ttl is UNSET else span("ttl", options.ttl)

    def check_queue(self, name: object) -> str:
        """The name, if it is declared; a task in an undeclared queue would wait for ever."""
        if not isinstance(name, str) or name not in self._queues:
            raise InvalidTask(
                f"queue_name: {name!r} isn't one of the declared queues ({self._queue_list}); add it with queues=[…]"
            )
        return str.__str__(name)


def check_call(func: object, func_args: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call. Raises `InvalidTask` if that is no function, or one that doesn't take them."""
    if not callable(func):
        raise InvalidTask(f"func: expected a function, got {type(func).__name__}")
    args, kwargs = split_args(func_args)
    if isinstance(func, DeclaredFunction):
        func.check(args, kwargs)
    elif not surely_takes(func, args, kwargs):
        check_arguments(func, args, kwargs)
    return args, kwargs


def split_args(func_args: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    if func_args is None:
        return (), {}
    if isinstance(func_args, BoundArguments):
        return func_args.args, func_args.kwargs
    if isinstance(func_args, Arguments):
        return tuple(func_args.args), split_args(func_args.kwargs)[1]
    if isinstance(func_args, Mapping):
        kwargs = dict(func_args)
        bad = next((key for key in cast("dict[object, Any]", kwargs) if not isinstance(key, str)), None)
        if bad is not None:
            raise InvalidTask(f"func_args: keyword arguments need str keys, got {type(bad).__name__}")
        return (), kwargs
    if isinstance(func_args, Sequence) and not isinstance(func_args, str | bytes | bytearray):
        return tuple(func_args), {}
    raise InvalidTask(
        f"func_args: expected a mapping (keyword arguments) or a sequence (positional), got {type(func_args).__name__}"
    )


def span(name: str, value: Duration | None, *, minimum: float = 0.0) -> float | None:
    """`seconds`, and `InvalidTask` for more than ten years."""
    return seconds(name, value, minimum=minimum, maximum=TEN_YEARS)


def check_priority(priority: object) -> int:
    """The priority, if it is between -100 and 100."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -100 <= priority <= 100:
        raise InvalidTask(f"priority: expected a whole number from -100 to 100, got {priority!r:.80}")
    return int(priority)


def worker_kind(name: object) -> str:
    """What a kind of worker is called, which may have other names. Raises `InvalidTask` if there is none of it here."""
    if not isinstance(name, str):
        raise InvalidTask(f"worker: expected the name of a kind of worker, got {type(name).__name__}")
    return _worker_kind(name)


@cache
def _worker_kind(name: str) -> str:
    try:
        return registry().worker(name).name
    except (PluginError, ConfigError) as error:
        raise InvalidTask(f"worker: {error}") from None


def _due(options: TaskOptions) -> tuple[float, float | None]:
    if options.run_at is None:
        return span("run_in", options.run_in) or 0.0, None
    if options.run_in is not None:
        raise InvalidTask("run_in: give run_in or run_at, not both")
    return 0.0, due_time("run_at", options.run_at)


def _number(name: str, value: object, minimum: float, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
        raise InvalidTask(f"{name}: expected a number from {minimum:g} to {maximum:g}, got {value!r:.80}")
    return float(value)


def _error_names(name: str, errors: object) -> tuple[str, ...]:
    """By which a worker knows them, that needn't import them."""
    listed: Sequence[object] = [] if errors is None else [errors] if isinstance(errors, type) else cast("Any", errors)
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise InvalidTask(f"{name}: expected exception classes, got {errors!r:.80}")
    for error in listed:
        if not isinstance(error, type) or not issubclass(error, BaseException):
            raise InvalidTask(f"{name}: expected exception classes, got {error!r:.80}")
    return tuple(dict.fromkeys(qualified_name(cast("type", error)) for error in listed))


def _retries(max_retries: object) -> int:
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or not 0 <= max_retries <= MAX_RETRIES:
        raise InvalidTask(f"max_retries: expected a whole number from 0 to {MAX_RETRIES}, got {max_retries!r:.80}")
    return int(max_retries)


def parent_id(parent: object, name: str = "depends_on") -> str:
    """As `id_of`, for a call that is yet to be enqueued too."""
    return parent.reserve_id() if isinstance(parent, TaskCall) else id_of(parent, name)


def listed_parents(depends_on: object) -> list[str]:
    """The ids in a `depends_on`. Raises `InvalidTask`."""
    listed = [depends_on] if isinstance(depends_on, str | Task | TaskCall) else () if depends_on is None else depends_on
    if not isinstance(listed, Iterable):
        raise InvalidTask(f"depends_on: expected task ids or tasks, got {type(depends_on).__name__}")
    return [parent_id(parent) for parent in listed]


def _parents(options: TaskOptions, call: Call, task_id: str) -> tuple[str, ...]:
    """What the task waits for: what it says, and the tasks whose results are among its arguments."""
    parents = tuple(dict.fromkeys([*listed_parents(options.depends_on), *call.results_of]))
    if task_id in parents:
        raise InvalidTask(f"depends_on: task {task_id} can't depend on itself")
    return parents


def _metadata(metadata: object) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidTask(f"metadata: expected a mapping, got {type(metadata).__name__}")
    return dict(metadata)


def _parent_failure(policy: str) -> ParentFailure:
    if policy not in ("cancel", "run", "hold"):
        raise InvalidTask(f"on_parent_failure: expected 'cancel', 'run' or 'hold', got {policy!r:.80}")
    return cast("ParentFailure", policy)
