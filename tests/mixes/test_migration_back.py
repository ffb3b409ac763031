"""Everything moves back, whatever became of the way there; and never both ways at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncMigration
from omniq.errors import WorkerError
from omniq.models.task import TaskState
from omniq.queue.moving import MigrationReport

from tests.core.tasks import add
from tests.mixes.moves import QUEUES, at, contents, moved, pages, small, stopped_before
from tests.mixes.support import Url


@pytest.mark.slow
async def test_stopped_before_any_of_its_writes_it_can_be_taken_back(local: dict[str, Url], log: Path) -> None:
    """Each write in turn is the one before which it is killed; then workers run at the target; then all moves back."""
    stops = 0
    while await is_taken_back(stops, log, f"{local['file']}/{stops}-from", f"{local['file']}/{stops}-to"):
        stops += 1
    assert stops > 20


async def is_taken_back(writes: int, log: Path, source: Url, target: Url) -> bool:
    """Move a little of everything, stopped before so many writes at either place, and back; returns whether it had as
    many."""
    async with at(source) as old, at(target) as new:
        ids = await small(old, log)
        before = await contents(old)
        stopped = await stopped_before(writes, old, new)
        async with new.worker_pool("async", queues=QUEUES) as pool:
            await pool.drain()
        assert (await moved(target, source, wait=60)).complete  # a worker's last beat may outlast its farewell
        assert await pages(new) == []
        async with old.worker_pool("async", queues=QUEUES):
            for id_ in ids:
                assert await old.get_result(id_, timeout=30) == id_
        after = await contents(old)
        assert after["tasks"].keys() == before["tasks"].keys()
        assert after["schedules"] == before["schedules"]
        assert {stats.name for stats in await old.stats() if stats.paused} == {"low"}
    assert sorted(log.read_text().split()) == sorted(ids)
    log.unlink()
    return stopped


async def test_what_arrives_isnt_moved_on_before_all_is_there(local: dict[str, Url]) -> None:
    """Two migrations in opposite directions would each take what the other has just copied."""
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        await old.enqueue(add, [1, 2])
        refused: list[BaseException | MigrationReport] = []
        store = old.task_queue.store
        delete = store.delete

        async def meanwhile(*args: Any, **kwargs: Any) -> Any:
            refused.extend(await asyncio.gather(moved(local["file"], local["sqlite"]), return_exceptions=True))
            return await delete(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "delete", meanwhile)
            assert (await AsyncMigration(old, new).run()).complete
        (error,) = refused
        assert isinstance(error, WorkerError)
        assert "is still served by migration-" in str(error)
        assert (await moved(local["file"], local["sqlite"])).tasks == {TaskState.PENDING: 1}
