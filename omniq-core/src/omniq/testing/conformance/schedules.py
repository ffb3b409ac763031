"""Schedules, and waiting for tasks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

import pytest
from msgspec.structs import replace

from omniq.models.task import TaskState, slot_id
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import Change, Firing, NewTask, ScheduleRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    PATIENCE,
    QUEUE,
    add,
    assert_same,
    change,
    claim,
    exactly,
    finish,
    fire,
    ids,
    in_other_loops,
    lapsed,
    new_schedule,
    new_task,
    read,
    reap,
    running,
    states,
    together,
    woken,
)
from omniq.testing.conformance.base import Conformance

# ── schedules ───────────────────────────────────────────────────────────────


SPELL = 0.3
"""Seconds for which a worker is watched that has nothing to do."""
MOST_TURNS = 10
"""How often it may look meanwhile."""


def slot_task(slot: int, schedule_id: str = "nightly") -> NewTask:
    """The task of one slot."""
    return new_task(slot_id(schedule_id, slot), schedule_id=schedule_id)


async def put(store: BaseTaskQueue, schedule: ScheduleRecord) -> ScheduleRecord:
    """Write a schedule that isn't there yet, and read it back."""
    assert await store.put_schedule(schedule, if_version=None)
    return await read_schedule(store, schedule.id)


async def read_schedule(store: BaseTaskQueue, schedule_id: str = "nightly") -> ScheduleRecord:
    """A schedule that must be there."""
    (schedule,) = await store.schedules([schedule_id])
    return schedule


async def names(store: BaseTaskQueue, *schedule_ids: str, within: float | None = None) -> list[str]:
    """The ids of all schedules, or of those that exist."""
    return [schedule.id for schedule in await store.schedules(schedule_ids or None, within=within)]


