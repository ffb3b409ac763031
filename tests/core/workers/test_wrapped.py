"""Async tasks behind plain wrappers and as callable objects run where async tasks run: on the worker's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from omniq import OmniQ
from omniq.errors import TaskCancelled, TaskFailed

from tests.core.support import SOON
from tests.core.workers import wrapped_tasks as tasks


@pytest.fixture
def oq() -> Iterator[OmniQ]:
    with OmniQ(task_queue="memory://") as oq:
        oq.start_worker("async", max_workers=4)
        yield oq


def result(oq: OmniQ, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return oq.get_result(oq.enqueue(function, args, max_retries=0, **options), timeout=SOON)


@pytest.mark.parametrize("name", ["wrapped", "wrapped_twice", "callee"])
def test_it_runs_on_the_loop_of_the_worker(oq: OmniQ, name: str) -> None:
    assert result(oq, getattr(tasks, name)) == result(oq, tasks.direct)


def test_what_runs_a_loop_of_its_own_still_does(oq: OmniQ) -> None:
    thread, loop = result(oq, tasks.run_to_its_end)
    own = result(oq, tasks.direct)
    assert thread != own[0]
    assert loop != own[1]


def test_it_fails_as_others_do(oq: OmniQ) -> None:
    with pytest.raises(TaskFailed, match="ValueError: no"):
        result(oq, tasks.fails)
    with pytest.raises(TaskFailed, match="SystemExit: 3"):
        result(oq, tasks.exits)
    with pytest.raises(TaskFailed, match="ran longer than its timeout of 0.05 s"):
        result(oq, tasks.sleeps, 60, timeout=0.05)
    assert result(oq, tasks.sleeps, 0) is None  # and the worker goes on


def test_it_is_cancelled_where_it_waits(oq: OmniQ) -> None:
    tasks.cleaned_up.clear()
    task_id = oq.enqueue(tasks.cleans_up)
    for seen in oq.watch(task_id, timeout=SOON):
        if seen.status == "running":
            assert oq.cancel(task_id)
            break
    with pytest.raises(TaskCancelled):
        oq.get_result(task_id, timeout=SOON)
    assert tasks.cleaned_up.wait(SOON)


def test_it_is_handed_back_when_the_worker_stops(oq: OmniQ) -> None:
    tasks.cleaned_up.clear()
    task_id = oq.enqueue(tasks.cleans_up)
    for seen in oq.watch(task_id, timeout=SOON):
        if seen.status == "running":
            oq.stop_worker(0)
            break
    assert oq.get_task(task_id).state == "pending"
    assert oq.get_task(task_id).attempts == 0
    assert tasks.cleaned_up.wait(SOON)
