"""What stores decide, as pure functions: the state machine, and what becomes of rows that make no sense."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields, replace

from omniq.clock import FIRST_SECOND, LAST_SECOND
from omniq.models.event import EventType, TaskEvent
from omniq.models.task import QUEUED, TERMINAL, TaskState
from omniq.storage.records import (
    DUPLICATE,
    MAX_COUNT,
    NEW,
    UNKNOWN_PARENT,
    Added,
    AddStatus,
    Change,
    ChangeStatus,
    EventFilter,
    LapsedLease,
    NewTask,
    Past,
    QueueStats,
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskRecord,
    WorkerRecord,
)
from omniq.texts import escaped

# ── the state machine ───────────────────────────────────────────────────────


def new_record(task: NewTask, now: float) -> TaskRecord:
    """The record of a task that is added now."""
    run_at = now + task.delay if task.run_at is None else task.run_at
    record = TaskRecord(
        id=task.id,
        queue_name=task.queue_name,
        body=task.body,
        name=task.name,
        state=TaskState.WAITING if task.depends_on else due_state(run_at, now),
        priority=task.priority,
        created_at=now,
        run_at=run_at,
        expires_at=None if task.ttl is None else run_at + task.ttl,
        depends_on=task.depends_on,
        schedule_id=task.schedule_id,
        unique=task.unique,
    )
    return record if task.past is None else _with_past(record, task.past, now)


def _with_past(record: TaskRecord, past: Past, now: float) -> TaskRecord:
    """The record of a task that was elsewhere before."""
    return replace(
        record,
        state=due_state(record.run_at, now) if past.state is TaskState.PENDING else past.state,
        created_at=past.created_at,
        finished_at=past.finished_at,
        epoch=past.epoch,
        attempts=past.attempts,
        crashes=past.crashes,
    )


def stand_in(task: NewTask, now: float) -> TaskRecord:
    """The dead letter for a task whose row was lost."""
    return replace(new_record(task, now), state=TaskState.ERROR, finished_at=now, unique=None)


def is_stand_in(row: TaskRecord) -> bool:
    """Whether it is such a dead letter, over which the task may be added again: it ended as it came, unclaimed."""
    return row.state is TaskState.ERROR and row.epoch == 0 and row.finished_at == row.created_at


def judge(tasks: Sequence[NewTask], known: set[str], holders: dict[str, str]) -> list[Added]:
    """What becomes of each task of an `add`, in order.

    `known` are the ids that are there among those of the tasks and of their parents, and `holders` tells who holds
    which of the tasks' unique keys; both grow by the new ones.
    """
    return [_judge(task, known, holders) for task in tasks]


def _judge(task: NewTask, known: set[str], holders: dict[str, str]) -> Added:
    if task.id in known:
        return DUPLICATE
    if not known.issuperset(task.depends_on):
        return UNKNOWN_PARENT
    if task.unique is not None and (holder := holders.setdefault(task.unique, task.id)) != task.id:
        return Added(AddStatus.DUPLICATE, holder)
    known.add(task.id)
    return NEW


def due_state(run_at: float, now: float) -> TaskState:
    """SCHEDULED until `run_at`, PENDING from then on."""
    return TaskState.PENDING if run_at <= now else TaskState.SCHEDULED


def claimed(record: TaskRecord, now: float, *, lease: float, worker: str) -> TaskRecord:
    """The record after a claim."""
    return replace(
        record,
        state=TaskState.RUNNING,
        epoch=record.epoch + 1,
        claimed_at=now,
        lease_until=now + lease,
        worker=worker,
    )


def is_unrenewed(record: TaskRecord, seen: LapsedLease, now: float) -> bool:
    """Whether the task is still under the lease that was seen to have run out."""
    return (
        record.state is TaskState.RUNNING
        and (record.epoch, record.worker) == (seen.epoch, seen.worker)
        and record.lease_until is not None
        and record.lease_until <= min(now, seen.lease_until)
    )


def reaped(record: TaskRecord, worker_seen: float | None) -> TaskRecord:
    """The record after its lease was taken from a worker that was last seen at that time, if ever.

    A worker that was seen after the lease ran out is alive: what kept it from renewing isn't the task's fault.
    """
    alive = worker_seen is not None and record.lease_until is not None and worker_seen > record.lease_until
    return replace(
        record,
        state=TaskState.PENDING,
        crashes=record.crashes if alive else record.crashes + 1,
        lease_until=None,
        worker=None,
    )


def is_held(record: TaskRecord, epoch: int) -> bool:
    """Whether the task is in the hands of the claim with that epoch."""
    return record.state is TaskState.RUNNING and record.epoch == epoch


def is_expired(record: TaskRecord, now: float) -> bool:
    """Whether it waits to be started and may no longer be."""
    return record.state in QUEUED and record.expires_at is not None and record.expires_at <= now


def decide(record: TaskRecord | None, change: Change, now: float) -> tuple[ChangeStatus, TaskRecord | None]:
    """What becomes of a change, and the record to write if it is applied."""
    if record is None:
        return ChangeStatus.MISSING, None
    if change.epoch is not None and record.epoch != change.epoch:
        return ChangeStatus.REFUSED, None
    if change.worker is not None and record.worker != change.worker:
        return ChangeStatus.REFUSED, None
    if record.state not in change.from_states:
        repeated = change.epoch is not None and change.to in TERMINAL and record.state is change.to
        return (ChangeStatus.REPEATED if repeated else ChangeStatus.REFUSED), None
    if change.if_expired and (record.expires_at is None or record.expires_at > now):
        return ChangeStatus.REFUSED, None
    if change.request_cancel:
        return ChangeStatus.APPLIED, replace(record, cancel_requested=True)
    return ChangeStatus.APPLIED, changed(record, change, now)


def changed(record: TaskRecord, change: Change, now: float) -> TaskRecord:
    """The record after a change that is applied."""
    if change.to in TERMINAL:
        return replace(
            record,
            state=change.to,
            attempts=record.attempts + change.attempted,
            crashes=record.crashes + change.crashed,
            finished_at=now,
            lease_until=None,
            unique=None,
        )
    run_at = now if change.fresh else record.run_at if change.delay is None else now + change.delay
    return replace(
        record,
        state=due_state(run_at, now),
        run_at=run_at,
        attempts=0 if change.fresh else record.attempts + change.attempted,
        crashes=0 if change.fresh else record.crashes + change.crashed,
        expires_at=None if change.fresh else record.expires_at,
        cancel_requested=False if change.fresh else record.cancel_requested,
        finished_at=None,
        lease_until=None,
        worker=None,
    )


def gives_way(stored: ResultRecord, record: ResultRecord) -> bool:
    """Whether a stored result is replaced by this one: not by one of an older claim, nor a final one by progress."""
    return stored.epoch < record.epoch or (stored.epoch == record.epoch and (record.is_final or not stored.is_final))


def matches(event: TaskEvent, where: EventFilter) -> bool:
    """Whether an event is one that the filter asks for."""
    return (
        (where.task_id is None or event.task_id == where.task_id)
        and (where.name is None or event.name == where.name)
        and (where.schedule_id is None or event.schedule_id == where.schedule_id)
        and (where.queue_name is None or event.queue_name == where.queue_name)
        and (where.worker is None or event.worker == where.worker)
        and (not where.types or event.type in where.types)
        and (where.since is None or event.time >= where.since)
        and (where.until is None or event.time < where.until)
    )


Place: TypeAlias = tuple[float, str]
"""Where an event stands among others: by its time, and by its id."""


def cursor_at(time: float, id_: str) -> str:
    """The cursor of a page that ends with the event of this time and id, as `TaskEvent.cursor`."""
    return f"{time!r}/{id_}"


def place_of(cursor: str) -> Place:
    """Time and id of the event that a cursor was made of. Raises `ValueError`."""
    time, _, id_ = cursor.partition("/")
    return float(time), id_


def places_between(where: EventFilter, cursor: str | None, *, oldest_first: bool) -> tuple[Place, Place]:
    """Between which times and ids, both left out, those events are that may come on the page after the cursor's."""
    low: Place = (FIRST_SECOND if where.since is None else where.since, "")
    high: Place = (LAST_SECOND + 1 if where.until is None else where.until, "")
    if cursor is None:
        return low, high
    return (max(low, place_of(cursor)), high) if oldest_first else (low, min(high, place_of(cursor)))


