"""What crosses to the scripts.

A batch goes as lists of ids, epochs and sizes, with what its items may share told once for all that do, and with their
bodies joined behind: to a script, a list of 500 numbers costs far less than 500 short lists. What comes back is read by
`omniq_redis.rows`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec
from omniq.batching import parts
from omniq.models.state import TaskState
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Change,
    Changed,
    ChangeStatus,
    LeaseStatus,
    NewBody,
    NewTask,
    ResultRecord,
)

T = TypeVar("T")
Kind: TypeAlias = tuple[Hashable, ...]

PARCEL = 500
"""Items that one script call handles at most: it takes some milliseconds, in which the server does nothing else."""
PARCEL_BYTES = 4 * 1024 * 1024
"""Bytes of bodies that one call carries, unless a single one is larger."""

encode = msgspec.msgpack.Encoder().encode

_STATE_NAMES = ("pending", "scheduled", "waiting", "running", "success", "error", "cancelled", "expired")
STATES = tuple(map(TaskState, _STATE_NAMES))
"""In the order in which the scripts number them, from 1."""
_CODES = {state: code for code, state in enumerate(STATES, 1)}

# What a letter of a script's answer means; a capital tells of children that wait.
ADDED = dict(zip(b"ndu", (NEW, DUPLICATE, UNKNOWN_PARENT), strict=True))
LEASES = dict(zip(b"lhc", (LeaseStatus(False), LeaseStatus(True), LeaseStatus(True, True)), strict=True))
_CHANGES = (ChangeStatus.APPLIED, ChangeStatus.REPEATED, ChangeStatus.REFUSED, ChangeStatus.MISSING)
CHANGED = dict(
    zip(b"aprmAPRM", (Changed(status, waited) for waited in (False, True) for status in _CHANGES), strict=True)
)


class Batch(NamedTuple):
    """The arguments of a script, and the bodies that go with them."""

    args: object
    bodies: bytes = b""


task_kind: Callable[[NewTask], Kind] = attrgetter(
    "queue_name", "priority", "run_at", "delay", "ttl", "depends_on", "schedule_id", "name"
)
"""What a task may share with others."""
_shared_by_changes: Callable[[Change], Kind] = attrgetter(
    "delay", "attempted", "crashed", "fresh", "if_expired", "request_cancel", "worker"
)


def tasks_batch(tasks: Sequence[NewTask]) -> Batch:
    kinds, kind = _sorted_out(map(task_kind, tasks))
    ids = [task.id for task in tasks]
    return Batch((kinds, ids, kind, [len(task.body) for task in tasks]), b"".join([task.body for task in tasks]))


def results_batch(results: Sequence[ResultRecord]) -> Batch:
    kinds, kind = _sorted_out((_CODES[r.status], r.ttl, r.schedule_id or "") for r in results)
    ids = [result.task_id for result in results]
    bodies = [result.body for result in results]
    epochs = [result.epoch for result in results]
    return Batch((kinds, ids, kind, epochs, list(map(len, bodies))), b"".join(bodies))


def bodies_batch(bodies: Sequence[NewBody]) -> Batch:
    ids = [new.task_id for new in bodies]
    sizes = [len(new.old) for new in bodies], [len(new.body) for new in bodies]
    return Batch((ids, *sizes), b"".join(part for new in bodies for part in (new.old, new.body)))


def changes_batch(changes: Sequence[Change]) -> Batch:
    kinds, kind = _sorted_out(map(_change_kind, changes))
    ids = [change.task_id for change in changes]
    # A Lua list has no holes: `false` for what isn't given.
    epochs = [False if change.epoch is None else change.epoch for change in changes]
    results = results_batch([change.result for change in changes if change.result is not None])
    return Batch((kinds, ids, kind, epochs, results.args), results.bodies)


def _change_kind(change: Change) -> Kind:
    shared = _shared_by_changes(change)
    return (states_mask(change.from_states), _CODES[change.to], change.result is not None, *shared)


@functools.lru_cache
def states_mask(states: tuple[TaskState, ...]) -> int:
    """A bit for each state."""
    return sum(1 << _CODES[state] for state in set(states))


def _sorted_out(kinds: Iterable[Kind]) -> tuple[list[Kind], list[int]]:
    """The different kinds, and which of them each is, counted from 1 as Lua does."""
    places: dict[Kind, int] = {}
    which = [places.setdefault(kind, len(places) + 1) for kind in kinds]
    return list(places), which


def parcels(items: Sequence[T], weight: Callable[[T], int], max_bytes: int) -> Iterator[Sequence[T]]:
    """The items in order, in parts that one script call can handle: their bodies go as one string of the protocol."""
    return parts(items, weight, limit=PARCEL, max_bytes=min(PARCEL_BYTES, max_bytes))


def weight_of_task(task: NewTask) -> int:
    """That of its body; a parent, which is read and written too, counts as some more."""
    return len(task.body) + PARCEL_BYTES // PARCEL * len(task.depends_on)


def weight_of_body(new: NewBody) -> int:
    return len(new.old) + len(new.body)
