"""Signatures on the real stores, against somebody who can write to them; and the warning where nobody signs."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from omniq import AsyncOmniQ
from omniq.errors import SignatureError, TaskFailed
from omniq.models.task import TaskState
from omniq.serialization import manager
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.opening import close_client, open_client

from tests.core import tasks
from tests.core.support import SOON, until_states, working
from tests.mixes.support import Url, on_one_redis

pytestmark = on_one_redis

KEY, OLD = "new:" + "s3cret" * 4, "old:" + "an0ther" * 4
STORES = ("sqlite", "postgres", "redis")
Attack: TypeAlias = Callable[[Url, Path, str, str], Awaitable[None]]
"""Set the `state` of a task, or the `status` of a result, to success: place, folder, table, id."""


async def attack_sqlite(url: Url, folder: Path, table: str, task_id: str) -> None:
    column, key = ("state", "id") if table == "task" else ("status", "task_id")
    with sqlite3.connect(folder / "omniq.db") as connection:
        done = connection.execute(f"update {table} set {column} = 'success' where {key} = ?", (task_id,))
        assert done.rowcount == 1
    connection.close()


async def attack_postgres(url: Url, folder: Path, table: str, task_id: str) -> None:
    place, _, schema = url.partition("schema=")
    column, key = ("state", "id") if table == "task" else ("status", "task_id")
    connection = await asyncpg.connect(place.rstrip("?&"))
    done = await connection.execute(f"update {schema}.{table} set {column} = 'success' where {key} = $1", task_id)
    await connection.close()
    assert done == "UPDATE 1"


async def attack_redis(url: Url, folder: Path, table: str, task_id: str) -> None:
    settings = RedisTaskQueueConfig.from_url(url).settings
    client, key = open_client(settings), f"{settings.namespace}{table}"
    stored = await client.hget(key, task_id)
    assert isinstance(stored, bytes)
    record = bytearray(stored)
    record[0 if table == "task" else 4] = 5  # as `tasks.lua` and `results.lua` keep it
    assert await client.hset(key, task_id, bytes(record)) == 0
    await close_client(client)


ATTACKS: dict[str, Attack] = {"sqlite": attack_sqlite, "postgres": attack_postgres, "redis": attack_redis}


def open_omniq(url: Url, **config: Any) -> AsyncOmniQ:
    """OmniQ at that place, without retries."""
    return AsyncOmniQ(config={"task_queue": {"url": url}, "defaults": {"max_retries": 0}, **config})


@pytest.mark.parametrize("rows", [("task",), ("result",), ("task", "result")], ids="+".join)
@pytest.mark.parametrize("name", STORES)
async def test_a_failure_cannot_be_passed_off_as_a_success(
    name: str, rows: tuple[str, ...], urls: dict[str, Url], tmp_path: Path
) -> None:
    async with open_omniq(urls[name], signing_key=KEY) as oq:
        failed, cancelled = await oq.enqueue(tasks.fail), await oq.enqueue(tasks.add, [1, 2], run_in=60)
        await oq.cancel(cancelled)
        async with working(oq, "async"):
            await until_states(oq, [failed], TaskState.ERROR)
        for task_id in (failed, cancelled):
            for table in rows:
                await ATTACKS[name](urls[name], tmp_path, table, task_id)
            with pytest.raises(SignatureError):
                await oq.get_result(task_id, timeout=SOON)


@pytest.mark.parametrize("name", STORES)
async def test_keys_are_replaced_and_what_was_signed_before_still_runs(name: str, urls: dict[str, Url]) -> None:
    async with open_omniq(urls[name], signing_key=OLD) as oq:
        waiting = await oq.enqueue(tasks.add, [1, 2], depends_on=await oq.enqueue(tasks.add, [3, 4]))
        large = await oq.enqueue(tasks.echo, ["x" * 100_000])
        done = await oq.enqueue(tasks.echo, [5], queue_name="default", priority=100)
        await oq.schedule(tasks.add, [1, 2], interval=3600)
    async with open_omniq(urls[name], signing_key=f"{KEY},{OLD}") as oq:
        report = await oq.task_queue.resigner().run()
        assert (report.left, report.tasks.signed, report.schedules.signed) == (0, 4, 1)
    async with open_omniq(urls[name], signing_key=KEY) as oq, working(oq, "async"):
        assert await oq.get_result(waiting, timeout=SOON) == 3
        assert await oq.get_result(large, timeout=SOON) == "x" * 100_000
        assert await oq.get_result(done, timeout=SOON) == 5
        assert len(await oq.list_schedules()) == 1
    async with open_omniq(urls[name], signing_key=f"{OLD},{KEY}") as oq:
        report = await oq.task_queue.resigner().run()
        assert (report.left, report.results.signed) == (0, 4)
    async with open_omniq(urls[name], signing_key=OLD) as oq:
        assert await oq.get_result(large, timeout=SOON) == "x" * 100_000


async def test_results_in_another_store_are_bound_to_the_project_of_the_queue(urls: dict[str, Url]) -> None:
    places = {"task_queue": {"url": urls["postgres"]}, "result_store": {"url": urls["redis"]}, "signing_key": KEY}
    async with AsyncOmniQ(config=places) as oq, working(oq, "process"):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=3 * SOON) == 3
        with pytest.raises(TaskFailed):
            await oq.get_result(await oq.enqueue(tasks.fail, max_retries=0), timeout=SOON)


# ── the warning ──────────────────────────────────────────────────────────────


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What has been warned of; no place was warned of before."""
    monkeypatch.setattr(manager, "_warned", set())
    return lambda: [record.getMessage() for record in caplog.records if record.name == "omniq.serialization"]


async def use(url: Url, **config: Any) -> None:
    """Let two OmniQs work there, with the results there too."""
    for _ in range(2):
        async with open_omniq(url, **config) as oq:
            assert await oq.result_store.get("none") is None


@pytest.mark.parametrize("name", ["postgres", "redis", "nats"])
async def test_whoever_trusts_a_server_without_a_key_is_warned_once(
    name: str, urls: dict[str, Url], warnings: Callable[[], list[str]]
) -> None:
    await use(urls[name])
    (warning,) = warnings()
    assert "dill" in warning
    assert "OMNIQ_SIGNING_KEY" in warning


@pytest.mark.parametrize("name", ["postgres", "redis", "nats"])
async def test_whoever_lets_a_server_name_any_function_is_warned_once(
    name: str, urls: dict[str, Url], warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIQ_SERIALIZER", "msgspec")
    await use(urls[name])
    (warning,) = warnings()
    assert "posix:system" in warning
    assert "OMNIQ_ALLOWED_MODULES" in warning


async def test_results_on_a_server_are_warned_of_too(urls: dict[str, Url], warnings: Callable[[], list[str]]) -> None:
    config = {"task_queue": {"url": urls["sqlite"]}, "result_store": {"url": urls["redis"]}}
    async with AsyncOmniQ(config=config):
        (warning,) = warnings()
    assert warning.startswith("redis:")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sqlite", {}),
        ("postgres", {"signing_key": KEY}),
        ("redis", {"signing_key": KEY}),
        ("redis", {"allowed_modules": ["tests.core.tasks"]}),
    ],
)
async def test_nobody_is_warned_without_need(
    name: str, config: dict[str, Any], urls: dict[str, Url], warnings: Callable[[], list[str]]
) -> None:
    await use(urls[name], **config)
    assert warnings() == []
