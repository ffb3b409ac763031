"""Tasks and their ids, states, schedules, events and results, as users see them."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

from msgspec import Meta, Struct, field

from omniq.clock import FIRST_SECOND, LAST_SECOND, now, utc
from omniq.errors import InvalidTask, ResultError, ResultTimeout, TaskCancelled, TaskExpired, TaskFailed
from omniq.models.config import Abridged, Moment, NotNegative, Positive
from omniq.texts import cut, encodable

# ── ids and names ───────────────────────────────────────────────────────────


MAX_LENGTH = 255
MAX_PAGE = 10_000
"""Items of one list."""

_random = random.Random(os.urandom(32))
# A forked child must not repeat its parent's sequence.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

_VERSION_7 = 7 << 76
_VERSION_8 = 8 << 76
_VARIANT = 2 << 62
_MAX_MILLISECONDS = (1 << 48) - 1
_SLOT_ID = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_id() -> str:
    """A fresh id: 48 bits of milliseconds, then 74 random bits."""
    return _uuid(time.time_ns() // 1_000_000, _VERSION_7, _random.getrandbits(74))


_latest_stamp = 0


def new_event_id() -> str:
    """As `new_id`, and greater than each that this process has made before: 60 bits of time, then 62 random bits."""
    global _latest_stamp
    _latest_stamp = max(_latest_stamp + 1, (time.time_ns() << 12) // 1_000_000)
    return _uuid(_latest_stamp >> 12, _VERSION_7, (_latest_stamp & 0xFFF) << 62 | _random.getrandbits(62))


def slot_id(schedule_id: str, slot: float) -> str:
    """The id of the task that a schedule fires for one slot (seconds since the epoch): the same whoever fires it.

    48 bits of the slot's milliseconds, then 74 bits of a hash of both.
    """
    milliseconds = round(slot * 1000)
    digest = hashlib.sha256(f"{schedule_id}/{milliseconds}".encode()).digest()
    return _uuid(min(max(milliseconds, 0), _MAX_MILLISECONDS), _VERSION_8, int.from_bytes(digest) >> 256 - 74)


def check_id(value: object, name: str) -> str:
    """The id, if it can be one. `name` is that of the argument. Raises `InvalidTask`."""
    if not isinstance(value, str):
        raise InvalidTask(f"{name}: expected text, got {type(value).__name__}")
    id_ = str.__str__(value)  # of a subclass of str, the text itself: stores know no other
    if not 0 < len(id_) <= MAX_LENGTH or not id_.isprintable():
        raise InvalidTask(f"{name}: expected 1 to {MAX_LENGTH} printable characters, got {id_!r:.80}")
    return id_


def check_new_id(value: object, name: str) -> str:
    """As `check_id`, for a task that isn't there yet: it can't have the id of a schedule's slot."""
    id_ = check_id(value, name)
    if _SLOT_ID.fullmatch(id_):
        raise InvalidTask(f"{name}: {id_} is a UUID of version 8, which only the tasks of schedules have")
    return id_


def check_limit(limit: object) -> int:
    """How many items a list may have, if that is a number from 1 to `MAX_PAGE`. Raises `InvalidTask`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MAX_PAGE:
        raise InvalidTask(f"limit: expected 1 to {MAX_PAGE}, got {limit!r:.80}")
    return int(limit)


def _uuid(milliseconds: int, version: int, bits: int) -> str:
    """32 digits of 48 bits of time and 74 others."""
    return f"{milliseconds << 80 | version | (bits >> 62) << 64 | _VARIANT | (bits & ((1 << 62) - 1)):032x}"


# ── states ──────────────────────────────────────────────────────────────────


class TaskState(StrEnum):
    """Where a task is. `docs/design.md` draws the transitions."""

    PENDING = "pending"
    """Due: the next claim may take it."""
    SCHEDULED = "scheduled"
    """Due later, at `run_at`."""
    WAITING = "waiting"
    """Waiting for its parents."""
    RUNNING = "running"
    """Claimed by a worker under a lease."""
    SUCCESS = "success"
    ERROR = "error"
    """Failed for good; kept in the dead-letter queue until it is requeued or purged."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Not started, or not tried again, before its TTL ended."""

    __hash__ = str.__hash__  # that of enums is Python code, and states are looked up with every step of a task

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({TaskState.SUCCESS, TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED})
QUEUED = frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING})


