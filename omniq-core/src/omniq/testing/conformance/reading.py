"""`get`, `find`, `stats` and `children`."""

from __future__ import annotations

from typing import TypeAlias

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseTaskQueue
from omniq.storage.records import TaskFilter, TaskRecord
from omniq.testing.builders import (
    HOUR,
    IN_LINE,
    QUEUE,
    add,
    cancel,
    change,
    claim,
    exactly,
    finish,
    ids,
    new_task,
    new_tasks,
    read,
    running,
    until_equal,
)
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import Conformance

Stats: TypeAlias = tuple[str, bool, dict[TaskState, int]]
"""A queue's name, whether it is paused, and the counts that aren't zero."""


async def zoo(store: BaseTaskQueue) -> dict[TaskState, str]:
    """One task in every state, by state."""
    await add(store, *new_tasks(1 + len(TERMINAL)))
    held, *others = await claim(store)
    await change(store, *[finish(r, to) for r, to in zip(others, sorted(TERMINAL), strict=True)])
    await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
    ended = {to: record.id for to, record in zip(sorted(TERMINAL), others, strict=True)}
    queued = {TaskState.PENDING: "due", TaskState.SCHEDULED: "later", TaskState.WAITING: "child"}
    return {TaskState.RUNNING: held.id, **ended, **queued}


async def found(store: BaseTaskQueue, where: TaskFilter) -> list[str]:
    """The ids of the matching tasks on one page."""
    page = await store.find(where)
    assert page.cursor is None
    return [record.id for record in page.tasks]


async def pages(
    store: BaseTaskQueue, where: TaskFilter, limit: int, *, newest_first: bool = False
) -> list[list[TaskRecord]]:
    """All pages of the matching tasks."""
    result = []
    cursor = None
    while True:
        page = await store.find(where, newest_first=newest_first, limit=limit, cursor=cursor)
        result.append(page.tasks)
        if page.cursor is None:
            return result
        cursor = page.cursor


