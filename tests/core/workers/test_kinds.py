"""One worker with slots of several kinds: its own, and those that tasks ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omniq import OmniQ, call
from omniq.errors import ConfigError, TaskCancelled
from omniq.models import TaskState
from omniq.models.config import WorkerConfig
from omniq.workers import AsyncWorker
from omniq.workers.kinds import HALF_LIFE, Demand

from tests.core import tasks
from tests.core.support import (
    FAST,
    KINDS,
    SOON,
    Place,
    front_door,
    lines,
    plant,
    results_of,
    sqlite_place,
    states_of,
    until,
    until_states,
    working,
)
from tests.core.workers.declared_tasks import where

OTHERS = {"async": "process", "thread": "gevent", "process": "async", "gevent": "thread"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return sqlite_place(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_of_any_kind_runs_tasks_for_all(place: Place, kind: str) -> None:
    async with front_door(place) as oq, working(oq, kind):
        ids = [await oq.enqueue(where, worker=other) for other in (None, *KINDS)]
        own, *found = await results_of(oq, ids)
    here = (os.getpid(), False)
    found_on = dict(zip(KINDS, found, strict=True))
    assert found_on["async"] == found_on["thread"] == here
    assert found_on["process"][0] != os.getpid()
    assert not found_on["process"][1]
    assert found_on["gevent"][0] != os.getpid()
    assert found_on["gevent"][1]
    assert (own[1], own == here) == (found_on[kind][1], found_on[kind] == here)


async def test_a_size_that_is_configured_for_a_kind_holds(place: Place) -> None:
    async with front_door(place) as oq:
        worker = AsyncWorker(oq.task_queue, **FAST)
        async with worker.pool(lambda kind: WorkerConfig(max_workers=1)) as pool:
            await results_of(oq, [await oq.enqueue(where, worker="process")])
            assert pool.runners.others["process"].max_workers == 1
            assert pool.report().kind == "async+process"
            assert pool.report().slots == FAST["max_workers"] + 1


async def test_what_goes_back_for_want_of_room_is_waited_for(place: Place) -> None:
    async with front_door(place) as oq:
        ids = await oq.enqueue_many([call(tasks.add, [n, 1], worker="thread") for n in range(6)])
        async with AsyncWorker(oq.task_queue, **FAST).pool(lambda kind: WorkerConfig(max_workers=1)) as pool:
            await pool.drain()
        assert set(await states_of(oq, ids)) == {TaskState.SUCCESS}


@pytest.mark.parametrize("kind", KINDS)
async def test_slots_that_are_taken_hold_up_no_other_queue(place: Place, log: Path, gate: Path, kind: str) -> None:
    other = OTHERS[kind]
    async with front_door(place) as oq, working(oq, kind, max_workers=1):
        held = [
            await oq.enqueue(tasks.wait_for, [str(gate), str(log)], worker=other, queue_name="low") for _ in range(30)
        ]
        await until(lambda: len(lines(log)) >= 1)
        ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(50)]
        assert await results_of(oq, ids) == [n + 1 for n in range(50)]
        gate.touch()
        await results_of(oq, held)
        records = await oq.task_queue.store.get(held)
        assert {(record.attempts, record.crashes) for record in records if record is not None} == {(0, 0)}


async def test_tasks_of_several_kinds_in_one_queue_are_all_run(place: Place) -> None:
    async with front_door(place) as oq, working(oq, "async", max_workers=10):
        kinds = ["thread", None, None, "async", None]
        ids = await oq.enqueue_many([call(tasks.add, [n, 1], worker=kinds[n % 5]) for n in range(300)])
        assert await results_of(oq, ids) == [n + 1 for n in range(300)]


async def test_what_cannot_be_run_here_goes_back_for_others(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with front_door(place) as oq:
        strange = await plant(oq, worker="unheard-of")
        async with working(oq, "async"):
            assert await results_of(oq, [await oq.enqueue(tasks.add, [1, 1])]) == [2]
            await until(lambda: "unknown worker 'unheard-of'" in caplog.text)
            await until_states(oq, [strange], TaskState.SCHEDULED, TaskState.PENDING)
        record = (await oq.task_queue.store.get([strange]))[0]
        assert record is not None
        assert (record.attempts, record.crashes) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [("", "worker_type: unknown kind of worker; known: async, "), (3, "worker_type: expected str, got int")],
)
def test_what_is_no_kind_is_refused_instead_of_the_configured_one(kind: Any, complaint: str) -> None:
    with OmniQ(config={"task_queue": "memory"}) as oq, pytest.raises(ConfigError, match=complaint):
        oq.start_worker(kind)


@pytest.mark.parametrize("other", ["process", "thread"])
async def test_a_stopping_worker_waits_for_them_and_hands_back_the_rest(
    place: Place, log: Path, gate: Path, other: str
) -> None:
    async with front_door(place) as oq:
        async with working(oq, "async", grace_period=0.1) as pool:
            ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)], worker=other) for _ in range(2)]
            await until(lambda: len(lines(log)) == 2)
        assert not pool.in_flight.held
        assert await states_of(oq, ids) == [TaskState.PENDING] * 2
        gate.touch()
        async with working(oq, "async"):
            await results_of(oq, ids)


async def test_one_of_another_kind_can_be_cancelled(place: Place, log: Path, gate: Path) -> None:
    async with front_door(place) as oq, working(oq, "async", lease=1.0):
        id_ = await oq.enqueue(tasks.wait_for, [str(gate), str(log)], worker="process")
        await until(lambda: len(lines(log)) == 1)
        assert await oq.cancel(id_)
        with pytest.raises(TaskCancelled):
            await oq.get_result(id_, timeout=SOON)


def test_a_queue_is_open_again_for_others_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    demand, now = Demand(), [0.0]
    monkeypatch.setattr("omniq.workers.kinds.time.monotonic", lambda: now[0])
    demand._shares["default"], demand._noted_at["default"] = {"process": 1.0}, 0.0
    room = {"": 10, "process": 0}.__getitem__
    assert demand.limit("default", room) == 0
    now[0] = 3 * HALF_LIFE
    assert 0 < demand.limit("default", room) <= 10
    now[0] = 1e9
    assert demand.limit("default", room) == 10
    assert demand.limit("another", room) == 10