class PutTests(Conformance):
    """A schedule is written over the version that the writer saw."""

    async def test_a_new_schedule_is_stored_as_given(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        soon = clock.now() + 60
        given = ScheduleRecord(id="ü/s", queue_name="q", body=b"\x00b", next_run=soon, paused=True)
        stored = await put(store, given)
        assert stored.next_run == exactly(soon)
        assert stored == replace(given, version=1, next_run=stored.next_run)

    async def test_it_may_have_no_slot_left(self, store: BaseTaskQueue) -> None:
        assert (await put(store, new_schedule(next_run=None))).next_run is None

    @pytest.mark.parametrize("version", [99, 4_000_000_000_000])
    async def test_the_version_rises_by_one(self, store: BaseTaskQueue, version: int) -> None:
        """Of a new schedule from its record's, so that it needn't repeat those of one that was deleted."""
        stored = await put(store, replace(new_schedule(next_run=None), version=version))
        assert stored.version == version + 1
        assert await store.put_schedule(replace(stored, version=7), if_version=version + 1)
        assert (await read_schedule(store)).version == version + 2

    async def test_a_new_one_does_not_replace_another(self, store: BaseTaskQueue) -> None:
        before = await put(store, new_schedule(next_run=None))
        assert not await store.put_schedule(replace(before, body=b"other"), if_version=None)
        assert await read_schedule(store) == before

    @pytest.mark.parametrize("version", [0, 1, 3])
    async def test_another_version_is_not_replaced(self, store: BaseTaskQueue, version: int) -> None:
        first = await put(store, new_schedule(next_run=None))
        assert await store.put_schedule(replace(first, body=b"second"), if_version=1)
        assert not await store.put_schedule(replace(first, body=b"third"), if_version=version)
        assert (await read_schedule(store)).body == b"second"

    async def test_what_is_not_there_has_no_version(self, store: BaseTaskQueue) -> None:
        assert not await store.put_schedule(new_schedule(next_run=None), if_version=1)
        assert await names(store) == []

    async def test_of_concurrent_new_ones_one_wins(self, store: BaseTaskQueue) -> None:
        rivals = [replace(new_schedule(next_run=None), body=b"%d" % n) for n in range(20)]
        answers = await together(store.put_schedule(rival, if_version=None) for rival in rivals)
        assert Counter(answers) == {True: 1, False: 19}
        assert (await read_schedule(store)).body == b"%d" % answers.index(True)

    async def test_of_concurrent_writers_one_wins(self, store: BaseTaskQueue) -> None:
        before = await put(store, new_schedule(next_run=None))
        rivals = [replace(before, body=b"%d" % n) for n in range(20)]
        answers = await together(store.put_schedule(rival, if_version=1) for rival in rivals)
        assert Counter(answers) == {True: 1, False: 19}
        after = await read_schedule(store)
        assert (after.body, after.version) == (b"%d" % answers.index(True), 2)


class ListTests(Conformance):
    """Which schedules there are, and which are due."""

    async def test_all_are_listed_by_id(self, store: BaseTaskQueue) -> None:
        for name in ("b", "C", "a"):
            await put(store, new_schedule(name, next_run=None))
        assert await names(store) == ["C", "a", "b"]

    async def test_of_those_asked_for_the_existing_are_told(self, store: BaseTaskQueue) -> None:
        for name in ("a", "b", "c"):
            await put(store, new_schedule(name, next_run=None))
        assert sorted(await names(store, "c", "nobody", "a")) == ["a", "c"]

    async def test_due_are_active_ones_whose_slot_has_come(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        soon = clock.now() + 60
        await put(store, new_schedule("due", next_run=soon))
        await put(store, new_schedule("paused", next_run=soon, paused=True))
        await put(store, new_schedule("over", next_run=None))
        await put(store, new_schedule("later", next_run=soon + 1000))
        assert await names(store, within=0.0) == await names(store, within=50.0) == []
        assert await names(store, within=70.0) == ["due"]
        clock.advance(100)
        assert await names(store, within=0.0) == ["due"]
        assert await names(store, "due", "paused", "later", within=0.0) == ["due"]
        assert await names(store, "paused", "later", within=0.0) == []

    async def test_a_slot_may_be_as_long_ago_as_anybody_likes(self, store: BaseTaskQueue) -> None:
        slots = {"a": -1e9, "b": -5.5, "c": 0.0}
        for name, slot in slots.items():
            assert (await put(store, new_schedule(name, next_run=slot))).next_run == exactly(slot)
        assert await names(store, within=0.0) == ["a", "b", "c"]
        assert await fire(store, "a", if_version=1, next_run=-1e8, task=slot_task(1))
        assert (await read_schedule(store, "a")).next_run == exactly(-1e8)

    async def test_a_deleted_one_is_gone(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=0.0))
        assert await store.delete_schedule("nightly")
        assert not await store.delete_schedule("nightly")
        assert await names(store) == await names(store, "nightly") == await names(store, within=0.0) == []

    async def test_a_deleted_one_can_be_put_anew(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=None))
        await store.delete_schedule("nightly")
        assert (await put(store, new_schedule(next_run=None))).version == 1


