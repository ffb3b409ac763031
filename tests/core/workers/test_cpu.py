"""A task that computes for three leases, and never lets go of its loop or its thread, still runs once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core import tasks
from tests.core.support import SOON, front_door, lines, sqlite_place, working, working_elsewhere

pytestmark = pytest.mark.starvable

LEASE = 0.8


@pytest.mark.parametrize(
    ("kind", "func"),
    [("async", tasks.spin), ("async", tasks.spin_async), ("thread", tasks.spin), ("process", tasks.spin_async)],
)
async def test_a_task_that_computes_for_three_leases_runs_once(
    tmp_path: Path, log: Path, kind: str, func: Callable[..., Any]
) -> None:
    # The rival looks for lapsed leases all the time, from another loop that the task can't block.
    place, config = sqlite_place(tmp_path), {"lease": LEASE, "reap_interval": 0.05, "max_workers": 1}
    async with front_door(place) as oq, front_door(place) as rival, working(oq, kind, **config):
        task_id = await oq.enqueue(func, [str(log), 3 * LEASE])
        async with working_elsewhere(rival, "thread", queues=["high"], **config):
            assert await oq.get_result(task_id, timeout=SOON) == "done"
        task = await oq.get_task(task_id)
    assert len(lines(log)) == 1
    assert (task.epoch, task.attempts, task.crashes) == (1, 0, 0)
