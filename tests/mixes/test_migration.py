"""Everything moves from one store to the next, as it is, whatever is killed in between."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from omniq import AsyncMigration, AsyncOmniQ, Migration, OmniQ, chain, result_of
from omniq.errors import ConfigError, WorkerError
from omniq.migration import MOVED
from omniq.models.task import TaskState, new_id
from omniq.queue.workflows import call
from omniq.testing.builders import new_worker

from tests.core.tasks import add, fail, note
from tests.mixes.moves import (
    LATER,
    QUEUES,
    at,
    contents,
    moved,
    pages,
    small,
    stopped_before,
)
from tests.mixes.support import Url
from tests.servers import redis

one_redis = pytest.mark.parametrize("redis_url", redis.kinds()[:1], indirect=True)
"""A server of its protocol is enough: what is another's own, the suite shows."""
COUNT = int(os.environ.get("OMNIQ_TEST_MIGRATED", "200"))
"""Tasks that move; OMNIQ_TEST_MIGRATED=10000 is what is promised, and takes some minutes."""
ROUTE = ("sqlite", "postgres", "redis", "nats", "file", "sqlite-2")


async def fill(oq: AsyncOmniQ, count: int) -> None:
    """Tasks in every state but RUNNING, with all that a task can have, and schedules."""
    async with oq.worker_pool("async", queues=QUEUES) as pool:
        await oq.enqueue_many([call(add, [n, 1], queue_name="low") for n in range(count // 10)])
        await oq.enqueue_many([call(fail, max_retries=0) for _ in range(count // 10)])
        retried = await oq.enqueue(fail, max_retries=3, retry_delay=LATER)
        parent = await oq.enqueue(add, [1, 2])
        released = await oq.enqueue(add, [1, 2], depends_on=[parent], run_in=LATER)
        await pool.drain()
    assert (await oq.get_task(retried)).attempts == 1
    assert (await oq.get_task(released)).state is TaskState.SCHEDULED
    await oq.cancel(await oq.enqueue(add, [1, 1]))
    await oq.enqueue(add, [1, 1], unique_key="only one", metadata={"of": "whom"}, queue_name="high")
    await oq.enqueue(add, [1, 1], ttl=LATER, run_in=LATER, result_ttl=None)
    await oq.enqueue(len, ["x" * 100_000], task_id="large / ✓")
    await oq.enqueue_many([call(add, [n, 1], priority=n % 7, queue_name="low") for n in range(count)])
    for _ in range(3):
        await oq.enqueue_workflow(chain(call(add, [1, 1]), call(add, [2, 2]), call(add, [3, 3])))
    await oq.enqueue_many([call(add, [9, 9], depends_on=[parent, released])])
    await oq.schedule(add, [1, 2], cron="0 3 * * *", schedule_id="nightly", timezone="Europe/Berlin")
    await oq.schedule(add, [1, 2], interval=LATER, schedule_id="paused")
    await oq.run_schedule("nightly")
    await oq.pause_schedule("paused")
    await oq.pause_queue("high")


# ── as it is ─────────────────────────────────────────────────────────────────


@one_redis
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_all_that_is_there_moves_from_store_to_store_as_it_is(places: dict[str, Url]) -> None:
    async with at(places["sqlite"]) as first:
        await fill(first, COUNT)
        before = await contents(first)
    for source, target in pairwise(ROUTE):
        dry = await moved(places[source], places[target], dry_run=True)
        report = await moved(places[source], places[target])
        assert report.complete, report.left
        assert (dry.tasks, dry.schedules, dry.results) == (report.tasks, report.schedules, report.results)
        assert sum(report.tasks.values()) == len(before["tasks"]) > COUNT
        assert (report.schedules, report.results, report.paused) == (2, len(before["results"]), ["high"])
        async with at(places[source]) as old, at(places[target]) as new:
            assert await contents(new) == before, target
            assert await pages(old) == []
            assert {stats.name for stats in await old.stats() if stats.paused} == {*QUEUES, MOVED}
            assert {stats.name for stats in await new.stats() if stats.paused} == {"high"}
    async with at(places["sqlite-2"]) as last:
        await last.resume_queue("high")
        async with last.worker_pool("async", queues=QUEUES) as pool:
            await pool.drain()
        assert {task.state for task in await last.list_tasks(limit=10_000, queue_name="low")} == {TaskState.SUCCESS}
        assert len(await last.list_dead(limit=10_000, error="ValueError")) == COUNT // 10


async def test_a_place_that_was_left_can_be_moved_into(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as here:
        task_id = await here.enqueue(add, [1, 2])
    for source, target in (("sqlite", "file"), ("file", "sqlite")):
        assert (await moved(local[source], local[target])).complete
    async with at(local["sqlite"]) as here, here.worker_pool("async", queues=QUEUES) as pool:
        assert not any(stats.paused for stats in await here.stats())
        await pool.drain()
        assert await here.get_result(task_id) == 3


def test_a_program_that_blocks_can_move_its_tasks(local: dict[str, Url]) -> None:
    with OmniQ(task_queue=local["sqlite"]) as old, OmniQ(task_queue=local["file"]) as new:
        task_id = old.enqueue(add, [1, 2])
        with Migration(old, new) as migration:
            seen: list[int] = []
            report = migration.run(on_progress=lambda report: seen.append(sum(report.tasks.values())))
        assert report.tasks == {TaskState.PENDING: 1}
        assert seen == [1]
        assert new.get_task(task_id).state is TaskState.PENDING


# ── again, and beside others ─────────────────────────────────────────────────


async def test_a_task_that_ended_at_the_target_doesnt_come_back(local: dict[str, Url], log: Path) -> None:
    """The first run is killed between adding the task there and taking it away here."""
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        task_id = new_id()
        await old.enqueue(note, [str(log), task_id], task_id=task_id)
        (record,) = await pages(old)
        await moved(local["sqlite"], local["file"])
        async with new.worker_pool("async") as pool:
            await pool.drain()
        await old.enqueue(note, [str(log), task_id], task_id=task_id)  # as if it were still there
        report = await moved(local["sqlite"], local["file"])
        assert (report.tasks, report.known, report.complete) == ({}, 1, True)
        assert await pages(old) == []
        assert (await new.get_task(record.id)).state is TaskState.SUCCESS
    assert log.read_text().split() == [task_id]


async def test_a_source_that_workers_serve_is_left_alone(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as old:
        task_id = await old.enqueue(add, [1, 2])
        await (await old.task_queue.ready()).beat(new_worker("w-1"))
        with pytest.raises(WorkerError, match=r"still served by w-1: stop its workers first"):
            await moved(local["sqlite"], local["file"])
        assert (await moved(local["sqlite"], local["file"], dry_run=True)).workers == ["w-1"]
        assert not any(stats.paused for stats in await old.stats())
        waiting = asyncio.ensure_future(moved(local["sqlite"], local["file"], wait=60))
        await (await old.task_queue.ready()).beat(new_worker("w-1"), leaving=True)
        assert (await waiting).tasks == {TaskState.PENDING: 1}
    async with at(local["file"]) as new:
        assert (await new.get_task(task_id)).state is TaskState.PENDING


async def test_what_a_dead_worker_held_moves_once_its_lease_is_over(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        task_id = await old.enqueue(add, [1, 2])
        child = await old.enqueue(add, [1, 2], depends_on=[task_id])
        store = await old.task_queue.ready()
        await store.claim(["default"], limit=1, lease=5.0, worker="dead")
        report = await moved(local["sqlite"], local["file"])
        assert (report.running, report.complete, report.tasks) == (1, False, {})
        report = await moved(local["sqlite"], local["file"], wait=30)
        assert report.complete
        (record,) = await (await new.task_queue.ready()).get([task_id])
        assert record is not None
        assert (record.state, record.epoch, record.crashes) == (TaskState.PENDING, 1, 1)
        assert (await new.get_task(child)).state is TaskState.WAITING


async def test_a_key_that_is_held_at_the_target_holds_a_task_back(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        mine = await old.enqueue(add, [1, 2], unique_key="k")
        child = await old.enqueue(add, [1, 2], depends_on=[mine])
        holder = await new.enqueue(add, [3, 4], unique_key="k")
        report = await moved(local["sqlite"], local["file"])
        assert {(left.id, holder in left.reason) for left in report.left} == {(mine, True), (child, False)}
        assert {record.id for record in await pages(old)} == {mine, child}
        await new.cancel(holder)
        assert (await moved(local["sqlite"], local["file"])).complete
        assert (await new.get_task(child)).state is TaskState.WAITING


async def test_a_child_finds_a_parent_that_has_ended_at_the_target(local: dict[str, Url]) -> None:
    """Workers run there while the rest of a family is yet to come."""
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        parent = await old.enqueue(add, [1, 2])
        await moved(local["sqlite"], local["file"])
        async with new.worker_pool("async") as pool:
            await pool.drain()
        await old.enqueue(add, [1, 2], task_id=parent)
        child = await old.enqueue(add, [3, 4], depends_on=[parent])
        assert (await moved(local["sqlite"], local["file"])).complete
        async with new.worker_pool("async") as pool:
            await pool.drain()
        assert await new.get_result(child) == 7


async def test_a_key_that_is_held_at_the_target_holds_parents_back_too(local: dict[str, Url], log: Path) -> None:
    """Else they would run there, and here again once the queues are resumed."""
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        parents = [await old.enqueue(note, [str(log), id_], task_id=id_) for id_ in ("p", "q")]
        child = await old.enqueue(add, [1, 2], depends_on=parents, unique_key="k")
        holder = await new.enqueue(add, [3, 4], unique_key="k", run_in=LATER)
        report = await moved(local["sqlite"], local["file"])
        assert {left.id: holder in left.reason for left in report.left} == {"p": False, "q": False, child: True}
        assert [record.id for record in await pages(new)] == [holder]


async def test_results_of_parents_that_are_purged_come_with_their_children(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as old, at(local["file"]) as new:
        parent = await old.enqueue(add, [1, 2], result_ttl=None)
        child = await old.enqueue(add, [result_of(parent), 10], run_in=1)
        async with old.worker_pool("async") as pool:
            await pool.drain()
        await (await old.task_queue.ready()).delete([parent])
        dry = await moved(local["sqlite"], local["file"], dry_run=True)
        report = await moved(local["sqlite"], local["file"])
        assert (dry.results, report.results, report.complete) == (1, 1, True)
        async with new.worker_pool("async"):
            assert await new.get_result(child, timeout=30) == 13


@pytest.mark.slow
async def test_stopped_before_any_of_its_writes_it_completes_when_repeated(local: dict[str, Url], log: Path) -> None:
    """Each write in turn is the one before which it is killed; then workers run at the target, and it runs again."""
    stops = 0
    while await is_stopped_before(stops, log, f"{local['file']}/{stops}-from", f"{local['file']}/{stops}-to"):
        stops += 1
    assert stops > 20


async def is_stopped_before(writes: int, log: Path, source: Url, target: Url) -> bool:
    """Move a little of everything, stopped before so many writes at either place; returns whether it had as many."""
    async with at(source) as old, at(target) as new:
        ids = await small(old, log)
        before = {name: value for name, value in (await contents(old)).items() if name != "children"}
        stopped = await stopped_before(writes, old, new)
        async with new.worker_pool("async", queues=QUEUES) as pool:
            await pool.drain()
        assert (await moved(source, target)).complete
        assert await pages(old) == []
        async with new.worker_pool("async", queues=QUEUES):
            for id_ in ids:
                assert await new.get_result(id_, timeout=30) == id_
        after = await contents(new)
        assert after["tasks"].keys() == before["tasks"].keys()
        assert after["schedules"] == before["schedules"]
        assert after["results"].items() >= before["results"].items()
        assert [letter.error_message for letter in await new.list_dead()] == ["no luck"]
        assert {stats.name for stats in await new.stats() if stats.paused} == {"low"}
    assert sorted(log.read_text().split()) == sorted(ids)
    log.unlink()
    return stopped


# ── killed ───────────────────────────────────────────────────────────────────


KILLED = [("sqlite", "postgres"), ("postgres", "redis"), ("redis", "file"), ("file", "nats"), ("nats", "sqlite-2")]


@one_redis
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("source", "target"), KILLED)
async def test_killed_and_repeated_it_completes(places: dict[str, Url], source: str, target: str, log: Path) -> None:
    """Killed at chance, again and again, while a worker runs what has arrived: each task runs once."""
    rng, count = random.Random(13), max(COUNT // 2, 40)
    async with at(places[source]) as old, at(places[target]) as new:
        ids = [new_id() for _ in range(count)]
        parents = ids[: count // 4]
        children = [new_id() for _ in parents]
        await old.enqueue_many([call(note, [str(log), id_], task_id=id_) for id_ in ids])
        of_parents = zip(children, parents, strict=True)
        await old.enqueue_many([call(note, [str(log), id_], task_id=id_, depends_on=[p]) for id_, p in of_parents])
        ids += children
        await old.schedule(add, [1, 2], cron="0 3 * * *", schedule_id="nightly")
        async with new.worker_pool("async", queues=QUEUES):
            patience = 0.3
            while (code := await migrated(places[source], places[target], rng.uniform(0.0, 0.6) + patience)) != 0:
                assert code == -signal.SIGKILL
                patience += 0.05
            for id_ in ids:
                assert await new.get_result(id_, timeout=30) == id_
        assert await pages(old) == []
        assert [schedule.id for schedule in await new.list_schedules()] == ["nightly"]
        tasks = await new.list_tasks(limit=10_000)
        assert {task.id for task in tasks} == set(ids)
        assert {task.state for task in tasks} == {TaskState.SUCCESS}
    assert Counter(log.read_text().split()) == Counter(ids)


async def migrated(source: Url, target: Url, kill_after: float) -> int:
    """The exit code of a migration that is killed after so many seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "omniq", "migrate", "--from", source, "--to", target, "--wait", "60"),
        stdout=subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(process.wait(), kill_after)
    except TimeoutError:
        with suppress(ProcessLookupError):  # it may have ended just now
            process.kill()
        return await process.wait()


# ── refused ──────────────────────────────────────────────────────────────────


async def test_one_place_is_no_target_of_itself(local: dict[str, Url]) -> None:
    async with at(local["sqlite"]) as one, at(local["sqlite"]) as same:
        with pytest.raises(ConfigError, match="is the source, too"):
            AsyncMigration(one, same)


@one_redis
@pytest.mark.parametrize("store", ["postgres", "redis", "nats"])
async def test_nor_is_it_by_another_name(places: dict[str, Url], store: str) -> None:
    """All that is there would be taken for known at the target, and removed."""
    here = places[store]
    there = here.replace("127.0.0.1", "localhost") if "127.0.0.1" in here else here.replace("localhost", "127.0.0.1")
    assert there != here
    async with at(here) as one:
        task_id = await one.enqueue(add, [1, 2])
        with pytest.raises(ConfigError, match="is the source, too, by another name"):
            await moved(here, there)
        assert (await one.get_task(task_id)).state is TaskState.PENDING
        assert not any(stats.paused for stats in await one.stats())
        assert await (await one.task_queue.ready()).workers() == []


async def test_what_is_signed_stays_in_its_project(local: dict[str, Url]) -> None:
    key = {"signing_key": "k" * 32}
    old = at(local["sqlite"], project_name="a", **key)
    new = at(local["file"], project_name="b", **key)
    with pytest.raises(ConfigError, match="signed for one project"):
        AsyncMigration(old, new)


@pytest.mark.parametrize(
    ("here", "there", "accepted"),
    [
        ("k" * 32, "l" * 32, False),
        (None, "k" * 32, False),
        ("k" * 32, None, False),
        ("1:" + "k" * 32, f"2:{'l' * 32},1:{'k' * 32}", True),
    ],
)
async def test_nor_does_it_move_where_nobody_has_its_key(
    local: dict[str, Url], here: str | None, there: str | None, accepted: bool
) -> None:
    """It would be refused there, by each worker in turn."""
    keys = [{} if key is None else {"signing_key": key} for key in (here, there)]
    async with at(local["sqlite"], **keys[0]) as old, at(local["file"], **keys[1]) as new:
        task_id = await old.enqueue(add, [1, 2])
        if accepted:
            assert (await AsyncMigration(old, new).run()).complete
        else:
            with pytest.raises(ConfigError, match=rf"target: it would refuse task {task_id}: .*the same signing keys"):
                await AsyncMigration(old, new).run()
        assert [record.id for record in await pages(new if accepted else old)] == [task_id]


async def test_what_nobody_takes_moves_as_it_is(local: dict[str, Url]) -> None:
    """A payload that was tampered with fails there as it would here, and holds nothing up."""
    key = {"signing_key": "k" * 32}
    async with at(local["sqlite"], signing_key="l" * 32) as forger, at(local["sqlite"], **key) as old:
        task_id = await forger.enqueue(add, [1, 2])
        async with at(local["file"], **key) as new:
            assert (await AsyncMigration(old, new).run()).complete
            assert (await new.get_task(task_id)).state is TaskState.PENDING
