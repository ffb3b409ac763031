"""Changes of state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import ClassVar

import pytest
from msgspec import Struct
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import Change, Changed, ChangeStatus, NewTask, TaskRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    QUEUE,
    add,
    assert_same,
    cancel,
    change,
    change_one,
    claim,
    finish,
    ids,
    in_other_loops,
    lapsed,
    new_task,
    now,
    race,
    read,
    reap,
    running,
    states,
    together,
)
from omniq.testing.conformance.base import Conformance

# ── transitions ─────────────────────────────────────────────────────────────


APPLIED, REPEATED, REFUSED, MISSING = (
    ChangeStatus.APPLIED,
    ChangeStatus.REPEATED,
    ChangeStatus.REFUSED,
    ChangeStatus.MISSING,
)


DEAD = (TaskState.ERROR,)


class FinishTests(Conformance):
    """A worker ends a task that it holds."""

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_a_task_ends(self, store: BaseTaskQueue, to: TaskState) -> None:
        (record,) = await running(store)
        assert await change(store, finish(record, to)) == [APPLIED]
        after = await read(store, record.id)
        assert (after.state, after.finished_at, after.lease_until) == (to, now(), None)
        assert (after.epoch, after.worker, after.attempts) == (record.epoch, record.worker, 0)

    async def test_a_repeated_finish_is_told_from_a_late_one(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await change(store, finish(record)) == [APPLIED]
        before = await read(store, record.id)
        assert await change(store, finish(record)) == [REPEATED]
        assert await change(store, finish(record, TaskState.ERROR)) == [REFUSED]
        assert await read(store, record.id) == before

    async def test_a_lapsed_task_that_was_not_reaped_can_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        assert await change(store, finish(record)) == [APPLIED]
        assert await reap(store) == []

    async def test_a_late_worker_is_refused(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (late,) = await lapsed(store, clock)
        await reap(store)
        assert await change(store, finish(late)) == [REFUSED]
        (second,) = await claim(store)
        assert await change(store, finish(late), finish(late, TaskState.PENDING)) == [REFUSED, REFUSED]
        assert await read(store, late.id) == second

    async def test_a_late_worker_is_refused_beside_others(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        late = await lapsed(store, clock, 3)
        await reap(store)
        assert ids(await claim(store)) == ids(late)
        (own,) = await running(store)
        assert await change(store, finish(own), *map(finish, late)) == [APPLIED, *[REFUSED] * 3]

    async def test_a_late_worker_cannot_unfinish(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (late,) = await lapsed(store, clock)
        await reap(store)
        (second,) = await claim(store)
        await change(store, finish(second))
        before = await read(store, late.id)
        wanted = [finish(late), finish(late, TaskState.ERROR), finish(late, TaskState.PENDING)]
        assert await change(store, *wanted) == [REFUSED] * 3
        assert await read(store, late.id) == before

    async def test_a_task_that_is_not_there_is_missing(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        changes = [cancel("nobody"), finish(record), cancel("")]
        assert await change(store, *changes) == [MISSING, APPLIED, MISSING]
        assert await change(store) == []

    async def test_many_end_in_one_call(self, store: BaseTaskQueue, many: int) -> None:
        records = await running(store, many)
        assert await change(store, *map(finish, records)) == [APPLIED] * many
        assert set(await states(store, ids(records))) == {TaskState.SUCCESS}


class GiveBackTests(Conformance):
    """Retry, release and requeue: a task goes back in line."""

    async def test_without_a_delay_it_keeps_its_run_at(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        clock.advance(60)
        assert await change(store, finish(record, TaskState.PENDING)) == [APPLIED]
        after = await read(store, record.id)
        assert (after.state, after.run_at) == (TaskState.PENDING, record.run_at)
        assert (after.worker, after.lease_until, after.finished_at) == (None, None, None)

    async def test_with_a_delay_it_is_due_later(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        await change(store, finish(record, TaskState.PENDING, delay=60))
        assert await states(store, [record.id]) == [TaskState.SCHEDULED]
        clock.advance(50)
        assert await claim(store) == []
        clock.advance(20)
        assert ids(await claim(store)) == {record.id}

    async def test_a_delay_of_zero_makes_it_due_now(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        clock.advance(60)
        await change(store, finish(record, TaskState.PENDING, delay=0))
        after = await read(store, record.id)
        assert (after.state, after.run_at) == (TaskState.PENDING, now())

    async def test_an_attempt_and_a_crash_are_charged_if_asked(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        charged = []
        for attempted, crashed in [(True, False), (False, True), (False, False), (True, True)]:
            (record,) = await claim(store)
            await change(store, replace(finish(record, TaskState.PENDING), attempted=attempted, crashed=crashed))
            after = await read(store, "t")
            charged.append((after.attempts, after.crashes))
        assert charged == [(1, 0), (1, 1), (1, 1), (2, 2)]

    async def test_a_requeued_task_starts_afresh(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", ttl=30))
        (record,) = await claim(store)
        await change(store, Change(task_id="t", to=TaskState.ERROR, from_states=(TaskState.RUNNING,), attempted=True))
        clock.advance(60)
        requeue = Change(task_id="t", to=TaskState.PENDING, from_states=DEAD, fresh=True)
        assert await change(store, requeue) == [APPLIED]
        after = await read(store, "t")
        assert (after.state, after.run_at, after.expires_at) == (TaskState.PENDING, now(), None)
        assert (after.attempts, after.crashes, after.cancel_requested, after.finished_at) == (0, 0, False, None)
        assert after.epoch == record.epoch
        assert [r.epoch for r in await claim(store)] == [record.epoch + 1]

    async def test_a_child_is_released(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent", queue="elsewhere"), new_task("child", parents=("parent",)))
        release = Change(task_id="child", to=TaskState.PENDING, from_states=(TaskState.WAITING,))
        assert await change(store, release) == [APPLIED]
        assert await change(store, release) == [REFUSED]
        assert ids(await claim(store)) == {"child"}

    async def test_a_child_with_a_delay_is_released_to_its_run_at(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await add(store, new_task("parent", queue="elsewhere"), new_task("child", parents=("parent",), delay=60))
        before = await read(store, "child")
        await change(store, Change(task_id="child", to=TaskState.PENDING, from_states=(TaskState.WAITING,)))
        after = await read(store, "child")
        assert (after.state, after.run_at) == (TaskState.SCHEDULED, before.run_at)
        clock.advance(70)
        assert ids(await claim(store)) == {"child"}


class CancelTests(Conformance):
    """What isn't held ends at once; what is held hears of it."""

    async def test_a_cancelled_task_is_never_handed_out(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("now"), new_task("later", delay=10), new_task("child", parents=("now",)))
        assert await change(store, cancel("now"), cancel("later"), cancel("child")) == [APPLIED] * 3
        clock.advance(20)
        assert await claim(store) == []
        assert await states(store, ["now", "later", "child"]) == [TaskState.CANCELLED] * 3

    async def test_without_an_epoch_a_repeat_is_refused(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        assert await change(store, cancel("t"), cancel("t")) == [APPLIED, REFUSED]

    async def test_a_running_task_is_not_cancelled_at_once(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await change(store, cancel(record.id)) == [REFUSED]
        assert await read(store, record.id) == record

    async def test_a_request_sets_the_flag_and_nothing_else(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        request = Change(
            task_id=record.id, to=TaskState.CANCELLED, from_states=(TaskState.RUNNING,), request_cancel=True
        )
        assert await change(store, request) == [APPLIED]
        after = await read(store, record.id)
        assert after.cancel_requested
        assert (after.state, after.epoch, after.lease_until) == (record.state, record.epoch, record.lease_until)
        assert await change(store, finish(record, TaskState.CANCELLED)) == [APPLIED]

    async def test_only_what_has_expired_expires(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("short", ttl=10), new_task("long", ttl=HOUR), new_task("endless"))
        clock.advance(20)
        expire = [
            Change(task_id=id_, to=TaskState.EXPIRED, from_states=(TaskState.PENDING,), if_expired=True)
            for id_ in ("short", "long", "endless")
        ]
        assert await change(store, *expire) == [APPLIED, REFUSED, REFUSED]
        assert await states(store, ["short", "long"]) == [TaskState.EXPIRED, TaskState.PENDING]


class BatchTests(Conformance):
    """Several changes in one call: each decided for itself, in order."""

    async def test_one_refusal_stops_no_other(self, store: BaseTaskQueue) -> None:
        a, b, c = await running(store, 3)
        await change(store, finish(b, TaskState.ERROR))
        assert await change(store, finish(a), finish(b), cancel("nobody"), finish(c)) == [
            APPLIED,
            REFUSED,
            MISSING,
            APPLIED,
        ]

    async def test_the_same_change_twice_is_a_repeat(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await change(store, finish(record), finish(record)) == [APPLIED, REPEATED]

    async def test_of_two_changes_to_one_task_the_first_wins(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await change(store, finish(record, TaskState.PENDING), finish(record)) == [APPLIED, REFUSED]
        assert await states(store, [record.id]) == [TaskState.PENDING]

    async def test_changes_to_one_task_build_on_each_other(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        requeue = Change(task_id=record.id, to=TaskState.PENDING, from_states=DEAD, fresh=True)
        changes = [finish(record, TaskState.ERROR), requeue, cancel(record.id)]
        assert await change(store, *changes) == [APPLIED] * 3
        assert await states(store, [record.id]) == [TaskState.CANCELLED]

    async def test_a_task_with_waiting_children_says_so(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"), new_task("single"), new_task("child", parents=("parent",)))
        by_id = {record.id: record for record in await claim(store)}
        changes = [finish(by_id["parent"]), finish(by_id["single"])]
        assert await store.transition(changes) == [Changed(APPLIED, True), Changed(APPLIED, False)]
        assert await store.transition(changes) == [Changed(REPEATED, True), Changed(REPEATED, False)]

    async def test_children_added_while_it_runs_count(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        await add(store, new_task("child", parents=(record.id,)))
        assert (await change_one(store, finish(record))).has_children


APPLIED, REPEATED, REFUSED = ChangeStatus.APPLIED, ChangeStatus.REPEATED, ChangeStatus.REFUSED


class TransitionRaceTests(Conformance):
    """Deciding and writing are one step."""

    async def test_of_concurrent_finishes_one_is_applied(self, store: BaseTaskQueue) -> None:
        for record in await running(store, 5):
            answers = await together(change(store, finish(record)) for _ in range(10))
            assert Counter(status for (status,) in answers) == {APPLIED: 1, REPEATED: 9}

    async def test_of_different_ends_one_is_applied(self, store: BaseTaskQueue) -> None:
        for record in await running(store, 5):
            ends = sorted(TERMINAL) * 4
            answers = await together(change(store, finish(record, to)) for to in ends)
            winners = [to for to, (status,) in zip(ends, answers, strict=True) if status is APPLIED]
            assert await states(store, [record.id]) == winners
            assert Counter(status for (status,) in answers) == {APPLIED: 1, REPEATED: 3, REFUSED: 12}

    async def test_of_two_epochs_the_older_never_wins(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        late = await lapsed(store, clock, 5)
        await reap(store)
        for seed, new in enumerate(await claim(store)):
            (old,) = [record for record in late if record.id == new.id]
            olds = [change(store, finish(old, TaskState.ERROR)) for _ in range(5)]
            refused, applied = await race(olds, [change(store, finish(new))], seed)
            assert (refused, applied) == ([[REFUSED]] * 5, [[APPLIED]])
            assert await states(store, [new.id]) == [TaskState.SUCCESS]

    async def test_cancel_and_claim_exclude_each_other(self, store: BaseTaskQueue) -> None:
        for seed in range(10):
            tasks = await add(store, *[new_task() for _ in range(6)])
            cancelled, claimed = await race(
                [change(store, cancel(id_)) for id_ in tasks], [claim(store, limit=2) for _ in range(3)], seed
            )
            taken = ids(record for records in claimed for record in records)
            stopped = {id_ for id_, (status,) in zip(tasks, cancelled, strict=True) if status is APPLIED}
            assert taken | stopped == set(tasks)
            assert not taken & stopped

    async def test_a_finish_sees_a_new_child_or_the_child_sees_the_finish(self, store: BaseTaskQueue) -> None:
        async def give_birth(parent: str) -> bool:
            await add(store, new_task(parents=(parent,)))
            return await states(store, [parent]) == [TaskState.SUCCESS]

        for seed in range(10):
            records = await running(store, 4)
            finishes = [change_one(store, finish(record)) for record in records]
            finished, seen = await race(finishes, [give_birth(record.id) for record in records], seed)
            for answer, child_knows in zip(finished, seen, strict=True):
                assert answer.has_children or child_knows

    async def test_batches_that_overlap_in_different_orders_all_end(self, store: BaseTaskQueue) -> None:
        records = await running(store, 20)
        orders = [records, records[::-1], records[10:] + records[:10]] * 3
        answers = await together(change(store, *map(finish, order)) for order in orders)
        assert Counter(status for batch in answers for status in batch) == {APPLIED: 20, REPEATED: 160}

    async def test_finishes_from_several_loops_apply_once(self, store: BaseTaskQueue) -> None:
        records = await running(store, 30)

        async def finisher() -> list[ChangeStatus]:
            return [(await change_one(store, finish(record))).status for record in records]

        answers = await in_other_loops(store, [finisher] * 4)
        assert Counter(status for mine in answers for status in mine) == {APPLIED: 30, REPEATED: 90}


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


class TransitionTableTests(Conformance):
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
