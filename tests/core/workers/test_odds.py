"""Odd things that tasks do to the threads, streams and errors of their worker: others don't notice."""

from __future__ import annotations

import asyncio
import ctypes
import io
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed, TaskTimeout
from omniq.workers.thread_loop import ThreadState

from tests.core import tasks
from tests.core.support import SOON, front_door, reference_place, results_of, working

WORKERS = ["async", "thread", "process"]


def raise_a_timeout() -> None:
    raise TaskTimeout


async def raise_a_timeout_on_a_loop() -> None:
    raise TaskTimeout


def detach_the_output() -> int:
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.detach()
    return 1


def leave_a_running_loop() -> int:
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    loop.close()
    return 1


def end_this_thread_soon() -> int:
    thread, ended = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(SystemExit)
    threading.Timer(0.1, ctypes.pythonapi.PyThreadState_SetAsyncExc, (thread, ended)).start()
    return 1


async def innocents_run(oq: AsyncOmniQ) -> None:
    """Enqueue sync and async tasks, and see each run once."""
    ids = [await oq.enqueue(func, [n, 1]) for n in range(3) for func in (tasks.add, tasks.add_async)]
    assert await results_of(oq, ids) == [n + 1 for n in range(3) for _ in range(2)]
    assert {(task.attempts, task.crashes) for task in [await oq.get_task(id_) for id_ in ids]} == {(0, 0)}


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("rude", [raise_a_timeout, raise_a_timeout_on_a_loop])
async def test_a_task_may_raise_a_timeout_though_it_has_none(worker: str, rude: Callable[[], Any]) -> None:
    async with front_door(reference_place()) as oq, working(oq, worker, max_workers=1):
        task_id = await oq.enqueue(rude, max_retries=0)
        await innocents_run(oq)
        with pytest.raises(TaskFailed, match="TaskTimeout"):
            await oq.get_result(task_id, timeout=SOON)


@pytest.mark.parametrize("worker", WORKERS)
async def test_a_running_loop_that_a_task_leaves_is_nobody_elses(worker: str) -> None:
    async with front_door(reference_place()) as oq, working(oq, worker, max_workers=1):
        assert await oq.get_result(await oq.enqueue(leave_a_running_loop), timeout=SOON) == 1
        await innocents_run(oq)


async def test_a_child_whose_output_was_detached_runs_the_next_task() -> None:
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1):
        assert await oq.get_result(await oq.enqueue(detach_the_output), timeout=SOON) == 1
        await innocents_run(oq)


def test_a_detached_stream_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    detached = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", detached)
    state = ThreadState()
    detached.detach()
    state.restore()
    assert sys.stdout is not detached
    assert not sys.stdout.closed
    assert sys.stdout.encoding == "utf-8"


@pytest.mark.parametrize("worker", ["async", "thread"])
async def test_a_thread_that_is_ended_from_outside_is_replaced(worker: str, caplog: pytest.LogCaptureFixture) -> None:
    async with front_door(reference_place()) as oq, working(oq, worker, max_workers=1):
        assert await oq.get_result(await oq.enqueue(end_this_thread_soon), timeout=SOON) == 1
        while "a thread was ended by SystemExit" not in caplog.text:
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        await innocents_run(oq)
