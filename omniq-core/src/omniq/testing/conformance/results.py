"""Results: of one's own, in the step that ends a task, and as other processes see them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import cycle
from typing import Any, TypeAlias

import pytest
import pytest_asyncio
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability
from omniq.storage.records import DUPLICATE, NEW, Change, ChangeStatus, NewBody, ResultRecord, TaskRecord, WorkerRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    PATIENCE,
    QUEUE,
    add,
    cancel,
    change,
    claim,
    exactly,
    finish,
    ids,
    in_other_loops,
    lapsed,
    new_schedule,
    new_task,
    now,
    read,
    reap,
    result_of,
    running,
    states,
    together,
    until_equal,
    until_told,
    woken,
)
from omniq.testing.conformance.base import Conformance, Connect, Opener, needs
from omniq.testing.conformance.tasks import BODIES, ODD_IDS

# ── results ─────────────────────────────────────────────────────────────────


LARGE = b"l" * 100_000


async def stored_result(store: BaseResultStorage, task_id: str) -> ResultRecord:
    """A result that must be there."""
    (record,) = await store.get([task_id])
    assert record is not None
    return record


async def bodies(store: BaseResultStorage, *task_ids: str) -> list[bytes | None]:
    """The results' bodies, None for those that aren't there."""
    return [None if record is None else record.body for record in await store.get(task_ids)]


class PutResultTests(Conformance):
    """A result is stored unless a newer claim's is there."""

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_a_result_is_stored_as_given(self, store: BaseResultStorage, status: TaskState) -> None:
        given = result_of("t", 3, status=status, body=b"\x00r", schedule_id="s")
        assert await store.put([given]) == [True]
        stored = await stored_result(store, "t")
        assert stored.finished_at == now()
        assert (stored.task_id, stored.epoch, stored.status, stored.body) == ("t", 3, status, b"\x00r")
        assert (stored.schedule_id, stored.expires_at) == ("s", None)

    async def test_who_waits_finds_a_result_sooner_or_later(self, store: BaseResultStorage) -> None:
        async def found() -> list[bytes | None]:
            return [None if record is None else record.body for record in await store.get_recent(["t", "none"])]

        await store.put([result_of("t", 3, body=b"r")])
        await until_equal(found, [b"r", None])

    async def test_the_store_sets_the_times(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        clock.advance(HOUR)
        await store.put([replace(result_of("t", ttl=60.5), finished_at=1.0, expires_at=2.0)])
        stored = await stored_result(store, "t")
        assert stored.finished_at == now()
        assert stored.expires_at is not None
        assert stored.expires_at - stored.finished_at == exactly(60.5)

    async def test_a_newer_claims_result_wins(self, store: BaseResultStorage) -> None:
        assert await store.put([result_of("t", 1, body=b"1")]) == [True]
        assert await store.put([result_of("t", 3, body=b"3")]) == [True]
        assert await store.put([result_of("t", 2, body=b"2")]) == [False]
        assert await bodies(store, "t") == [b"3"]

    async def test_the_same_claims_result_is_replaced(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2, body=b"first", schedule_id="s")])
        assert await store.put([result_of("t", 2, body=b"second")]) == [True]
        assert await bodies(store, "t") == [b"second"]
        assert await store.find("s") == []

    async def test_within_one_call_some_may_be_refused(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2), result_of("u", 2)])
        batch = [result_of(id_, epoch, body=b"%d" % epoch) for id_, epoch in (("t", 1), ("u", 3), ("v", 1))]
        assert await store.put(batch) == [False, True, True]
        assert await bodies(store, "t", "u", "v") == [b"result", b"3", b"1"]

    async def test_progress_is_replaced_by_more_and_by_the_end(self, store: BaseResultStorage) -> None:
        assert await store.put([result_of("t", 1, status=TaskState.RUNNING, body=b"half")]) == [True]
        assert (await stored_result(store, "t")).status is TaskState.RUNNING
        assert await store.put([result_of("t", 1, status=TaskState.RUNNING, body=b"more")]) == [True]
        assert await store.put([result_of("t", 1, body=b"end")]) == [True]
        assert await bodies(store, "t") == [b"end"]

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_progress_never_replaces_the_end_of_its_claim(
        self, store: BaseResultStorage, status: TaskState
    ) -> None:
        await store.put([result_of("t", 2, status=status, body=b"end")])
        late = [result_of("t", epoch, status=TaskState.RUNNING, body=b"late") for epoch in (1, 2)]
        assert [await store.put([each]) for each in late] == [[False], [False]]
        assert await bodies(store, "t") == [b"end"]
        assert await store.put([result_of("t", 3, status=TaskState.RUNNING, body=b"next")]) == [True]
        assert (await stored_result(store, "t")).status is TaskState.RUNNING

    async def test_of_a_batch_only_late_progress_is_refused(self, store: BaseResultStorage) -> None:
        await store.put([result_of("ended", 2), result_of("further", 3, status=TaskState.RUNNING, body=b"further")])
        told = [result_of(id_, 2, status=TaskState.RUNNING, body=b"half") for id_ in ("ended", "new", "further")]
        assert await store.put([*told, result_of("end", 2, body=b"end")]) == [False, True, False, True]
        assert await bodies(store, "ended", "new", "further", "end") == [b"result", b"half", b"further", b"end"]

    async def test_of_an_end_and_concurrent_progress_the_end_stays(self, store: BaseResultStorage) -> None:
        told = [store.put([result_of("t", 2, status=TaskState.RUNNING, body=b"%d" % n)]) for n in range(10)]
        await together([*told[:5], store.put([result_of("t", 2, body=b"end")]), *told[5:]])
        assert await bodies(store, "t") == [b"end"]

    async def test_of_concurrent_writers_the_newest_claim_wins(self, store: BaseResultStorage) -> None:
        epochs = [3, 1, 10, 7, 2, 9, 4, 8, 6, 5]
        answers = await together(store.put([result_of("t", epoch, body=b"%d" % epoch)]) for epoch in epochs)
        assert answers[epochs.index(10)] == [True]
        assert await bodies(store, "t") == [b"10"]

    @pytest.mark.parametrize("body", BODIES, ids=len)
    async def test_a_body_is_any_bytes(self, store: BaseResultStorage, body: bytes) -> None:
        await store.put([result_of("t", body=body)])
        assert await bodies(store, "t") == [body]

    async def test_an_id_is_any_printable_text(self, store: BaseResultStorage) -> None:
        await store.put([result_of(id_, body=id_.encode()) for id_ in ODD_IDS])
        assert await bodies(store, *ODD_IDS) == [id_.encode() for id_ in ODD_IDS]

    async def test_a_big_batch_is_one_call(self, store: BaseResultStorage, many: int) -> None:
        records = [result_of(f"t{n}") for n in range(many)]
        assert await store.put(records) == [True] * many
        assert None not in await store.get([record.task_id for record in records])


