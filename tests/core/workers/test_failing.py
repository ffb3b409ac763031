"""A worker that can't go on says so, lets others have its tasks at once, and can be started again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, loops, sync
from omniq.errors import WorkerError
from omniq.models import TaskState
from omniq.queue.request import UNREADABLE
from omniq.storage.records import LapsedLease, TaskRecord
from omniq.testing import ReferenceQueueStore, ReferenceSpace
from omniq.workers import thread as slots
from omniq.workers import thread_loop
from omniq.workers.jobs import InFlight, Job

from tests.core import tasks
from tests.core.support import (
    FAST,
    SOON,
    Place,
    blocking_door,
    front_door,
    lines,
    reference_place,
    results_of,
    until,
    until_states,
    working,
    working_elsewhere,
)

SHARED = ("async", "thread")


class BreakingStore(ReferenceQueueStore):
    """A store that raises what no store may raise, once it is told so."""

    def __init__(self, space: ReferenceSpace) -> None:
        super().__init__(space)
        self.broken = False

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        if self.broken:
            raise LookupError("a bug of the store")
        return await super().lapsed(limit=limit, after=after)


def breaking(space: ReferenceSpace) -> tuple[BreakingStore, Place]:
    """A place whose queue can be broken."""
    store = BreakingStore(space)
    return store, reference_place(space, queue=lambda _: store)


def no_threads(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], bool]) -> None:
    """Let threads for tasks fail to start as long as `fails` says so."""
    start = threading.Thread.start

    def start_or_fail(self: threading.Thread) -> None:
        if self.name == "omniq-task" and fails():
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)


# ── a part that raises ───────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SHARED)
async def test_a_worker_that_cannot_go_on_lets_others_have_its_tasks_at_once(
    log: Path, gate: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    space = ReferenceSpace()
    store, place = breaking(space)
    async with front_door(place) as oq, front_door(reference_place(space)) as other:
        ids = [await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)]) for _ in range(4)]
        pool = oq.worker_pool(kind, **{**FAST, "lease": 600.0, "max_workers": 2, "prefetch": 2})
        await pool.start()
        await until(lambda: len(lines(log)) == 2)
        store.broken = True
        await asyncio.wait_for(pool.finished.wait(), SOON)
        assert isinstance(pool.failure, LookupError)
        assert not pool.running
        assert {(await other.get_task(id_)).state for id_ in ids} == {TaskState.PENDING}
        gate.touch()
        async with working(other, "thread"):
            assert await results_of(other, ids) == ["done"] * 4
        assert {((await other.get_task(id_)).attempts, (await other.get_task(id_)).crashes) for id_ in ids} == {(0, 0)}
        await asyncio.wait_for(pool.stop(), 1.0)
    critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert [record.getMessage() for record in critical] == [f"worker {pool.name} can't go on"]


def test_a_blocking_worker_that_cannot_go_on_does_not_run_and_starts_again() -> None:
    store, place = breaking(ReferenceSpace())
    oq = blocking_door(place)
    try:
        oq.start_worker("thread")
        assert oq._worker is not None
        worker = oq._worker
        oq.enqueue(tasks.sleep, [0.5])
        store.broken = True
        with pytest.raises(WorkerError, match="a bug of the store"):
            worker.drain()
        until_now(lambda: not worker.running)
        with pytest.raises(WorkerError):
            oq._worker.drain()
        store.broken = False
        oq.start_worker("thread")
        assert oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
    finally:
        oq.close()


async def test_an_embedded_worker_that_cannot_go_on_starts_again() -> None:
    store, place = breaking(ReferenceSpace())
    async with front_door(place) as oq:
        await oq.start_worker(**FAST)
        assert oq._worker is not None
        store.broken = True
        await oq.enqueue(tasks.nothing)
        await asyncio.wait_for(oq._worker.finished.wait(), SOON)
        store.broken = False
        await oq.start_worker(**FAST)
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3


def test_a_worker_whose_loop_breaks_lets_others_have_its_tasks(
    log: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking = threading.Event()

    def run_once(loop: asyncio.AbstractEventLoop) -> None:
        loops.run_once(loop)
        if breaking.is_set() and threading.current_thread().name == "omniq-worker":
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(sync, "run_once", run_once)
    oq = blocking_door(reference_place())
    try:
        oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        ahead = oq.enqueue(tasks.add, [1, 2])
        oq.start_worker("async", max_workers=1, prefetch=1, lease=600.0)
        worker = oq._worker
        assert worker is not None
        until_now(lambda: len(lines(log)) == 1 and oq.get_task(ahead).state is TaskState.RUNNING)
        assert worker._portal is not None
        breaking.set()
        worker._portal.loop.call_soon_threadsafe(worker._portal.loop.stop)
        until_now(lambda: not worker.running and oq.get_task(ahead).state is TaskState.PENDING)
        assert isinstance(worker.aio.failure, OSError)
        with pytest.raises(WorkerError):
            worker.drain()
        oq.start_worker("thread")
        assert oq.get_result(ahead, timeout=SOON) == 3
    finally:
        oq.close()


def until_now(condition: Callable[[], bool]) -> None:
    """Wait for it where no loop runs."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.005)


