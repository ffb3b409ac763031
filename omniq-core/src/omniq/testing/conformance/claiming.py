"""`claim` and `pause`."""

from __future__ import annotations

import pytest

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.testing.builders import (
    HOUR,
    QUEUE,
    add,
    assert_same,
    change,
    claim,
    exactly,
    finish,
    ids,
    in_other_loops,
    new_task,
    new_tasks,
    now,
    read,
    states,
    together,
)
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import Conformance, needs


class ClaimTests(Conformance):
    """A claim hands out due tasks under a lease."""

    async def test_a_claimed_task_runs_under_a_lease(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        (record,) = await store.claim([QUEUE], limit=1, lease=30, worker="me")
        assert (record.id, record.state, record.epoch, record.worker) == ("t", TaskState.RUNNING, 1, "me")
        assert record.claimed_at == now()
        assert record.claimed_at is not None
        assert record.lease_until is not None
        assert record.lease_until - record.claimed_at == exactly(30)

    async def test_it_changes_nothing_else(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", ttl=60, schedule_id="s"))
        before = await read(store, "t")
        (record,) = await claim(store, lease=30, worker="me")
        assert_same(record, rules.claimed(before, clock.now(), lease=30, worker="me"))

    async def test_it_returns_what_get_returns(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        assert await claim(store) == [await read(store, "t")]

    async def test_a_claimed_task_is_not_claimed_again(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        assert len(await claim(store)) == 1
        assert await claim(store) == []

    async def test_the_epoch_rises_with_every_claim(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        for epoch in (1, 2, 3):
            (record,) = await claim(store)
            assert record.epoch == epoch
            assert await change(store, finish(record, TaskState.PENDING)) == ["applied"]

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_a_task_that_has_ended_is_not_claimed(self, store: BaseTaskQueue, to: TaskState) -> None:
        await add(store, new_task("t"))
        (record,) = await claim(store)
        await change(store, finish(record, to))
        assert await claim(store) == []

    async def test_a_lapsed_lease_alone_frees_no_task(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t"))
        await claim(store, lease=10)
        clock.advance(20)
        assert await claim(store) == []

    async def test_a_scheduled_task_is_claimed_once_its_time_has_come(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await add(store, new_task("t", delay=60))
        clock.advance(50)
        assert await claim(store) == []
        clock.advance(20)
        assert ids(await claim(store)) == {"t"}

    async def test_any_number_may_come_due_at_once(self, store: BaseTaskQueue, many: int, clock: VirtualClock) -> None:
        added = await add(store, *new_tasks(many, delay=60))
        clock.advance(120)
        claimed = await claim(store, limit=many - 1) + await claim(store) + await claim(store)
        assert ids(claimed) == set(added)

    async def test_an_expired_task_is_handed_out(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", ttl=10))
        clock.advance(20)
        (record,) = await claim(store)
        assert record.expires_at is not None
        assert record.claimed_at is not None
        assert record.expires_at < record.claimed_at

    @pytest.mark.parametrize("limit", [1, 3, 9])
    async def test_no_more_than_the_limit_are_handed_out(self, store: BaseTaskQueue, limit: int) -> None:
        await add(store, *new_tasks(3), *new_tasks(2, queue="second"))
        assert len(await claim(store, QUEUE, "second", limit=limit)) == min(limit, 5)

    async def test_no_more_bytes_than_max_bytes_are_handed_out(self, store: BaseTaskQueue) -> None:
        third = store.max_bytes // 3
        sizes = [third, third, third + 10, 10, store.max_bytes + 10, 10]
        for age, size in enumerate(sizes):
            await add(store, new_task(f"t{age}", body=bytes(size), run_at=HOUR - age))
        handed: list[int] = []
        while batch := [len(record.body) for record in await claim(store)]:
            assert sum(batch) <= store.max_bytes or len(batch) == 1
            handed += batch
        assert sorted(handed) == sorted(sizes)

    async def test_other_queues_are_untouched(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", queue="other"))
        assert await claim(store, QUEUE, "unheard-of") == []
        assert await states(store, ["t"]) == [TaskState.PENDING]

    async def test_of_a_hundred_queues_those_that_hold_something_are_emptied_in_order(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        queues = [f"q{number:02}" for number in range(99, -1, -1)]
        for number, delay in ((7, 0.0), (70, 0.0), (33, HOUR), (50, 0.0), (51, 2 * HOUR)):
            await add(store, new_task(f"t{number}", queue=f"q{number:02}", delay=delay))
        await add(store, new_task("elsewhere", queue="other"))
        await store.pause("q50", paused=True)
        clock.advance(HOUR + 1)
        assert [task.id for task in await claim(store, *queues)] == ["t70", "t33", "t7"]
        assert await claim(store, *queues) == []
        clock.advance(HOUR)
        assert [task.id for task in await claim(store, *queues)] == ["t51"]


class ClaimOrderTests(Conformance):
    """The queues as listed, then priority, then `run_at`."""

    async def test_an_earlier_queue_is_emptied_first(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        old = clock.now() - HOUR
        await add(store, *[new_task(f"low-{n}", queue="low", run_at=old) for n in range(3)])
        await add(store, *[new_task(f"high-{n}", queue="high") for n in range(3)])
        first = await claim(store, "high", "low", limit=4)
        assert [record.queue_name for record in first] == ["high", "high", "high", "low"]
        assert len(await claim(store, "high", "low")) == 2

    async def test_the_list_decides_and_not_the_name(self, store: BaseTaskQueue) -> None:
        await add(store, new_task(queue="a"), new_task(queue="b"), new_task(queue="c"))
        claimed = await claim(store, "c", "a", "b")
        assert [record.queue_name for record in claimed] == ["c", "a", "b"]

    @needs(Capability.PRIORITY)
    async def test_the_queue_comes_before_the_priority(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("low", queue="low", priority=100), new_task("high", queue="high", priority=-100))
        assert [record.id for record in await claim(store, "high", "low")] == ["high", "low"]

    async def test_earlier_run_at_comes_first(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        ages = [20, 50, 10, 40, 30]
        await add(store, *[new_task(f"t-{age}", run_at=clock.now() - age) for age in ages])
        claimed = await claim(store, limit=2) + await claim(store)
        assert [record.id for record in claimed] == ["t-50", "t-40", "t-30", "t-20", "t-10"]

    async def test_what_comes_due_takes_its_place(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("second", delay=20), new_task("first", delay=10), new_task("zeroth"))
        clock.advance(30)
        await add(store, new_task("third"))
        claimed = [(await claim(store, limit=1))[0].id for _ in range(4)]
        assert claimed == ["zeroth", "first", "second", "third"]

    @needs(Capability.PRIORITY)
    async def test_higher_priority_comes_first(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        order = [0, -100, 100, 1, -1, 50]
        await add(store, *[new_task(f"p{p}", priority=p, run_at=clock.now() - 100 + p / 2) for p in order])
        claimed = await claim(store, limit=1) + await claim(store, limit=2) + await claim(store)
        assert [record.priority for record in claimed] == [100, 50, 1, 0, -1, -100]

    @needs(Capability.PRIORITY)
    async def test_within_a_priority_earlier_run_at_comes_first(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        spread = [(p, age) for age in (20, 40, 30) for p in (-5, 5)]
        await add(store, *[new_task(priority=p, run_at=clock.now() - age) for p, age in spread])
        claimed = await claim(store)
        order = [(record.priority, record.run_at) for record in claimed]
        assert order == sorted(order, key=lambda pair: (-pair[0], pair[1]))

    @needs(Capability.PRIORITY)
    async def test_what_comes_due_keeps_its_priority(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("low"), new_task("high", priority=5, delay=10))
        clock.advance(20)
        assert [record.id for record in await claim(store)] == ["high", "low"]

    async def test_a_task_that_was_given_back_keeps_its_place(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("first", run_at=clock.now() - 20), new_task("second", run_at=clock.now() - 10))
        (record,) = await claim(store, limit=1)
        await change(store, finish(record, TaskState.PENDING))
        assert [record.id for record in await claim(store)] == ["first", "second"]


class ClaimRaceTests(Conformance):
    """Each task goes to one caller only."""

    async def test_concurrent_claims_share_the_tasks(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(60))
        handed = await together(claim(store, limit=7, worker=f"w{n}") for n in range(20))
        handed.append(await claim(store, limit=60))  # what one was just looking at, others may have left to it
        assert sorted(record.id for records in handed for record in records) == sorted(added)
        assert all(record.epoch == 1 for records in handed for record in records)

    async def test_concurrent_claims_share_what_comes_due(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        added = await add(store, *new_tasks(60, delay=10))
        clock.advance(20)
        handed = await together(claim(store, limit=7, worker=f"w{n}") for n in range(20))
        assert ids(record for records in handed for record in records) == set(added)

    async def test_claims_from_several_loops_share_the_tasks(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(60))

        async def worker() -> list[str]:
            mine: list[str] = []
            while claimed := await claim(store, limit=3):
                mine += [record.id for record in claimed]
                assert await change(store, *map(finish, claimed)) == ["applied"] * len(claimed)
            return mine

        handed = await in_other_loops(store, [worker] * 4)
        assert sorted(id_ for mine in handed for id_ in mine) == sorted(added)

    async def test_a_record_says_who_holds_it(self, store: BaseTaskQueue) -> None:
        await add(store, *new_tasks(20))
        handed = await together(claim(store, limit=3, worker=f"w{n}") for n in range(5))
        for n, records in enumerate(handed):
            assert {record.worker for record in records} <= {f"w{n}"}
            assert await store.get([record.id for record in records]) == records


class PauseTests(Conformance):
    """A paused queue is passed over, and only by `claim`."""

    async def test_a_paused_queue_is_passed_over(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"), new_task("other", queue="other"))
        await store.pause(QUEUE, paused=True)
        assert ids(await claim(store, QUEUE, "other")) == {"other"}
        assert await states(store, ["t"]) == [TaskState.PENDING]

    async def test_it_can_be_resumed(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        await store.pause(QUEUE, paused=True)
        await store.pause(QUEUE, paused=False)
        assert ids(await claim(store)) == {"t"}

    async def test_pausing_twice_is_pausing(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        await store.pause(QUEUE, paused=True)
        await store.pause(QUEUE, paused=True)
        await store.pause(QUEUE, paused=False)
        await store.pause(QUEUE, paused=False)
        assert ids(await claim(store)) == {"t"}

    async def test_it_still_takes_tasks(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await store.pause(QUEUE, paused=True)
        await add(store, new_task("now"), new_task("later", delay=10))
        clock.advance(20)
        assert await claim(store) == []
        await store.pause(QUEUE, paused=False)
        assert ids(await claim(store)) == {"now", "later"}

    async def test_what_runs_can_end(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        (record,) = await claim(store)
        await store.pause(QUEUE, paused=True)
        assert await change(store, finish(record)) == ["applied"]
