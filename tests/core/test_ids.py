"""Ids: those that OmniQ makes sort by time, and those that users give can be kept by every store."""

from __future__ import annotations

import enum
import random
import time
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, TaskNotFound
from omniq.events import AsyncEventStorage
from omniq.models import EventType, TaskEvent
from omniq.models.task import check_id, new_event_id, new_id, slot_id
from omniq.queue.options import TaskCall

from tests.core import tasks
from tests.core.support import SOON, Place, event_storage, front_door, working

NOT_IDS: list[Any] = [
    "",
    "a\x00b",
    "\ud83d",
    "a\nb",
    "x" * 256,
    "\x1b[2J",
    "\u200b",
    None,
    17,
    b"id",
    uuid.UUID(int=17),
    ["t"],
]
SLOTS = [0.0, 0.001, 1.5, 1_700_000_000.0, 1_700_000_000.001, 253_402_300_799.0]


class Name(str):
    """Text of another class, which encoders don't know."""


class Color(str, enum.Enum):  # noqa: UP042 (its text is no plain str)
    RED = "red"


@pytest.fixture
async def events(place: Place) -> AsyncEventStorage[Any]:
    return event_storage(place)


class TestSlots:
    def test_the_id_of_a_slot_is_a_uuid_of_version_8(self) -> None:
        for slot in [*SLOTS, -1.0, -1e9, 1e18]:
            parsed = uuid.UUID(slot_id("nightly", slot))
            assert (parsed.version, parsed.variant, len(slot_id("nightly", slot))) == (8, uuid.RFC_4122, 32)

    def test_ids_of_slots_sort_by_time_whatever_their_schedule(self) -> None:
        ids = [slot_id(f"schedule-{n}", slot) for n, slot in enumerate(SLOTS)]
        assert sorted(random.Random(1).sample(ids, len(ids))) == ids
        assert int(slot_id("s", 1_700_000_000.001)[:12], 16) == 1_700_000_000_001

    def test_they_are_the_same_for_everybody_and_differ_by_schedule_and_slot(self) -> None:
        schedules, slots = ("a", "b", "a/1", "日"), [*SLOTS, -1.0, -2.0, 1e15, 1e16]
        ids = {slot_id(schedule, slot) for schedule in schedules for slot in slots}
        assert len(ids) == len(schedules) * len(slots)
        assert ids == {slot_id(schedule, slot) for schedule in schedules for slot in slots}

    async def test_nobody_can_take_the_id_of_a_slot_to_come(self, oq: AsyncOmniQ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        slot = await oq.task_queue.scheduler.next_task_id(schedule_id)
        assert slot is not None
        with pytest.raises(InvalidTask, match=r"^task_id: .* version 8"):
            await oq.enqueue(tasks.nothing, task_id=slot)
        with pytest.raises(InvalidTask, match=r"^calls\[0\]\.task_id: .* version 8"):
            await oq.enqueue_many([TaskCall(func=tasks.nothing, options={"task_id": slot})])
        assert await oq.list_tasks() == []
        others = [
            new_id(),
            uuid.UUID(int=17).hex,
            uuid.uuid5(uuid.NAMESPACE_DNS, "x").hex,
            slot.upper() + "x",
            slot[:-1],
        ]
        assert [await oq.enqueue(tasks.nothing, task_id=other) for other in others] == others


class TestEveryWayIn:
    @pytest.mark.parametrize("bad", NOT_IDS[:7] + NOT_IDS[8:], ids=lambda bad: f"{bad!r:.20}")
    async def test_a_task_id_that_cannot_be_one_is_refused(self, oq: AsyncOmniQ, bad: Any) -> None:
        calls = [
            oq.get_task(bad),
            oq.cancel(bad),
            oq.requeue(bad),
            oq.get_result(bad),
            oq.result_store.get(bad),
            oq.result_store.wait(bad),
            oq.enqueue(tasks.nothing, task_id=bad),
            oq.enqueue(tasks.nothing, depends_on=[bad]),
        ]
        for call in calls:
            with pytest.raises(InvalidTask, match="^(task_id|depends_on): expected"):
                await call
        assert await oq.list_tasks() == []

    @pytest.mark.parametrize("bad", NOT_IDS[:7] + NOT_IDS[8:], ids=lambda bad: f"{bad!r:.20}")
    async def test_a_schedule_id_that_cannot_be_one_is_refused(self, oq: AsyncOmniQ, bad: Any) -> None:
        calls = [
            oq.get_schedule(bad),
            oq.pause_schedule(bad),
            oq.resume_schedule(bad),
            oq.delete_schedule(bad),
            oq.get_result(schedule_id=bad),
            oq.get_result(schedule_id=bad, kind="all"),
            oq.result_store.find(bad),
            oq.task_queue.scheduler.next_task_id(bad),
            oq.schedule(tasks.nothing, interval=60, schedule_id=bad),
        ]
        for call in calls:
            with pytest.raises(InvalidTask, match="^schedule_id: expected"):
                await call
        assert await oq.list_schedules() == []

    @pytest.mark.parametrize("bad", ["", "a\x00b", "\ud83d", 17, uuid.UUID(int=17)], ids=lambda bad: f"{bad!r:.20}")
    async def test_a_filter_that_cannot_match_is_refused(
        self, oq: AsyncOmniQ, events: AsyncEventStorage[Any], bad: Any
    ) -> None:
        calls: dict[str, list[Awaitable[object]]] = {
            "queue_name": [oq.list_tasks(queue_name=bad), oq.list_dead(queue_name=bad), oq.task_queue.pause_queue(bad)],
            "task_id": [events.list(task_id=bad)],
            "schedule_id": [events.list(schedule_id=bad)],
        }
        for name, refused in calls.items():
            for call in refused:
                with pytest.raises(InvalidTask, match=f"^{name}: "):
                    await call
        await events.close()

    async def test_nothing_at_all_is_no_id_either(self, oq: AsyncOmniQ) -> None:
        nothing: Any = None
        for call in (oq.get_task(nothing), oq.cancel(nothing), oq.result_store.get(nothing), oq.get_schedule(nothing)):
            with pytest.raises(InvalidTask, match="expected text, got NoneType"):
                await call

    async def test_a_task_stands_for_its_id(self, place: Place) -> None:
        async with front_door(place, events=True) as oq, working(oq, "async"):
            task = await oq.get_task(await oq.enqueue(tasks.add, [1, 2]))
            assert await oq.get_result(task, timeout=SOON) == 3
            assert (await oq.get_task(task)).id == task.id
            assert (await oq.cancel(task), await oq.requeue(task)) == (False, False)
            for result in (await oq.result_store.get(task), await oq.result_store.wait(task, timeout=SOON)):
                assert result is not None
                assert result.value == 3
            assert {event.task_id for event in await oq.list_events(task_id=task)} == {task.id}

    async def test_text_of_another_class_is_taken_as_text(self, oq: AsyncOmniQ) -> None:
        for given, id_ in ((Name("one"), "one"), (Color.RED, "red")):
            assert await oq.enqueue(tasks.nothing, task_id=given, queue_name=Name("low")) == id_
            assert type(check_id(given, "task_id")) is str
            assert (await oq.get_task(given)).queue_name == "low"
        with pytest.raises(TaskNotFound):
            await oq.get_result(Name("nobody"))


def test_ids_of_events_rise() -> None:
    ids = [new_event_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {(len(id_), id_[12]) for id_ in ids} == {(32, "7")}
    assert abs(int(ids[-1][:12], 16) / 1000 - time.time()) < 60


async def test_an_event_that_cannot_be_kept_costs_no_other(place: Place) -> None:
    async with front_door(place, events=True) as oq:
        odd: Any = object()
        for n in range(40):
            oq.events.log(EventType.RETRY, task_id=f"t{n}", data={"odd": odd} if n == 7 else {})
        kept: list[TaskEvent] = await oq.list_events(type="RETRY")
    assert {event.task_id for event in kept} == {f"t{n}" for n in range(40) if n != 7}
    assert oq.events.dropped == 1
