"""A worker whose loop a task has blocked for good loses its leases, is seen as gone, and makes way for another one."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest
from omniq.errors import WorkerError
from omniq.models import TaskState

from tests.core import tasks
from tests.core.support import Place, front_door, lines, reference_place, sqlite_place, until, until_states, working
from tests.core.support import working_elsewhere as beside
from tests.core.workers.progress_tasks import compute

pytestmark = pytest.mark.starvable

STALLING = {"lease": 0.1, "reap_interval": 0.05, "stall_timeout": 1.0}


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_stuck_worker_loses_its_leases_and_is_seen_as_gone(log: Path, slots: int) -> None:
    """What it hadn't begun goes back uncharged, whether that had a slot or waited for one."""
    place = reference_place()
    async with front_door(place) as oq, front_door(place) as other:
        blocking = await oq.enqueue(compute, [3.0])
        pool = oq.worker_pool("async", **{**STALLING, "max_workers": slots, "prefetch": 1})
        ahead = await oq.enqueue(tasks.spin_async, [str(log), 0.0])
        running = asyncio.create_task(asyncio.to_thread(asyncio.run, _run(pool)))
        await until_states(oq, [blocking, ahead], TaskState.RUNNING)
        await until(lambda: pool.failure is not None)
        assert isinstance(pool.failure, WorkerError)
        await until_states(oq, [ahead], TaskState.PENDING)
        last_seen = [worker.last_seen for worker in await oq.task_queue.store.workers()]
        async with working(other, "async", max_crashes=1, lease=0.5):
            await until_states(oq, [ahead], TaskState.SUCCESS)
            await until_states(oq, [blocking], TaskState.ERROR)  # by the poison rule: nobody was seen alive
        assert [(await oq.get_task(task_id)).crashes for task_id in (blocking, ahead)] == [1, 0]
        seen = [worker.last_seen for worker in await oq.task_queue.store.workers()]
        assert seen == last_seen
        await running
        assert not pool.running
    assert len(lines(log)) == 1


async def _run(pool: object) -> None:
    await pool.start()  # type: ignore[attr-defined]
    await pool.finished.wait()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "config"), [("thread", STALLING), ("async", {**STALLING, "stall_timeout": None})])
async def test_who_may_block_is_left_alone(place: Place, kind: str, config: dict[str, object]) -> None:
    """A sync task on a thread, as the loop turns; and any, where no limit is set."""
    async with front_door(place) as oq, beside(oq, kind, **config):
        func = tasks.sleep if kind == "thread" else compute
        task_id = await oq.enqueue(func, [1.6])
        await until_states(oq, [task_id], TaskState.SUCCESS)
        assert (await oq.get_task(task_id)).epoch == 1


async def test_a_task_that_has_time_left_may_block(place: Place) -> None:
    async with front_door(place) as oq, beside(oq, "async", **STALLING):
        task_id = await oq.enqueue(compute, [1.6], timeout=20)
        await until_states(oq, [task_id], TaskState.SUCCESS)
        assert (await oq.get_task(task_id)).epoch == 1


async def test_the_command_exits_so_that_it_is_started_again(tmp_path: Path) -> None:
    async with front_door(sqlite_place(tmp_path)) as oq:
        await oq.enqueue(compute, [60.0])
        config = tmp_path / "omniq.yaml"
        config.write_text(f"""
project_name: default
task_queue: {{type: sqlite, config: {{path: {tmp_path}/omniq.db}}}}
worker: {{type: async, config: {{lease: 0.1, reap_interval: 0.1, stall_timeout: 1.0}}}}
""")
        command = [sys.executable, "-m", "omniq", "--config", str(config), "worker"]
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1, errors
    assert b"error: the worker can't go on: its event loop has stood still for too long" in errors
    assert time.monotonic() - began < 40
