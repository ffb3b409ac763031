"""The file is deleted, replaced or torn apart under those who use it: nobody works on what nobody else sees."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from omniq import AsyncOmniQ
from omniq.errors import StoreFull
from omniq.storage.embedded import LOOK_INTERVAL
from omniq.storage.records import NEW
from omniq.testing.builders import new_task
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.queue import SQLiteQueueStore

from tests.core import tasks
from tests.core.support import SOON, results_of, working

Harm: TypeAlias = Callable[[Path], None]

ELSEWHERE = 20
"""Tasks that another process enqueues."""
ENQUEUE = """
import operator, sys
from omniq import OmniQ
place = {"url": f"sqlite:///{sys.argv[1]}"}
with OmniQ(config={"task_queue": place, "result_store": place}) as oq:
    print(*(oq.enqueue(operator.add, [n, 1]) for n in range(int(sys.argv[2]))))
"""


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        beside(path, suffix).unlink()


def replace(path: Path) -> None:
    """By another project's, as a backup that is put back."""
    os.replace(path.with_name("other.db"), path)


def delete_wal(path: Path) -> None:
    beside(path, "-wal").unlink()


def delete_shm(path: Path) -> None:
    beside(path, "-shm").unlink()


def delete_both(path: Path) -> None:
    delete_wal(path)
    delete_shm(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def oq(path: Path) -> AsyncIterator[AsyncOmniQ]:
    async with door(path) as oq:
        yield oq


def door(path: Path) -> AsyncOmniQ:
    place = {"url": f"sqlite:///{path}"}
    return AsyncOmniQ(config={"task_queue": place, "result_store": place, "defaults": {"max_retries": 0}})


async def enqueue_elsewhere(path: Path) -> list[str]:
    """Let another process enqueue tasks there."""
    command = (sys.executable, "-c", ENQUEUE, str(path), str(ELSEWHERE))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().split()


async def some_other(path: Path) -> None:
    """Make another database beside it, with a task of its own."""
    async with door(path.with_name("other.db")) as oq:
        await oq.enqueue(tasks.add, [40, 2], task_id="of-the-other")


@pytest.mark.parametrize("harm", [delete_all, replace, delete_both])
async def test_a_worker_goes_on_with_the_files_that_are_there(
    oq: AsyncOmniQ, path: Path, caplog: pytest.LogCaptureFixture, harm: Harm
) -> None:
    await some_other(path)
    async with working(oq, "async"):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        harm(path)
        ids = await enqueue_elsewhere(path)
        assert await results_of(oq, ids) == list(range(1, ELSEWHERE + 1))
        if harm is replace:
            assert await oq.get_result("of-the-other", timeout=SOON) == 42
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
    complaints = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(complaints) == 1
    assert str(path) in complaints[0]
    assert "while it was in use" in complaints[0]


@pytest.mark.parametrize("harm", [delete_wal, delete_shm, delete_both])
async def test_nothing_is_lost_with_the_files_beside_it(oq: AsyncOmniQ, path: Path, harm: Harm) -> None:
    ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
    harm(path)
    await asyncio.sleep(2 * LOOK_INTERVAL)
    ids.append(await oq.enqueue(tasks.add, [5, 1]))
    async with working(oq, "async"):
        assert await results_of(oq, ids) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("harm", [delete, replace])
async def test_what_is_acknowledged_is_in_the_new_file(oq: AsyncOmniQ, path: Path, harm: Harm) -> None:
    await some_other(path)
    await oq.enqueue(tasks.nothing)
    harm(path)
    await asyncio.sleep(2 * LOOK_INTERVAL)
    task_id = await oq.enqueue(tasks.nothing, task_id="new")
    copy = path.with_name("copy.db")
    with sqlite3.connect(path) as here, sqlite3.connect(copy) as there:
        here.backup(there)
    here.close()
    there.close()
    async with door(copy) as other:
        assert task_id in [task.id for task in await other.list_tasks()]
        assert (await oq.get_task("new")).id == "new"


async def test_a_file_that_was_moved_away_has_all_that_was_written_to_it(oq: AsyncOmniQ, path: Path) -> None:
    ids = [await oq.enqueue(tasks.nothing) for _ in range(5)]
    moved = path.with_name("moved.db")
    shutil.move(path, moved)
    await asyncio.sleep(2 * LOOK_INTERVAL)
    assert await oq.list_tasks() == []
    async with door(moved) as other:
        assert sorted(task.id for task in await other.list_tasks()) == sorted(ids)


async def test_a_full_disk_is_told_and_costs_nothing(path: Path) -> None:
    store = SQLiteQueueStore(SQLiteTaskQueueConfig(path=str(path)))
    await store.add([new_task("before")])
    # A new connection, such as the next one after a failure, knows of no limit.
    await store._connection.write(lambda connection: connection.execute("pragma max_page_count = 1").fetchone())
    with pytest.raises(StoreFull, match="full"):
        await store.add([new_task(f"t{n:05}", body=b"x" * 1000) for n in range(2000)])
    assert await store.add([new_task("after")]) == [NEW]
    assert [record.id for record in await store.claim(["default"], limit=9, lease=9.0, worker="w")] == [
        "before",
        "after",
    ]
    await store.close()
