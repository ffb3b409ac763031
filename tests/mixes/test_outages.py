"""A server dies while tasks end, and comes back: no result is lost, each task ends, and none is run again for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
from omniq import AsyncMigration, AsyncOmniQ, call
from omniq.errors import StoreError
from omniq.models import TaskState
from omniq.models.task import new_id
from omniq.queue.moving import MigrationReport
from omniq.workers import AsyncWorkerPool

from tests.core import tasks
from tests.core.support import SOON, lines, results_of, states_of, until, working
from tests.mixes import moves
from tests.mixes.support import SPREAD, Mix, MixedPlace, Url
from tests.servers.nats import NATSServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer, kinds

Server: TypeAlias = PostgresServer | RedisServer | NATSServer

COUNT = 30
LEASE = 8.0
"""Longer than the outage, which would cost the tasks their claims."""

on_one_server = pytest.mark.parametrize("redis_server", kinds()[:1], indirect=True)


@pytest.fixture
def servers(redis_server: RedisServer, postgres_server: PostgresServer, nats_server: NATSServer) -> dict[str, Server]:
    """Servers that can be killed."""
    return {"redis": redis_server, "postgres": postgres_server, "nats": nats_server}


@pytest.fixture
def urls(servers: dict[str, Server], tmp_path: Path) -> dict[str, Url]:
    """Places on them."""
    sqlite_url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
    return {"sqlite": sqlite_url, **{name: server.url for name, server in servers.items()}}


@on_one_server
@pytest.mark.parametrize(
    ("mix", "dies"),
    [
        (Mix("postgres", "redis", "sqlite"), "redis"),
        (SPREAD, "postgres"),
        (SPREAD, "redis"),
        (Mix("nats", "redis", "sqlite"), "nats"),
        (Mix("redis", "nats", "sqlite"), "nats"),
    ],
    ids=["results-in-redis", "results-in-postgres", "queue-in-redis", "queue-in-nats", "results-in-nats"],
)
async def test_tasks_that_end_while_a_store_is_away(
    urls: dict[str, Url],
    servers: dict[str, Server],
    log: Path,
    gate: Path,
    caplog: pytest.LogCaptureFixture,
    mix: Mix,
    dies: str,
) -> None:
    async with (
        MixedPlace(mix, urls).front_door() as oq,
        working(oq, "async", max_workers=COUNT, lease=LEASE, reap_interval=0.5) as pool,
    ):
        ids = [await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)]) for _ in range(COUNT)]
        await until(lambda: len(lines(log)) == COUNT)
        await asyncio.to_thread(servers[dies].kill)
        gate.touch()
        await until(_all_done(pool))
        await until(lambda: "can't be settled, trying again" in caplog.text)
        await asyncio.to_thread(servers[dies].start)
        await _assert_all_ended_once(oq, ids, log)
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=30) == 3


def _all_done(pool: AsyncWorkerPool) -> Callable[[], bool]:
    """Whether all that it holds has been run, and none of it settled."""
    return lambda: sum(job.done for job in pool.in_flight.held.values()) == COUNT


async def _assert_all_ended_once(oq: AsyncOmniQ, ids: Sequence[str], log: Path) -> None:
    assert await results_of(oq, ids) == ["done"] * COUNT
    assert Counter(await states_of(oq, ids)) == {TaskState.SUCCESS: COUNT}
    assert len(lines(log)) == COUNT
    results = [await oq.result_store.get(id_) for id_ in ids]
    assert [result and result.epoch for result in results] == [1] * COUNT


@on_one_server
async def test_a_dead_event_store_keeps_nobody_waiting(
    urls: dict[str, Url], postgres_server: PostgresServer, log: Path
) -> None:
    async with MixedPlace(Mix("redis", "redis", "postgres"), urls).front_door() as oq, working(oq, "async"):
        before = await oq.enqueue(tasks.add, [1, 2])
        assert await oq.get_result(before, timeout=SOON) == 3
        await oq.list_events()
        await asyncio.to_thread(postgres_server.kill)
        meanwhile = [await oq.enqueue(tasks.echo_noted, [str(log), n]) for n in range(COUNT)]
        assert await results_of(oq, meanwhile) == list(range(COUNT))
        await asyncio.to_thread(postgres_server.start)
        after = await oq.enqueue(tasks.add, [3, 4])
        assert await oq.get_result(after, timeout=SOON) == 7
        await _until_complete(oq, {before, *meanwhile, after})


async def _until_complete(oq: AsyncOmniQ, ids: set[str]) -> None:
    """Wait until the events tell of the end of each of these tasks."""
    deadline = time.monotonic() + SOON
    while {event.task_id for event in await oq.list_events(type="COMPLETE", limit=1000)} != ids:
        assert time.monotonic() < deadline, "events are lost"
        await asyncio.sleep(0.02)


@on_one_server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target", "dies"),
    [
        ("sqlite", "postgres", "postgres"),
        ("postgres", "redis", "postgres"),
        ("postgres", "redis", "redis"),
        ("redis", "nats", "nats"),
    ],
)
async def test_a_migration_whose_server_dies_completes_when_repeated(
    urls: dict[str, Url], servers: dict[str, Server], log: Path, source: str, target: str, dies: str
) -> None:
    async with moves.at(urls[source]) as old, moves.at(urls[target]) as new:
        ids = [new_id() for _ in range(2 * COUNT)]
        await old.enqueue_many([call(tasks.note, [str(log), id_], task_id=id_) for id_ in ids[:COUNT]])
        of_parents = zip(ids[COUNT:], ids, strict=False)
        await old.enqueue_many(
            [call(tasks.note, [str(log), id_], task_id=id_, depends_on=[p]) for id_, p in of_parents]
        )
        await old.schedule(tasks.add, [1, 2], interval=dt.timedelta(hours=3), schedule_id="s")
        killed: list[int] = []

        def kill(report: MigrationReport) -> None:
            """Once some of it has arrived."""
            if not killed:
                killed.append(sum(report.tasks.values()))
                servers[dies].kill()

        with pytest.raises(StoreError):
            await AsyncMigration(old, new).run(on_progress=kill)
        assert killed[0] > 0
        await asyncio.to_thread(servers[dies].start)
    async with moves.at(urls[source]) as old, moves.at(urls[target]) as new, working(new, "async"):
        assert (await AsyncMigration(old, new).run(wait=60)).complete
        assert await results_of(new, ids) == ids
        assert await moves.pages(old) == []
        assert [schedule.paused for schedule in await new.list_schedules()] == [False]
    assert sorted(lines(log)) == sorted(ids)
