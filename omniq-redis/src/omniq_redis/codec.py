"""What crosses to the scripts, and comes back.

A batch goes as lists of ids, epochs and sizes, with what its items may share told once for all that do, and with their
bodies joined behind: to a script, a list of 500 numbers costs far less than 500 short lists.

What comes back, and what is kept, are strings of Lua's `struct`: numbers first, then texts behind
their sizes. What isn't a text stays bytes, and what isn't there is left out: both make a record damaged.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Added,
    AddStatus,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    LeaseStatus,
    NewBody,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskRecord,
)
from omniq.storage.rules import record_of, shown

T = TypeVar("T")
Kind: TypeAlias = tuple[Hashable, ...]

PARCEL = 500
"""Items that one script call handles at most: it takes some milliseconds, in which the server does nothing else."""
PARCEL_BYTES = 4 * 1024 * 1024
"""Bytes of bodies that one call carries, unless a single one is larger."""

encode = msgspec.msgpack.Encoder(enc_hook=str.__str__).encode  # of a subclass of str, the text itself

_STATE_NAMES = ("pending", "scheduled", "waiting", "running", "success", "error", "cancelled", "expired")
STATES = dict(enumerate(map(TaskState, _STATE_NAMES), 1))
"""By the numbers that the scripts know them by."""
_CODES = {state: code for code, state in STATES.items()}

# What a letter of a script's answer means, in the order of the statuses; a capital tells of children that wait.
_ADDED = dict(zip(b"ndu", (NEW, DUPLICATE, UNKNOWN_PARENT), strict=True))
LEASES = dict(zip(b"lhc", (LeaseStatus(False), LeaseStatus(True), LeaseStatus(True, True)), strict=True))
CHANGED = dict(
    zip(b"aprmAPRM", (Changed(status, waited) for waited in (False, True) for status in ChangeStatus), strict=True)
)


class Batch(NamedTuple):
    """The arguments of a script, and the bodies that go with them."""

    args: object
    bodies: bytes = b""


_shared_by_tasks: Callable[[NewTask], Kind] = attrgetter(
    "queue_name", "priority", "run_at", "delay", "ttl", "depends_on", "schedule_id", "name", "unique", "past"
)
"""What a task may share with others."""
_shared_by_changes: Callable[[Change], Kind] = attrgetter(
    "delay", "attempted", "crashed", "fresh", "if_expired", "request_cancel", "worker"
)


def tasks_batch(tasks: Sequence[NewTask]) -> Batch:
    kinds, kind = _sorted_out(map(_shared_by_tasks, tasks))
    ids = [task.id for task in tasks]
    return Batch((kinds, ids, kind, [len(task.body) for task in tasks]), b"".join([task.body for task in tasks]))


def firings_batch(firings: Sequence[Firing]) -> Batch:
    ids, versions, slots, tasks = columns((f.schedule_id, f.if_version, f.slot, f.task) for f in firings)
    next_runs = [False if firing.next_run is None else firing.next_run for firing in firings]
    new_tasks = tasks_batch(tasks)
    return Batch((ids, versions, slots, next_runs, new_tasks.args), new_tasks.bodies)


def results_batch(results: Sequence[ResultRecord]) -> Batch:
    kinds, kind = _sorted_out((_CODES[r.status], r.ttl, r.schedule_id or "") for r in results)
    ids = [result.task_id for result in results]
    sizes = [len(result.body) for result in results]
    return Batch((kinds, ids, kind, [r.epoch for r in results], sizes), b"".join([r.body for r in results]))


def bodies_batch(bodies: Sequence[NewBody]) -> Batch:
    ids = [new.task_id for new in bodies]
    sizes = [len(new.old) for new in bodies], [len(new.body) for new in bodies]
    return Batch((ids, *sizes), b"".join(part for new in bodies for part in (new.old, new.body)))


def changes_batch(changes: Sequence[Change]) -> Batch:
    kinds, kind = _sorted_out(
        (states_mask(change.from_states), _CODES[change.to], change.result is not None, *_shared_by_changes(change))
        for change in changes
    )
    ids = [change.task_id for change in changes]
    # A Lua list has no holes: `false` for what isn't given.
    epochs = [False if change.epoch is None else change.epoch for change in changes]
    results = results_batch([change.result for change in changes if change.result is not None])
    return Batch((kinds, ids, kind, epochs, results.args), results.bodies)


@functools.lru_cache
def states_mask(states: tuple[TaskState, ...]) -> int:
    """A bit for each state."""
    return sum(1 << _CODES[state] for state in set(states))


def _sorted_out(kinds: Iterable[Kind]) -> tuple[list[Kind], list[int]]:
    """The different kinds, and which of them each is, counted from 1 as Lua does."""
    places: dict[Kind, int] = {}
    which = [places.setdefault(kind, len(places) + 1) for kind in kinds]
    return list(places), which


def batches(items: Sequence[T], batch: Callable[[Sequence[T]], Batch], max_bytes: int) -> list[Batch]:
    """That of the items, or of parts of them whose bodies, which go as one string, have no more than `max_bytes`."""
    whole = batch(items)
    if len(whole.bodies) <= max_bytes or len(items) == 1:
        return [whole]
    half = len(items) // 2
    return [*batches(items[:half], batch, max_bytes), *batches(items[half:], batch, max_bytes)]


def columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def added(answer: bytes) -> list[Added]:
    """What became of each task; those whose keys are held have the holders, in order, behind the letters."""
    letters, holders = decode(tuple[bytes, list[bytes]], answer)
    holder = iter(map(shown, holders))
    return [_ADDED.get(letter) or Added(AddStatus.DUPLICATE, next(holder)) for letter in letters]


# ── back ──────────────────────────────────────────────────────────────────────


class Page(msgspec.Struct, Generic[T], array_like=True, frozen=True):
    """A part of what a script lists."""

    items: list[T]
    after: msgspec.Raw
    """What to ask the script with for the next one, or `NOTHING`."""


NOTHING = msgspec.Raw(b"\xc0")


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A task as `tasks.lua` keeps it, or a schedule as `schedules.lua` does."""

    id: bytes
    record: bytes
    body: bytes = b""
    damage: str | None = None


