"""Tasks and their ids, states, schedules, events and results, as users see them."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
import re
import time
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from msgspec import Meta, Struct, field

from omniq.errors import InvalidTask
from omniq.models.config import Abridged, NotNegative, Positive

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


def check_flags(**flags: object) -> None:
    """Raise `InvalidTask`, naming it, for one that is neither True nor False: any text would count as true."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise InvalidTask(f"{name}: expected True or False, got {flag!r:.80}")


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
    worker_kind: str | None = None
    """The kind of worker that runs it; None in lists, and where that is the one that claims it."""
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
    worker: str | None = None
    """The kind of worker that runs it; None: the one that claims it."""