class GetResultTests(Conformance):
    """The results that were asked for, while they are kept."""

    async def test_what_is_not_there_is_none(self, store: BaseResultStorage) -> None:
        await store.put([result_of("a", body=b"a"), result_of("b", body=b"b")])
        assert await bodies(store, "b", "nobody", "a") == [b"b", None, b"a"]

    async def test_an_expired_result_is_none(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10), result_of("long", ttl=100), result_of("endless")])
        clock.advance(20)
        assert await bodies(store, "short", "long", "endless") == [None, b"result", b"result"]
        clock.advance(1e6)
        assert await bodies(store, "short", "long", "endless") == [None, None, b"result"]

    async def test_a_new_ttl_counts_from_its_put(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("t", ttl=10)])
        clock.advance(5)
        await store.put([result_of("t", ttl=100)])
        clock.advance(50)
        assert await bodies(store, "t") == [b"result"]

    async def test_results_stay_when_the_store_is_closed(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t")])
        await store.close()
        await store.connect()
        assert await bodies(store, "t") == [b"result"]

    async def test_loops_share_one_store(self, store: BaseResultStorage) -> None:
        async def use(name: str) -> list[bool]:
            return await store.put([result_of(f"{name}-{n}") for n in range(10)])

        await in_other_loops(store, [partial(use, name) for name in "abc"])
        await use("here")
        wanted = [f"{name}-{n}" for name in ("a", "b", "c", "here") for n in range(10)]
        assert None not in await store.get(wanted)


class FindResultTests(Conformance):
    """The results of a schedule, in order."""

    async def test_they_come_in_order_of_their_end(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "b", "d", "a", "c")
        assert await self._found(store, newest_first=True) == ["c", "a", "d", "b"]
        assert await self._found(store, newest_first=False) == ["b", "d", "a", "c"]

    async def test_the_limit_takes_the_first(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "b", "d", "a", "c")
        assert await self._found(store, newest_first=True, limit=1) == ["c"]
        assert await self._found(store, newest_first=False, limit=3) == ["b", "d", "a"]

    async def test_a_result_that_is_replaced_moves(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "a", "b", "a")
        assert await self._found(store, newest_first=False) == ["b", "a"]

    async def test_others_are_not_found(self, store: BaseResultStorage) -> None:
        await store.put([result_of("a", schedule_id="s"), result_of("b", schedule_id="other"), result_of("c")])
        assert await self._found(store, newest_first=True) == ["a"]
        assert await store.find("unheard-of") == []

    async def test_expired_results_are_not_found(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10, schedule_id="s"), result_of("long", ttl=100, schedule_id="s")])
        clock.advance(20)
        assert await self._found(store, newest_first=True) == ["long"]

    async def test_expired_results_take_no_others_room(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        for number in range(6):
            await store.put([result_of(f"t{number}", ttl=10 if number in (0, 1, 4, 5) else None, schedule_id="s")])
            clock.advance(0.5)
        clock.advance(20)
        assert await self._found(store, newest_first=True, limit=2) == ["t3", "t2"]
        assert await self._found(store, newest_first=False, limit=1) == ["t2"]

    async def test_schedules_that_are_much_alike_are_different(self, store: BaseResultStorage) -> None:
        names = ["s", "s2", "S", "s/2", "s:", "s\u0301"]
        await store.put([result_of(f"of-{name}", schedule_id=name) for name in names])
        assert [[r.task_id for r in await store.find(name)] for name in names] == [[f"of-{name}"] for name in names]

    async def test_they_are_those_that_get_returns(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 3, ttl=10, schedule_id="s")])
        assert await store.find("s") == await store.get(["t"])

    async def _fill(self, store: BaseResultStorage, clock: VirtualClock, *task_ids: str) -> None:
        for task_id in task_ids:
            await store.put([result_of(task_id, schedule_id="s")])
            clock.advance(1)

    async def _found(self, store: BaseResultStorage, *, newest_first: bool, limit: int = 100) -> list[str]:
        return [record.task_id for record in await store.find("s", newest_first=newest_first, limit=limit)]


