"""A worker outlives its tasks: whatever one raises, stops, closes, cancels, leaves or forks, no other one pays."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskState
from omniq.workers import AsyncWorker
from omniq.workers.jobs import Job
from omniq.workers.thread_loop import ThreadLoop

from tests.core import tasks
from tests.core.support import (
    SOON,
    blocking_door,
    front_door,
    lines,
    reference_place,
    results_of,
    sqlite_place,
    until,
    until_states,
    working,
    working_elsewhere,
)
from tests.core.workers import rude

SHARED = ("async", "thread")
"""Workers whose tasks share a process."""


async def error_of(oq: AsyncOmniQ, task_id: str) -> str:
    """By which error the task ends."""
    with pytest.raises(TaskFailed) as failed:
        await oq.get_result(task_id, timeout=SOON)
    return failed.value.error_type


# ── loops ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SHARED)
async def test_a_child_that_exits_ends_its_task_and_no_other(oq: AsyncOmniQ, log: Path, gate: Path, kind: str) -> None:
    async with working_elsewhere(oq, kind, max_workers=4):
        beside = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        await until(lambda: len(lines(log)) == 1)
        exiting = await oq.enqueue(rude.exit_in_a_child, [str(log)])
        assert await error_of(oq, exiting) == "SystemExit"
        gate.touch()
        assert await oq.get_result(beside, timeout=SOON) == "done"
        assert await oq.get_result(await oq.enqueue(tasks.add_async, [1, 2]), timeout=SOON) == 3


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("func", [rude.leave_a_child_that_exits, rude.stop_the_loop])
async def test_what_a_task_leaves_or_stops_does_not_hurt_the_next(
    oq: AsyncOmniQ, kind: str, func: Callable[..., Any]
) -> None:
    ids = []
    for _ in range(5):
        ids += [await oq.enqueue(func), await oq.enqueue(tasks.add_async, [1, 2])]
    async with working_elsewhere(oq, kind, max_workers=1):
        assert await results_of(oq, ids) == [None, 3] * 5
    assert {(await oq.get_task(id_)).attempts for id_ in ids} == {0}


async def test_coroutines_that_a_task_leaves_on_a_thread_end_with_it(oq: AsyncOmniQ, log: Path) -> None:
    async with working_elsewhere(oq, "thread", max_workers=1):
        await results_of(oq, [await oq.enqueue(rude.leave_a_child_that_stays, [str(log)])])
        assert lines(log) == ["ended"]


async def test_coroutines_that_tasks_leave_on_the_shared_loop_end_with_the_worker(oq: AsyncOmniQ, log: Path) -> None:
    async with working_elsewhere(oq, "async", max_workers=1):
        await results_of(oq, [await oq.enqueue(rude.leave_a_child_that_stays, [str(log)])])
        assert lines(log) == []
    assert lines(log) == ["ended"]


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
@pytest.mark.parametrize("func", [rude.close_the_current_loop, rude.leave_a_closed_loop])
async def test_a_loop_that_a_sync_task_closes_is_no_other_tasks_loop(
    oq: AsyncOmniQ, kind: str, func: Callable[..., Any]
) -> None:
    first = await oq.enqueue(tasks.add_async, [1, 2], priority=9)
    closing = await oq.enqueue(func, priority=8)
    after = [await oq.enqueue(tasks.add_async, [1, 2]), await oq.enqueue(rude.run_on_the_current_loop)]
    async with working_elsewhere(oq, kind, max_workers=1):
        assert await results_of(oq, [first, *after]) == [3, 3, "done"]
        await until_states(oq, [closing], TaskState.SUCCESS, TaskState.ERROR)


def test_a_threads_loop_is_made_anew_after_a_task_that_broke_it() -> None:
    loop = ThreadLoop()

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    try:
        first = loop.run(running(), timeout=None)
        assert loop.run(running(), timeout=None) is first
        first.close()
        second = loop.run(running(), timeout=None)
        assert second is not first
        with pytest.raises(SystemExit):
            loop.run(rude.exits(), timeout=None)
        assert second.is_closed()
        assert loop.run(running(), timeout=None) is not second
    finally:
        loop.close()


# ── cancellations ────────────────────────────────────────────────────────────


async def test_a_task_that_cancels_everything_ends_itself_alone(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    async with working_elsewhere(oq, "async", max_workers=4, lease=60.0):
        beside = [
            await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)]),
            await oq.enqueue(rude.wait_in_a_child, [str(log), str(gate)]),
        ]
        await until(lambda: len(lines(log)) == 2)
        assert await error_of(oq, await oq.enqueue(rude.cancel_everything)) == "asyncio.exceptions.CancelledError"
        gate.touch()
        assert await results_of(oq, beside) == ["done", "done"]
        assert "cancelled" not in lines(log)
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        ended = [await oq.result_store.get(id_) for id_ in beside]
    assert [result.attempts for result in ended if result is not None] == [1, 1]


async def test_tasks_that_cancel_each_other_and_themselves_do_not_end_the_worker(
    oq: AsyncOmniQ, log: Path, gate: Path
) -> None:
    async with working_elsewhere(oq, "async", max_workers=4, lease=60.0):
        beside = await oq.enqueue(rude.wait_then_cancel_itself, [str(log), str(gate)])
        await until(lambda: len(lines(log)) == 1)
        assert await error_of(oq, await oq.enqueue(rude.cancel_everything)) == "asyncio.exceptions.CancelledError"
        gate.touch()
        assert await oq.get_result(beside, timeout=SOON) == "done"
        assert await oq.get_result(await oq.enqueue(tasks.add_async, [1, 2]), timeout=SOON) == 3


async def test_a_callback_that_cancels_everything_ends_itself_alone(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    async with working_elsewhere(oq, "async", max_workers=4, lease=60.0):
        beside = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        await until(lambda: len(lines(log)) == 1)
        called = await oq.enqueue(tasks.add, [1, 2], on_success=rude.cancel_everything_as_callback)
        assert await oq.get_result(called, timeout=SOON) == 3
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        gate.touch()
        assert await oq.get_result(beside, timeout=SOON) == "done"


async def test_a_worker_on_a_loop_of_its_own_cannot_be_cancelled_from_a_thread(oq: AsyncOmniQ) -> None:
    async with working_elsewhere(oq, "async", max_workers=4, lease=60.0):
        cancelling = await oq.enqueue(rude.cancel_everything_from_a_thread)
        assert await error_of(oq, cancelling) == "asyncio.exceptions.CancelledError"
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert await oq.get_result(await oq.enqueue(tasks.add, [2, 2]), timeout=SOON) == 4


async def test_an_embedded_worker_goes_on_after_a_task_that_cancels_everything(oq: AsyncOmniQ) -> None:
    async with AsyncWorker(oq.task_queue, oq.result_store, lease=60.0, poll_interval=0.2):
        # This test's own task is cancelled as well, which nobody can keep a task from.
        with pytest.raises(asyncio.CancelledError):
            await oq.get_result(await oq.enqueue(rude.cancel_everything), timeout=SOON)
        me = asyncio.current_task()
        assert me is not None
        me.uncancel()
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert await oq.get_result(await oq.enqueue(tasks.add_async, [1, 2]), timeout=SOON) == 3


async def test_a_program_that_ends_its_loop_ends_the_worker_on_it(log: Path) -> None:
    ids: list[str] = []
    place = reference_place()

    async def program() -> None:
        oq = front_door(place)
        ids.extend([await oq.enqueue(tasks.stay_away, [str(log)]) for _ in range(3)])
        await oq.start_worker(max_workers=1, prefetch=2, lease=0.6)
        await until(lambda: len(lines(log)) == 1)

    await asyncio.to_thread(asyncio.run, program())  # which ends the loop under the worker
    async with front_door(place) as oq:
        await until_states(oq, ids[1:], TaskState.PENDING)
        await until(lambda: not any(thread.name == "omniq-leases" for thread in threading.enumerate()))
    assert len(lines(log)) == 1


async def test_a_task_that_swallows_its_timeout_is_given_up(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    async with working(oq, "async", max_workers=1, lease=60.0):
        task_id = await oq.enqueue(rude.swallow_cancellations, [str(log), str(gate)], timeout=0.1)
        assert await error_of(oq, task_id) == "omniq.errors.TaskTimeout"
        assert "swallowed" in lines(log)
        assert await oq.get_result(await oq.enqueue(tasks.add_async, [1, 2]), timeout=SOON) == 3
        gate.touch()
    assert (await oq.get_task(task_id)).attempts == 1


# ── a worker on the program's own loop ───────────────────────────────────────


async def test_leases_end_with_the_loop_of_an_embedded_worker(log: Path) -> None:
    ids: list[str] = []
    place = reference_place()

    async def program() -> None:
        oq = front_door(place)
        ids.append(await oq.enqueue(rude.exit_in_a_child, [str(log)], priority=1))
        ids.extend([await oq.enqueue(tasks.add, [n, 1]) for n in range(3)])
        await oq.start_worker(max_workers=1, prefetch=3, lease=0.6)
        await asyncio.Event().wait()

    def run() -> BaseException | None:
        loop = asyncio.new_event_loop()
        running = loop.create_task(program())
        try:
            loop.run_until_complete(running)
        except SystemExit as error:
            return error
        finally:
            loop.set_exception_handler(lambda *_: None)  # of what is left, it would complain at some later time
            loop.close()
        return None

    assert isinstance(await asyncio.to_thread(run), SystemExit)
    async with front_door(place) as oq:
        await until_states(oq, ids[1:], TaskState.PENDING)
        assert {(await oq.get_task(id_)).crashes for id_ in ids} == {0}
        await until(lambda: not any(thread.name == "omniq-leases" for thread in threading.enumerate()))
        async with working(oq, "thread"):
            assert await results_of(oq, ids[1:]) == [1, 2, 3]


# ── forks ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("return", 0), ("raise", 1)])
async def test_a_child_that_a_task_forks_ends_with_the_task(
    oq: AsyncOmniQ, log: Path, kind: str, how: str, code: int
) -> None:
    ids = [await oq.enqueue(tasks.append, [str(log), f"t{n}"]) for n in range(20)]
    forking = await oq.enqueue(rude.fork_and, [how, str(log)], priority=1)
    async with working_elsewhere(oq, kind, max_workers=2):
        assert await oq.get_result(forking, timeout=SOON) == code
        await results_of(oq, ids)
    ran = [line for line in lines(log) if line.startswith("t")]
    assert sorted(ran) == sorted(f"t{n}" for n in range(20))


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("return", 0)])
async def test_a_child_that_a_task_forks_on_a_loop_ends_with_the_task(
    oq: AsyncOmniQ, log: Path, kind: str, how: str, code: int
) -> None:
    async with working_elsewhere(oq, kind, max_workers=2):
        assert await oq.get_result(await oq.enqueue(rude.fork_on_a_loop_and, [how, str(log)]), timeout=SOON) == code
        assert await oq.get_result(await oq.enqueue(tasks.add_async, [1, 2]), timeout=SOON) == 3


def test_a_child_that_the_program_forks_leaves_the_worker_to_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    code = os.spawnve(
        os.P_WAIT, sys.executable, [sys.executable, str(script), str(tmp_path)], {**os.environ, "PYTHONPATH": ROOT}
    )
    assert code == 0


ROOT = str(Path(__file__).parents[3])
PROGRAM = """
import os, sys
from pathlib import Path
from tests.core import tasks
from tests.core.support import blocking_door, sqlite_place