class ResultStatus(StrEnum):
    """What is known of a task's outcome."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class AnyCase(StrEnum):
    """Names that are known in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class EventType(AnyCase):
    """What happened to a task, a schedule, a queue or a worker."""

    __hash__ = str.__hash__  # as for states

    ENQUEUED = "ENQUEUED"
    EXECUTING = "EXECUTING"
    """A run has begun."""
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    """It failed for good: DEAD_LETTERED follows."""
    RETRY = "RETRY"
    """A run failed, or its process died, and it is tried again."""
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    DEAD_LETTERED = "DEAD_LETTERED"
    """It was parked in the dead-letter queue, after a run or without one."""
    TASK_REQUEUED = "TASK_REQUEUED"
    """It was taken out of the dead-letter queue, or had been cancelled or expired, and starts afresh."""
    LEASE_EXPIRED = "LEASE_EXPIRED"
    """Its worker didn't renew its lease, and it goes back to its queue."""
    SCHEDULE_CREATED = "SCHEDULE_CREATED"
    SCHEDULE_FIRED = "SCHEDULE_FIRED"
    SCHEDULE_PAUSED = "SCHEDULE_PAUSED"
    SCHEDULE_RESUMED = "SCHEDULE_RESUMED"
    SCHEDULE_DELETED = "SCHEDULE_DELETED"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    QUEUE_RESUMED = "QUEUE_RESUMED"
    WORKER_STARTED = "WORKER_STARTED"
    WORKER_STOPPED = "WORKER_STOPPED"
    UNKNOWN = "UNKNOWN"
    """Stands in for a stored type that is none of these: see `TaskEvent.damage`."""

    @property
    def level(self) -> EventLevel:
        """How much it matters."""
        return _LEVELS.get(self, EventLevel.INFO)


class EventLevel(AnyCase):
    """How much an event matters, the least first."""

    DEBUG = "DEBUG"
    """What every task goes through on its way, and schedules that fire."""
    INFO = "INFO"
    """How a task ended, and what somebody has changed."""
    WARNING = "WARNING"
    """What went wrong and may mend by itself, and tasks that weren't run."""
    ERROR = "ERROR"
    """What failed for good."""

    @property
    def types(self) -> frozenset[EventType]:
        """The types of events that matter as much or more."""
        levels = list(EventLevel)
        return frozenset(type_ for type_ in EventType if levels.index(type_.level) >= levels.index(self))


_LEVELS: Final[Mapping[EventType, EventLevel]] = {
    EventType.ENQUEUED: EventLevel.DEBUG,
    EventType.EXECUTING: EventLevel.DEBUG,
    EventType.SCHEDULE_FIRED: EventLevel.DEBUG,
    EventType.RETRY: EventLevel.WARNING,
    EventType.EXPIRED: EventLevel.WARNING,
    EventType.LEASE_EXPIRED: EventLevel.WARNING,
    EventType.ERROR: EventLevel.ERROR,
    EventType.DEAD_LETTERED: EventLevel.ERROR,
}
"""Of those that aren't INFO."""


# ── tasks ───────────────────────────────────────────────────────────────────


ParentFailure = Literal["cancel", "run", "hold"]
"""What becomes of a task when one that it depends on fails."""