class FireTests(Conformance):
    """A slot's task is added once, and the schedule moves with it."""

    async def test_it_adds_the_task_and_moves_the_schedule(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        before = await put(store, new_schedule(next_run=clock.now() - 10))
        slot, next_run = clock.now() - 10, clock.now() + 50
        assert await fire(store, "nightly", if_version=1, slot=slot, next_run=next_run, task=slot_task(1))
        after = await read_schedule(store)
        assert after.next_run == exactly(next_run)
        assert after.last_run == exactly(slot)
        assert after == replace(before, version=2, next_run=after.next_run, last_run=after.last_run)
        record = await read(store, slot_task(1).id)
        assert (record.state, record.schedule_id, record.body) == (TaskState.PENDING, "nightly", b"body")
        assert ids(await claim(store)) == {slot_task(1).id}

    async def test_a_slots_task_is_stored_as_given(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await put(store, new_schedule(next_run=0.0))
        priority = 7 if Capability.PRIORITY in store.capabilities else 0
        task = new_task("t", name="f", run_at=clock.now() + 60.25, ttl=30.5, priority=priority, schedule_id="nightly")
        assert await fire(store, "nightly", if_version=1, next_run=None, task=task)
        assert_same(await read(store, "t"), rules.new_record(task, clock.now()))

    async def test_many_are_fired_in_one_call(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        names = [f"s{n:03}" for n in range(100)]
        for name in names:
            await put(store, new_schedule(name, next_run=clock.now() - 10))
        await store.delete_schedule("s007")
        firings = [
            Firing(
                schedule_id=name,
                if_version=2 if name == "s005" else 1,
                slot=1.0,
                next_run=None,
                task=new_task(f"t-{name}"),
            )
            for name in names
        ]
        past = {"s005", "s007"}
        assert await store.fire(firings) == [name not in past for name in names]
        assert ids(await claim(store, limit=200)) == {f"t-{name}" for name in names if name not in past}
        assert await store.fire(firings) == [False] * len(names)

    async def test_one_that_is_fired_meanwhile_is_not_told_as_due(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        names = [f"s{n:02}" for n in range(50)]
        for name in names:
            await put(store, new_schedule(name, next_run=clock.now() - 10))
        left = set(names)

        async def fire_all() -> list[ScheduleRecord]:
            for name in names:
                assert await fire(store, name, if_version=1, next_run=clock.now() + 3600, task=new_task(name))
                left.discard(name)
            return []

        async def look() -> list[ScheduleRecord]:
            seen: list[ScheduleRecord] = []
            while left:
                seen += await store.schedules(within=0.0)
            return seen

        for told in await in_other_loops(store, [fire_all, look, look]):
            assert [record.id for record in told if (record.next_run or 0.0) > clock.now()] == []

    async def test_the_last_slot_leaves_none(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=0.0))
        assert await fire(store, "nightly", if_version=1, next_run=None, task=slot_task(1))
        assert (await read_schedule(store)).next_run is None
        assert await names(store, within=0.0) == []

    @pytest.mark.parametrize("version", [0, 1, 3])
    async def test_another_version_is_not_fired(self, store: BaseTaskQueue, version: int) -> None:
        first = await put(store, new_schedule(next_run=0.0))
        await store.put_schedule(replace(first, paused=True), if_version=1)
        before = await read_schedule(store)
        assert not await fire(store, "nightly", if_version=version, next_run=None, task=slot_task(1))
        assert await read_schedule(store) == before
        assert await states(store, [slot_task(1).id]) == [None]

    async def test_a_deleted_schedule_is_not_fired(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=0.0))
        await store.delete_schedule("nightly")
        assert not await fire(store, "nightly", if_version=1, next_run=None, task=slot_task(1))
        assert await names(store) == []
        assert await states(store, [slot_task(1).id]) == [None]

    async def test_a_slots_task_that_is_there_is_untouched(self, store: BaseTaskQueue) -> None:
        await add(store, slot_task(1))
        (held,) = await claim(store)
        await put(store, new_schedule(next_run=0.0))
        assert await fire(store, "nightly", if_version=1, next_run=None, task=slot_task(1))
        assert await read(store, held.id) == held
        assert (await read_schedule(store)).version == 2

    async def test_of_concurrent_callers_one_fires(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=0.0))
        for version in (1, 2, 3):
            answers = await together(
                fire(store, "nightly", if_version=version, next_run=float(version), task=slot_task(version))
                for _ in range(20)
            )
            assert Counter(answers) == {True: 1, False: 19}
            assert (await read_schedule(store)).version == version + 1
        assert ids(await claim(store)) == {slot_task(version).id for version in (1, 2, 3)}

    async def test_schedulers_in_several_loops_fire_each_slot_once(self, store: BaseTaskQueue) -> None:
        await put(store, new_schedule(next_run=0.0))

        async def scheduler() -> int:
            fired = 0
            while (schedule := await read_schedule(store)).version <= 20:
                slot = schedule.version
                fired += await fire(store, "nightly", if_version=slot, next_run=float(slot), task=slot_task(slot))
            return fired

        assert sum(await in_other_loops(store, [scheduler] * 4)) == 20
        assert ids(await claim(store)) == {slot_task(slot).id for slot in range(1, 21)}


class WaitTests(Conformance):
    """A hint that comes soon, for what this process does."""

    async def test_it_ends_after_the_timeout(self, store: BaseTaskQueue) -> None:
        async with asyncio.timeout(PATIENCE):
            await store.wait([QUEUE], 0.05)

    async def test_it_ends_when_a_task_is_added(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE])):
            await add(store, new_task())

    async def test_a_task_added_from_another_loop_ends_it(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE])):
            await in_other_loops(store, [partial(add, store, new_task())])

    async def test_it_ends_when_a_task_goes_back(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        async with woken(partial(store.wait, [QUEUE])):
            await change(store, finish(record, TaskState.PENDING))

    async def test_it_ends_when_a_lapsed_task_goes_back(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await lapsed(store, clock)
        async with woken(partial(store.wait, [QUEUE])):
            await reap(store)

    async def test_it_ends_when_a_schedule_fires(self, store: BaseTaskQueue) -> None:
        await store.put_schedule(new_schedule("s", next_run=0.0), if_version=None)
        async with woken(partial(store.wait, [QUEUE])):
            assert await fire(store, "s", if_version=1, next_run=None, task=new_task())

    async def test_it_ends_when_a_queue_is_resumed(self, store: BaseTaskQueue) -> None:
        await store.pause(QUEUE, paused=True)
        await add(store, new_task())
        async with woken(partial(store.wait, [QUEUE])):
            await store.pause(QUEUE, paused=False)

    async def test_it_ends_when_a_child_is_released(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent", queue="elsewhere"), new_task("child", parents=("parent",)))
        async with woken(partial(store.wait, [QUEUE])):
            await change(store, Change(task_id="child", to=TaskState.PENDING, from_states=(TaskState.WAITING,)))

    async def test_it_hears_of_each_of_its_queues(self, store: BaseTaskQueue) -> None:
        for queue in ("first", "second", "third"):
            async with woken(partial(store.wait, ["first", "second", "third"])):
                await add(store, new_task(queue=queue))
            await claim(store, queue)

    async def test_everybody_who_waits_is_told(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE]), 5):
            await add(store, new_task())

    async def test_it_ends_when_the_clock_makes_a_task_due(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", delay=100))
        async with woken(partial(store.wait, [QUEUE])):
            clock.advance(200)
        assert ids(await claim(store)) == {"t"}

    async def test_a_worker_that_waits_misses_nothing(self, store: BaseTaskQueue) -> None:
        added: set[str] = set()
        got: set[str] = set()

        async def worker() -> None:
            while len(got) < 30:
                got.update(ids(await claim(store)))
                await store.wait([QUEUE], 0.5)

        async with asyncio.timeout(6 * PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(worker())
            for _ in range(30):
                added.update(await add(store, new_task()))
                await asyncio.sleep(0)
        assert got == added

    async def test_whoever_has_nothing_to_claim_waits(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        """A worker claims after each wait: one that returned at once, again and again, would keep it busy."""
        await add(store, new_task("held"), new_task("ended"), new_task("child", parents=("held",)))
        _, ended = await claim(store)
        await change(store, finish(ended))
        await add(store, new_task("overdue", queue="paused"), new_task("later", queue="paused", delay=1))
        await store.pause("paused", paused=True)
        clock.advance(60)
        for queues in ([QUEUE], ["paused"], ["empty"], ["paused", QUEUE, "empty"]):
            turns, end = 0, time.monotonic() + SPELL
            while time.monotonic() < end:
                assert await claim(store, *queues) == []
                await store.wait(queues, SPELL)
                turns += 1
            assert turns <= MOST_TURNS, f"{turns} waits in {SPELL} s for {queues}"

    async def test_a_wait_can_be_cancelled(self, store: BaseTaskQueue) -> None:
        waiting = asyncio.create_task(store.wait([QUEUE], 100 * PATIENCE))
        while (await asyncio.wait([waiting], timeout=0.05))[0]:  # it may return for nothing
            waiting = asyncio.create_task(store.wait([QUEUE], 100 * PATIENCE))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with woken(partial(store.wait, [QUEUE])):
            await add(store, new_task())
