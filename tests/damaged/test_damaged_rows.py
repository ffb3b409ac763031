"""Rows that make no sense, among good ones: none of them ends a worker or hides another, and each can be seen."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.config.loader import Security
from omniq.errors import OmniQError
from omniq.models import TaskState
from omniq.models.schedule import Timing
from omniq.queue.options import TaskCall
from omniq.serialization.codec import ScheduledCall
from omniq.storage.records import Change, ChangeStatus, NewTask, ResultRecord, ScheduleRecord, TaskFilter, TaskRecord

from tests.core.cli.support import run
from tests.core.support import FAST, QUEUES, noop
from tests.damaged.planting import Damage, Planter
from tests.damaged.planting_files import FilesPlanter
from tests.damaged.planting_postgres import PostgresPlanter
from tests.damaged.planting_redis import RedisPlanter
from tests.damaged.planting_sqlite import SQLitePlanter
from tests.servers import postgres, redis

GOOD = 1000
pytestmark = pytest.mark.usefixtures("nothing_left_behind")

KEY = "k" * 32
LONG = 60.0
"""Seconds after which what should have happened won't happen any more."""


@pytest.fixture(scope="session", autouse=True)
def shared_servers() -> None:
    """Start the servers before a test does, which would have to leave them behind."""
    postgres.shared_url()
    redis.shared_url(redis.kinds()[0])