class Task(Abridged, Struct, frozen=True, kw_only=True, eq=False):
    """A task as the queue holds it. Two tasks are equal when their ids are.

    Lists don't read the tasks' calls, which may be large: what only a call tells is None there, and `body` empty.
    `get_task` fills in all.
    """

    id: str
    func: str
    """`module:qualname`, or the name of a function that travels by value. A name to show: in a list it is what is kept
    beside the call, cut to 255 characters and not signed. What runs is what the call says."""
    queue_name: str
    state: TaskState
    priority: int
    created_at: dt.datetime
    run_at: dt.datetime
    """When it is, or was, due."""
    expires_at: dt.datetime | None = None
    """It is never started after this time."""
    finished_at: dt.datetime | None = None
    attempts: int = 0
    """How many attempts have failed; the current one isn't counted."""
    crashes: int = 0
    """How many times the process that held it died."""
    epoch: int = 0
    """Rises at every claim and never falls: the fence against late workers."""
    worker: str | None = None
    cancel_requested: bool = False
    depends_on: tuple[str, ...] = ()
    schedule_id: str | None = None
    max_retries: int | None = None
    """None in lists, as `retry_delay` and `metadata` are."""
    retry_delay: float | None = None
    """Seconds before the first retry; it doubles from one to the next."""
    timeout: float | None = None
    """Seconds that one run may take; None in lists, and where there is no limit."""
    heartbeat_timeout: float | None = None
    """Seconds for which one run may give no sign of life; None in lists, and where there is no limit."""
    result_ttl: float | None = None
    """Seconds for which the result is kept; None in lists, and where that is without end."""
    metadata: dict[str, Any] | None = None
    body: bytes = b""
    """The stored bytes of the call, as they are: for a look at what can't be read. Empty in lists."""
    damage: str | None = None
    """What is wrong with the stored task; what can't be read is a stand-in. None for a task that is sound."""

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:  # ids, never arguments
        return f"Task(id={self.id!r}, func={self.func!r}, queue_name={self.queue_name!r}, state={self.state.value!r})"


class DeadLetter(Task, frozen=True, kw_only=True, eq=False):
    """A task that has failed for good, and why."""

    error_type: str | None = None
    """Qualified name of the exception; None where the result is no longer there."""
    error_message: str | None = None
    traceback: str | None = None
    """None unless it was asked for. As the next two."""
    args: tuple[Any, ...] | None = None
    """The positional arguments."""
    kwargs: dict[str, Any] | None = None
    """The keyword arguments."""

    def __repr__(self) -> str:  # ids and types, never arguments
        return f"DeadLetter(id={self.id!r}, func={self.func!r}, error_type={self.error_type!r})"


TaskRef: TypeAlias = str | Task
"""A task's id, or the task."""


def id_of(task: object, name: str = "task_id") -> str:
    """The id of a task that is given by its id or as a `Task`. `name` is that of the argument. Raises `InvalidTask`."""
    return check_id(task.id if isinstance(task, Task) else task, name)


class TaskId(str):
    """A task's id as `enqueue` returns it: text like any other, which also tells whether that call added the task.

    Copies of it, pickled or sent anywhere, are plain text.
    """

    __slots__ = ()

    @property
    def added(self) -> bool:
        """Whether the call added a task; else one of that id was there, or one that holds the unique key."""
        return True

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str.__str__(self),)


class KnownTaskId(TaskId):
    """The id of a task that the call found there."""

    __slots__ = ()

    @property
    def added(self) -> bool:
        return False


T = TypeVar("T")


class Page(list[T]):
    """Items of a list, and the `cursor` that brings those after them; None at the end."""

    __slots__ = ("cursor",)

    def __init__(self, items: Iterable[T] = (), cursor: str | None = None) -> None:
        super().__init__(items)
        self.cursor = cursor