def is_meant(record: TaskRecord, where: TaskFilter, now: float) -> bool:
    """Whether a task is one that the filter asks for."""
    return (
        (not where.states or record.state in where.states)
        and (where.queue_name is None or record.queue_name == where.queue_name)
        and (where.name is None or record.name == where.name)
        and (where.schedule_id is None or record.schedule_id == where.schedule_id)
        and (not where.expired or is_expired(record, now))
    )


def queue_stats(
    counts: Iterable[tuple[str, TaskState, int]], paused: Iterable[str], oldest_due: Mapping[str, float]
) -> list[QueueStats]:
    """The statistics of every queue that holds tasks or is paused, by name; counts of one state are added up."""
    of_queue: defaultdict[str, dict[TaskState, int]] = defaultdict(dict, {name: {} for name in paused})
    stopped = frozenset(of_queue)
    for name, state, count in counts:
        if count:
            of_queue[name][state] = of_queue[name].get(state, 0) + count
    return [
        QueueStats(name=name, paused=name in stopped, counts=of_queue[name], oldest_due=oldest_due.get(name))
        for name in sorted(of_queue)
    ]


# ── damaged rows ────────────────────────────────────────────────────────────


R = TypeVar("R", bound=Struct)

DAMAGE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises where something isn't as it was written."""
MAX_SHOWN: Final = 100
"""Characters of a text that isn't one, and of what is said of a column."""

