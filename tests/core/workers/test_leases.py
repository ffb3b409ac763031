"""A worker whose lease has passed on can neither end, nor give back, nor overwrite what another one runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.models import TaskState
from omniq.storage.records import Change, ChangeStatus
from omniq.testing import VirtualClock
from omniq.testing.builders import reap

from tests.core import tasks
from tests.core.support import KINDS, SOON, lines, until, working

pytestmark = pytest.mark.starvable

BLIND = {"lease": 60.0, "reap_interval": 60.0, "max_workers": 1, "prefetch": 0}
"""A worker that doesn't notice that its lease has run out."""


async def claim_instead(oq: AsyncOmniQ, clock: VirtualClock, *, lease: float) -> None:
    """Be another worker: find that a lease has run out, and claim the task."""
    store = oq.task_queue.store
    async with asyncio.timeout(SOON):
        clock.advance(lease + 1)
        while not await reap(store):
            clock.advance(lease + 1)  # it was renewed in that moment
    assert len(await store.claim(["default"], limit=1, lease=3600.0, worker="rival")) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_late_result_is_refused_and_logged(
    oq: AsyncOmniQ, log: Path, gate: Path, virtual_clock: VirtualClock, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
    async with working(oq, kind, **BLIND) as pool:
        await until(lambda: len(lines(log)) == 1)
        await claim_instead(oq, virtual_clock, lease=60.0)
        gate.touch()
        await pool.in_flight.until_held_at_most(0)
    assert f"task {task_id}: the lease of epoch 1 has passed on; its outcome (success) is dropped" in caplog.text
    task = await oq.get_task(task_id)
    assert (task.state, task.epoch, task.worker) == (TaskState.RUNNING, 2, "rival")
    assert await oq.result_store.get(task_id) is None


async def test_a_late_failure_is_refused_and_charges_nothing(
    oq: AsyncOmniQ, log: Path, gate: Path, virtual_clock: VirtualClock
) -> None:
    task_id = await oq.enqueue(tasks.wait_and_fail, [str(gate), str(log)], max_retries=3, retry_delay=0.01)
    async with working(oq, "thread", **BLIND) as pool:
        await until(lambda: len(lines(log)) == 1)
        await claim_instead(oq, virtual_clock, lease=60.0)
        gate.touch()
        await pool.in_flight.until_held_at_most(0)
    task = await oq.get_task(task_id)
    assert (task.state, task.epoch, task.attempts) == (TaskState.RUNNING, 2, 0)


@pytest.mark.parametrize(
    ("kind", "func"),
    [("async", tasks.wait_until_cancelled), ("async", tasks.stay_away), ("thread", tasks.stay_away)],
)
async def test_a_task_whose_lease_is_lost_is_stopped(
    oq: AsyncOmniQ,
    log: Path,
    virtual_clock: VirtualClock,
    kind: str,
    func: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    task_id = await oq.enqueue(func, [str(log)])
    async with working(oq, kind, lease=0.3, reap_interval=60.0, max_workers=1) as pool:
        await until(lambda: len(lines(log)) == 1)
        await claim_instead(oq, virtual_clock, lease=0.3)
        await pool.in_flight.until_held_at_most(0)
    assert f"task {task_id}: the lease of epoch 1 has passed on" in caplog.text
    assert (await oq.get_task(task_id)).worker == "rival"


async def test_the_process_of_a_task_whose_lease_is_lost_is_killed(
    oq: AsyncOmniQ, log: Path, virtual_clock: VirtualClock
) -> None:
    task_id = await oq.enqueue(tasks.sleep_in_c, [str(log)])
    async with working(oq, "process", lease=0.3, reap_interval=60.0, max_workers=1) as pool:
        await until(lambda: len(lines(log)) == 1)
        await claim_instead(oq, virtual_clock, lease=0.3)
        await pool.in_flight.until_held_at_most(0)
        assert not psutil.pid_exists(int(lines(log)[0]))
    # What was killed here isn't charged; the reaping was, unless the worker had been seen after the lease ran out.
    assert (await oq.get_task(task_id)).crashes <= 1


async def test_a_prefetched_task_whose_lease_is_lost_is_not_run(
    oq: AsyncOmniQ, log: Path, gate: Path, virtual_clock: VirtualClock
) -> None:
    first = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)], priority=1)
    ahead = await oq.enqueue(tasks.append, [str(log), "ran"])
    async with working(oq, "async", lease=0.3, reap_interval=60.0, max_workers=1, prefetch=1) as pool:
        await until(lambda: len(pool.in_flight.held) == 2 and len(lines(log)) == 1)
        virtual_clock.advance(2)
        lost = {task.id for task in await reap(oq.task_queue.store)}
        assert await oq.task_queue.store.claim(["default"], limit=2, lease=3600.0, worker="rival")
        assert lost == {first, ahead}
        await pool.in_flight.until_held_at_most(0)
    assert "ran" not in lines(log)


async def test_the_end_of_a_claim_can_be_repeated_but_not_that_of_an_older_one(oq: AsyncOmniQ) -> None:
    store = oq.task_queue.store
    task_id = await oq.enqueue(tasks.nothing)
    for _ in range(2):
        await store.claim(["default"], limit=1, lease=0.0, worker="w")
        await reap(store)
    (record,) = await store.claim(["default"], limit=1, lease=60.0, worker="w")
    running = (TaskState.RUNNING,)
    end = Change(task_id=task_id, to=TaskState.SUCCESS, from_states=running, epoch=record.epoch)
    late = Change(task_id=task_id, to=TaskState.ERROR, from_states=running, epoch=record.epoch - 1)
    statuses = [(await store.transition([change]))[0].status for change in (late, end, end, late)]
    assert statuses == [ChangeStatus.REFUSED, ChangeStatus.APPLIED, ChangeStatus.REPEATED, ChangeStatus.REFUSED]
