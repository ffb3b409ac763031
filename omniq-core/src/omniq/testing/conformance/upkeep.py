"""What is done from time to time: what is old is deleted, bodies are replaced, and workers are heard of."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from omniq import clock as clocks
from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Change,
    ChangeStatus,
    NewBody,
    NewTask,
    Past,
    TaskFilter,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    QUEUE,
    about,
    add,
    assert_same,
    cancel,
    change,
    change_one,
    claim,
    finish,
    ids,
    new_task,
    new_tasks,
    new_worker,
    race,
    read,
    running,
    states,
    together,
    until_equal,
)
from omniq.testing.conformance.base import Conformance

MISSING, APPLIED = ChangeStatus.MISSING, ChangeStatus.APPLIED
DEAD = (TaskState.ERROR,)


async def ended(store: BaseTaskQueue, count: int) -> set[str]:
    """As many tasks that have just ended."""
    records = await running(store, count)
    await change(store, *map(finish, records))
    return ids(records)


# ── what comes from another store ────────────────────────────────────────────


def moved(task_id: str, state: TaskState, *, parents: tuple[str, ...] = (), run_at: float, **fields: Any) -> NewTask:
    """A task with a past in another store: an hour old, claimed four times, ended half an hour ago if it has."""
    ended_at = clocks.now() - HOUR / 2 if state in TERMINAL else None
    counts = {"epoch": 4, "attempts": 2, "crashes": 1}
    past = Past(state=state, created_at=clocks.now() - HOUR, finished_at=ended_at, **counts)
    return replace(new_task(task_id, parents=parents, run_at=run_at, **fields), past=past)


class PastTests(Conformance):
    """A task that is moved from another store is stored with its past."""

    @pytest.mark.parametrize("state", sorted(TERMINAL | {TaskState.PENDING, TaskState.WAITING}))
    async def test_it_reads_back_as_the_rules_say(
        self, store: BaseTaskQueue, clock: VirtualClock, state: TaskState
    ) -> None:
        await add(store, new_task("parent"))
        for number, due in enumerate((-9.0, 9.0)):
            task = moved(f"t{number}", state, parents=("parent",), run_at=clock.now() + due, ttl=90, schedule_id="s")
            await add(store, task, new_task(f"new{number}"))
            record = await read(store, task.id)
            assert_same(record, rules.new_record(task, clock.now()))
            assert record in (await store.find(TaskFilter(states=(record.state,)), bodies=True)).tasks
        assert await store.children(["parent"]) == [["t0", "t1"]]

    async def test_its_claims_go_on_counting(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, moved("t", TaskState.PENDING, run_at=clock.now() - 1))
        (claimed,) = await claim(store)
        assert (claimed.epoch, claimed.attempts, claimed.crashes) == (5, 2, 1)
        assert claimed.created_at == about(clock.now() - HOUR)
        await change(store, finish(claimed))

    @pytest.mark.parametrize("state", sorted(TERMINAL))
    async def test_one_that_has_ended_stays_ended(
        self, store: BaseTaskQueue, clock: VirtualClock, state: TaskState
    ) -> None:
        await add(store, moved("t", state, run_at=clock.now() - HOUR, ttl=60), moved("u", state, run_at=clock.now()))
        assert await claim(store) == []
        assert (await store.find(TaskFilter(expired=True))).tasks == []

        async def counts() -> list[dict[TaskState, int]]:
            return [{s: n for s, n in stats.counts.items() if n} for stats in await store.stats()]

        await until_equal(counts, [{state: 2}])
        assert await store.delete(["u"], states=(state,)) == [True]
        assert await store.purge(older_than=HOUR / 2 + 60) == 0
        assert await store.purge(older_than=HOUR / 2 - 60) == 1

    async def test_one_that_has_ended_can_start_afresh(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, moved("t", TaskState.ERROR, run_at=clock.now() - HOUR))
        to, dead = TaskState.PENDING, (TaskState.ERROR,)
        await change(store, Change(task_id="t", to=to, from_states=dead, epoch=4, fresh=True))
        (claimed,) = await claim(store)
        assert (claimed.id, claimed.epoch, claimed.attempts, claimed.finished_at) == ("t", 5, 0, None)

    async def test_a_child_that_was_released_waits_no_more(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        parent = moved("parent", TaskState.SUCCESS, run_at=clock.now() - HOUR)
        await add(store, parent, moved("child", TaskState.PENDING, parents=("parent",), run_at=clock.now() - 1))
        assert await store.delete(["parent"]) == [True]
        assert ids(await claim(store)) == {"child"}

    async def test_a_parent_is_kept_for_a_child_that_waits(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        parent = moved("parent", TaskState.SUCCESS, run_at=clock.now() - HOUR)
        await add(store, parent, moved("child", TaskState.WAITING, parents=("parent",), run_at=clock.now() - 1))
        assert await store.delete(["parent"]) == [False]
        release = Change(task_id="child", to=TaskState.PENDING, from_states=(TaskState.WAITING,), epoch=4)
        await change(store, release)
        assert await store.delete(["parent"]) == [True]

    async def test_one_that_is_there_is_untouched(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t"))
        assert await store.add([moved("t", TaskState.ERROR, run_at=clock.now())]) == [DUPLICATE]
        assert await states(store, ["t"]) == [TaskState.PENDING]


# ── what is old ──────────────────────────────────────────────────────────────


class PurgeTests(Conformance):
    """Tasks that ended long ago are deleted, as many as asked."""

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_an_ended_task_is_deleted_at_its_age(
        self, store: BaseTaskQueue, clock: VirtualClock, to: TaskState
    ) -> None:
        (record,) = await running(store)
        await change(store, finish(record, to))
        clock.advance(20)
        assert await store.purge(older_than=30) == 0
        clock.advance(20)
        assert await store.purge(older_than=30) == 1
        assert await states(store, [record.id]) == [None]
        assert await store.purge(older_than=30) == 0

    async def test_an_age_counts_from_the_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        clock.advance(HOUR)
        await change(store, finish(record))
        assert await store.purge(older_than=HOUR / 2) == 0

    async def test_what_has_not_ended_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (held,) = await running(store)
        await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
        clock.advance(1000)
        assert await store.purge(older_than=0) == 0
        assert None not in await states(store, [held.id, "due", "later", "child"])

    async def test_a_requeued_task_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        requeue = Change(task_id=record.id, to=TaskState.PENDING, from_states=(TaskState.ERROR,), fresh=True)
        await change(store, finish(record, TaskState.ERROR), requeue)
        clock.advance(20)
        assert await store.purge(older_than=10) == 0
        assert ids(await claim(store)) == {record.id}

    async def test_no_more_than_the_limit_are_deleted(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        gone = await ended(store, 5)
        clock.advance(20)
        assert [await store.purge(older_than=10, limit=limit) for limit in (2, 2, 2, 2)] == [2, 2, 1, 0]
        assert set(await states(store, gone)) == {None}

    async def test_only_the_wanted_states_are_purged(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        ended = dict(zip(sorted(TERMINAL), await running(store, len(TERMINAL)), strict=True))
        await change(store, *[finish(record, to) for to, record in ended.items()])
        clock.advance(20)
        assert await store.purge(older_than=10, states=(TaskState.SUCCESS, TaskState.EXPIRED)) == 2
        left = [record.id for to, record in ended.items() if to in (TaskState.CANCELLED, TaskState.ERROR)]
        assert await states(store, left) == [TaskState.CANCELLED, TaskState.ERROR]
        assert await store.purge(older_than=10, states=DEAD) == 1
        assert await states(store, left) == [TaskState.CANCELLED, None]
        assert await store.purge(older_than=10, states=()) == 0

    async def test_a_purge_goes_by_how_a_task_ended_last(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        requeue = Change(task_id=record.id, to=TaskState.PENDING, from_states=DEAD, fresh=True)
        await change(store, finish(record, TaskState.ERROR), requeue)
        await change(store, *map(finish, await claim(store)))
        clock.advance(20)
        assert await store.purge(older_than=10, states=DEAD) == 0
        assert await store.purge(older_than=10, states=(TaskState.SUCCESS,)) == 1

    async def test_any_number_may_be_deleted(self, store: BaseTaskQueue, many: int, clock: VirtualClock) -> None:
        await ended(store, many)
        clock.advance(20)
        assert await store.purge(older_than=10, limit=many) == many

    async def test_a_waiting_childs_parent_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("a"), new_task("b"))
        await add(store, new_task("child", parents=("a", "b")), new_task("other", parents=("b",)))
        await change(store, cancel("a"), cancel("b"))
        clock.advance(20)
        assert await store.purge(older_than=10) == 0
        await change(store, cancel("child"))
        assert await store.purge(older_than=10) == 1
        assert await states(store, ["a", "b"]) == [None, TaskState.CANCELLED]
        assert [sorted(children) for children in await store.children(["b"])] == [["child", "other"]]

    async def test_kept_parents_stop_no_others(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        parents = await add(store, *new_tasks(5))
        await add(store, *[new_task(parents=(parent,)) for parent in parents])
        await change(store, *map(cancel, parents))
        clock.advance(1)
        gone = await ended(store, 3)
        clock.advance(20)
        assert await store.purge(older_than=10, limit=3) == 3
        assert set(await states(store, gone)) == {None}
        assert None not in await states(store, parents)

    async def test_a_deleted_child_is_no_child(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("parent"), new_task("child", parents=("parent",)))
        await change(store, cancel("child"))
        clock.advance(20)
        assert await store.purge(older_than=10) == 1
        assert await store.children(["parent"]) == [[]]

    async def test_a_deleted_parent_has_no_children(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("parent"), new_task("child", parents=("parent",)))
        await change(store, cancel("parent"), cancel("child"))
        clock.advance(20)
        assert sum([await store.purge(older_than=10) for _ in range(2)]) == 2
        assert await store.children(["parent"]) == [[]]
        await add(store, new_task("parent"))
        assert await store.children(["parent"]) == [[]]
        (record,) = await claim(store)
        assert not (await change_one(store, finish(record))).has_children

    async def test_a_deleted_id_can_be_used_anew(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (gone,) = await ended(store, 1)
        clock.advance(20)
        await store.purge(older_than=10)
        assert await store.add([new_task("x", parents=(gone,)), new_task(gone)]) == [UNKNOWN_PARENT, NEW]
        assert [(record.id, record.epoch) for record in await claim(store)] == [(gone, 1)]

    @pytest.mark.parametrize("seed", range(10))
    async def test_a_parent_is_deleted_or_gets_its_child(
        self, store: BaseTaskQueue, clock: VirtualClock, seed: int
    ) -> None:
        parents = sorted(await ended(store, 4))
        clock.advance(20)
        adds = [store.add([new_task(f"child-of-{parent}", parents=(parent,))]) for parent in parents]
        added, _ = await race(adds, [store.purge(older_than=10, limit=2) for _ in range(2)], seed)
        for parent, answer, state in zip(parents, added, await states(store, parents), strict=True):
            assert answer == [UNKNOWN_PARENT if state is None else NEW], parent

    async def test_concurrent_purges_delete_each_task_once(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await ended(store, 30)
        clock.advance(20)
        assert sum(await together(store.purge(older_than=10, limit=7) for _ in range(10))) == 30


class DeleteTests(Conformance):
    """Tasks that have ended are deleted by their ids."""

    async def test_ended_tasks_are_deleted_by_their_ids(self, store: BaseTaskQueue) -> None:
        one, other, kept = await ended(store, 3)
        assert await store.delete([one, "nobody", other]) == [True, False, True]
        assert await states(store, [one, other, kept]) == [None, None, TaskState.SUCCESS]
        assert await store.delete([one]) == [False]

    async def test_what_has_not_ended_is_not_deleted(self, store: BaseTaskQueue) -> None:
        (held,) = await running(store)
        await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
        before = await store.get([held.id, "due", "later", "child"])
        assert await store.delete([held.id, "due", "later", "child"]) == [False] * 4
        assert await store.get([held.id, "due", "later", "child"]) == before

    async def test_only_tasks_that_ended_as_wanted_are_deleted(self, store: BaseTaskQueue) -> None:
        failed, done = await running(store, 2)
        await change(store, finish(failed, TaskState.ERROR), finish(done))
        assert await store.delete([failed.id, done.id], states=DEAD) == [True, False]
        assert await states(store, [failed.id, done.id]) == [None, TaskState.SUCCESS]

    async def test_a_waiting_childs_parent_is_not_deleted(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"), new_task("child", parents=("a", "b")))
        await change(store, cancel("a"))
        assert await store.delete(["a"]) == [False]
        await change(store, cancel("child"))
        assert await store.delete(["a", "child"]) == [True, True]
        assert await store.children(["a", "b"]) == [[], []]

    async def test_a_deleted_task_leaves_no_trace(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("parent"), new_task("gone", parents=("parent",), name="f"))
        await change(store, cancel("gone"))
        assert await store.delete(["gone"]) == [True]
        assert (await store.find(TaskFilter(name="f"))).tasks == []
        clock.advance(20)
        assert await store.purge(older_than=10) == 0
        assert await store.add([new_task("gone")]) == [NEW]
        assert await store.children(["parent"]) == [[]]

    async def test_a_delete_and_a_requeue_exclude_each_other(self, store: BaseTaskQueue) -> None:
        records = await running(store, 6)
        await change(store, *[finish(record, TaskState.ERROR) for record in records])
        back = [Change(task_id=r.id, to=TaskState.PENDING, from_states=DEAD, fresh=True) for r in records]
        gone, returned = await race(
            [store.delete([record.id]) for record in records], [store.transition([each]) for each in back], 0
        )
        for (is_gone,), (answer,), state in zip(
            gone, returned, await states(store, [record.id for record in records]), strict=True
        ):
            assert (is_gone, answer.status, state) in (
                (True, MISSING, None),
                (False, APPLIED, TaskState.PENDING),
            )


LARGE = b"l" * 100_000


async def in_every_state(store: BaseTaskQueue) -> list[TaskRecord]:
    """A task in each state, but expired."""
    await add(store, new_task("done"), new_task("failed"), new_task("held"))
    for record in await claim(store, limit=3):
        if record.id != "held":
            await change(store, finish(record, TaskState.SUCCESS if record.id == "done" else TaskState.ERROR))
    await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
    return [await read(store, id_) for id_ in ("done", "failed", "held", "due", "later", "child")]


class TaskBodyTests(Conformance):
    """The bodies of tasks."""

    async def test_a_body_is_replaced_in_every_state_and_nothing_else_changes(self, store: BaseTaskQueue) -> None:
        before = await in_every_state(store)
        changes = [NewBody(task_id=task.id, old=task.body, body=b"new " + task.id.encode()) for task in before]
        assert await store.replace_bodies(changes) == [True] * len(before)
        after = [replace(task, body=b"new " + task.id.encode()) for task in before]
        assert await store.get([task.id for task in before]) == after

    async def test_a_body_that_is_another_by_now_stays(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"now"))
        assert await store.replace_bodies([NewBody(task_id="t", old=b"then", body=b"new")]) == [False]
        assert (await read(store, "t")).body == b"now"
        await add(store, new_task("u", body=b"then"))
        both = [NewBody(task_id=id_, old=b"then", body=b"new") for id_ in "tu"]
        assert await store.replace_bodies(both) == [False, True]

    async def test_a_task_that_is_not_there_does_not_come_to_be(self, store: BaseTaskQueue) -> None:
        assert await store.replace_bodies([NewBody(task_id="none", old=b"", body=b"new")]) == [False]
        assert await store.get(["none"]) == [None]

    async def test_bodies_grow_large_and_small(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"small"), new_task("u"))
        for old, new in ((b"small", LARGE), (LARGE, LARGE + b"!"), (LARGE + b"!", b""), (b"", b"small")):
            assert await store.replace_bodies([NewBody(task_id="t", old=old, body=new)]) == [True]
            assert (await read(store, "t")).body == new
        assert [task.body for task in await claim(store, limit=2)] == [b"small", (await read(store, "u")).body]

    async def test_of_two_at_once_one_wins(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"old"))
        rivals = [NewBody(task_id="t", old=b"old", body=b"%d" % number) for number in range(8)]
        answers = await together(store.replace_bodies([rival]) for rival in rivals)
        assert sorted(answers) == [[False]] * 7 + [[True]]
        assert (await read(store, "t")).body == b"%d" % answers.index([True])

    async def test_a_task_goes_on_with_its_new_body(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await store.replace_bodies([NewBody(task_id=record.id, old=record.body, body=b"new")]) == [True]
        assert await change(store, finish(record, TaskState.PENDING)) == ["applied"]
        assert [task.body for task in await claim(store)] == [b"new"]

    async def test_a_replaced_body_disturbs_no_cancel(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"old"))
        await store.replace_bodies([NewBody(task_id="t", old=b"old", body=b"new")])
        assert await change(store, cancel("t")) == ["applied"]


class WorkerTests(Conformance):
    """Workers say that they are alive, and what they do."""

    async def test_workers_are_listed_by_name_as_they_were_last_seen(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        worker = new_worker("b")
        await store.beat(worker)
        await store.beat(WorkerRecord(name="a"))
        clock.advance(60)
        await store.beat(replace(worker, running=5))
        first, second = await store.workers()
        assert (first.name, first.last_seen) == ("a", about(clock.now() - 60))
        assert second == replace(worker, running=5, last_seen=second.last_seen)
        assert second.last_seen == about(clock.now())

    async def test_a_worker_that_leaves_is_gone(self, store: BaseTaskQueue) -> None:
        await store.beat(WorkerRecord(name="a"))
        await store.beat(WorkerRecord(name="a"), leaving=True)
        await store.beat(WorkerRecord(name="b"), leaving=True)
        assert await store.workers() == []

    async def test_purging_forgets_those_that_were_not_seen_for_long(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await store.beat(WorkerRecord(name="old"))
        clock.advance(60)
        await store.beat(WorkerRecord(name="new"))
        await store.purge(older_than=30)
        assert [worker.name for worker in await store.workers()] == ["new"]

    async def test_a_worker_is_told_once_that_it_was_asked(self, store: BaseTaskQueue) -> None:
        asked, other = WorkerRecord(name="asked"), WorkerRecord(name="other")
        assert [await store.beat(asked), await store.beat(other)] == [False, False]
        assert await store.inspect("asked")
        assert await store.inspect("asked")
        assert not await store.beat(other)
        assert [await store.beat(asked), await store.beat(asked), await store.beat(asked)] == [True, False, False]
        assert await store.inspect("asked")
        assert [await store.beat(asked), await store.beat(asked)] == [True, False]

    async def test_what_it_runs_is_told_with_its_beat(self, store: BaseTaskQueue) -> None:
        await store.beat(WorkerRecord(name="w", running=1))
        await store.inspect("w")
        stacks = "task t\n  ü 名\n" + 3000 * "  File x.py, line 1\n"
        await store.beat(WorkerRecord(name="w", running=1, stacks=stacks, stacks_at=12.5))
        (told,) = await store.workers()
        assert (told.stacks, told.stacks_at) == (stacks, 12.5)
        await store.beat(WorkerRecord(name="w", running=1, stacks_at=12.5))
        (later,) = await store.workers()
        assert (later.stacks, later.stacks_at) == ("", 12.5)

    async def test_nobody_asks_a_worker_that_is_not_there(self, store: BaseTaskQueue) -> None:
        assert not await store.inspect("w")
        assert not await store.beat(WorkerRecord(name="w"))
        assert not await store.inspect("W")
        await store.beat(WorkerRecord(name="w"), leaving=True)
        assert not await store.inspect("w")
        assert not await store.beat(WorkerRecord(name="w"))

    async def test_what_a_worker_was_asked_goes_with_it(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        for name in ("left", "dead"):
            await store.beat(WorkerRecord(name=name))
            assert await store.inspect(name)
        await store.beat(WorkerRecord(name="left"), leaving=True)
        clock.advance(HOUR)
        await store.purge(older_than=30)
        assert [await store.beat(WorkerRecord(name=name)) for name in ("left", "dead")] == [False, False]

    async def test_the_clock_is_the_stores(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        clock.advance(1000)
        assert await store.now() == about(clock.now())
        (record,) = await running(store)
        assert record.claimed_at == pytest.approx(await store.now(), abs=1.0)


class FormerKeyTests(Conformance):
    """What becomes of a task that has given its key up doesn't concern whoever has it now."""

    needed = Capability.UNIQUE

    async def test_a_purge_leaves_a_key_to_its_holder(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", unique="key"))
        await change(store, cancel("t"))
        await add(store, new_task("u", unique="key"))
        clock.advance(60)
        assert await store.purge(older_than=30) == 1
        assert [added.holder for added in await store.add([new_task("v", unique="key")])] == ["u"]


class CursorTests(Conformance):
    """A page begins after any id: what else a list is restricted to, its caller may look at."""

    async def test_a_page_begins_after_any_id(self, store: BaseTaskQueue) -> None:
        await add(store, *map(new_task, "bdf"))
        await add(store, *[new_task(id_, queue="other") for id_ in "ace"])
        for where in (TaskFilter(), TaskFilter(queue_name=QUEUE), TaskFilter(states=(TaskState.PENDING,))):
            all_ = [task.id for task in (await store.find(where)).tasks]
            for cursor in ("a", "c", "cc", "f", "zz"):
                found = await store.find(where, cursor=cursor)
                assert [task.id for task in found.tasks] == [id_ for id_ in all_ if id_ > cursor]
                found = await store.find(where, cursor=cursor, newest_first=True)
                assert [task.id for task in found.tasks] == [id_ for id_ in all_[::-1] if id_ < cursor]
