"""Results and events."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from omniq.models.task import TERMINAL, EventType, TaskEvent, TaskState
from omniq.storage.base import BaseEventStorage, BaseResultStorage
from omniq.storage.records import EventFilter, NewBody, ResultRecord
from omniq.testing.builders import HOUR, PATIENCE, exactly, in_other_loops, now, result_of, together, until_told, woken
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import Conformance
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


# ── events ──────────────────────────────────────────────────────────────────


EVERYTHING = EventFilter()


START = 1_700_000_000.0
"""Events carry their own time, and this is where the tests' begin."""


def event(
    second: float,
    *,
    type_: EventType = EventType.ENQUEUED,
    task_id: str | None = "t",
    schedule_id: str | None = None,
    queue_name: str = "q",
    worker: str | None = None,
    data: dict[str, Any] | None = None,
) -> TaskEvent:
    """Something that happened in that second."""
    return TaskEvent(
        type=type_,
        time=START + second,
        task_id=task_id,
        schedule_id=schedule_id,
        queue_name=queue_name,
        worker=worker,
        data=data or {},
    )


async def stored(store: BaseEventStorage, where: EventFilter = EVERYTHING, *, limit: int = 100) -> list[TaskEvent]:
    """The newest `limit` events that match, oldest first."""
    return (await store.query(where, limit=limit)).events[::-1]


async def seconds(store: BaseEventStorage, *, limit: int = 100, **conditions: Any) -> list[float]:
    """The seconds in which the matching events happened, oldest first."""
    return [round(event.time - START, 3) for event in await stored(store, EventFilter(**conditions), limit=limit)]


class AppendTests(Conformance):
    """An event comes back as it was given."""

    async def test_an_event_is_stored_as_given(self, store: BaseEventStorage) -> None:
        given = TaskEvent(
            type=EventType.RETRY,
            time=START + 0.125,
            task_id="ü/t",
            schedule_id="s",
            queue_name="q",
            worker="w",
            attempt=3,
            data={"text": "✓", "number": 1.5, "list": [1, None, True], "deep": {"a": {}}},
        )
        await store.append([given])
        assert await stored(store) == [given]

    async def test_an_event_may_say_little(self, store: BaseEventStorage) -> None:
        given = TaskEvent(type=EventType.SCHEDULE_PAUSED, time=START)
        await store.append([given])
        assert await stored(store) == [given]

    @pytest.mark.parametrize("type_", list(EventType))
    async def test_every_type_is_stored(self, store: BaseEventStorage, type_: EventType) -> None:
        await store.append([event(1, type_=type_)])
        assert [found.type for found in await stored(store, EventFilter(types=(type_,)))] == [type_]

    async def test_the_same_event_may_happen_twice(self, store: BaseEventStorage) -> None:
        await store.append([event(1), event(1)])
        await store.append([event(1)])
        assert await seconds(store) == [1, 1, 1]

    async def test_a_big_batch_is_one_call(self, store: BaseEventStorage, many: int) -> None:
        await store.append([event(n) for n in range(many)])
        assert await seconds(store, limit=many + 1) == list(range(many))

    async def test_concurrent_calls_all_append(self, store: BaseEventStorage) -> None:
        await together(store.append([event(n), event(n + 0.5)]) for n in range(20))
        assert await seconds(store) == [n / 2 for n in range(40)]

    async def test_loops_share_one_store(self, store: BaseEventStorage) -> None:
        await in_other_loops(store, [partial(store.append, [event(n)]) for n in range(4)])
        await store.append([event(4)])
        assert await seconds(store) == [0, 1, 2, 3, 4]

    async def test_events_stay_when_the_store_is_closed(self, store: BaseEventStorage) -> None:
        await store.append([event(1)])
        await store.close()
        await store.connect()
        assert await seconds(store) == [1]