class RetryRule(Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Which errors of a task are worth another try, and how long it waits for each."""

    factor: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    """By how much each delay is longer than the one before."""
    maximum: NotNegative = 3600.0
    """Seconds that a delay takes at most."""
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """The share of a delay that is drawn by lot."""
    retry_on: tuple[str, ...] = ()
    """Qualified names of exceptions: others are final; empty: none is."""
    give_up_on: tuple[str, ...] = ()
    """Qualified names of exceptions that are final."""

    def is_final(self, names: Collection[str]) -> bool:
        """Whether an error with these classes, its own and those that it derives from, is worth no other try."""
        if not set(self.give_up_on).isdisjoint(names):
            return True
        return bool(self.retry_on) and set(self.retry_on).isdisjoint(names)


DEFAULT_RETRY: Final = RetryRule()


class Call(Abridged, Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a task runs and how: the part of a task that stores carry as opaque bytes."""

    func: str
    """`module:qualname`; a display name only, where `by_value` is set."""
    args: bytes
    """Arguments, packed; with `by_value`, function and arguments together."""
    args_format: str
    """Format of `args`: a name of `omniq.serialization.Format`."""
    by_value: bool = False
    timeout: Positive | None = None
    max_retries: Annotated[int, Meta(ge=0)] = 0
    retry_delay: NotNegative = 0.0
    result_ttl: NotNegative | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    on_success: str | None = None
    on_failure: str | None = None
    on_parent_failure: ParentFailure = "cancel"
    retry: RetryRule | None = None
    """None: `DEFAULT_RETRY`."""
    results_of: tuple[str, ...] = ()
    """The tasks whose results are among the arguments: each once, in the order by which the arguments number them."""
    heartbeat_timeout: Positive | None = None
    """Seconds for which a run may give no sign of life."""


# ── events ──────────────────────────────────────────────────────────────────


class TaskEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a task, a schedule, a queue or a worker. It carries ids and names, never arguments."""

    id: str
    """Unique, and greater than those of the events that the same process has logged before."""
    type: EventType
    time: Annotated[float, Meta(ge=FIRST_SECOND, le=LAST_SECOND)]
    """Seconds since the epoch, on the clock of the process that saw it."""
    task_id: str | None = None
    name: str | None = None
    """The task's function, as `Task.func` says it in lists."""
    schedule_id: str | None = None
    queue_name: str | None = None
    worker: str | None = None
    attempt: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """More about it, in plain JSON types."""
    damage: str | None = None
    """What is wrong with the stored row; what can't be read is a stand-in. None for an event that is sound."""

    @property
    def cursor(self) -> str:
        """Its place in the order of events, by time and id: where the next page, or a follower, goes on."""
        return f"{self.time!r}/{self.id}"


# ── results ─────────────────────────────────────────────────────────────────


_UNREAD = object()
_KNOWN = "known"


class StoredValue:
    """A value as it is stored, which is rebuilt when it is first asked for.

    `load` makes the value of `format` and `data`; it raises `SerializationError`. Two are equal when their bytes are.
    """

    __slots__ = ("_data", "_format", "_load", "_value")

    def __init__(self, format: str, data: bytes, load: Callable[[str, bytes], Any]) -> None:
        self._format = format
        self._data = data
        self._load = load
        self._value: Any = _UNREAD

    def get(self) -> Any:
        """The value. Raises `SerializationError` when it can't be rebuilt here."""
        if self._value is _UNREAD:
            self._value = self._load(self._format, self._data)
        return self._value

    @property
    def packed(self) -> tuple[str, bytes]:
        """Format and bytes."""
        return self._format, self._data

    @classmethod
    def of(cls, value: object) -> StoredValue:
        """A value that needn't be rebuilt."""
        stored = cls(_KNOWN, b"", _no_load)
        stored._value = value
        return stored

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredValue):
            return NotImplemented
        same = (self._format, self._data) == (other._format, other._data)
        return same and (self._format != _KNOWN or bool(self._value == other._value))

    def __hash__(self) -> int:
        return hash((self._format, self._data))

    def __repr__(self) -> str:
        return f"<{len(self._data)} bytes>"  # never the value

    def __reduce__(self) -> tuple[Callable[..., StoredValue], tuple[Any]]:
        # What loads it knows the signing keys, which must not travel with a copy.
        return StoredValue.of, (self.get(),)