_decoder: Callable[[Any], msgspec.msgpack.Decoder[Any]] = functools.cache(msgspec.msgpack.Decoder)


def decode(kind: type[T], packed: bytes) -> T:
    """What a script has answered, or told. Raises `msgspec.DecodeError`."""
    decoded: T = _decoder(kind).decode(packed)
    return decoded


_NEVER = math.inf
_STATUSES = {code: state for code, state in STATES.items() if state in TERMINAL or state is TaskState.RUNNING}


class Numbers:
    """What a record begins with: the layout, as in the scripts, and the names of the numbers, the times last."""

    def __init__(self, layout: str, *names: str) -> None:
        self._layout = struct.Struct(layout)
        self.size = self._layout.size
        self._names = names
        self._times = names[-layout.count("d") :]

    def of(self, record: bytes) -> dict[str, Any]:
        """The numbers by their names, None for a time that isn't; nothing of a record that is too short."""
        if len(record) < self.size:
            return {}
        numbers = dict(zip(self._names, self._layout.unpack_from(record), strict=True))
        for name in self._times:
            if numbers[name] == _NEVER:
                numbers[name] = None
        return numbers


_TASK = Numbers(
    ">BbIII8x?dddddd",
    *("state", "priority", "epoch", "attempts", "crashes", "cancel_requested"),
    *("created_at", "run_at", "expires_at", "finished_at", "lease_until", "claimed_at"),
)
_RESULT = Numbers(">IBddd", "epoch", "status", "finished_at", "ttl", "expires_at")
_SCHEDULE = Numbers(">?Qdd", "paused", "version", "next_run", "last_run")
_TASK_TEXTS = {"queue_name": 2, "schedule_id": 2, "depends_on": 4, "name": 2, "unique": 2, "worker": 2}
"""What follows the numbers of a task: how many bytes the size of each takes."""


def to_text(id_: bytes) -> str:
    """An id as the server has it. Who has put it there may not have written text: it has surrogate escapes then."""
    return id_.decode("utf-8", "surrogateescape")


def to_server(id_: str) -> str | msgspec.Raw:
    """The id as an argument, whatever `to_text` made it of: the scripts know no other bytes than text."""
    if id_.isascii():
        return id_
    raw = id_.encode("utf-8", "surrogateescape")
    return msgspec.Raw(b"\xdb" + len(raw).to_bytes(4) + raw)


def task_record(row: Row) -> TaskRecord:
    """The task that a row is; a damaged one has its `damage`."""
    values = _TASK.of(row.record)
    values["id"], values["body"] = _text(row.id), row.body
    values["state"] = STATES.get(values.get("state", 0))
    texts = row.record[_TASK.size :]
    try:
        values |= _task_texts(texts)
    except ValueError:
        values["queue_name"] = _sized(texts, 0, 2)[0]
    record = record_of(TaskRecord, values)
    return record if row.damage is None else replace(record, damage=row.damage)


@functools.lru_cache(maxsize=1024)
def _task_texts(packed: bytes) -> Mapping[str, object]:
    """Those of a task, but for empty ones: the same for most of a batch.

    Raises `ValueError` if they aren't all there, or aren't all.
    """
    texts: dict[str, object] = {}
    at = 0
    for name, width in _TASK_TEXTS.items():
        text, at = _sized(packed, at, width)
        if text:
            texts[name] = decode(tuple[str, ...], text) if name == "depends_on" else text.decode()
    if at != len(packed):
        raise ValueError("it is longer or shorter than it says")
    return texts


def _sized(packed: bytes, at: int, width: int) -> tuple[bytes, int]:
    """What follows its size, which takes so many bytes; and where it ends."""
    start = at + width
    end = start + int.from_bytes(packed[at:start])
    return packed[start:end], end


def result_record(task_id: str, record: bytes) -> ResultRecord:
    """The result that a record is; a damaged one has its `damage`."""
    schedule_id, end = _sized(record, _RESULT.size, 2)
    values = _RESULT.of(record)
    values["task_id"], values["schedule_id"], values["body"] = task_id, _text(schedule_id) or None, record[end:]
    values["status"] = _STATUSES.get(values.get("status", 0))
    return record_of(ResultRecord, values)


def schedule_record(row: Row) -> ScheduleRecord:
    """The schedule that a row is; a damaged one has its `damage`."""
    queue_name, end = _sized(row.record, _SCHEDULE.size, 2)
    values = _SCHEDULE.of(row.record)
    values["id"], values["queue_name"], values["body"] = _text(row.id), _text(queue_name), row.record[end:]
    return record_of(ScheduleRecord, values)


def _text(raw: bytes) -> str | bytes:
    """The text; what isn't one, as it is."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
