"""What workers tell of themselves where each write costs money, and what they are asked by other processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from omniq.storage.records import WorkerRecord
from omniq.storage.tables import AskedRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import until_equal
from omniq_fsspec.filesystems import LocalFiles

from tests.fsspec.support import lone, replica_of

BEAT = 10.0
WORKER = WorkerRecord(name="w", lease=3 * BEAT)


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle workers are written as seldom as on an object store."""
    monkeypatch.setattr(LocalFiles, "report_interval", 55.0)


async def test_one_that_idles_is_written_seldom_and_never_taken_for_dead(
    tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    store, other = lone(tmp_path), lone(tmp_path)
    written: set[float] = set()
    for _ in range(18):
        await store.beat(WORKER)
        virtual_clock.advance(BEAT)
        (worker,) = await other.workers()
        assert worker.is_alive(await other.now())
        written.add(worker.last_seen)
    assert len(written) == 3
    virtual_clock.advance(90)
    assert not worker.is_alive(await other.now())


async def test_one_that_works_and_dies_is_missed_soon(tmp_path: Path, virtual_clock: VirtualClock) -> None:
    store = lone(tmp_path)
    await store.beat(WorkerRecord(name="w", lease=30.0, running=1))
    virtual_clock.advance(46)
    (worker,) = await store.workers()
    assert not worker.is_alive(await store.now())


async def test_another_process_asks_and_is_answered_at_once(tmp_path: Path) -> None:
    store, other = lone(tmp_path), lone(tmp_path)
    assert not await store.beat(WORKER)
    assert await other.inspect("w")

    async def asked() -> bool:
        return await store.beat(WORKER)

    await until_equal(asked, True)
    assert not replica_of(store).tables.asked.rows
    await store.beat(WorkerRecord(name="w", lease=30.0, stacks="no tasks", stacks_at=1.0))
    assert [worker.stacks for worker in await other.workers()] == ["no tasks"]
    await store.beat(WorkerRecord(name="w", lease=30.0, stacks_at=1.0))
    assert [worker.stacks for worker in await other.workers()] == [""]


async def test_what_those_were_asked_is_forgotten_who_left_meanwhile(tmp_path: Path) -> None:
    store, other = lone(tmp_path), lone(tmp_path)
    await store.beat(WORKER)
    await store.beat(WORKER, leaving=True)
    await other.carry_out(lambda tables, _: tables.asked.write("w", AskedRecord("w")))
    await other.purge(older_than=60.0)
    assert not replica_of(other).tables.asked.rows