@pytest.fixture(params=["sqlite", "file", "postgres", "redis"])
def planter(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planter:
    """An empty place on each store; the command line finds its events."""
    planter = _planter(request, tmp_path)
    if planter.events:
        monkeypatch.setenv("OMNIQ_EVENT_STORAGE_URL", planter.url)
    return planter


def _planter(request: pytest.FixtureRequest, tmp_path: Path) -> Planter:
    if request.param == "sqlite":
        return SQLitePlanter(f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL")
    if request.param == "file":
        return FilesPlanter(f"file://{tmp_path}/omniq")
    if request.param == "postgres":
        return PostgresPlanter(request.getfixturevalue("postgres_url"))
    return RedisPlanter(f"{redis.shared_url(redis.kinds()[0])}?prefix=test-{secrets.token_hex(4)}")


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)


def config(planter: Planter) -> dict[str, Any]:
    place = {"url": planter.url}
    with_events = {} if isinstance(planter, RedisPlanter) else {"event_store": place}
    queues = {**place, "config": {"queues": list(QUEUES)}}
    return {"task_queue": queues, **with_events, "defaults": {"max_retries": 0}}


@pytest.fixture
async def oq(planter: Planter) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(config=config(planter)) as oq:
        yield oq


async def add(oq: AsyncOmniQ, ids: list[str]) -> None:
    await oq.enqueue_many([TaskCall(func=noop, options={"task_id": id_}) for id_ in ids])


async def record_of(oq: AsyncOmniQ, id_: str) -> TaskRecord | None:
    (record,) = await oq.task_queue.store.get([id_])
    return record


async def until_good(oq: AsyncOmniQ, ids: list[str]) -> None:
    """Wait until all of them have succeeded."""
    async with asyncio.timeout(LONG):
        while True:
            records = await oq.task_queue.store.get(ids)
            if all(record is not None and record.state is TaskState.SUCCESS for record in records):
                return
            await asyncio.sleep(0.02)


async def all_tasks(oq: AsyncOmniQ) -> list[Any]:
    return await oq.list_tasks(limit=10_000)


async def cli(planter: Planter, *arguments: str) -> str:
    """What a command prints that must succeed."""
    result = await asyncio.to_thread(run, "--url", planter.url, *arguments)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    return result.stdout


# ── what calls say ───────────────────────────────────────────────────────────

CALLS: dict[str, dict[str, object]] = {
    "timeout-nan": {"timeout": math.nan},
    "timeout-inf": {"timeout": math.inf},
    "timeout-negative": {"timeout": -1.0},
    "timeout-1e300": {"timeout": 1e300},
    "ttl-nan": {"result_ttl": math.nan},
    "ttl-inf": {"result_ttl": math.inf},
    "ttl-negative": {"result_ttl": -1.0},
    "retries-negative": {"max_retries": -1},
    "delay-nan": {"retry_delay": math.nan, "max_retries": 3},
    "delay-inf": {"retry_delay": math.inf, "max_retries": 3},
    "policy": {"on_parent_failure": "explode"},
    "format": {"args_format": "zip"},
    "function": {"func": "no.such:thing\x1b[2J"},
    "callbacks": {"on_success": "\r\nforged:line", "func": "no.such:thing"},
}


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def hostile_bodies(oq: AsyncOmniQ, tmp_path: Path) -> dict[str, bytes]:
    """Bodies that a queue which signs must not run, and what it must not even decode."""
    signing = oq.task_queue.serialization
    call = signing.build_call(noop, (), {})
    bodies = {
        name: signing.reseal(replace(call, **fields), task_id=name, queue_name="default")
        for name, fields in CALLS.items()
    }
    mine = {"task_id": "x", "queue_name": "default"}
    bodies["unsigned"] = Security().manager().reseal(call, **mine)
    bodies["wrong-key"] = Security(signing_key="w" * 32).manager().reseal(call, **mine)
    bodies["other-task"] = signing.reseal(call, **mine)
    bodies["other-queue"] = signing.reseal(call, task_id="other-queue", queue_name="low")
    bodies["changed"] = signing.reseal(call, task_id="changed", queue_name="default")[:-1] + b"\xff"
    bodies["pickle"] = b"OQ1d\0" + pickle.dumps(Bomb(str(tmp_path / "bomb")))
    bodies["other-version"] = b"OQ9m\0" + b"\x80"
    bodies["no-envelope"] = bytes(range(256))
    bodies["empty"] = b""
    return bodies


@pytest.mark.usefixtures("signed")
async def test_hostile_calls_are_dead_lettered_one_by_one(planter: Planter, oq: AsyncOmniQ, tmp_path: Path) -> None:
    bodies = hostile_bodies(oq, tmp_path)
    good = [f"g{number:04}" for number in range(100)]
    await oq.task_queue.store.add([NewTask(id=id_, queue_name="default", body=b) for id_, b in bodies.items()])
    await add(oq, good)
    async with oq.worker_pool("async", **FAST) as pool:
        await until_good(oq, good)
        async with asyncio.timeout(LONG):
            while len(await oq.list_dead()) < len(bodies):
                await asyncio.sleep(0.02)
        assert pool.failure is None
    assert {task.id for task in await oq.list_dead()} == set(bodies)
    shown = json.loads(await cli(planter, "dead", "list", "--json"))
    assert all(letter["error_type"] for letter in shown)
    await cli(planter, "dead", "list")
    await cli(planter, "tasks", "show", "ttl-nan")
    assert not (tmp_path / "bomb").exists()


TIMINGS: dict[str, object] = {
    "nothing": {},
    "zero": {"interval": 0.0},
    "nan": {"interval": math.nan},
    "inf": {"interval": math.inf},
    "negative": {"interval": -1.0},
    "null": {"interval": None},
    "text": {"interval": "often"},
    "1e300": {"interval": 1e300},
    "cron": {"cron": "61 * * * *"},
    "rule": {"rrule": "FREQ=SECONDLY;INTERVAL=0", "anchor": 0.0},
    "no-time": {"rrule": "FREQ=MINUTELY;BYHOUR=25", "anchor": 0.0},
    "zone": {"cron": "* * * * *", "timezone": "Mars/Olympus"},
}


async def test_foreign_schedules_do_not_fire_and_keep_no_other_from_firing(planter: Planter, oq: AsyncOmniQ) -> None:
    manager = oq.task_queue.serialization
    template = ScheduledCall(timing=Timing(interval=1.0), call=manager.build_call(noop, (), {}))
    sound = manager.pack_schedule(template, schedule_id="x", queue_name="default")
    head, packed = sound[:5], msgspec.msgpack.decode(sound[5:])
    bodies = {name: head + msgspec.msgpack.encode({**packed, "timing": timing}) for name, timing in TIMINGS.items()}
    bodies["priority"] = head + msgspec.msgpack.encode({**packed, "priority": 10**6})
    bodies["ttl"] = head + msgspec.msgpack.encode({**packed, "ttl": math.nan})
    bodies |= {"bytes": b"\xff", "empty": b""}
    for name, body in bodies.items():
        record = ScheduleRecord(id=name, queue_name="default", body=body, next_run=1.0)
        assert await oq.task_queue.store.put_schedule(record, if_version=None)
    await oq.schedule(noop, interval=0.05, schedule_id="zz-sound")
    async with oq.worker_pool("async", **FAST) as pool:
        assert await oq.get_result(schedule_id="zz-sound", timeout=LONG) is None
        assert pool.failure is None
    assert {task.schedule_id for task in await all_tasks(oq)} == {"zz-sound"}
    listed = {schedule["id"]: schedule for schedule in json.loads(await cli(planter, "schedules", "list", "--json"))}
    assert {id_ for id_, schedule in listed.items() if schedule["damage"]} == set(bodies)
    assert (await cli(planter, "schedules", "list")).count(" damaged ") == len(bodies)
    assert "damaged" in await cli(planter, "schedules", "show", "nan")
    await oq.schedule(noop, interval=60, schedule_id="nan")
    assert (await oq.task_queue.get_schedule("nan")).state == "active"


# ── what rows hold ───────────────────────────────────────────────────────────


async def damage(planter: Planter, oq: AsyncOmniQ) -> tuple[list[str], list[str]]:
    """A thousand good tasks, damaged ones among them, and damaged schedules, results and events; the ids of both."""
    bad = [f"b{number:02}" for number in range(len(planter.tasks))]
    good = [f"g{number:04}" for number in range(GOOD)]
    half = GOOD // 2
    results = [f"r{number:02}" for number in range(len(planter.results))]
    await add(oq, results)
    store = oq.task_queue.store
    claimed = await store.claim(["default"], limit=100, lease=30, worker="w")
    storage = await oq.result_store.ready()
    for record in claimed:
        result = ResultRecord(task_id=record.id, epoch=1, status=TaskState.SUCCESS, body=b"OQ1m\0\x90", schedule_id="s")
        await storage.put([result])
    await add(oq, good[:half] + bad + good[half:])
    for number in range(len(planter.schedules)):
        await oq.schedule(noop, interval=1, schedule_id=f"s{number:02}")
    await oq.close()
    await planter.plant()
    return good, bad


async def test_damaged_rows_end_no_worker_and_spoil_no_other_task(planter: Planter) -> None:
    async with AsyncOmniQ(config=config(planter)) as oq:
        good, _ = await damage(planter, oq)
    async with AsyncOmniQ(config=config(planter)) as oq:
        assert len(await all_tasks(oq)) > GOOD  # before anybody has worked
        async with oq.worker_pool("async", **{**FAST, "max_workers": 50}) as pool:
            await until_good(oq, good)
            await until_good(oq, sorted(_harmless(planter)))
            await oq.task_queue.dependencies.sweep()
            await oq.task_queue.ttl.expire()
            await oq.schedule(noop, interval=0.05, schedule_id="sound")
            assert await oq.get_result(schedule_id="sound", timeout=LONG) is None
            await _until_nothing_rests(oq)
            assert pool.failure is None
        found = await all_tasks(oq)
        ran = {task.id for task in found if task.state is TaskState.SUCCESS and task.schedule_id is None}
        held = {task.id for task in found if task.id.startswith("r")}  # a store may take their results for their ends
        assert ran - held == {*good, *_harmless(planter)}
        assert len(await oq.list_dead(limit=1000)) >= 0.7 * len(planter.tasks)
        assert await oq.result_store.find("s", limit=100)
        for number in range(len(planter.results)):
            with pytest.raises(OmniQError):
                await oq.get_result(f"r{number:02}", timeout=0.1)
    await _everything_is_shown(planter)


async def _until_nothing_rests(oq: AsyncOmniQ) -> None:
    """Wait until all have ended that can be told what they are, and of a queue that is worked on."""
    async with asyncio.timeout(LONG):
        while True:
            found = [task for task in await all_tasks(oq) if task.schedule_id is None and not task.state.is_terminal]
            resting = [task for task in found if not task.id.startswith("r")]
            if all(task.damage or task.queue_name not in QUEUES for task in resting):
                return
            await asyncio.sleep(0.05)


async def add_damaged(planter: Planter, oq: AsyncOmniQ, damages: Sequence[Damage]) -> None:
    """A task "b00" with that one of the damages which the planter knows."""
    (planter.tasks,) = ([damage] for damage in planter.tasks if damage in damages)
    planter.schedules, planter.results, planter.events, planter.keys = (), (), (), ()
    await add(oq, ["b00"])
    await planter.plant()


EXPIRED = ("expires_at = -9e999", "expires_at = '-infinity'")
"""Such a task has expired if one believes its TTL."""
OF_NO_STATE = ("state = 'zombie'", "at 0 09")


@pytest.mark.parametrize("planter", ["sqlite", "postgres", "redis"], indirect=True)
async def test_a_task_of_a_state_that_there_is_none_of_is_listed_and_counted(planter: Planter, oq: AsyncOmniQ) -> None:
    await add_damaged(planter, oq, OF_NO_STATE)
    task = await record_of(oq, "b00")
    assert task is not None
    assert task.damage
    for where in (TaskFilter(queue_name=task.queue_name), TaskFilter(name=task.name)):
        for newest_first in (False, True):
            page = await oq.task_queue.store.find(where, newest_first=newest_first)
            assert [found.id for found in page.tasks] == ["b00"]
    (queue,) = await oq.task_queue.store.stats()
    assert (queue.name, sum(queue.counts.values())) == (task.queue_name, 1)


@pytest.mark.parametrize("planter", ["sqlite", "postgres"], indirect=True)
async def test_a_task_whose_ttl_is_damaged_is_dead_lettered_and_not_mended(planter: Planter, oq: AsyncOmniQ) -> None:
    await add_damaged(planter, oq, EXPIRED)
    await oq.task_queue.ttl.expire()
    dead = await oq.list_dead()
    assert [(task.id, task.state) for task in dead] == [("b00", TaskState.ERROR)]
    result = await oq.result_store.get("b00")
    assert result is not None
    assert "the stored task is damaged: expires_at" in str(result.error_message)


@pytest.mark.parametrize("planter", ["sqlite", "postgres"], indirect=True)
async def test_a_change_that_is_refused_mends_nothing(planter: Planter, oq: AsyncOmniQ) -> None:
    await add_damaged(planter, oq, EXPIRED)
    before = await record_of(oq, "b00")
    assert before is not None
    assert before.damage is not None
    expired = Change(task_id="b00", to=TaskState.EXPIRED, from_states=(TaskState.PENDING,), epoch=7)
    (changed,) = await oq.task_queue.store.transition([expired])
    assert changed.status is ChangeStatus.REFUSED
    assert await record_of(oq, "b00") == before


def _harmless(planter: Planter) -> set[str]:
    """The ids of those that only seem to be damaged."""
    pairs = [(f"b{number:02}", damage) for number, damage in enumerate(planter.tasks)]
    return {planter.renamed.get(damage, id_) for id_, damage in pairs if damage in planter.harmless}


async def _everything_is_shown(planter: Planter) -> None:
    listed = json.loads(await cli(planter, "tasks", "list", "--limit", "10000", "--json"))
    assert len(listed) >= GOOD + len(planter.tasks)
    for command in (("tasks", "list"), ("dead", "list"), ("queues", "list")):
        await cli(planter, *command)
    assert (await cli(planter, "schedules", "list")).count(" damaged ") >= 4
    if planter.events:
        assert (await cli(planter, "events", "list", "--limit", "10000")).count("UNKNOWN") >= 1
