"""An old transaction of somebody's keeps the dead: claims don't step over all of them, and miss nothing for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
import pytest
from omniq.storage.records import NEW, TaskRecord
from omniq.storage.sql.claiming import HEAD, Place, ScanPositions
from omniq.testing.builders import claim, new_task, success
from omniq_postgres.queue import PostgresQueueStore
from omniq_postgres.verbs import CLAIM

from tests.postgres.support import QUEUE, database_of, tasks

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection

DEAD = 20_000


@pytest.fixture
async def snapshot(queue: PostgresQueueStore, connection: Connection) -> AsyncIterator[None]:
    """Somebody looks at the database, and goes on looking."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("select 1")
        yield


async def work_off(queue: PostgresQueueStore, count: int) -> TaskRecord:
    """Add, claim and end so many tasks; returns the last one."""
    for start in range(0, count, 1000):
        assert await queue.add(tasks(1000, f"{start:06}-")) == [NEW] * 1000
        records = await claim(queue, limit=1000)
        await queue.transition([success(record) for record in records])
    return records[-1]


async def pages_of_a_claim(queue: PostgresQueueStore, place: Place) -> int:
    """How many pages the server looks at for a claim that begins there."""
    rank, run_at, id_ = place
    values = (0.0, [QUEUE], [rank], [run_at], [id_], 10, False, 30.0, "w")
    rows = await database_of(queue).run(
        lambda session: session.fetch(f"explain (analyze, buffers, format json) {CLAIM}", *values)
    )
    plan = msgspec.json.decode(rows[0][0])[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.usefixtures("snapshot")
async def test_a_claim_from_a_bookmark_steps_over_none_of_the_dead(queue: PostgresQueueStore) -> None:
    last = await work_off(queue, DEAD)
    assert await pages_of_a_claim(queue, HEAD) > DEAD / 100
    assert await pages_of_a_claim(queue, (-last.priority, last.run_at, last.id)) < DEAD / 400


@pytest.mark.usefixtures("snapshot")
async def test_whatever_comes_before_a_bookmark_is_found_soon(
    queue: PostgresQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScanPositions, "SLOW", 0.0)
    monkeypatch.setattr(ScanPositions, "PATIENCE", 0.3)
    await work_off(queue, 1000)
    await queue.add([new_task("urgent", priority=5), new_task("usual")])
    assert [record.id for record in await claim(queue)] == ["usual"]
    assert await claim(queue) == []
    await asyncio.sleep(0.3)
    assert [record.id for record in await claim(queue)] == ["urgent"]


async def test_without_the_dead_every_claim_begins_at_the_head(queue: PostgresQueueStore) -> None:
    await queue.add([new_task("first"), new_task("second")])
    (record,) = await claim(queue, limit=1)
    positions = ScanPositions()
    positions.note([record], [HEAD], ScanPositions.SLOW / 2)
    assert positions.start([QUEUE]) == [HEAD]
    end = (0, record.run_at, "first")
    positions.note([record], [end], ScanPositions.SLOW * 2)  # the server is busy: that has nothing to do with the dead
    assert positions.start([QUEUE]) == [HEAD]
    positions.note([record], [HEAD], ScanPositions.SLOW * 2)
    assert positions.start([QUEUE, "other"]) == [end, HEAD]