_STAND_INS: Final[Mapping[str, object]] = {
    "body": b"",
    "state": TaskState.ERROR,
    "status": TaskState.ERROR,
    "type": EventType.UNKNOWN,
    "priority": 0,
    "epoch": MAX_COUNT // 2,  # beyond any claim, so that all of them are fenced off, and with room for more
    "created_at": 0.0,
    "run_at": 0.0,
    "time": 0.0,
    "next_run": None,
    "paused": False,
}
"""For other fields than texts, where it isn't the field's default."""
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")


def record_of(kind: type[R], values: Mapping[str, object]) -> R:
    """The task, result or schedule that a row is, quickly if it is sound. Its texts must be such as can be encoded."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError:
        return _record(kind, values)


def task_of(values: Mapping[str, object]) -> TaskRecord:
    """The task that a row is, by the names of its columns.

    A column that is left out has its default; if it has none, it is damaged.
    """
    return _record(TaskRecord, values)


def result_of(values: Mapping[str, object]) -> ResultRecord:
    """The result that a row is."""
    record = _record(ResultRecord, values)
    if record.is_final or record.status is TaskState.RUNNING:
        return record
    return replace(record, status=TaskState.ERROR, damage=_joined(record.damage, "status: no task ends in it"))


def schedule_of(values: Mapping[str, object]) -> ScheduleRecord:
    """The schedule that a row is."""
    return _record(ScheduleRecord, values)


def event_of(values: Mapping[str, object]) -> TaskEvent:
    """The event that a row is."""
    return _record(TaskEvent, values)


def event_in(line: bytes) -> TaskEvent:
    """The event that is JSON, with what is wrong with it told as its damage."""
    with suppress(*DAMAGE):
        return _decode_event(line)
    values: object = None
    with suppress(*DAMAGE):
        values = msgspec.json.decode(line)
    return event_of(values if isinstance(values, dict) else {})


_decode_event = msgspec.json.Decoder(TaskEvent).decode


def worker_of(name: str, report: bytes | str, last_seen: float) -> WorkerRecord:
    """The worker that has told this of itself, as JSON: if that can't be read, its name and when it was seen."""
    try:
        return replace(_decode_worker(report), name=shown(name), last_seen=last_seen)
    except ValueError:
        return WorkerRecord(name=shown(name), last_seen=last_seen)


_decode_worker = msgspec.json.Decoder(WorkerRecord).decode


def state_of(value: object) -> TaskState:
    """The state of that name; ERROR for a name that no state has."""
    try:
        return TaskState(value)  # type: ignore[arg-type]  # any object may be asked for
    except ValueError:
        return TaskState.ERROR


def shown(value: object) -> str:
    """What can be shown of a value that should be a text."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return escaped(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text[:MAX_SHOWN]))


def _record(kind: type[R], values: Mapping[str, object]) -> R:
    sound: dict[str, Any] = {}
    wrong: str | None = None
    for column in _columns(kind):
        if column.name not in values and not column.required:
            continue
        value = values.get(column.name)
        try:
            if column.name not in values:
                raise ValueError("it is missing")
            sound[column.name] = column.check(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            wrong = _joined(wrong, f"{column.name}: {_words(error)}")
            sound[column.name] = column.stand_in(value)
    return kind(**sound, damage=wrong)


def _joined(first: str | None, second: str) -> str:
    return second if first is None else f"{first}; {second}"


def _words(error: Exception) -> str:
    words = "it isn't UTF-8" if isinstance(error, UnicodeError) else str(error)
    return escaped(words[:MAX_SHOWN])


class _Column(NamedTuple):
    name: str
    required: bool
    check: Callable[[Any], object]
    stand_in: Callable[[object], object]


@functools.cache
def _columns(kind: type[Struct]) -> list[_Column]:
    known = [field for field in fields(kind) if field.name != "damage"]
    return [_Column(field.name, field.required, _check(field), _stand_in(field)) for field in known]


def _check(field: FieldInfo) -> Callable[[Any], object]:
    """What returns a value of the field's type, or raises."""
    return _bytes if field.type is bytes else functools.partial(_converted, field.type)


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError(f"Expected `bytes`, got `{type(value).__name__}`")


def _converted(type_: Any, value: object) -> object:
    converted: object = msgspec.convert(value, type_)
    for text in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(text, str):
            text.encode()  # raises for what a store couldn't decode
    return converted


def _stand_in(field: FieldInfo) -> Callable[[object], object]:
    """What returns a value to take instead of one that isn't of the field's type."""
    if field.name == "depends_on":
        return _texts_among
    if field.name in _STAND_INS:
        return lambda _: _STAND_INS[field.name]
    if field.default_factory is not NODEFAULT:
        return lambda _: field.default_factory()
    if field.type in (str, str | None):
        return lambda value: "" if value is None else shown(value)
    return lambda _: field.default


def _texts_among(value: object) -> tuple[str, ...]:
    """The parents that can be told: without them a task would run too early."""
    items = value if isinstance(value, list | tuple) else ()
    return tuple(item for item in items if isinstance(item, str) and item.isprintable())