# ── threads and descriptors ──────────────────────────────────────────────────


@pytest.mark.parametrize("kind", SHARED)
async def test_a_thread_that_cannot_be_started_is_tried_again(
    oq: AsyncOmniQ, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [3]

    def fails() -> bool:
        left[0] -= 1
        return left[0] >= 0

    no_threads(monkeypatch, fails)
    ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(4)]
    async with working(oq, kind, max_workers=2):
        assert await results_of(oq, ids) == [1, 2, 3, 4]
    assert "a thread can't be started, trying again in 0.1 s: can't start new thread" in caplog.text
    assert {(await oq.get_task(id_)).crashes for id_ in ids} == {0}


async def test_nothing_is_claimed_while_there_is_no_thread(oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [True]
    no_threads(monkeypatch, lambda: failing[0])
    ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(4)]
    async with working(oq, "thread", max_workers=2, lease=60.0) as pool:
        await until(lambda: pool.runners.main.blocked and not pool.in_flight.held)
        epochs = [(await oq.get_task(id_)).epoch for id_ in ids]
        await asyncio.sleep(0.5)
        assert [(await oq.get_task(id_)).epoch for id_ in ids] == epochs
        failing[0] = False
        assert await results_of(oq, ids) == [1, 2, 3, 4]


async def test_a_worker_for_which_no_thread_ever_starts_gives_up(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "START_PATIENCE", 0.2)
    no_threads(monkeypatch, lambda: True)
    task_id = await oq.enqueue(tasks.add, [1, 2])
    pool = oq.worker_pool("thread", **{**FAST, "lease": 600.0})
    await pool.start()
    await asyncio.wait_for(pool.finished.wait(), SOON)
    assert str(pool.failure) == "no thread can be started: can't start new thread"
    task = await oq.get_task(task_id)
    assert (task.state, task.attempts, task.crashes) == (TaskState.PENDING, 0, 0)


async def test_a_thread_waits_for_descriptors_for_its_loop(oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [2]

    def new_event_loop() -> asyncio.AbstractEventLoop:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return asyncio.SelectorEventLoop()

    task_id = await oq.enqueue(tasks.add_async, [1, 2])
    async with working(oq, "thread", max_workers=1):
        monkeypatch.setattr(asyncio, "new_event_loop", new_event_loop)
        assert await oq.get_result(task_id, timeout=SOON) == 3


async def test_a_task_for_which_descriptors_are_lacking_goes_back_uncharged(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_loop, "OPEN_PATIENCE", 0.0)
    failing = [True]
    new_event_loop = asyncio.new_event_loop

    def fail_or_make() -> asyncio.AbstractEventLoop:
        if failing[0] and threading.current_thread().name == "omniq-task":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return new_event_loop()

    monkeypatch.setattr(asyncio, "new_event_loop", fail_or_make)
    task_id = await oq.enqueue(tasks.add_async, [1, 2])
    async with working_elsewhere(oq, "thread", max_workers=1):
        await until_states(oq, [task_id], TaskState.SCHEDULED)
        failing[0] = False
        assert await oq.get_result(task_id, timeout=SOON) == 3
    result = await oq.result_store.get(task_id)
    assert result is not None
    assert result.attempts == 1


async def test_a_worker_that_cannot_go_on_begins_nothing_more() -> None:
    record = TaskRecord(
        id="t", queue_name="default", state=TaskState.RUNNING, priority=0, created_at=0.0, run_at=0.0, epoch=1
    )
    in_flight, job = InFlight(60.0), Job(record, UNREADABLE)
    in_flight.accept([job])
    in_flight.close()
    assert in_flight.main.take() is None
    assert in_flight.withdraw() == [job]
