"""What tasks start and leave behind ends with their process: at a timeout, a cancellation, a stop, and a death."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskCancelled, TaskFailed

from tests.core import tasks
from tests.core.cli.process import ROOT
from tests.core.support import SOON, lines, until, working
from tests.core.workers import process_tasks


def is_alive(pid: int) -> bool:
    """Whether it runs; where nobody buries orphans, the dead stay in the table."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_dead(*pids: int) -> None:
    """Wait until they are dead, not for the end to which they come by themselves."""
    await until(lambda: not any(map(is_alive, pids)), tasks.PATIENCE / 2)


async def program_of(log: Path) -> int:
    """The program that a task has started."""
    await until(lambda: len(lines(log)) == 1)
    (pid,) = map(int, lines(log))
    assert is_alive(pid)
    return pid


async def test_a_timeout_ends_what_the_task_has_started(oq: AsyncOmniQ, log: Path) -> None:
    async with working(oq, "process", max_workers=1):
        task_id = await oq.enqueue(process_tasks.start_a_program, [str(log)], timeout=0.5)
        with pytest.raises(TaskFailed, match="ran longer"):
            await oq.get_result(task_id, timeout=SOON)
        await until_dead(int(lines(log)[0]))
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3


async def test_a_cancellation_ends_what_the_task_has_started(oq: AsyncOmniQ, log: Path) -> None:
    async with working(oq, "process", max_workers=1, lease=0.3):
        task_id = await oq.enqueue(process_tasks.start_a_program, [str(log)])
        pid = await program_of(log)
        await oq.cancel(task_id)
        with pytest.raises(TaskCancelled):
            await oq.get_result(task_id, timeout=SOON)
        await until_dead(pid)


async def test_a_stop_ends_what_tasks_have_started_and_left_behind(oq: AsyncOmniQ, log: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    async with working(oq, "process", max_workers=2, grace_period=0.1, lease=60.0):
        await oq.get_result(await oq.enqueue(process_tasks.leave_a_program, [str(left)]), timeout=SOON)
        await oq.enqueue(process_tasks.start_a_program, [str(log)])
        pids = [await program_of(log), int(lines(left)[0])]
        assert is_alive(pids[1])
    await until_dead(*pids)


async def test_the_death_of_a_child_ends_what_its_tasks_have_started(oq: AsyncOmniQ, log: Path) -> None:
    async with working(oq, "process", max_workers=1, max_crashes=1):
        await oq.get_result(await oq.enqueue(process_tasks.leave_a_program, [str(log)]), timeout=SOON)
        pid = await program_of(log)
        with pytest.raises(TaskFailed, match="died 1 times"):
            await oq.get_result(await oq.enqueue(process_tasks.exit_at_once), timeout=SOON)
        await until_dead(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_the_death_of_the_worker_ends_children_and_what_they_have_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tests.core.workers.process_programs", "staying", str(tmp_path)]
    program = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    assert await asyncio.wait_for(program.stdout.readline(), SOON) == b"ready\n"
    children = [process.pid for process in psutil.Process(program.pid).children(recursive=True)]
    assert len(children) == 4
    program.send_signal(number)
    await until_dead(*children)
    await program.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child has to notice it by itself")
async def test_the_death_of_the_worker_ends_a_child_that_can_do_nothing(tmp_path: Path) -> None:
    """As one whose task is in C code that keeps Python's lock; here it is stopped."""
    command = [sys.executable, "-m", "tests.core.workers.process_programs", "staying", str(tmp_path)]
    program = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    assert await asyncio.wait_for(program.stdout.readline(), SOON) == b"ready\n"
    worker = psutil.Process(program.pid)
    for child in worker.children():
        child.suspend()
    pids = [process.pid for process in worker.children(recursive=True)]
    program.kill()
    await until_dead(*pids)
    await program.communicate()


async def test_each_child_leads_a_session_of_its_own(oq: AsyncOmniQ) -> None:
    async with working(oq, "process", max_workers=1):
        pid = await oq.get_result(await oq.enqueue(tasks.process_id), timeout=SOON)
        assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_child_leaves_signals_to_its_worker(
    oq: AsyncOmniQ, log: Path, gate: Path, number: signal.Signals
) -> None:
    async with working(oq, "process", max_workers=1):
        task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
        await until(lambda: len(lines(log)) == 1)
        os.kill(int(lines(log)[0]), number)
        gate.touch()
        assert await oq.get_result(task_id, timeout=SOON) == "done"
        assert (await oq.get_task(task_id)).epoch == 1