class GetTests(Conformance):
    """The tasks that were asked for, in that order."""

    async def test_what_is_not_there_is_none(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"))
        records = await store.get(["b", "nobody", "a"])
        assert [record and record.id for record in records] == ["b", None, "a"]

    async def test_many_are_read_in_one_call(self, store: BaseTaskQueue, many: int) -> None:
        added = await add(store, *new_tasks(many - 1))
        records = await store.get([*added, "nobody"])
        assert [record and record.id for record in records] == [*added, None]


class FindTests(Conformance):
    """The tasks that match, page by page."""

    async def test_an_empty_filter_finds_all_in_order_of_ids(self, store: BaseTaskQueue) -> None:
        names = ["b", "C", "a", "B", "1", "aa", "a-b", "a.b", "a_b"]
        await add(store, *[new_task(name) for name in names])
        assert await found(store, TaskFilter()) == sorted(names)

    async def test_long_ids_are_in_order_too(self, store: BaseTaskQueue) -> None:
        stems = ["x" * 253, "任" * 253, "𝄞" * 253]  # of up to 1,020 bytes
        names = [stem + end for stem in stems for end in ("b", "a", "ba", "ab", "任", "𝄞z")]
        await add(store, *[new_task(name, schedule_id="s") for name in names])
        for where in (TaskFilter(), TaskFilter(schedule_id="s"), TaskFilter(queue_name=QUEUE)):
            forward = [record.id for page in await pages(store, where, 5) for record in page]
            backward = [record.id for page in await pages(store, where, 5, newest_first=True) for record in page]
            assert forward == backward[::-1] == sorted(names)

    async def test_tasks_are_found_by_state(self, store: BaseTaskQueue) -> None:
        animals = await zoo(store)
        for state, task_id in animals.items():
            assert await found(store, TaskFilter(states=(state,))) == [task_id]
        two = (TaskState.ERROR, TaskState.WAITING)
        assert await found(store, TaskFilter(states=two)) == sorted(animals[state] for state in two)

    async def test_tasks_are_found_by_queue(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", queue="x"), new_task("b", queue="y"), new_task("c", queue="x"))
        assert await found(store, TaskFilter(queue_name="x")) == ["a", "c"]
        assert await found(store, TaskFilter(queue_name="unheard-of")) == []

    async def test_tasks_are_found_by_name(self, store: BaseTaskQueue) -> None:
        names = {"a": "shop:sell", "b": "shop:größe", "c": "shop:sell", "d": "Shop:sell", "e": "", "f": "x" * 255}
        await add(store, *[new_task(id_, name=name) for id_, name in names.items()])
        await change(store, cancel("c"))
        assert await found(store, TaskFilter(name="shop:sell")) == ["a", "c"]
        assert await found(store, TaskFilter(name="shop:sell", states=(TaskState.CANCELLED,))) == ["c"]
        assert await found(store, TaskFilter(name="shop:größe")) == ["b"]
        assert await found(store, TaskFilter(name="x" * 255)) == ["f"]
        assert await found(store, TaskFilter(name="shop")) == []

    async def test_they_come_backwards_if_the_newest_are_wanted_first(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(id_, name="f", queue=f"q{n % 2}") for n, id_ in enumerate("bdacfe")])
        await change(store, cancel("d"))
        pending = (TaskState.PENDING,)
        wheres = [TaskFilter(), TaskFilter(name="f"), TaskFilter(name="f", states=pending), TaskFilter(queue_name="q1")]
        for where in wheres:
            forward = [record.id for page in await pages(store, where, 2) for record in page]
            backward = [record.id for page in await pages(store, where, 2, newest_first=True) for record in page]
            assert backward == forward[::-1]
            assert len(forward) >= 3

    async def test_tasks_are_found_by_schedule(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", schedule_id="s"), new_task("b"), new_task("c", schedule_id="r"))
        assert await found(store, TaskFilter(schedule_id="s")) == ["a"]

    async def test_conditions_must_all_hold(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", queue="x", schedule_id="s"), new_task("b", queue="x"))
        await add(store, new_task("c", schedule_id="s"), new_task("d", queue="x", schedule_id="s"))
        await change(store, cancel("d"))
        where = TaskFilter(states=(TaskState.PENDING,), queue_name="x", schedule_id="s")
        assert await found(store, where) == ["a"]

    async def test_expired_are_those_that_wait_past_their_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        held, ended = await running(store, 2)
        await change(store, finish(ended))
        await add(store, new_task("pending", ttl=10), new_task("child", ttl=10, parents=("pending",)))
        await add(store, new_task("endless"), new_task("long", ttl=HOUR), new_task("later", delay=15, ttl=10))
        assert await found(store, TaskFilter(expired=True)) == []
        clock.advance(20)
        assert await found(store, TaskFilter(expired=True)) == ["child", "pending"]
        assert held.id not in await found(store, TaskFilter(expired=True))
        clock.advance(10)
        assert await found(store, TaskFilter(expired=True)) == ["child", "later", "pending"]

    async def test_claimed_and_ended_tasks_never_count_as_expired(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await add(store, *new_tasks(3, ttl=10))
        ended, given_back, _ = await claim(store)
        await change(store, finish(ended), finish(given_back, TaskState.PENDING))
        clock.advance(20)
        assert await found(store, TaskFilter(expired=True)) == [given_back.id]

    async def test_records_are_those_that_get_returns(self, store: BaseTaskQueue) -> None:
        await zoo(store)
        for bodies in (False, True):
            tasks = (await store.find(TaskFilter(), bodies=bodies)).tasks
            assert await store.get([record.id for record in tasks], bodies=bodies) == tasks

    async def test_bodies_are_told_only_where_they_are_asked_for(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("large", body=bytes(100_000)), new_task("small", body=b"body"))
        told = {"large": bytes(100_000), "small": b"body"}
        for where in (TaskFilter(), TaskFilter(states=IN_LINE), TaskFilter(queue_name=QUEUE)):
            assert {record.body for record in (await store.find(where)).tasks} == {b""}
            assert {record.id: record.body for record in (await store.find(where, bodies=True)).tasks} == told
        assert [record and record.body for record in await store.get(list(told), bodies=False)] == [b"", b""]

    async def test_the_functions_name_is_told_beside_the_body(self, store: BaseTaskQueue) -> None:
        names = {"a": "shop.tasks:größe", "b": "", "c": "x" * 255}
        await add(store, *[new_task(id_, name=name) for id_, name in names.items()])
        assert {record.id: record.name for record in (await store.find(TaskFilter())).tasks} == names
        assert {record.id: record.name for record in await claim(store)} == names
        assert {id_: (await read(store, id_)).name for id_ in names} == names


class PageTests(Conformance):
    """A cursor leads through all pages without gaps or repeats."""

    async def test_pages_hold_the_limit_and_end(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(10))
        result = await pages(store, TaskFilter(), 3)
        assert [len(page) for page in result if page] == [3, 3, 3, 1]
        assert [record.id for page in result for record in page] == sorted(added)

    async def test_a_page_that_ends_exactly_is_the_last(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(6))
        result = await pages(store, TaskFilter(), 3)
        assert [len(page) for page in result if page] == [3, 3]
        assert ids(record for page in result for record in page) == set(added)

    async def test_nothing_found_is_one_empty_page(self, store: BaseTaskQueue) -> None:
        assert await pages(store, TaskFilter(), 3) == [[]]

    async def test_a_filter_holds_on_every_page(self, store: BaseTaskQueue) -> None:
        await add(store, *new_tasks(7), *new_tasks(7, queue="other"))
        result = await pages(store, TaskFilter(queue_name="other"), 2)
        records = [record for page in result for record in page]
        assert {record.queue_name for record in records} == {"other"}
        assert len(ids(records)) == 7

    async def test_tasks_added_meanwhile_move_no_others(self, store: BaseTaskQueue) -> None:
        added = await add(store, *[new_task(f"m{n:02}") for n in range(10)])
        seen: list[TaskRecord] = []
        cursor = None
        for turn in range(20):
            page = await store.find(TaskFilter(), limit=3, cursor=cursor)
            seen += page.tasks
            if page.cursor is None:
                break
            cursor = page.cursor
            if turn < 3:
                await add(store, new_task(f"a{turn}"), new_task(f"m0{turn}x"), new_task(f"z{turn}"))
        assert set(added) <= ids(seen)
        assert [record.id for record in seen] == sorted(record.id for record in seen)

    async def test_tasks_that_leave_meanwhile_move_no_others(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(f"t{n}") for n in range(6)])
        where = TaskFilter(states=(TaskState.PENDING,))
        first = await store.find(where, limit=2)
        await change(store, *[cancel(record.id) for record in first.tasks])
        second = await store.find(where, limit=9, cursor=first.cursor)
        assert [record.id for record in second.tasks] == ["t2", "t3", "t4", "t5"]


class StatsTests(Conformance):
    """How many tasks are where."""

    async def test_an_empty_store_has_no_queues(self, store: BaseTaskQueue) -> None:
        assert await store.stats() == []

    async def test_every_queue_is_counted_by_state(self, store: BaseTaskQueue) -> None:
        await zoo(store)
        await add(store, *new_tasks(2, queue="b"), *new_tasks(3, queue="a", delay=HOUR))
        a = ("a", False, {TaskState.SCHEDULED: 3})
        b = ("b", False, {TaskState.PENDING: 2})
        await self._assert_stats(store, a, b, (QUEUE, False, dict.fromkeys(TaskState, 1)))

    async def test_counts_follow_the_tasks(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("a"), new_task("b"), new_task("c", delay=10))
        clock.advance(20)
        records = await claim(store)
        await change(store, finish(records[0]))
        await self._assert_stats(store, (QUEUE, False, {TaskState.RUNNING: 2, TaskState.SUCCESS: 1}))

    async def test_a_paused_queue_is_there_without_tasks(self, store: BaseTaskQueue) -> None:
        await store.pause("empty", paused=True)
        await self._assert_stats(store, ("empty", True, {}))
        await store.pause("empty", paused=False)
        await self._assert_stats(store)

    async def test_a_queue_is_gone_with_its_last_task(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        await change(store, finish(record))
        clock.advance(20)
        await store.purge(older_than=10)
        await self._assert_stats(store)

    async def test_the_oldest_due_task_is_told(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        start = clock.now()
        await add(store, new_task("later", queue="later", run_at=start + 10))
        await add(store, new_task("child", queue="c", parents=("later",)))
        await add(store, *[new_task(f"t{n}", run_at=start - n) for n in (3, 9, 1, 8, 2)])
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 9)}
        await claim(store, limit=1)
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 8)}
        clock.advance(20)
        assert await self._oldest(store) == {"later": exactly(start + 10), "c": None, QUEUE: exactly(start - 8)}
        await store.pause(QUEUE, paused=True)
        await claim(store, "later")
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 8)}

    async def _oldest(self, store: BaseTaskQueue) -> dict[str, object]:
        return {queue.name: queue.oldest_due for queue in await store.stats()}

    async def _assert_stats(self, store: BaseTaskQueue, *wanted: Stats) -> None:
        """Wait until these are the queues: counts may lag, and may name a state that no task is in."""

        async def stats() -> list[Stats]:
            return [
                (queue.name, queue.paused, {state: count for state, count in queue.counts.items() if count})
                for queue in await store.stats()
            ]

        await until_equal(stats, list(wanted))


class ChildrenTests(Conformance):
    """The edges from parents to children."""

    async def test_every_task_has_its_children(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"), new_task("c", parents=("a",)))
        await add(store, new_task("d", parents=("b", "a")), new_task("e", parents=("c",)))
        assert await self._children(store, "a", "b", "c", "d") == [["c", "d"], ["d"], ["e"], []]

    async def test_what_is_not_there_has_none(self, store: BaseTaskQueue) -> None:
        assert await store.children(["nobody"]) == [[]]

    async def test_children_stay_whatever_their_state(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b", parents=("a",)), new_task("c", parents=("a",)))
        await change(store, cancel("b"), cancel("a"))
        assert await self._children(store, "a") == [["b", "c"]]

    async def test_a_task_may_have_many_children(self, store: BaseTaskQueue, many: int) -> None:
        await add(store, new_task("a"))
        added = await add(store, *[new_task(parents=("a",)) for _ in range(many)])
        assert await self._children(store, "a") == [sorted(added)]

    async def _children(self, store: BaseTaskQueue, *task_ids: str) -> list[list[str]]:
        return [sorted(children) for children in await store.children(task_ids)]
