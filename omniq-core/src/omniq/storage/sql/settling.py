"""`transition`: the one write by which tasks end, retry, go back or cancel.

Changes are read, decided in Python and written where a task is still the one that was read; where it isn't, it is read
and decided again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct, field

from omniq.models.state import QUEUED
from omniq.storage.records import Change, ChangeStatus, TaskRecord
from omniq.storage.rules import decide
from omniq.storage.sql.steps import Given, Steps, kinds, texts

CHANGED: Final = kinds(
    "id text, state text, run_at time, expires_at time, finished_at time, attempts integer, crashes integer, "
    "lease_until time, worker text, cancel_requested boolean, unique_key text"
)
SET_CHANGED: Final = ", ".join(f"{name} = given.{name}" for name, _ in CHANGED if name != "id")
"""SQL for what an update of `task` sets."""
_PARENTS = "select distinct parent from omniq.edge where parent {any[ids]}"


class Seen(NamedTuple):
    """Tasks as they were read, by their ids."""

    records: Mapping[str, TaskRecord]
    now: float
    versions: Mapping[str, Any] = {}
    """By which a store tells that nobody has written a task since, if others may."""


class Decided(NamedTuple):
    """Changes that are to be applied, and the tasks as they will be, in the order of their ids."""

    seen: Seen
    changes: list[Change]
    records: list[TaskRecord]


Look: TypeAlias = Callable[[Sequence[str]], Steps[Seen]]
Write: TypeAlias = Callable[[Decided], Steps[Collection[str]]]


class Settled(Struct):
    """What came of a batch of changes."""

    statuses: dict[str, ChangeStatus] = field(default_factory=dict)
    """By the ids of the tasks."""
    due: dict[str, float] = field(default_factory=dict)
    """The queues to which tasks went back, and in how many seconds the first of those is due."""
    queued: int = 0
    """How many tasks that are."""
    ended: list[str] = field(default_factory=list)
    """The tasks that have got results."""
    parents: Collection[str] | None = None
    """Those of the tasks that have children, if that is known already."""

    def note(self, change: Change) -> None:
        """Take down that a change was applied."""
        self.statuses[change.task_id] = ChangeStatus.APPLIED
        if change.result is not None:
            self.ended.append(change.task_id)


def settle(changes: Sequence[Change], settled: Settled, look: Look, write: Write) -> Steps[Settled]:
    """Read, decide and write, until nobody has come in between.

    `look` reads those of the tasks that exist, and `write` writes those that are as they were read, with the results of
    their changes; it returns their ids.
    """
    left = sorted(changes, key=attrgetter("task_id"))  # who locks rows in one order locks nobody out
    while left:
        decided = _decided(left, (yield from look([change.task_id for change in left])), settled)
        written = (yield from write(decided)) if decided.records else ()
        left = []
        for change, record in zip(decided.changes, decided.records, strict=True):
            if change.task_id not in written:
                left.append(change)
                continue
            settled.note(change)
            if record.state in QUEUED:
                settled.queued += 1
                seconds = record.run_at - decided.seen.now
                settled.due[record.queue_name] = min(seconds, settled.due.get(record.queue_name, seconds))
    return settled


def _decided(changes: Sequence[Change], seen: Seen, settled: Settled) -> Decided:
    """What is to be written; what becomes of the other changes is told in `settled`."""
    decided = Decided(seen, [], [])
    for change in changes:
        status, record = decide(seen.records.get(change.task_id), change, seen.now)
        if record is None:
            settled.statuses[change.task_id] = status
        else:
            decided.changes.append(change)
            decided.records.append(record)
    return decided


def changed(records: Sequence[TaskRecord]) -> Given:
    """Tasks as rows for `SET_CHANGED`."""
    return Given.of(CHANGED, records, unique_key=[record.unique for record in records])


def with_children(ids: Sequence[str]) -> Steps[set[str]]:
    """Those of the tasks that have children.

    To be asked once an end is committed. Whoever adds a child commits that first and looks at its parents then: so
    one of the two sees the other.
    """
    return set((yield from texts(_PARENTS, ids=ids)))
