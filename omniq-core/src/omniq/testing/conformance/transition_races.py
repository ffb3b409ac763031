"""`transition`: what holds when several call at once."""

from __future__ import annotations

from collections import Counter

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import ChangeStatus
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import (
    add,
    cancel,
    change,
    change_one,
    claim,
    finish,
    ids,
    in_other_loops,
    lapsed,
    new_task,
    race,
    reap,
    running,
    states,
    together,
)

APPLIED, REPEATED, REFUSED = ChangeStatus.APPLIED, ChangeStatus.REPEATED, ChangeStatus.REFUSED


class TransitionRaceTests(StoreConformance):
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
