"""Short tasks never wait behind long ones for long: neither in a child process, nor in the hands of a busy worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.models import TaskState
from omniq.queue.options import TaskCall

from tests.core.support import SOON, front_door, reference_place, results_of, sqlite_place, working
from tests.core.workers import slot_tasks

pytestmark = pytest.mark.starvable


@pytest.mark.parametrize("position", [0, 30, 60])
@pytest.mark.parametrize("known", [False, True])
async def test_no_short_task_waits_for_a_long_one(position: int, known: bool, log: Path, gate: Path) -> None:
    """Wherever it comes, and though the tasks of its function were always short before."""
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=2, lease=60.0):
        if known:
            await warm_up(oq, log)
        gates = [""] * 60
        gates.insert(position, str(gate))
        ids = await oq.enqueue_many(TaskCall(func=slot_tasks.wait_if_told, func_args=[str(log), it]) for it in gates)
        long = ids.pop(position)
        await results_of(oq, ids)
        assert (await oq.get_task(long)).state is TaskState.RUNNING
        gate.touch()
        await oq.get_result(long, timeout=SOON)


async def warm_up(oq: AsyncOmniQ, log: Path) -> None:
    """Let the worker learn that tasks of the function are short."""
    calls = [TaskCall(func=slot_tasks.wait_if_told, func_args=[str(log), ""])] * 200
    await results_of(oq, await oq.enqueue_many(calls))


@pytest.mark.parametrize("kind", ["process", "thread"])
async def test_a_busy_worker_keeps_no_tasks_that_another_one_could_run(kind: str, tmp_path: Path, gate: Path) -> None:
    """It was fast, so it has claimed ahead; then all its slots take long, and the rest is soon the other worker's."""
    place, warm, long = sqlite_place(tmp_path), tmp_path / "warm", tmp_path / "long"
    async with front_door(place) as oq, front_door(place) as theirs, working(oq, kind, lease=60.0) as busy:
        await warm_up(oq, warm)
        gates = ["", str(gate), str(gate), *[""] * 400]
        calls = [TaskCall(func=slot_tasks.wait_if_told, func_args=[str(long), it]) for it in gates]
        ids = await oq.enqueue_many(calls)
        async with working(theirs, "thread", lease=60.0):
            await results_of(oq, [*ids[:1], *ids[3:]])
        assert len(busy.in_flight.held) == 2
        gate.touch()
        await results_of(oq, ids[1:3])
