"""Tasks and callbacks that go on though they were given up are counted, shown and bounded; others leave nothing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed, WorkerError
from omniq.models import TaskId, TaskState
from omniq.workers import callbacks

from tests.core import tasks
from tests.core.support import (
    KINDS,
    SOON,
    front_door,
    lines,
    reference_place,
    results_of,
    until,
    until_states,
    working,
)
from tests.core.workers import progress_tasks, slot_tasks
from tests.core.workers.slot_tasks import Watched

# ── tasks ────────────────────────────────────────────────────────────────────


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    async with front_door(reference_place()) as oq:
        yield oq


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_tasks_that_cannot_be_stopped_are_counted_and_shown(
    oq: AsyncOmniQ, kind: str, log: Path, gate: Path
) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)], timeout=0.1) for _ in range(2)]
    if kind == "async":
        ids.append(await oq.enqueue(progress_tasks.be_stubborn, [str(log), str(gate)], timeout=0.1))
    async with working(oq, kind, max_workers=3, lease=1.0) as pool:
        for id_ in ids:
            with pytest.raises(TaskFailed, match="ran longer than its timeout"):
                await oq.get_result(id_, timeout=SOON)
        assert pool.report().abandoned == pool.runners.main.abandoned == len(ids)
        async with asyncio.timeout(SOON):
            while [worker.abandoned for worker in (await oq.status()).workers or ()] != [len(ids)]:
                await asyncio.sleep(0.02)
        gate.touch()
        await until(lambda: pool.report().abandoned == 0)
        assert pool.failure is None


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_with_too_many_of_them_the_worker_ends(oq: AsyncOmniQ, kind: str, log: Path, gate: Path) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)], timeout=0.1) for _ in range(3)]
    pool = oq.worker_pool(kind, max_workers=1, max_abandoned=1, prefetch=0)
    async with pool:
        await asyncio.wait_for(pool.finished.wait(), SOON)
        assert isinstance(pool.failure, WorkerError)
        assert str(pool.failure) == (
            "more tasks go on that were given up than max_abandoned allows (2, 1): "
            "they end with the process, which has to be started again"
        )
        assert not pool.running
    assert [(await oq.get_task(id_)).state.value for id_ in ids] == ["error", "error", "pending"]
    gate.touch()


async def test_what_a_worker_that_stops_leaves_behind_is_no_failure(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(2)]
    async with working(oq, "thread", max_abandoned=0, grace_period=0.0) as pool:
        await until(lambda: len(lines(log)) == 2)
    assert pool.failure is None
    await until_states(oq, ids, TaskState.PENDING)
    gate.touch()


# ── what is kept of tasks that have ended ────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_kept_of_a_task_that_has_ended(oq: AsyncOmniQ, kind: str, tmp_path: Path) -> None:
    """Neither by an idle slot nor by a child that waits for more: each of them runs one task, and then none."""
    logs = [tmp_path / f"freed {number}" for number in range(4)]
    calls = [(func, fails) for func in (slot_tasks.hold, slot_tasks.hold_async) for fails in (False, True)]
    async with working(oq, kind, max_workers=4):
        for log, (func, fails) in zip(logs, calls, strict=True):
            argument = Watched(str(tmp_path / "arguments"), "argument")
            await oq.enqueue(func, {"argument": argument, "log": str(log), "fails": fails})
        del argument
        await until(lambda: all({"-local", "-variable"} <= set(lines(log)) for log in logs))
        await until(lambda: lines(tmp_path / "arguments").count("-argument") >= 2 * len(calls))  # those here, too
        noted = Counter(lines(tmp_path / "arguments"))
        assert noted["+argument"] == noted["-argument"]


# ── callbacks ────────────────────────────────────────────────────────────────


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets callbacks end that hang."""
    progress_tasks.released.clear()
    progress_tasks.ends.clear()
    yield progress_tasks.released
    progress_tasks.released.set()


async def test_callbacks_that_hang_are_bounded(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, released: threading.Event
) -> None:
    """Tasks never wait for them. Those that aren't called are counted, and there is room once some have ended."""
    monkeypatch.setattr(callbacks, "CALLBACK_TIMEOUT", 0.05)
    monkeypatch.setattr(callbacks, "MAX_HUNG_CALLBACKS", 3)
    threads = threading.active_count()
    async with working(oq, "async") as pool:
        for _ in range(3):
            await results_of(oq, await enqueue(oq, 4, progress_tasks.hang_after_end))
            await until(lambda: not pool._callbacks._calls)
        assert (len(pool._callbacks._hung), pool._callbacks.dropped) == (4, 8)
        assert "callbacks of tasks weren't called so far: they take too long" in caplog.text
        assert threading.active_count() - threads < 8
        released.set()
        await until(lambda: not pool._callbacks._hung)
        (last,) = await enqueue(oq, 1, progress_tasks.note_end)
        await until(lambda: [result.task_id for result in progress_tasks.ends] == [last])


async def enqueue(oq: AsyncOmniQ, count: int, callback: Callable[..., object]) -> list[TaskId]:
    """Enqueue so many tasks with this callback."""
    return [await oq.enqueue(tasks.nothing_async, on_success=callback) for _ in range(count)]


async def test_a_line_of_callbacks_is_bounded(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(callbacks, "MAX_CALLBACKS", 4)
    async with working(oq, "async") as pool:
        await results_of(oq, await enqueue(oq, 10, progress_tasks.hang_after_end))
        await until(lambda: pool._callbacks.dropped == 6)
        released.set()
    assert pool._callbacks.dropped == 6
