"""`transition`: the one write by which tasks end, retry, go back or cancel.

A worker that ends its tasks needs few statements for the batch. All other changes are read, decided in Python and
written where a task is still the one that was read; where it isn't, it is read and decided again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct, field

from omniq.models.state import QUEUED, TERMINAL, TaskState
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


class Ending(NamedTuple):
    """What is alike for many tasks that end: all but who they are, and their results."""

    state: TaskState
    attempted: bool
    crashed: bool
    worker: str | None

    @classmethod
    def of(cls, change: Change) -> Ending | None:
        """That of a change which ends a running task, with a result that says the same; of others None."""
        result = change.result
        ends = change.from_states == (TaskState.RUNNING,) and change.epoch is not None and change.to in TERMINAL
        special = change.delay is not None or change.fresh or change.if_expired or change.request_cancel
        if special or not ends or (result and (result.status is not change.to or result.epoch != change.epoch)):
            return None
        return cls(change.to, change.attempted, change.crashed, change.worker)


End: TypeAlias = Callable[[Ending, Sequence[Change]], Steps[Collection[str]]]
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
    parents: set[str] | None = None
    """Those of the tasks that have children, if that is known already."""

    def note(self, change: Change) -> None:
        """Take down that a change was applied."""
        self.statuses[change.task_id] = ChangeStatus.APPLIED
        if change.result is not None:
            self.ended.append(change.task_id)


def settle(changes: Sequence[Change], settled: Settled, *, end: End, look: Look, write: Write) -> Steps[Settled]:
    """End what can be ended at once; of the rest read, decide and write, until nobody has come in between.

    `end` ends those of the tasks that are still held under the changes' epochs, and stores their results; it returns
    their ids, or none if it isn't so simple. `look` reads those of the tasks that exist. `write` writes those that are
    as they were read, with the results of their changes; it returns their ids.
    """
    alike: defaultdict[Ending | None, list[Change]] = defaultdict(list)
    for change in sorted(changes, key=attrgetter("task_id")):  # who locks rows in one order locks nobody out
        alike[Ending.of(change)].append(change)
    for ending, ends in alike.items():
        ended = (yield from end(ending, ends)) if ending is not None else ()
        for change in ends:
            if change.task_id in ended:
                settled.note(change)
    left = [change for changes in alike.values() for change in changes if change.task_id not in settled.statuses]
    while left:
        left = yield from _settle_once(left, settled, look, write)
    return settled


def _settle_once(changes: Sequence[Change], settled: Settled, look: Look, write: Write) -> Steps[list[Change]]:
    """Read, decide and write once; returns the changes of tasks that somebody else has written in between."""
    decided = _decided(changes, (yield from look([change.task_id for change in changes])), settled)
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
    return left


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
