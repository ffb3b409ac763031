"""Greenlets, in a child process that is patched before anything else is imported; the worker's own process never is."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq import AsyncOmniQ
from omniq.errors import ConfigError, TaskFailed, WorkerError
from omniq.plugins import registry
from omniq.testing.rude_tasks import cancel_itself_last
from omniq.threads import is_patched
from omniq.workers import GeventPoolWorker

from tests.core.support import SOON, front_door, lines, plant, reference_place, results_of, until, working
from tests.gevent import tasks


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    async with front_door(reference_place()) as oq:
        yield oq


async def test_a_users_module_is_imported_after_patching_and_nothing_else_is_patched(oq: AsyncOmniQ) -> None:
    before = (socket.socket, threading.Thread.start, time.sleep, subprocess.Popen)
    async with working(oq, "gevent"):
        patched, taken = await oq.get_result(await oq.enqueue(tasks.patched_when_imported), timeout=SOON)
        assert (patched, taken) == ([True] * 5, True)
        assert await oq.get_result(await oq.enqueue(tasks.talk), timeout=SOON) == b"hello"
    assert (socket.socket, threading.Thread.start, time.sleep, subprocess.Popen) == before
    assert not is_patched()


async def test_what_is_patched_is_found_by_its_own_name_and_nothing_else_is(oq: AsyncOmniQ) -> None:
    """`time:sleep` is gevent's there; a module that only holds what another one defines still can't lend it."""
    async with working(oq, "gevent"):
        assert await oq.get_result(await oq.enqueue(time.sleep, [0.01]), timeout=SOON) is None
        for name in ("sleep", "create_connection"):
            with pytest.raises(TaskFailed, match="that module doesn't define it, it only holds"):
                await oq.get_result(await plant(oq, func=f"tests.gevent.tasks:{name}"), timeout=SOON)


def test_a_program_that_runs_such_a_worker_does_not_even_import_gevent(tmp_path: Path) -> None:
    """Asked in a process of its own: in that of the tests others may have."""
    code = """if True:
        import sys
        from omniq import OmniQ
        oq = OmniQ(config={"task_queue": {"url": "memory://"}})
        with oq:
            oq.start_worker("gevent", max_workers=2)
            assert oq.get_result(oq.enqueue(len, ["four"]), timeout=30) == 4
        assert not [name for name in sys.modules if name.partition(".")[0] in ("gevent", "greenlet")]
    """
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child has to notice it by itself")
async def test_a_child_that_can_do_nothing_ends_with_its_worker() -> None:
    """As one whose task is in C code that keeps Python's lock; here it is stopped."""
    code = """if True:
        import os, time
        from omniq import OmniQ
        with OmniQ(config={"task_queue": {"url": "memory://"}}) as oq:
            oq.start_worker("gevent", max_workers=2)
            oq.get_result(oq.enqueue(len, ["four"]), timeout=30)
            print("ready", flush=True)
            time.sleep(60)
    """
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    assert await asyncio.wait_for(program.stdout.readline(), SOON) == b"ready\n"
    (child,) = psutil.Process(program.pid).children()
    child.suspend()
    program.kill()
    await program.communicate()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a_task_that_cancels_itself_last_runs_once(oq: AsyncOmniQ) -> None:
    async with working(oq, "gevent"):
        task_id = await oq.enqueue(cancel_itself_last)
        assert await oq.get_result(task_id, timeout=SOON) is None
        assert (await oq.get_task(task_id)).epoch == 1


@pytest.mark.parametrize("how", ["exit", "interrupt"])
async def test_a_greenlet_of_a_task_that_exits_ends_nobody_else(oq: AsyncOmniQ, tmp_path: Path, how: str) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    async with working(oq, "gevent", max_workers=2):
        beside = await oq.enqueue(tasks.wait_with_others, [str(log), str(gate)])
        await until(lambda: len(lines(log)) == 1)
        assert await oq.get_result(await oq.enqueue(tasks.start_one_that_exits, [how]), timeout=SOON) == "done"
        gate.touch()
        await oq.get_result(beside, timeout=SOON)
        assert (await oq.get_task(beside)).crashes == 0


async def test_hundreds_of_greenlets_run_at_once_in_one_process(oq: AsyncOmniQ, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    async with working(oq, "gevent", max_workers=300):
        ids = [await oq.enqueue(tasks.wait_with_others, [str(log), str(gate)]) for _ in range(310)]
        await until(lambda: len(lines(log)) == 300)
        gate.touch()
        assert len(set(await results_of(oq, ids))) == 1


@pytest.mark.parametrize("wrong", [0, -1, 10_001, 1.5, "many", True])
async def test_a_size_that_makes_no_sense_is_refused(oq: AsyncOmniQ, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"GeventPoolWorker\.max_workers: expected int"):
        oq.worker_pool("gevent", max_workers=wrong)


async def test_without_gevent_it_says_what_to_install(oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gevent" else find(name))
    pool = oq.worker_pool("gevent")
    with pytest.raises(WorkerError, match=r'GeventPoolWorker needs gevent: pip install "omniq-core\[gevent\]"'):
        await pool.start()


@pytest.mark.parametrize("name", ["gevent", "gevent_pool"])
def test_it_is_found_by_its_names(name: str) -> None:
    assert registry().worker(name).worker_class == "omniq_gevent.worker:GeventPoolWorker"
    assert GeventPoolWorker.kind == "gevent"
