"""Children that can't be started: the worker tries again, claims nothing meanwhile, and gives up in the end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.config.loader import Security
from omniq.storage.base import SizeLimit
from omniq.workers import AsyncWorkerPool, process
from omniq.workers.children import Child
from omniq.workers.execution import Execution

from tests.core import tasks
from tests.core.support import FAST, SOON, front_door, reference_place, results_of, until, working


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(process, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(process, "MAX_PAUSE", 0.05)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def ended(pool: AsyncWorkerPool) -> str:
    """What ended the worker."""
    await until(pool.finished.is_set)
    await pool.stop()
    return str(pool.failure)


async def test_a_worker_that_can_start_no_child_gives_up_and_has_claimed_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    place = reference_place()
    async with front_door(place) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        pool = oq.worker_pool("process", **FAST)
        await pool.start()
        assert (await ended(pool)).startswith("no child process can be started: [Errno 2]")
        assert (await oq.get_task(task_id)).epoch == 0
        async with front_door(place) as other, working(other, "thread"):
            assert await oq.get_result(task_id, timeout=SOON) == 3


async def test_children_that_die_at_once_are_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with front_door(reference_place()) as oq:
        pool = oq.worker_pool("process", **FAST)
        await pool.start()
        assert "(exit code 9): see what it wrote to stderr" in await ended(pool)


async def test_a_child_is_replaced_as_soon_as_there_are_descriptors_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "FAILED_STARTS", 1000)
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1) as pool:
        (pid,) = await results_of(oq, [await oq.enqueue(tasks.process_id)])
        with no_descriptors():
            os.kill(pid, signal.SIGKILL)
            await until(lambda: "Too many open files" in caplog.text)
            task_id = await oq.enqueue(tasks.process_id)
            await until(lambda: caplog.text.count("trying again") > 5)
            assert (await oq.get_task(task_id)).epoch == 0
        assert await oq.get_result(task_id, timeout=SOON) != pid
        assert pool.runners.main.slots == 1


async def test_a_worker_that_has_another_child_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "FAILED_STARTS", 2)
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=2) as pool:
        pids = await both(oq)
        with no_descriptors():
            os.kill(pids[0], signal.SIGKILL)
            await until(lambda: caplog.text.count("trying again") > 5)
            assert await results_of(oq, [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]) == list(range(1, 21))
        assert len(await both(oq)) == 2
        assert pool.failure is None


async def both(oq: AsyncOmniQ) -> list[int]:
    """The processes of both children, once there are two."""
    found: set[int] = set()
    while len(found) < 2:
        found |= set(await results_of(oq, [await oq.enqueue(tasks.sleep_in_process, [0.05]) for _ in range(2)]))
    return sorted(found)


async def test_a_child_that_gets_ready_while_the_worker_stops_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    get_ready, started = Child._get_ready, list[Child]()

    async def stopped_then(self: Child, execution: Execution) -> None:
        await get_ready(self, execution)
        started.append(self)
        raise asyncio.CancelledError

    monkeypatch.setattr(Child, "_get_ready", stopped_then)
    with pytest.raises(asyncio.CancelledError):
        await Child.start(Execution(Security(), SizeLimit(sys.maxsize, "nothing")), lambda *_: None)
    assert [child.process.poll() is None for child in started] == [False]


async def test_a_child_that_is_being_ended_while_the_worker_stops_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dead, ending, cancelled = Child._dead, list[Child](), asyncio.Event()

    async def slowly_dead(self: Child) -> None:
        ending.append(self)
        await cancelled.wait()
        await dead(self)

    monkeypatch.setattr(Child, "_dead", slowly_dead)
    start = Child.start(Execution(Security(), SizeLimit(sys.maxsize, "nothing")), lambda *_: None)
    starting = asyncio.create_task(start)
    await until(lambda: bool(ending))
    for _ in range(2):
        starting.cancel()
        await asyncio.sleep(0)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert [child.process.returncode for child in ending] == [9]
    assert {end.fileno() for child in ending for end in child._ends} == {-1}