class QueryTests(Conformance):
    """The matching events, newest first."""

    async def test_they_come_in_reverse_order_of_time(self, store: BaseEventStorage) -> None:
        await store.append([event(3), event(1)])
        await store.append([event(2), event(0)])
        found = await store.query(EVERYTHING)
        assert [event.time - START for event in found.events] == [3, 2, 1, 0]
        assert found.cursor is None

    async def test_the_limit_takes_the_newest(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in (3, 0, 4, 1, 2)])
        assert await seconds(store, limit=2) == [3, 4]
        assert await seconds(store, limit=5) == [0, 1, 2, 3, 4]

    async def test_they_are_found_by_task(self, store: BaseEventStorage) -> None:
        await store.append(
            [event(0, task_id="a"), event(1, task_id="b"), event(2, task_id="a"), event(3, task_id=None)]
        )
        assert await seconds(store, task_id="a") == [0, 2]
        assert await seconds(store, task_id="a", limit=1) == [2]
        assert await seconds(store, task_id="nobody") == []

    async def test_they_are_found_by_schedule(self, store: BaseEventStorage) -> None:
        await store.append([event(0, schedule_id="s"), event(1, schedule_id="r"), event(2)])
        assert await seconds(store, schedule_id="s") == [0]

    async def test_they_are_found_by_type(self, store: BaseEventStorage) -> None:
        await store.append([event(n, type_=type_) for n, type_ in enumerate(EventType)])
        kinds = list(EventType)
        assert await seconds(store, types=(kinds[1],)) == [1]
        assert await seconds(store, types=(kinds[4], kinds[2])) == [2, 4]

    async def test_they_are_found_by_time(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in range(5)])
        assert await seconds(store, since=START + 2.5) == [3, 4]
        assert await seconds(store, since=START + 99) == []
        assert await seconds(store, until=START + 2) == [0, 1]
        assert await seconds(store, since=START + 1, until=START + 3) == [1, 2]
        assert await seconds(store, task_id="t", until=START + 1) == [0]

    async def test_they_are_found_by_queue_and_worker(self, store: BaseEventStorage) -> None:
        await store.append([event(0, queue_name="a", worker="x"), event(1, queue_name="b", worker="x")])
        await store.append([event(2, queue_name="a", worker="y"), event(3, queue_name="a")])
        assert await seconds(store, queue_name="a") == [0, 2, 3]
        assert await seconds(store, worker="x") == [0, 1]
        assert await seconds(store, queue_name="a", worker="y") == [2]
        assert await seconds(store, worker="nobody") == []

    @pytest.mark.parametrize("where", [EVERYTHING, EventFilter(task_id="t"), EventFilter(queue_name="q", worker="w")])
    async def test_a_cursor_leads_through_all_pages(self, store: BaseEventStorage, where: EventFilter) -> None:
        await store.append([event(n // 3, worker="w", data={"n": n}) for n in range(10)])
        numbers: list[int] = []
        cursor, turns = None, 0
        while turns == 0 or cursor is not None:
            page = await store.query(where, limit=4, cursor=cursor)
            numbers += [found.data["n"] for found in page.events]
            cursor, turns = page.cursor, turns + 1
            await store.append([event(99, worker="w", data={"n": -1})])  # what comes meanwhile moves no others
        assert numbers == list(range(10))[::-1]
        assert turns == 3

    async def test_a_page_that_ends_exactly_is_the_last(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in range(4)])
        first = await store.query(EVERYTHING, limit=2)
        second = await store.query(EVERYTHING, limit=2, cursor=first.cursor)
        assert (len(first.events), len(second.events), second.cursor) == (2, 2, None)

    async def test_conditions_must_all_hold(self, store: BaseEventStorage) -> None:
        error = EventType.ERROR
        await store.append([event(0, type_=error, schedule_id="s"), event(1, type_=error, schedule_id="s")])
        await store.append([event(2, schedule_id="s"), event(3, type_=error), event(4, type_=error, task_id="u")])
        found = await seconds(store, task_id="t", schedule_id="s", types=(error,), since=START + 0.5)
        assert found == [1]


class PurgeEventTests(Conformance):
    """Old events are deleted, as many as asked."""

    async def test_only_events_from_before_are_deleted(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in range(5)])
        assert await store.purge(before=START + 2.5) == 3
        assert await seconds(store) == [3, 4]
        assert await store.purge(before=START + 2.5) == 0

    async def test_what_is_deleted_is_on_no_page(self, store: BaseEventStorage) -> None:
        await store.append([event(n, schedule_id="s") for n in range(6)])
        assert await store.purge(before=START + 3.5) == 4
        await store.append([event(0, schedule_id="s")])
        for where in (EVERYTHING, EventFilter(task_id="t"), EventFilter(schedule_id="s"), EventFilter(queue_name="q")):
            page = await store.query(where, limit=3)
            assert ([found.time - START for found in page.events], page.cursor) == ([5, 4, 0], None)

    async def test_no_more_than_the_limit_are_deleted(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in range(5)])
        assert [await store.purge(before=START + 99, limit=limit) for limit in (2, 2, 2, 2)] == [2, 2, 1, 0]

    async def test_the_clock_does_not_matter(self, store: BaseEventStorage, clock: VirtualClock) -> None:
        await store.append([event(0)])
        clock.advance(1e6)
        assert await store.purge(before=START - 1) == 0
        assert await seconds(store) == [0]
