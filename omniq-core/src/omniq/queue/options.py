"""What users may say of a task or a schedule: the options, with their meaning."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import BoundArguments
from typing import Any, Final, TypeAlias, TypedDict, cast

from msgspec import UNSET, Struct, UnsetType, field

from omniq.clock import Duration
from omniq.errors import InvalidTask
from omniq.models.config import DEFAULT_QUEUE, Abridged
from omniq.models.schedule import FiringPolicy, Misfire, Timing, build_timing
from omniq.models.task import ParentFailure, TaskRef, check_id, new_id
from omniq.serialization.base import DeclaredFunction
from omniq.texts import did_you_mean

ErrorTypes: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
FuncArgs: TypeAlias = Mapping[str, Any] | Sequence[Any] | BoundArguments | None
"""A mapping gives keyword arguments, a sequence positional ones, and what `inspect.Signature.bind` returns both."""

ONE_TASK_ONLY = ("run_in", "depends_on", "task_id", "unique_key", "connection")
"""Options that the tasks of a schedule can't have."""


class CommonOptions(TypedDict, total=False):
    """What tasks, schedules and declarations of tasks may say alike. Durations are seconds or a `timedelta`."""

    priority: int
    """-100 to 100, higher first, within its queue."""
    ttl: Duration | None
    """Expires if it isn't started within so long of being due; nor is it tried again after that. Like `result_ttl` and
    `timeout`: None means without limit, and what isn't given is as configured."""
    result_ttl: Duration | None
    """For how long the result is kept."""
    heartbeat_timeout: Duration | None
    """For how long a run may give no sign of life, by `current_task().heartbeat()` or `progress()`; None: any time."""
    retry_delay: Duration | None
    """How long before the first retry."""
    retry_factor: float | None
    """By how much each delay is longer than the one before: 2 if not given."""
    retry_max_delay: Duration | None
    """How long a delay is at most: an hour if not given."""
    retry_jitter: float | None
    """The share of a delay, 0 to 1, that is drawn by lot: a half if not given."""
    retry_on: ErrorTypes | None
    """Exceptions after which it is tried again; after others it fails for good."""
    give_up_on: ErrorTypes | None
    """Exceptions after which it fails for good. A task can also raise `Retry` or `Reject`."""
    metadata: Mapping[str, Any] | None
    """Kept with the task, for people and tools; plain values, of 64 KiB at most."""
    on_success: Callable[..., Any] | None
    """Called on the worker with the `TaskResult`, once, if it gets that far."""
    on_failure: Callable[..., Any] | None


class RunOptions(CommonOptions, total=False):
    """What tasks and schedules may say alike."""

    queue_name: str
    """One of the declared queues; "default" if not given."""
    worker: str | None
    """The kind of worker that runs it, such as "process"; None: whichever serves its queue."""
    max_retries: int | None
    """How often it is tried again after it failed."""
    timeout: Duration | None
    """How long one run may take."""


class EnqueueOptions(RunOptions, total=False):
    """What `enqueue` takes beside the function and its arguments."""

    run_in: Duration | None
    """Due after so long."""
    run_at: dt.datetime | None
    """Due at this (aware) time."""
    depends_on: Sequence[Parent] | Parent
    """Tasks, or calls that are enqueued with it, that must have succeeded before it runs."""
    on_parent_failure: ParentFailure
    """What becomes of it when one of those fails."""
    task_id: str | None
    """An id of your own: enqueueing it again changes nothing."""
    unique_key: str | None
    """A key of your own: while a task with it hasn't ended, no other is added, and that one's id is returned."""
    connection: Any
    """A connection of the store's driver with an open transaction: the task exists only if that commits."""


class ScheduleOptions(RunOptions, total=False):
    """What `schedule` takes beside the function and its arguments."""

    cron: str | None
    """`minute hour day month weekday`, a sixth field for seconds after them, or `@hourly`, `@daily`, `@weekly`, …"""
    interval: Duration | None
    """One task every so long, first after one interval."""
    run_at: dt.datetime | None
    """One task, at this (aware) time."""
    rrule: Any
    """A recurrence rule of RFC 5545 as text, or dateutil's `rrule`."""
    timezone: str
    """Whose wall clock `cron` and `rrule` go by, such as "Europe/Berlin"; "UTC" if not given."""
    start: dt.datetime | None
    """No task before this (aware) time; intervals are counted from it."""
    end: dt.datetime | None
    """No task after it."""
    misfire: Misfire
    """What becomes of slots that are more than `grace` late: only the `latest` is fired, they are left out (`skip`), or
    `all` are fired."""
    grace: Duration | None
    """How late a slot may be and still be fired like any other: a minute if not given; None: however late."""
    jitter: Duration | None
    """Each task is due up to so long after its slot."""
    max_running: int | None
    """A slot is left out while so many of the schedule's tasks haven't ended."""


TIMING: Final = ("cron", "interval", "run_at", "rrule", "timezone", "start", "end")
POLICY: Final = ("misfire", "grace", "jitter", "max_running")


