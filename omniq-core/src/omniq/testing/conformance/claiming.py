"""Claims and leases: `claim`, `pause`, `extend`, `lapsed`, `reap`, `beat`."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import Change, LapsedLease, Lease, LeaseStatus, TaskRecord, WorkerRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    QUEUE,
    about,
    add,
    assert_same,
    change,
    claim,
    exactly,
    finish,
    ids,
    in_other_loops,
    lapsed,
    lease_of,
    new_task,
    new_tasks,
    now,
    race,
    read,
    reap,
    running,
    states,
    together,
)
from omniq.testing.conformance.base import Conformance, needs

# ── claiming ────────────────────────────────────────────────────────────────


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

    async def test_a_lease_may_end_within_a_second(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store, lease=0.75)
        assert (record.lease_until or 0.0) - (record.claimed_at or 0.0) == exactly(0.75)

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

    async def test_so_it_is_over_several_queues(self, store: BaseTaskQueue) -> None:
        size = store.max_bytes // 3 + 10
        await add(store, *[new_task(f"t{n}", queue=f"q{n}", body=bytes(size)) for n in range(3)])
        assert [len(await claim(store, "q0", "q1", "q2")) for _ in range(3)] == [2, 1, 0]

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

    @pytest.mark.parametrize("start", [0.0, 1e9])
    async def test_fractions_of_a_second_count(self, store: BaseTaskQueue, start: float) -> None:
        ends = [0.5, 0.25, 2.0, 0.0, 0.75]
        await add(store, *[new_task(f"t{number}", run_at=start + end) for number, end in enumerate(ends)])
        (queue,) = await store.stats()
        assert queue.oldest_due == exactly(start)
        assert [record.run_at - start for record in await claim(store)] == [exactly(end) for end in sorted(ends)]

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
    async def test_so_it_does_among_tasks_that_have_come_due(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("low", delay=10, priority=-1), new_task("high", delay=20, priority=1))
        await add(store, new_task("next", delay=HOUR, priority=100), new_task("usual"))
        clock.advance(30)
        claimed = [(await claim(store, limit=1))[0].id for _ in range(3)]
        assert claimed == ["high", "usual", "low"]
        assert await claim(store) == []

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


# ── leases ──────────────────────────────────────────────────────────────────


def request_cancel(record: TaskRecord) -> Change:
    """What a user does to a task that a worker holds."""
    return Change(task_id=record.id, to=TaskState.CANCELLED, from_states=(TaskState.RUNNING,), request_cancel=True)


async def held(store: BaseTaskQueue, *leases: Lease, lease: float = 30) -> list[bool]:
    """Which of the leases could be extended."""
    return [status.held for status in await store.extend(leases, lease=lease)]


class ExtendTests(Conformance):
    """A lease that is still held ends later; one that isn't is told so."""

    async def test_a_held_lease_ends_so_long_from_now(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store, lease=30)
        clock.advance(20)
        assert await store.extend([lease_of(record)], lease=100) == [LeaseStatus(held=True)]
        assert (await read(store, record.id)).lease_until == about(clock.now() + 100)

    async def test_it_may_end_sooner_than_before(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store, lease=1000)
        assert await held(store, lease_of(record), lease=10)
        clock.advance(20)
        assert ids(await reap(store)) == {record.id}

    async def test_nothing_else_changes(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        await store.extend([lease_of(record)], lease=100)
        after = await read(store, record.id)
        assert_same(after, replace(record, lease_until=after.lease_until))

    async def test_an_extended_lease_outlives_its_first_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store, lease=30)
        for _ in range(3):
            clock.advance(20)
            assert await held(store, lease_of(record), lease=30) == [True]
            assert await reap(store) == []
        clock.advance(40)
        assert ids(await reap(store)) == {record.id}

    async def test_a_lapsed_lease_that_was_not_reaped_is_held(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        assert await held(store, lease_of(record)) == [True]
        assert await reap(store) == []

    async def test_a_reaped_lease_is_lost(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        await reap(store)
        assert await held(store, lease_of(record)) == [False]
        assert await states(store, [record.id]) == [TaskState.PENDING]

    async def test_a_lease_is_lost_to_the_next_claim(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (first,) = await lapsed(store, clock)
        await reap(store)
        (second,) = await claim(store)
        assert await held(store, lease_of(first)) == [False]
        assert await held(store, lease_of(second)) == [True]

    async def test_a_finished_task_has_no_lease(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        await change(store, finish(record))
        assert await held(store, lease_of(record)) == [False]
        assert (await read(store, record.id)).lease_until is None

    async def test_a_task_that_was_never_claimed_has_no_lease(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        assert await held(store, Lease("t", 0, "worker")) == [False]
        assert await held(store, Lease("t", 1, "worker")) == [False]

    async def test_the_epoch_must_match(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await held(store, Lease(record.id, 0, "worker")) == [False]
        assert await held(store, Lease(record.id, 2, "worker")) == [False]
        assert await read(store, record.id) == record

    async def test_the_worker_must_match(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await held(store, Lease(record.id, record.epoch, "another")) == [False]
        assert await read(store, record.id) == record

    async def test_each_lease_has_its_answer_in_order(self, store: BaseTaskQueue) -> None:
        a, b = await running(store, 2)
        await change(store, finish(a))
        leases = [Lease("nobody", 1, "worker"), lease_of(b), lease_of(a), Lease("", 1, "worker")]
        assert await held(store, *leases) == [False, True, False, False]

    async def test_a_cancel_request_reaches_whoever_holds_the_lease(self, store: BaseTaskQueue) -> None:
        wanted, other = await running(store, 2)
        assert await change(store, request_cancel(wanted)) == ["applied"]
        answers = [LeaseStatus(held=True, cancel_requested=True), LeaseStatus(held=True)]
        assert await store.extend([lease_of(wanted), lease_of(other)], lease=30) == answers
        assert await store.extend([lease_of(wanted), lease_of(other)], lease=30) == answers

    async def test_many_are_extended_in_one_call(self, store: BaseTaskQueue, many: int) -> None:
        records = await running(store, many)
        assert await held(store, *map(lease_of, records)) == [True] * many


class ReapTests(Conformance):
    """Tasks whose worker is gone go back, and are charged a crash."""

    async def test_a_lapsed_task_goes_back(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        (back,) = await reap(store)
        assert_same(back, replace(rules.reaped(record, None), body=b""))
        assert replace(back, body=record.body) == await read(store, record.id)

    async def test_a_crash_is_charged_and_no_attempt(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        (back,) = await reap(store)
        assert (back.crashes, back.attempts, back.epoch) == (1, record.attempts, record.epoch)

    async def test_every_lapse_is_charged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t"))
        for crashes in (1, 2, 3):
            (record,) = await claim(store, lease=10)
            assert record.epoch == crashes
            clock.advance(20)
            (back,) = await reap(store)
            assert back.crashes == crashes

    async def test_a_cancel_request_stays(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        await change(store, request_cancel(record))
        (back,) = await reap(store)
        assert back.cancel_requested

    async def test_a_lease_that_holds_is_left_alone(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, *new_tasks(2))
        (short,) = await claim(store, lease=10, limit=1)
        (long,) = await claim(store, lease=100, limit=1)
        clock.advance(50)
        assert ids(await reap(store)) == {short.id}
        assert await read(store, long.id) == long

    async def test_only_running_tasks_are_reaped(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        done, given_back, later, _ = records = await running(store, 4, lease=10)
        await change(store, finish(done), finish(given_back, TaskState.PENDING))
        await change(store, finish(later, TaskState.PENDING, delay=1000))
        clock.advance(20)
        assert len(await reap(store)) == 1
        assert await reap(store) == []
        crashes = [record.crashes for record in await store.get([r.id for r in records]) if record]
        assert crashes == [0, 0, 0, 1]

    async def test_no_more_than_the_limit_are_reaped(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        records = await lapsed(store, clock, 5)
        batches = [await reap(store, limit) for limit in (2, 2, 2, 2)]
        assert [len(batch) for batch in batches] == [2, 2, 1, 0]
        assert ids(record for batch in batches for record in batch) == ids(records)

    async def test_a_reaped_task_is_claimed_again(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        await reap(store)
        (again,) = await claim(store, worker="next")
        assert (again.id, again.epoch, again.worker, again.claimed_at) == (record.id, 2, "next", now())

    async def test_any_number_may_lapse_at_once(self, store: BaseTaskQueue, many: int, clock: VirtualClock) -> None:
        records = await lapsed(store, clock, many)
        assert ids(await reap(store, many)) == ids(records)


class LeaseRaceTests(Conformance):
    """Whoever comes first wins, and the other is told."""

    async def test_a_lapse_is_charged_once(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        records = await lapsed(store, clock, 30)
        handed = await together(reap(store) for _ in range(20))
        assert ids(record for batch in handed for record in batch) == ids(records)

    @pytest.mark.parametrize("seed", range(10))
    async def test_reap_loses_against_extend_or_wins_alone(
        self, store: BaseTaskQueue, clock: VirtualClock, seed: int
    ) -> None:
        records = await lapsed(store, clock, 8)
        extended, reaped = await race(
            [held(store, lease_of(record)) for record in records], [reap(store) for _ in range(3)], seed
        )
        kept = {record.id for record, answer in zip(records, extended, strict=True) if answer == [True]}
        await self._assert_split(store, records, (kept, TaskState.RUNNING), reaped)

    @pytest.mark.parametrize("seed", range(10))
    async def test_reap_loses_against_finish_or_wins_alone(
        self, store: BaseTaskQueue, clock: VirtualClock, seed: int
    ) -> None:
        records = await lapsed(store, clock, 8)
        finished, reaped = await race(
            [change(store, finish(record)) for record in records], [reap(store) for _ in range(3)], seed
        )
        done = {record.id for record, answer in zip(records, finished, strict=True) if answer == ["applied"]}
        await self._assert_split(store, records, (done, TaskState.SUCCESS), reaped)

    async def _assert_split(
        self,
        store: BaseTaskQueue,
        records: list[TaskRecord],
        winners: tuple[set[str], TaskState],
        reaped: list[list[TaskRecord]],
    ) -> None:
        """Each task was either kept by its worker or reaped, and its state says the same."""
        kept, state = winners
        lost = ids(record for batch in reaped for record in batch)
        assert kept | lost == ids(records)
        assert not kept & lost
        assert set(await states(store, kept)) <= {state}
        assert set(await states(store, lost)) <= {TaskState.PENDING}

    async def test_reapers_in_several_loops_charge_once(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        records = await lapsed(store, clock, 40)

        async def reaper() -> list[TaskRecord]:
            mine: list[TaskRecord] = []
            while batch := await reap(store, 3):
                mine += batch
            return mine

        handed = await in_other_loops(store, [reaper] * 4)
        reaped = [record for mine in handed for record in mine]
        assert ids(reaped) == ids(records)
        assert {record.crashes for record in reaped} == {1}


class EvidenceTests(Conformance):
    """A lapsed lease says that nobody renewed it; that somebody died takes more."""

    async def test_a_worker_that_was_seen_since_is_not_charged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        await store.beat(WorkerRecord(name="worker"))
        (back,) = await reap(store)
        assert_same(back, replace(rules.reaped(record, None), crashes=0, body=b""))

    async def test_a_worker_that_was_seen_before_is_charged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await store.beat(WorkerRecord(name="worker"))
        await lapsed(store, clock)
        await store.beat(WorkerRecord(name="another"))
        assert [back.crashes for back in await reap(store)] == [1]

    async def test_lapsed_leases_are_told_and_left_as_they_are(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await lapsed(store, clock)
        (seen,) = await store.lapsed(limit=10)
        assert (seen.task_id, seen.epoch, seen.worker) == (record.id, record.epoch, record.worker)
        assert seen.lease_until == exactly(record.lease_until or 0.0)
        assert await read(store, record.id) == record

    async def test_lapsed_leases_come_in_pages(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, *new_tasks(5))
        for lease in (50, 10, 40, 20, 30):
            await claim(store, limit=1, lease=lease)
        await running(store, lease=1000)
        clock.advance(60)
        pages = [await store.lapsed(limit=2)]
        while pages[-1]:
            pages.append(await store.lapsed(limit=2, after=pages[-1][-1]))
        ends = [lease.lease_until for page in pages for lease in page]
        assert [len(page) for page in pages] == [2, 2, 1, 0]
        assert ends == sorted(ends)

    async def test_leases_of_one_end_come_in_pages_too(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        records = await lapsed(store, clock, 5)
        first = await store.lapsed(limit=2)
        second = await store.lapsed(limit=9, after=first[-1])
        assert [seen.task_id for seen in first + second] == sorted(ids(records))

    async def test_of_several_leases_those_are_reaped_that_are_as_they_were_seen(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        renewed, stale, ended = await lapsed(store, clock, 3)
        seen = await store.lapsed(limit=10)
        await held(store, lease_of(renewed))
        await change(store, finish(ended))
        others = [LapsedLease("none", 1, "worker", 0.0), LapsedLease("", 1, "worker", 0.0)]
        assert ids(await store.reap([others[0], *seen, others[1]])) == {stale.id}

    async def test_another_workers_lease_is_left_alone(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        """The epoch may be the same after a failover that loses writes."""
        await lapsed(store, clock)
        (seen,) = await store.lapsed(limit=10)
        assert await store.reap([LapsedLease(seen.task_id, seen.epoch, "another", seen.lease_until)]) == []
        assert await store.lapsed(limit=10) == [seen]

    async def test_a_lease_that_was_renewed_since_it_was_seen_is_left_alone(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        (record,) = await lapsed(store, clock)
        seen = await store.lapsed(limit=10)
        assert await held(store, lease_of(record), lease=10)
        assert await store.reap(seen) == []
        clock.advance(20)  # it has run out again, which nobody has seen yet
        assert await store.reap(seen) == []
        assert await states(store, [record.id]) == [TaskState.RUNNING]

    async def test_a_lease_that_was_claimed_since_it_was_seen_is_left_alone(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await lapsed(store, clock)
        seen = await store.lapsed(limit=10)
        await store.reap(seen)
        await claim(store, lease=10)
        clock.advance(20)
        assert await store.reap(seen) == []

    async def test_a_worker_is_told_what_it_holds(self, store: BaseTaskQueue) -> None:
        await add(store, *new_tasks(4))
        mine = await claim(store, limit=3, worker="me")
        await claim(store, worker="another")
        await change(store, finish(mine[0]))
        wanted = {lease_of(record) for record in mine[1:]}
        assert set(await store.held("me")) == wanted
        assert await store.held("nobody") == []

    async def test_it_holds_what_has_lapsed_until_that_is_reaped(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await lapsed(store, clock)
        await reap(store)
        (record,) = await claim(store, lease=10)
        clock.advance(20)
        assert await store.held("worker") == [lease_of(record)]
        await reap(store)
        assert await store.held("worker") == []

    async def test_a_change_may_name_the_worker(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        wanted = [finish(record), finish(record, TaskState.PENDING), request_cancel(record)]
        assert await change(store, *[replace(each, worker="another") for each in wanted]) == ["refused"] * 3
        assert await change(store, replace(finish(record), worker=record.worker)) == ["applied"]
        assert await change(store, replace(finish(record), worker=record.worker)) == ["repeated"]
        assert await change(store, replace(finish(record), worker="another")) == ["refused"]