class PurgeResultTests(Conformance):
    """Expired results are deleted, as many as asked."""

    async def test_only_expired_results_are_deleted(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10), result_of("long", ttl=100), result_of("endless")])
        assert await store.purge() == 0
        clock.advance(20)
        assert [await store.purge(), await store.purge()] == [1, 0]
        assert await bodies(store, "short", "long", "endless") == [None, b"result", b"result"]

    async def test_no_more_than_the_limit_are_deleted(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of(f"t{n}", ttl=10) for n in range(5)])
        clock.advance(20)
        assert [await store.purge(limit=limit) for limit in (2, 2, 2, 2)] == [2, 2, 1, 0]

    async def test_progress_goes_as_results_do(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("t", 1, schedule_id="s")])
        await store.put([result_of("t", 2, status=TaskState.RUNNING, ttl=10)])
        assert await store.find("s") == []
        clock.advance(20)
        assert await bodies(store, "t") == [None]
        assert [await store.purge(), await store.purge()] == [1, 0]

    async def test_a_renewed_result_is_kept(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("t", ttl=10)])
        await store.put([result_of("t", ttl=100)])
        clock.advance(20)
        assert await store.purge() == 0
        assert await bodies(store, "t") == [b"result"]


class WaitResultTests(Conformance):
    """A hint that comes soon, for what this process stores."""

    async def test_hearing_ends_after_the_timeout(self, store: BaseResultStorage) -> None:
        async with asyncio.timeout(PATIENCE):
            await store.hear(0.05)

    async def test_it_comes_when_a_result_is_stored(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"])):
            await store.put([result_of("other"), result_of("t")])

    async def test_it_comes_whenever_progress_is_stored(self, store: BaseResultStorage) -> None:
        for body in (b"half", b"more"):
            async with woken(partial(until_told, store, ["s", "t"])):
                await store.put([result_of("t", status=TaskState.RUNNING, body=body)])

    async def test_it_comes_for_a_result_stored_from_another_loop(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"])):
            await in_other_loops(store, [partial(store.put, [result_of("t")])])

    async def test_everybody_who_waits_is_told(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"]), 5):
            await store.put([result_of("t")])


class ResultBodyTests(Conformance):
    """The bodies of results."""

    async def test_a_result_keeps_its_times_and_its_place(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        for number in range(3):
            clock.advance(1)
            await store.put([result_of(f"t{number}", 2, body=b"old", schedule_id="s", ttl=HOUR)])
        clock.advance(60)
        before = await store.find("s")
        assert await store.replace_bodies([NewBody(task_id="t0", old=b"old", body=LARGE)]) == [True]
        after = await store.find("s")
        assert [record.task_id for record in after] == ["t2", "t1", "t0"]
        assert after[:2] == before[:2]
        assert after[2].body == LARGE
        assert after[2].expires_at == exactly(before[2].expires_at or 0.0)
        assert replace(after[2], body=b"old") == before[2]

    async def test_a_result_that_is_another_by_now_stays(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2, body=b"now")])
        changes = [NewBody(task_id=id_, old=b"then", body=b"new") for id_ in ("t", "none")]
        assert await store.replace_bodies(changes) == [False, False]
        assert [record and record.body for record in await store.get(["t", "none"])] == [b"now", None]


# ── with the queue, and between processes ───────────────────────────────────


Stores: TypeAlias = tuple[BaseTaskQueue, BaseResultStorage]


async def watch(queue: BaseTaskQueue, results: BaseResultStorage, task_id: str, *, once: bool = False) -> None:
    """Look until a task has ended, or once: at no time is it seen without its result, nor that without its end."""
    ended = False
    while not ended:
        (early,) = await results.get([task_id])
        ended = (await read(queue, task_id)).state in TERMINAL
        (late,) = await results.get([task_id])
        assert early is None or ended, "there is a result, and the task hasn't ended"
        assert late is not None or not ended, "the task has ended, and there is no result"
        await asyncio.sleep(0)
        ended = ended or once


def _with_result(record: TaskRecord, to: TaskState) -> Change:
    """The end of a task that a worker holds, with a result."""
    return finish(record, to, result=result_of(record.id, status=to))


class AtomicTests(Conformance):
    """A change's result is stored in the step that applies the change."""

    needed = Capability.ATOMIC_RESULTS

    @pytest_asyncio.fixture(loop_scope="function")
    async def atomic(self, connect: Connect) -> Stores:
        """A queue and its results."""
        return await connect("task_queue"), await connect("result_store")

    async def test_both_are_at_one_location(self, atomic: Stores) -> None:
        queue, results = atomic
        assert queue.location == results.location

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_an_applied_changes_result_is_stored(self, atomic: Stores, status: TaskState) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        result = result_of(record.id, record.epoch, status=status, body=b"\x00r", ttl=60, schedule_id="s")
        assert await change(queue, finish(record, status, result=result)) == ["applied"]
        (stored,) = await results.get([record.id])
        assert stored is not None
        assert (stored.status, stored.epoch, stored.body) == (status, record.epoch, b"\x00r")
        assert stored.finished_at == now()
        assert stored.expires_at is not None
        assert stored.expires_at - stored.finished_at == exactly(60)
        assert await results.find("s") == [stored]

    async def test_a_refused_changes_result_is_not_stored(self, atomic: Stores, clock: VirtualClock) -> None:
        queue, results = atomic
        (late,) = await lapsed(queue, clock)
        await reap(queue)
        wanted = finish(late, result=result_of(late.id))
        assert await change(queue, wanted) == ["refused"]
        await claim(queue)
        assert await change(queue, wanted) == ["refused"]
        assert await results.get([late.id]) == [None]

    async def test_an_end_replaces_the_progress_and_the_end_of_an_older_claim(self, atomic: Stores) -> None:
        queue, results = atomic
        older, newer = await running(queue, 2)
        await results.put([result_of(older.id, 0), result_of(newer.id, status=TaskState.RUNNING, body=b"half")])
        ends = [finish(record, result=result_of(record.id, schedule_id="s", body=b"end")) for record in (older, newer)]
        assert await change(queue, *ends) == ["applied"] * 2
        assert await bodies(results, older.id, newer.id) == [b"end", b"end"]
        assert {record.task_id for record in await results.find("s")} == {older.id, newer.id}

    async def test_a_missing_tasks_result_is_not_stored(self, atomic: Stores) -> None:
        queue, results = atomic
        missing = Change(
            task_id="t", to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=1, result=result_of("t")
        )
        assert await change(queue, missing) == ["missing"]
        assert await results.get(["t"]) == [None]

    async def test_a_repeat_stores_nothing(self, atomic: Stores) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        first = finish(record, result=result_of(record.id, body=b"first"))
        second = finish(record, result=result_of(record.id, body=b"second"))
        assert await change(queue, first, second) == ["applied", "repeated"]
        assert await change(queue, second) == ["repeated"]
        assert [r and r.body for r in await results.get([record.id])] == [b"first"]

    async def test_each_change_of_a_batch_has_its_own_result(self, atomic: Stores) -> None:
        queue, results = atomic
        records = await running(queue, 4)
        await change(queue, finish(records[2], TaskState.ERROR))
        changes = [finish(record, result=result_of(record.id, body=record.id.encode())) for record in records[:3]]
        assert await change(queue, *changes, finish(records[3])) == ["applied", "applied", "refused", "applied"]
        found = [r and r.body for r in await results.get([record.id for record in records])]
        assert found == [records[0].id.encode(), records[1].id.encode(), None, None]

    async def test_of_concurrent_ends_the_applied_ones_result_is_stored(self, atomic: Stores) -> None:
        queue, results = atomic
        for record in await running(queue, 5):
            ends = sorted(TERMINAL) * 3
            changes = [finish(record, to, result=result_of(record.id, status=to)) for to in ends]
            answers = await together(change(queue, wanted) for wanted in changes)
            (winner,) = [to for to, answer in zip(ends, answers, strict=True) if answer == [ChangeStatus.APPLIED]]
            (stored,) = await results.get([record.id])
            assert stored is not None
            assert [stored.status] == await states(queue, [record.id]) == [winner]

    async def test_a_task_that_nobody_held_leaves_a_result_too(self, atomic: Stores) -> None:
        queue, results = atomic
        await add(queue, new_task("t"))
        result = result_of("t", 0, status=TaskState.CANCELLED)
        wanted = Change(task_id="t", to=TaskState.CANCELLED, from_states=(TaskState.PENDING,), result=result)
        assert await change(queue, wanted) == ["applied"]
        assert [r and r.status for r in await results.get(["t"])] == [TaskState.CANCELLED]

    async def test_nobody_sees_an_end_without_its_result(self, atomic: Stores, connect: Connect) -> None:
        queue, _ = atomic
        records = await running(queue, 60)
        others: Stores = await connect("task_queue"), await connect("result_store")
        idle = await add(queue, *[new_task(queue="idle") for _ in range(6)])
        looks = [watch(*others, task_id) for task_id in (*ids(records), *idle)]
        await asyncio.gather(*looks, self._end_all(queue, records), self._cancel_all(queue, idle))

    async def _cancel_all(self, queue: BaseTaskQueue, idle: Sequence[str]) -> None:
        for task_id in idle:
            await asyncio.sleep(0)
            result = result_of(task_id, 0, status=TaskState.CANCELLED)
            assert await change(queue, replace(cancel(task_id), result=result)) == ["applied"]

    async def _end_all(self, queue: BaseTaskQueue, records: Sequence[TaskRecord]) -> None:
        """End them in every way, every third one by itself and the others in pairs."""
        ends = [_with_result(record, to) for record, to in zip(records, cycle(sorted(TERMINAL)))]
        for start in range(0, len(ends), 3):
            for part in (ends[start : start + 1], ends[start + 1 : start + 3]):
                await asyncio.sleep(0)
                assert await change(queue, *part) == ["applied"] * len(part)

    async def test_a_cancelled_end_is_whole_or_none(self, atomic: Stores) -> None:
        queue, results = atomic
        for turns, (record, to) in enumerate(zip(await running(queue, 15), cycle(sorted(TERMINAL)))):
            ending = asyncio.ensure_future(queue.transition([_with_result(record, to)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            await watch(queue, results, record.id, once=True)

    async def test_whoever_waits_for_the_result_is_told(self, atomic: Stores) -> None:
        queue, results = atomic
        (record,) = await running(queue)
        async with woken(partial(until_told, results, [record.id])):
            await change(queue, finish(record, result=result_of(record.id)))


Recipe: TypeAlias = Callable[[], Any]


Work: TypeAlias = Callable[[BaseTaskQueue], Coroutine[Any, Any, None]]


ADDED = 7
AT_ONCE = 0.25
"""Seconds within which another process's tasks are heard of, most of the time: less than by looking now and then."""
CHILD_TIMEOUT = 60.0
"""Seconds that a child process may take, its start included."""


async def connect_only(store: BaseTaskQueue) -> None:
    """Nothing but what `connect` does."""


async def work_off(store: BaseTaskQueue) -> None:
    """Claim and end tasks until there are none."""
    while claimed := await claim(store, limit=3, worker=str(os.getpid())):
        assert await change(store, *map(finish, claimed)) == ["applied"] * len(claimed)
        await asyncio.sleep(0)


async def add_one(store: BaseTaskQueue) -> None:
    """Add one task."""
    await add(store, new_task())


async def add_now_and_then(store: BaseTaskQueue) -> None:
    """Add tasks that say when, one after the other."""
    for number in range(ADDED):
        await asyncio.sleep(0.23 + number * 0.07)  # in step with no poll
        await add(store, new_task(body=str(time.time()).encode()))


async def add_and_die(store: BaseTaskQueue) -> None:
    """Add, claim and end tasks, then die without a farewell."""
    await add(store, *[new_task(f"t{n}") for n in range(10)])
    first, second, _ = await claim(store, limit=3)
    await change(store, finish(first), finish(second))
    os._exit(0)


def child(recipe: Recipe, work: Work) -> None:
    """What a child process runs."""

    async def session() -> None:
        store = recipe()
        await store.connect()
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(session())


async def in_children(recipe: Recipe, *works: Work) -> list[int | None]:
    """Do the works at once, each in a process of its own; returns the processes' exit codes."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=child, args=(recipe, work), daemon=True) for work in works]
    for process in processes:
        process.start()
    try:
        for process in processes:
            await asyncio.to_thread(process.join, CHILD_TIMEOUT)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


class ProcessTests(Conformance):
    """What the processes that share a store see of each other."""

    @pytest.fixture
    def recipe(self, opener: Opener, project: str) -> Recipe:
        """Makes a store for another process."""
        return partial(opener, self.kind, project)

    async def test_two_stores_of_one_place_have_one_location(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        assert recipe().location == store.location

    @needs(Capability.CROSS_PROCESS)
    async def test_processes_may_connect_at_once(self, recipe: Recipe) -> None:
        assert await in_children(recipe, *[connect_only] * 4) == [0] * 4

    @needs(Capability.CROSS_PROCESS)
    async def test_processes_share_the_tasks(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        added = await add(store, *[new_task() for _ in range(100)])
        assert await in_children(recipe, work_off, work_off, work_off) == [0, 0, 0]
        records = await store.get(added)
        assert {(r.state, r.epoch) for r in records if r is not None} == {(TaskState.SUCCESS, 1)}

    @needs(Capability.PERSISTENT)
    async def test_what_was_acknowledged_survives_its_process(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        await store.close()  # some take a place for one process at a time
        assert await in_children(recipe, add_and_die) == [0]
        found = await states(store, [f"t{n}" for n in range(10)])
        assert sorted(str(state) for state in found) == ["pending"] * 7 + ["running"] + ["success"] * 2

    @needs(Capability.PUSH)
    async def test_a_wait_is_ended_from_another_process(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        async with asyncio.timeout(CHILD_TIMEOUT + PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(store.wait([QUEUE], 100 * CHILD_TIMEOUT))
            await asyncio.sleep(0.05)
            assert await in_children(recipe, add_one) == [0]

    @needs(Capability.PUSH)
    async def test_a_wait_is_ended_at_once(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        latencies: list[float] = []

        async def worker() -> None:
            while len(latencies) < ADDED:
                await store.wait([QUEUE], CHILD_TIMEOUT)
                latencies.extend(time.time() - float(record.body) for record in await claim(store))

        async with asyncio.timeout(CHILD_TIMEOUT + PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(worker())
            assert await in_children(recipe, add_now_and_then) == [0]
        assert sorted(latencies)[ADDED // 2] < AT_ONCE, f"it took so many seconds: {latencies}"


class CallTests(Conformance):
    """Any loop may call, several may at once, and a call may be cancelled."""

    async def test_tasks_stay_when_the_store_is_closed(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        await store.close()
        await store.connect()
        assert (await read(store, "t")).id == "t"

    async def test_so_do_pauses_schedules_and_workers(self, store: BaseTaskQueue) -> None:
        await store.pause("paused", paused=True)
        await store.put_schedule(new_schedule(next_run=0.0), if_version=None)
        await store.beat(WorkerRecord(name="w"))
        await store.close()
        await store.connect()
        assert [(queue.name, queue.paused) for queue in await store.stats()] == [("paused", True)]
        assert len(await store.schedules()) == len(await store.workers()) == 1

    async def test_loops_share_one_store(self, store: BaseTaskQueue) -> None:
        async def use(name: str) -> list[str]:
            return await add(store, *[new_task(f"{name}-{n}") for n in range(20)])

        added = await in_other_loops(store, [partial(use, name) for name in "abcd"])
        added.append(await use("here"))
        assert ids(await claim(store)) == {id_ for mine in added for id_ in mine}

    async def test_concurrent_calls_get_their_own_answers(self, store: BaseTaskQueue) -> None:
        added = await add(store, *[new_task(f"t{n}") for n in range(50)])
        answers = await together(store.get([id_]) for id_ in added)
        assert [record and record.id for (record,) in answers] == added

    @pytest.mark.parametrize("turns", range(12))
    async def test_a_cancelled_call_leaves_the_store_usable(self, store: BaseTaskQueue, turns: int) -> None:
        await add(store, *[new_task(f"t{n}") for n in range(4)])
        calls = [
            asyncio.ensure_future(store.get(["t0"])),
            asyncio.ensure_future(store.add([new_task("maybe")])),
            asyncio.ensure_future(store.get(["t1"])),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        answers = await together(store.get([f"t{n}"]) for n in range(4))
        assert [record and record.id for (record,) in answers] == ["t0", "t1", "t2", "t3"]
        assert (await store.add([new_task("maybe")]))[0] in (NEW, DUPLICATE)
        assert (await read(store, "maybe")).id == "maybe"
