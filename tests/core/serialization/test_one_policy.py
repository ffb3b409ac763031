"""One configuration of keys and serializers holds for every component of OmniQ."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.config.loader import Security
from omniq.errors import (
    TaskFailed,
)
from omniq.workers import AsyncWorker

from tests.core import oddities, tasks
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    result_storage,
    sqlite_place,
    task_queue,
    working,
)

KEY, OLD = "k1:" + "s3cret" * 4, "k0:" + "an0ther" * 4

KEY, OLD = "k1:" + "s3cret" * 4, "k0:" + "an0ther" * 4
SIGNED = Security(signing_key=KEY)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_configuration_of_omniq_holds_for_components_that_it_is_given(place: Place, kind: str) -> None:
    config = {"signing_key": KEY, "allowed_modules": ["tests.core.tasks"]}
    oq = AsyncOmniQ(task_queue=task_queue(place), result_store=result_storage(place), config=config)
    async with oq, working(oq, kind):
        good, bad = await oq.enqueue(tasks.add, [1, 2]), await oq.enqueue(oddities.make_canary, ["/nowhere"])
        assert await oq.get_result(good, timeout=SOON) == 3
        with pytest.raises(TaskFailed, match="isn't among allowed_modules"):
            await oq.get_result(bad, timeout=SOON)
        (record,) = await oq.task_queue.store.get([good])
        assert record is not None
        assert record.body.startswith(b"OQ1m\x02k1")


async def test_results_where_the_queue_is_are_read_by_its_keys(tmp_path: Path) -> None:
    oq = AsyncOmniQ(task_queue=task_queue(sqlite_place(tmp_path)), config={"signing_key": KEY})
    async with oq, working(oq, "async"):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert oq.result_store.serialization is oq.task_queue.serialization


async def test_a_component_keeps_keys_that_were_given_to_it(place: Place) -> None:
    queue = task_queue(place, security=SIGNED)
    oq = AsyncOmniQ(task_queue=queue, result_store=result_storage(place), config={"signing_key": OLD})
    async with oq, working(oq, "async"):
        assert queue.security is SIGNED
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3


async def test_a_worker_reads_results_by_the_keys_of_its_queue(place: Place) -> None:
    queue = task_queue(place, security=SIGNED)
    results = result_storage(place)
    worker = AsyncWorker(queue, results)
    async with queue, results, worker:
        task_id = await queue.enqueue(tasks.add, [1, 2])
        assert await worker._outcomes().value(task_id, SOON) == 3


# ── no dill ──────────────────────────────────────────────────────────────────


NEVER_DILL = """
import asyncio, sys
import omniq
from omniq import AsyncOmniQ, clock
from omniq.models.result import Outcome
from omniq.models.task import TaskState
from omniq.queue import AsyncSQLiteTaskQueue, SQLiteTaskQueue
from omniq.storage import AsyncSQLiteResultStorage
from omniq.storage.records import ResultRecord
from omniq.workers import AsyncWorker
from omniq.cli.app import omniq as command
from omniq.errors import SerializationError
from click.testing import CliRunner

HOSTILE = b"\\x80\\x04\\x8c\\x02os\\x94\\x8c\\x06getpid\\x94\\x93\\x94)R\\x94."

async def plant(oq, status, id_):
    outcome = Outcome(value=HOSTILE, value_format="d", error_type="E", error_message="m")
    body = oq.task_queue.serialization.pack_outcome(
        outcome, task_id=id_, epoch=1, status=status, schedule_id=None)
    await oq.result_store.store.put([ResultRecord(task_id=id_, epoch=1, status=status, body=body)])

async def refused(awaitable):
    try:
        await awaitable
    except SerializationError:
        return
    raise AssertionError("it was decoded")

async def main(make):
    oq = make()
    async with oq:
        for status in (TaskState.SUCCESS, TaskState.ERROR):
            await plant(oq, status, f"planted-{status}")
        await refused(oq.get_result("planted-success"))
        await oq.result_store.get("planted-error")
        await oq.list_dead()
        await refused(AsyncWorker(oq.task_queue)._outcomes().value("planted-success", 5))
        try:
            await oq.enqueue(lambda: 1)
        except SerializationError:
            pass
        async with oq.worker_pool("async") as pool:
            task_id = await oq.enqueue(abs, [-1])
            assert await oq.get_result(task_id, timeout=20) == 1

asyncio.run(main({make}))
assert "dill" not in sys.modules, "dill was loaded"
print("never")
"""


@pytest.mark.parametrize(
    ("make", "environment"),
    [
        ("lambda: AsyncOmniQ()", {"OMNIQ_SERIALIZER": "msgspec"}),
        ("lambda: AsyncOmniQ(task_queue=AsyncSQLiteTaskQueue())", {"OMNIQ_SERIALIZER": "msgspec"}),
        ("lambda: AsyncOmniQ(task_queue=SQLiteTaskQueue(serializer='msgspec'))", {}),
        (
            "lambda: AsyncOmniQ(task_queue=SQLiteTaskQueue(serializer='msgspec'), "
            "result_store=AsyncSQLiteResultStorage())",
            {},
        ),
        ("lambda: AsyncOmniQ(config={'task_queue': {'config': {'serializer': 'msgspec'}}})", {}),
        (
            "lambda: AsyncOmniQ(task_queue=SQLiteTaskQueue(), result_store=AsyncSQLiteResultStorage(), "
            "config={'task_queue': {'config': {'serializer': 'msgspec'}}})",
            {},
        ),
        ("lambda: AsyncOmniQ(config={'task_queue': 'sqlite:///.omniq/omniq.db?serializer=msgspec'})", {}),
    ],
)
async def test_with_msgspec_dill_is_never_loaded_on_any_path(
    make: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    script = NEVER_DILL.replace("{make}", make)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await child.communicate()
    assert (out, child.returncode) == (b"never\n", 0), error.decode()
