"""Requirements of event stores."""

from __future__ import annotations

from functools import partial
from itertools import compress, product
from operator import attrgetter
from typing import Any

import pytest

from omniq.models.event import EventType, TaskEvent
from omniq.models.task import new_event_id
from omniq.storage import rules
from omniq.storage.base import BaseEventStorage
from omniq.storage.records import EventFilter
from omniq.testing import VirtualClock
from omniq.testing.builders import in_other_loops, together
from omniq.testing.conformance.base import Conformance

EVERYTHING = EventFilter()


START = 1_700_000_000.0
"""Events carry their own time, and this is where the tests' begin."""


def event(
    second: float,
    *,
    type_: EventType = EventType.ENQUEUED,
    task_id: str | None = "t",
    name: str | None = None,
    schedule_id: str | None = None,
    queue_name: str = "q",
    worker: str | None = None,
    data: dict[str, Any] | None = None,
) -> TaskEvent:
    """Something that happened in that second."""
    return TaskEvent(
        id=new_event_id(),
        type=type_,
        time=START + second,
        task_id=task_id,
        name=name,
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
            id=new_event_id(),
            type=EventType.RETRY,
            time=START + 0.125,
            task_id="ü/t",
            name="m:é.<locals>",
            schedule_id="s",
            queue_name="q",
            worker="w",
            attempt=3,
            data={"text": "✓", "number": 1.5, "list": [1, None, True], "deep": {"a": {}}},
        )
        await store.append([given])
        assert await stored(store) == [given]

    async def test_an_event_may_say_little(self, store: BaseEventStorage) -> None:
        given = TaskEvent(id=new_event_id(), type=EventType.SCHEDULE_PAUSED, time=START)
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

    async def test_an_event_that_is_stored_again_is_there_once(self, store: BaseEventStorage) -> None:
        first, other = event(1, data={"n": 1}), event(2)
        await store.append([first, other])
        await store.append([first, event(3), other])
        assert await seconds(store) == [1, 2, 3]
        assert await seconds(store, task_id="t") == [1, 2, 3]
        assert (await stored(store))[0] == first
        while await store.purge(before=START + 99):
            pass
        assert await stored(store) == []

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
    """The matching events, newest first or oldest first."""

    async def test_they_come_in_reverse_order_of_time(self, store: BaseEventStorage) -> None:
        await store.append([event(3), event(1)])
        await store.append([event(2), event(0)])
        found = await store.query(EVERYTHING)
        assert [event.time - START for event in found.events] == [3, 2, 1, 0]
        assert found.cursor is None
        found = await store.query(EVERYTHING, oldest_first=True)
        assert ([event.time - START for event in found.events], found.cursor) == ([0, 1, 2, 3], None)

    async def test_those_of_one_time_come_in_the_order_of_their_ids(self, store: BaseEventStorage) -> None:
        given = [event(1), event(1), event(1), event(0)]
        await store.append([given[2], given[0]])
        await store.append([given[3], given[1]])
        ordered = [given[3], *given[:3]]
        assert (await store.query(EVERYTHING, oldest_first=True)).events == ordered
        assert (await store.query(EVERYTHING)).events == ordered[::-1]

    async def test_the_limit_takes_the_oldest_where_they_come_first(self, store: BaseEventStorage) -> None:
        await store.append([event(n) for n in (3, 0, 4, 1, 2)])
        found = await store.query(EventFilter(since=START + 1), oldest_first=True, limit=2)
        assert [event.time - START for event in found.events] == [1, 2]
        found = await store.query(EventFilter(until=START + 1), oldest_first=True, limit=2)
        assert ([event.time - START for event in found.events], found.cursor) == ([0], None)

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

    async def test_names_that_are_much_alike_are_different(self, store: BaseEventStorage) -> None:
        names = ["t", "t2", "T", "t/2", "t:", "t\u0301"]
        await store.append([event(n, task_id=name, schedule_id=name) for n, name in enumerate(names)])
        assert [await seconds(store, task_id=name) for name in names] == [[n] for n in range(len(names))]
        assert [await seconds(store, schedule_id=name) for name in names] == [[n] for n in range(len(names))]

    async def test_any_conditions_may_be_combined(self, store: BaseEventStorage) -> None:
        kinds = product("tu", "sr", "qp", "wv", "fg", (EventType.ERROR, EventType.RETRY))
        given = [
            event(n * 7 % 64, task_id=task, schedule_id=of, queue_name=queue, worker=worker, name=name, type_=type_)
            for n, (task, of, queue, worker, name, type_) in enumerate(kinds)
        ]
        given.sort(key=attrgetter("time"))
        await store.append(given)
        conditions: dict[str, Any] = {
            "task_id": "t", "schedule_id": "s", "queue_name": "q", "worker": "w", "name": "f",
            "types": (EventType.ERROR,), "since": START + 17, "until": START + 47,
        }  # fmt: skip
        for chosen in product((False, True), repeat=len(conditions)):
            where = EventFilter(**dict(compress(conditions.items(), chosen)))
            page = await store.query(where, oldest_first=len(where.types) == 1)
            meant = [each for each in given if rules.matches(each, where)]
            assert page.events == (meant if where.types else meant[::-1]), where

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

    async def test_they_are_found_by_name(self, store: BaseEventStorage) -> None:
        await store.append([event(0, name="m:f"), event(1, name="m:F"), event(2), event(3, name="m:f")])
        assert await seconds(store, name="m:f") == [0, 3]
        assert await seconds(store, name="m") == []

    async def test_they_are_found_by_queue_and_worker(self, store: BaseEventStorage) -> None:
        await store.append([event(0, queue_name="a", worker="x"), event(1, queue_name="b", worker="x")])
        await store.append([event(2, queue_name="a", worker="y"), event(3, queue_name="a")])
        assert await seconds(store, queue_name="a") == [0, 2, 3]
        assert await seconds(store, worker="x") == [0, 1]
        assert await seconds(store, queue_name="a", worker="y") == [2]
        assert await seconds(store, worker="nobody") == []

    @pytest.mark.parametrize("where", [EVERYTHING, EventFilter(task_id="t"), EventFilter(queue_name="q", worker="w")])
    @pytest.mark.parametrize("oldest_first", [False, True])
    async def test_a_cursor_leads_through_all_pages(
        self, store: BaseEventStorage, where: EventFilter, oldest_first: bool
    ) -> None:
        await store.append([event(n // 3, worker="w", data={"n": n}) for n in range(10)])
        numbers: list[int] = []
        cursor, turns = None, 0
        while turns == 0 or cursor is not None:
            page = await store.query(where, oldest_first=oldest_first, limit=4, cursor=cursor)
            numbers += [found.data["n"] for found in page.events]
            cursor, turns = page.cursor, turns + 1
            meanwhile = -1 if oldest_first else 99  # what comes meanwhile, behind the page, moves no others
            await store.append([event(meanwhile, worker="w", data={"n": -1})])
        assert numbers == (list(range(10)) if oldest_first else list(range(10))[::-1])
        assert turns == 3

    async def test_any_event_is_a_cursor(self, store: BaseEventStorage) -> None:
        given = [event(n // 2) for n in range(6)]
        await store.append(given)
        for where in (EVERYTHING, EventFilter(task_id="t"), EventFilter(since=START, until=START + 3)):
            page = await store.query(where, oldest_first=True, cursor=given[2].cursor)
            assert page.events == given[3:]
            assert (await store.query(where, cursor=given[2].cursor)).events == given[1::-1]
        elsewhere = event(1)
        assert (await store.query(EVERYTHING, oldest_first=True, cursor=elsewhere.cursor)).events == given[4:]
        assert (await store.query(EVERYTHING, cursor=given[0].cursor)).events == []
        narrower = EventFilter(since=START + 2)
        assert (await store.query(narrower, oldest_first=True, cursor=given[0].cursor)).events == given[4:]

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