def _no_load(format: str, data: bytes) -> None:
    """Never called: the value is there."""


NO_VALUE = StoredValue.of(None)

MAX_PROGRESS_MESSAGE: Final = 1024
"""Characters of a progress message; longer ones are cut."""


class Progress(Abridged, Struct, array_like=True, frozen=True, gc=False):
    """How far a running task has come, as it said last."""

    fraction: Annotated[float, Meta(ge=0, le=1)]
    """0 to 1."""
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE)]
    at: Moment
    """When it said so, on the clock of its process."""

    def __post_init__(self) -> None:
        if math.isnan(self.fraction):
            raise ValueError("fraction: expected 0 to 1, got nan")

    @classmethod
    def of(cls, fraction: object, message: object = "") -> Progress:
        """Progress as of now; a long message is cut. Raises `InvalidTask`."""
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidTask(f"fraction: expected a number from 0 to 1, got {fraction!r:.80}")
        if not isinstance(message, str):
            raise InvalidTask(f"message: expected text, got {type(message).__name__}")
        text = encodable(cut(message, MAX_PROGRESS_MESSAGE))  # which may be longer again
        return cls(float(fraction), cut(text, MAX_PROGRESS_MESSAGE), utc(now()))


class TaskResult(Abridged, Struct, frozen=True, kw_only=True):
    """A snapshot of a task's outcome."""

    task_id: str
    status: ResultStatus
    stored: StoredValue = NO_VALUE
    """What the function returned, as it is stored: see `value`."""
    error_type: str | None = None
    """Qualified name of the exception."""
    error_message: str | None = None
    traceback: str | None = None
    """The traceback as the worker saw it."""
    epoch: int = 0
    """The claim that ended it."""
    attempts: int = 0
    """Attempts made, the last one included."""
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    worker: str | None = None
    schedule_id: str | None = None
    progress: Progress | None = None
    """How far it has come, while it is running and if it says so."""

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.status not in (ResultStatus.PENDING, ResultStatus.RUNNING)

    @property
    def value(self) -> Any:
        """What the function returned; None where the task didn't succeed.

        It is decoded when it is first asked for. Raises `SerializationError` when that can't be done here.
        """
        return self.stored.get()

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    def unwrap(self) -> Any:
        """Return `value`.

        Raises `TaskFailed`, `TaskCancelled` or `TaskExpired` when there is none, `ResultTimeout` when the task hadn't
        ended, and what `value` raises.
        """
        if self.status is ResultStatus.SUCCESS:
            return self.value
        raise self.failure()

    def failure(self) -> ResultError:
        """What says that there is no value: what `unwrap` raises where the task didn't succeed."""
        if self.status is ResultStatus.CANCELLED:
            return TaskCancelled(f"task {self.task_id} was cancelled")
        if self.status is ResultStatus.EXPIRED:
            if self.error_type is None:
                return TaskExpired(f"task {self.task_id} wasn't started before its TTL ended")
            error = f"{self.error_type}: {self.error_message}"
            return TaskExpired(f"task {self.task_id}: its TTL ended before it could be tried again after {error}")
        if not self.is_final:
            return ResultTimeout(f"task {self.task_id} hasn't ended: it is {self.status}")
        return TaskFailed(self.task_id, self.error_type or "", self.error_message or "", self.traceback or "")


class Outcome(Abridged, Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a task ended, or how far it has come: the part of a result that stores carry as opaque bytes."""

    value: bytes = b""
    value_format: str = ""
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    attempts: Annotated[int, Meta(ge=0)] = 0
    started_at: Annotated[float, Meta(ge=0, le=LAST_SECOND)] | None = None
    worker: str | None = None
    progress: Progress | None = None
    """Of a task that is running."""
