"""What the engine and the workers do with a record that a store says is damaged, on any store."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import CorruptPayload, TaskFailed
from omniq.models import TaskState
from omniq.models.event import EventType
from omniq.storage.records import TaskRecord
from omniq.storage.rules import (
    event_in,
    event_of,
    record_of,
    result_of,
    schedule_of,
    state_of,
    task_of,
    worker_of,
)
from omniq.testing import ReferenceSpace

from tests.core.support import FAST, SOON, front_door, noop, reference_place, until_states

SOUND = {"id": "a", "queue_name": "q", "body": b"", "state": "pending", "priority": 0, "created_at": 1.0, "run_at": 1.0}


def spoil(space: ReferenceSpace, task_id: str) -> None:
    """Let the store say that it can't read the task."""
    record = space.tasks.rows.get(task_id)
    assert record is not None
    space.tasks.put(replace(record, damage="epoch: Expected `int`, got `str`"))


async def test_a_damaged_task_is_dead_lettered_with_what_is_wrong_and_its_child_is_seen_to() -> None:
    space = ReferenceSpace()
    async with front_door(reference_place(space)) as oq:
        task_id = await oq.enqueue(noop)
        child = await oq.enqueue(noop, depends_on=task_id)
        spoil(space, task_id)
        assert (await oq.get_task(task_id)).damage == "epoch: Expected `int`, got `str`"
        async with oq.worker_pool("async", **FAST):
            await until_states(oq, [task_id], TaskState.ERROR)
            await until_states(oq, [child], TaskState.CANCELLED)
        with pytest.raises(TaskFailed, match="CorruptPayload: the stored task is damaged: epoch: Expected `int`"):
            await oq.get_result(task_id, timeout=SOON)


async def test_a_damaged_task_that_waits_is_dead_lettered_too() -> None:
    space = ReferenceSpace()
    async with front_door(reference_place(space)) as oq:
        parent = await oq.enqueue(noop, run_in=100)
        child = await oq.enqueue(noop, depends_on=parent)
        spoil(space, child)
        await oq.task_queue.dependencies.sweep()
        assert (await oq.get_task(child)).state is TaskState.ERROR


async def test_a_schedule_that_the_store_refuses_to_fire_keeps_no_other_from_firing() -> None:
    space = ReferenceSpace()
    async with front_door(reference_place(space)) as oq:
        await oq.schedule(noop, interval=0.01, schedule_id="sound")
        await oq.schedule(noop, interval=0.01, schedule_id="broken")
        (record,) = space.schedules.find(["broken"])
        space.schedules.put(replace(record, damage="version: Expected `int`, got `str`"), record.version)
        await _until_due(oq)
        assert await oq.task_queue.scheduler.fire_due() == 1
        assert (await oq.get_schedule("broken")).state == "damaged"
        with pytest.raises(CorruptPayload, match="broken"):
            await oq.pause_schedule("broken")
        await oq.schedule(noop, interval=60, schedule_id="broken")
        assert (await oq.get_schedule("broken")).state == "active"


async def _until_due(oq: AsyncOmniQ) -> None:
    while len(await oq.task_queue.store.schedules(within=0.0)) < 2:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("priority", 101),
        ("priority", "high"),
        ("priority", None),
        ("epoch", -1),
        ("epoch", 2**31),
        ("epoch", 1.5),
        ("attempts", True),
        ("created_at", float("nan")),
        ("run_at", float("inf")),
        ("expires_at", float("-inf")),
        ("lease_until", 1e300),
        ("state", "zombie"),
        ("state", b"\xff"),
        ("id", "\udcff"),
        ("queue_name", b"\xff"),
        ("schedule_id", 7),
        ("depends_on", ["a", None]),
        ("depends_on", ["\udcff"]),
        ("depends_on", "a"),
        ("body", "text"),
        ("body", None),
        ("cancel_requested", 2),
    ],
)
def test_a_column_that_makes_no_sense_gets_a_stand_in(column: str, value: object) -> None:
    record = task_of({**SOUND, column: value})
    assert record.damage is not None
    assert record.damage.startswith(f"{column}: ")
    assert getattr(record, column) != value
    whole = task_of(SOUND)
    assert whole.damage is None
    assert replace(record, damage=None, **{column: getattr(whole, column)}) == whole


def test_a_column_that_is_missing_is_damage_and_has_a_stand_in() -> None:
    record = task_of({"id": "a", "body": b"", "priority": 0})
    assert (record.queue_name, record.state, record.run_at) == ("", TaskState.ERROR, 0.0)
    assert record.damage is not None
    assert "queue_name: it is missing; state: it is missing" in record.damage


@pytest.mark.parametrize("sound", [True, False])
def test_a_record_is_read_quickly_if_it_is_sound_and_whole_if_not(sound: bool) -> None:
    record = record_of(TaskRecord, SOUND if sound else {**SOUND, "created_at": float("nan")})
    assert (record.damage is None) is sound
    assert replace(record, damage=None, created_at=1.0) == task_of(SOUND)


def test_results_schedules_and_events_get_them_too() -> None:
    result = result_of({"task_id": "a", "epoch": 1, "status": "pending", "body": b""})
    assert (result.status, result.damage) == (TaskState.ERROR, "status: no task ends in it")
    progress = result_of({"task_id": "a", "epoch": 1, "status": "running", "body": b""})
    assert (progress.status, progress.damage) == (TaskState.RUNNING, None)
    schedule = schedule_of({"id": "a", "queue_name": "q", "body": b"", "next_run": float("nan"), "version": -1})
    assert schedule.next_run is None
    assert schedule.damage is not None
    event = event_of({"type": "NOBODYS", "time": float("inf"), "data": [1]})
    assert (event.type, event.time, event.data) == (EventType.UNKNOWN, 0.0, {})
    assert event.damage is not None


@pytest.mark.parametrize("line", [b"", b"[1]", b'{"type": "COMPLETE"', b'{"type": 7}', b"\xff\xfe"])
def test_a_line_that_is_no_event_is_a_damaged_one(line: bytes) -> None:
    event = event_in(line)
    assert event.type is EventType.UNKNOWN
    assert event.damage is not None


@pytest.mark.parametrize("report", [b"", b"[]", "not JSON", b'{"slots": "many"}'])
def test_a_worker_whose_report_cannot_be_read_is_known_by_name(report: bytes | str) -> None:
    worker = worker_of("w\udc80", report, 7.0)
    assert (worker.name, worker.last_seen, worker.slots) == ("w\N{REPLACEMENT CHARACTER}", 7.0, 0)


@pytest.mark.parametrize("value", ["nowhere", None, 7, b"pending"])
def test_a_state_that_there_is_none_of_is_an_error(value: object) -> None:
    assert state_of(value) is TaskState.ERROR
    assert state_of("waiting") is TaskState.WAITING