class TaskOptions(Abridged, Struct, frozen=True, kw_only=True):
    """`EnqueueOptions` with their defaults; what isn't given, and no number of retries, is as configured."""

    queue_name: str = DEFAULT_QUEUE
    run_in: Duration | None = None
    run_at: dt.datetime | None = None
    priority: int = 0
    ttl: Duration | UnsetType | None = UNSET
    result_ttl: Duration | UnsetType | None = UNSET
    timeout: Duration | UnsetType | None = UNSET
    heartbeat_timeout: Duration | None = None
    max_retries: int | None = None
    retry_delay: Duration | None = None
    retry_factor: float | None = None
    retry_max_delay: Duration | None = None
    retry_jitter: float | None = None
    retry_on: ErrorTypes | None = None
    give_up_on: ErrorTypes | None = None
    depends_on: Sequence[Parent] | Parent = ()
    on_parent_failure: str = "cancel"
    task_id: str | None = None
    unique_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    on_success: Callable[..., Any] | None = None
    on_failure: Callable[..., Any] | None = None
    worker: str | None = None
    connection: Any = None

    @classmethod
    def of(cls, func: object, options: EnqueueOptions) -> TaskOptions:
        """The options as given, and else as the function's declaration says.

        Raises `InvalidTask` for a name that doesn't exist.
        """
        if isinstance(func, DeclaredFunction):
            options = {**func.defaults, **options}  # type: ignore[typeddict-item]
        if not options:
            return NO_OPTIONS
        try:
            return cls(**options)
        except TypeError:
            unknown = next(name for name in options if name not in cls.__struct_fields__)
            raise InvalidTask(f"{unknown}: no such option{did_you_mean(unknown, cls.__struct_fields__)}") from None


NO_OPTIONS = TaskOptions()


class TaskCall(Abridged, Struct, kw_only=True):
    """One call for `enqueue_many`: a function, its arguments and options as for `enqueue`."""

    func: Callable[..., Any]
    func_args: Any = None
    options: EnqueueOptions = field(default_factory=EnqueueOptions)

    def reserve_id(self) -> str:
        """The id that its task will have: its `task_id`, which it gets now if it has none."""
        if self.options.get("task_id") is None:
            self.options = {**self.options, "task_id": new_id()}
        return check_id(self.options["task_id"], "task_id")


Parent: TypeAlias = TaskRef | TaskCall
"""A task that is there, or one that is about to be."""


class Arguments(Struct, frozen=True):
    """Positional and keyword arguments together, of a function that may have no signature to bind them by."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]


AnyCall: TypeAlias = (
    TaskCall
    | tuple[Callable[..., Any], Mapping[str, Any] | Sequence[Any] | BoundArguments | None]
    | tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]
)
"""One call of `enqueue_many`: what `call` makes, or `(func, func_args)`, or `(func, args, kwargs)`."""

EXPECTED_CALL: Final = "what oq.call makes, or a tuple (func, func_args) or (func, args, kwargs)"


def listed_calls(calls: object) -> list[TaskCall]:
    """The calls for `enqueue_many`. Raises `InvalidTask`, which names the first that is none by its index."""
    if not isinstance(calls, Iterable) or isinstance(calls, str | bytes | Mapping):
        raise InvalidTask(f"calls: expected a list of calls, each {EXPECTED_CALL}; got {type(calls).__name__}")
    return [each if isinstance(each, TaskCall) else _call_of(each, index) for index, each in enumerate(calls)]


def _call_of(each: object, index: int) -> TaskCall:
    if type(each) is tuple and len(each) == 2:
        return TaskCall(func=each[0], func_args=each[1])
    if type(each) is tuple and len(each) == 3:
        return TaskCall(func=each[0], func_args=_both(each[1], each[2], f"calls[{index}]"))
    got = f"a tuple of {len(each)}" if type(each) is tuple else type(each).__name__
    raise InvalidTask(f"calls[{index}]: expected {EXPECTED_CALL}; got {got}")


def _both(args: object, kwargs: object, path: str) -> Arguments:
    if not isinstance(args, Sequence) or isinstance(args, str | bytes | bytearray):
        raise InvalidTask(f"{path}[1]: expected a sequence of positional arguments, got {type(args).__name__}")
    if not isinstance(kwargs, Mapping):
        raise InvalidTask(f"{path}[2]: expected a mapping of keyword arguments, got {type(kwargs).__name__}")
    return Arguments(args, kwargs)


def schedule_options(func: object, options: ScheduleOptions) -> tuple[Timing, FiringPolicy, TaskOptions]:
    """What the options of a schedule say, checked. Raises `InvalidTask`, naming the argument."""
    given = cast("dict[str, Any]", options)
    bad = next((name for name in ONE_TASK_ONLY if name in given), None)
    if bad is not None:
        raise InvalidTask(f"{bad}: the tasks of a schedule can't have it")
    rest = {name: value for name, value in given.items() if name not in (*TIMING, *POLICY)}
    unknown = next((name for name in rest if name not in ScheduleOptions.__annotations__), None)
    if unknown is not None:
        hint = did_you_mean(unknown, list(ScheduleOptions.__annotations__))
        raise InvalidTask(f"{unknown}: no such option{hint}")
    timing = build_timing(**{name: given[name] for name in TIMING if name in given})
    policy = FiringPolicy.of(**{name: given[name] for name in POLICY if name in given})
    return timing, policy, TaskOptions.of(func, cast("EnqueueOptions", rest))