oq = blocking_door(sqlite_place(Path(sys.argv[1])))
for kind in ("async", "thread"):
    oq.start_worker(kind)
    assert oq.get_result(oq.enqueue(tasks.add_async, [1, 2]), timeout=20) == 3
    for how in ("exit", "close", "enqueue"):
        child = os.fork()
        if child == 0:
            if how == "close":
                oq.close()
            elif how == "enqueue":
                assert not oq._worker.running
                assert oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=20) == 3
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert oq.get_result(oq.enqueue(tasks.add_async, [1, 2]), timeout=20) == 3
    oq.stop_worker()
oq.close()
"""


# ── what is kept ─────────────────────────────────────────────────────────────

WEIGHING = (rude.weigh, rude.weigh_on_a_loop, rude.fail_holding, rude.fail_holding_on_a_loop)


@pytest.mark.parametrize("kind", SHARED)
async def test_nothing_of_a_task_is_kept_after_its_end(tmp_path: Path, kind: str) -> None:
    async with front_door(sqlite_place(tmp_path)) as oq:
        ids = [await oq.enqueue(func, [rude.Heavy()], timeout=60) for func in WEIGHING for _ in range(4)]
        gc.collect()
        gc.disable()  # so that a cycle would be seen
        try:
            async with working(oq, kind, max_workers=8, lease=60.0):
                await until_states(oq, ids, TaskState.SUCCESS, TaskState.ERROR)
                await until(lambda: not list(rude.Heavy.alive))
                await until(
                    lambda: not [kept for kept in gc.get_objects() if type(kept) is Job and kept.record.id in ids]
                )
            assert not list(rude.Heavy.alive)
        finally:
            gc.enable()


async def test_an_error_of_one_task_ends_in_stated_ways_with_the_blocking_worker(tmp_path: Path) -> None:
    def program() -> int:
        with blocking_door(sqlite_place(tmp_path)) as oq:
            oq.start_worker("async")
            with pytest.raises(TaskFailed, match="SystemExit"):
                oq.get_result(oq.enqueue(rude.exit_in_a_child, [str(tmp_path / "log")]), timeout=SOON)
            result = oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=SOON)
            assert isinstance(result, int)
            return result

    assert await asyncio.to_thread(program) == 3


async def test_tasks_of_a_worker_begin_in_an_empty_context() -> None:
    tasks.variable.set("the first caller's")
    async with front_door(reference_place()) as oq, working(oq, "async"):
        ids = [await oq.enqueue(func, ["x"]) for func in (tasks.stain, tasks.stain_async)]
        assert await results_of(oq, ids) == ["clean", "clean"]
