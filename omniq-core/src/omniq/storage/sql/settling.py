"""`transition`: the one write by which tasks end, retry, go back or cancel.

Changes are read, decided in Python and written where a task is still the one that was read; where it isn't, it is read
and decided again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct, field

from omniq.models.state import QUEUED
from omniq.storage.records import Change, ChangeStatus, TaskRecord
from omniq.storage.rules import decide
from omniq.storage.sql.steps import Given, Steps, ask, kinds

CHANGED: Final = kinds(
    id="text",
    state="text",
    run_at="time",
    expires_at="time",
    finished_at="time",
    attempts="integer",
    crashes="integer",
    lease_until="time",
    worker="text",
    cancel_requested="boolean",
    unique_key="text",
)
SET_CHANGED: Final = ", ".join(f"{name} = given.{name}" for name, _ in CHANGED if name != "id")
"""SQL for what an update of `task` sets."""
_PARENTS = "select distinct parent from omniq.edge where parent {any[ids]}"


class Seen(NamedTuple):
    """A task as it was read."""

    record: TaskRecord
    version: Any
    """By which a store tells that nobody has written it since."""
    now: float


class Decided(NamedTuple):
    """A change that is to be applied to a task as it was read."""

    change: Change
    seen: Seen
    record: TaskRecord
    """The task as it will be."""


Look: TypeAlias = Callable[[Sequence[str]], Steps[list[Seen]]]
Write: TypeAlias = Callable[[Sequence[Decided]], Steps[set[str]]]


class Settled(Struct):
    """What came of a batch of changes."""

    statuses: dict[str, ChangeStatus] = field(default_factory=dict)
    """By the ids of the tasks."""
    due: dict[str, float] = field(default_factory=dict)
    """The queues to which tasks went back, and in how many seconds the first of those is due."""
    ended: list[str] = field(default_factory=list)
    """The tasks that have got results."""
    parents: Collection[str] | None = None
    """Those of the tasks that have children, if that is known already."""

    def note(self, changes: Sequence[Change], applied: Collection[str]) -> None:
        """Take down those of the changes that are of the tasks `applied`."""
        done = [change for change in changes if change.task_id in applied]
        self.statuses |= {change.task_id: ChangeStatus.APPLIED for change in done}
        self.ended += [change.task_id for change in done if change.result is not None]

    def note_due(self, queue_name: str, seconds: float) -> None:
        """A task went back to that queue and is due in so many seconds."""
        self.due[queue_name] = min(seconds, self.due.get(queue_name, seconds))


def settle(changes: Sequence[Change], settled: Settled, look: Look, write: Write) -> Steps[Settled]:
    """Read, decide and write, until nobody has come in between.

    `look` reads those of the tasks that exist, and `write` writes those that are as they were read, with the results of
    their changes; it returns their ids.
    """
    left = sorted(changes, key=attrgetter("task_id"))  # who locks rows in one order locks nobody out
    while left:
        found = {seen.record.id: seen for seen in (yield from look([change.task_id for change in left]))}
        decided = list(_decided(left, found, settled))
        written = (yield from write(decided)) if decided else set()
        settled.note([change for change, *_ in decided], written)
        for change, seen, record in decided:
            if change.task_id in written and record.state in QUEUED:
                settled.note_due(record.queue_name, record.run_at - seen.now)
        left = [change for change, *_ in decided if change.task_id not in written]
    return settled


def _decided(changes: Sequence[Change], found: Mapping[str, Seen], settled: Settled) -> Iterator[Decided]:
    """What is to be written; what becomes of the other changes is told in `settled`."""
    for change in changes:
        seen = found.get(change.task_id)
        status, record = decide(seen and seen.record, change, seen.now if seen else 0.0)
        if seen is None or record is None:
            settled.statuses[change.task_id] = status
        else:
            yield Decided(change, seen, record)


def changed(decided: Sequence[Decided]) -> Given:
    """The tasks as they will be, as rows for `SET_CHANGED`."""
    records = [each.record for each in decided]
    return Given.of(CHANGED, records, unique_key=[record.unique for record in records])


def with_children(ids: Sequence[str]) -> Steps[set[str]]:
    """Those of the tasks that have children.

    To be asked once an end is committed. Whoever adds a child commits that first and looks at its parents then: so
    one of the two sees the other.
    """
    return {parent for (parent,) in (yield from ask(("text",), _PARENTS, ids=ids))}
