"""`transition` against `omniq.storage.rules.decide`, over every combination of what decides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import ClassVar

import pytest
from msgspec import Struct
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import Change, NewTask, TaskRecord
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import HOUR, QUEUE, add, assert_same, change, claim, finish, new_task

TTLS = (None, 5.0, HOUR)
"""Without an end, expired when the changes are made, and not yet."""
EPOCHS = (None, 0, -1, 1)
"""Not asked for, or so far from the task's own."""
DELAYS = (None, 0.0, 600.0)


class Row(Struct, frozen=True):
    """One line of the table: how the task was added, and the change; its epoch is relative to the task's."""

    task: NewTask
    change: Change


def effects() -> Iterator[Change]:
    """Every legal combination of what a change does: delays and fresh starts go with PENDING only."""
    blank = Change(task_id="", to=TaskState.CANCELLED, from_states=())
    yield replace(blank, request_cancel=True)
    for attempted, crashed in product((False, True), repeat=2):
        charged = replace(blank, attempted=attempted, crashed=crashed)
        yield from (replace(charged, to=to) for to in sorted(TERMINAL))
        yield from (replace(charged, to=TaskState.PENDING, delay=delay) for delay in DELAYS)
        yield replace(charged, to=TaskState.PENDING, fresh=True)


def rows(state: TaskState) -> Iterator[Row]:
    """Every combination of conditions and effects for a task in that state."""
    others = tuple(other for other in TaskState if other is not state)
    parents = ("parent",) if state is TaskState.WAITING else ()
    from_choices = ((), (state,), others, tuple(TaskState))
    combinations = product(from_choices, EPOCHS, effects(), (False, True), TTLS)
    for number, (from_states, epoch, effect, if_expired, ttl) in enumerate(combinations):
        wanted = replace(effect, task_id=f"t{number}", from_states=from_states, epoch=epoch, if_expired=if_expired)
        yield Row(new_task(wanted.task_id, ttl=ttl, parents=parents), wanted)


class TransitionTableTests(StoreConformance):
    """A store that decides by itself decides as the rules do."""

    every: ClassVar[int] = 1
    """Try each so manieth row of the table; a slow store may raise it."""

    @pytest.mark.parametrize("state", list(TaskState))
    async def test_a_change_is_decided_as_the_rules_decide(
        self, store: BaseTaskQueue, clock: VirtualClock, state: TaskState
    ) -> None:
        table = list(rows(state))[:: self.every]
        await self._bring(store, state, [row.task for row in table])
        clock.advance(10)
        before = await self._read(store, table)
        changes = [_absolute(row.change, record) for row, record in zip(table, before, strict=True)]
        answers, now = await store.transition(changes), clock.now()
        after = await self._read(store, table)
        for old, wanted, answer, new in zip(before, changes, answers, after, strict=True):
            status, expected = rules.decide(old, wanted, now)
            assert answer.status is status, f"{wanted} of {old}"
            assert_same(new, old if expected is None else expected)

    async def _bring(self, store: BaseTaskQueue, state: TaskState, tasks: list[NewTask]) -> None:
        """Add the tasks and lead them to the state: claimed once where it can be."""
        await add(store, new_task("parent", queue="elsewhere"), *tasks)
        claimed = await claim(store, QUEUE, limit=len(tasks), lease=HOUR)
        if state in (TaskState.WAITING, TaskState.RUNNING):
            return
        scheduled = state is TaskState.SCHEDULED
        to, delay = (TaskState.PENDING, HOUR) if scheduled else (state, None)
        await change(store, *[finish(record, to, delay=delay) for record in claimed])

    async def _read(self, store: BaseTaskQueue, table: list[Row]) -> list[TaskRecord]:
        records = [record for record in await store.get([row.task.id for row in table]) if record is not None]
        assert len(records) == len(table)
        return records


def _absolute(wanted: Change, record: TaskRecord) -> Change:
    return wanted if wanted.epoch is None else replace(wanted, epoch=record.epoch + wanted.epoch)
