"""How things stand, and what is wrong: in code and on the command line, whether or not the stores can be reached."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.status import Status
from omniq.storage.records import BreakerState, BreakerStatus, WorkerRecord
from omniq.testing import ReferenceSpace, VirtualClock

from tests.core import tasks
from tests.core.cli.support import TASKS, Cli
from tests.core.support import Place, front_door, lines, reference_place, until, working
from tests.core.workers.test_outages import FlakyQueueStore, FlakyResultStore, Switch


async def test_all_is_well(place: Place, log: Path, gate: Path) -> None:
    async with front_door(place, events=True) as oq, working(oq, "async", max_workers=3) as pool:
        await oq.schedule(tasks.nothing, interval=3600, schedule_id="active")
        await oq.schedule(tasks.nothing, interval=3600, schedule_id="paused")
        await oq.pause_schedule("paused")
        await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        await oq.enqueue(tasks.nothing, run_in=60, queue_name="low")
        await until(lambda: len(lines(log)) == 1)
        await oq.task_queue.store.beat(pool.report())
        status = await oq.status()
        gate.touch()
    assert status.problems == []
    (store,) = status.stores
    assert (store.location, store.keeps) == (oq.task_queue.store.location, ("tasks", "results", "events"))
    assert store.reachable
    assert store.latency is not None
    assert store.latency < 5.0
    assert store.guarantees is not None
    assert store.breaker is not None
    assert store.breaker.state is BreakerState.CLOSED
    assert status.queues is not None
    assert {queue.name: queue.counts for queue in status.queues} == {"default": {"running": 1}, "low": {"scheduled": 1}}
    assert status.workers is not None
    (worker,) = status.workers
    assert (worker.name, worker.running, worker.slots, worker.lease) == (pool.name, 1, 3, pool.config.lease)
    assert [(each.location, each.state) for each in worker.breakers] == [(store.location, BreakerState.CLOSED)]
    assert status.gone == []
    assert status.schedules is not None
    assert (status.schedules.active, status.schedules.paused, status.schedules.due) == (1, 1, 0)
    assert status.events_dropped == 0


async def test_a_store_that_is_away_is_told_and_not_raised() -> None:
    switch, elsewhere = Switch(), ReferenceSpace()
    oq = front_door(reference_place(results=lambda _: FlakyResultStore(elsewhere, switch)))
    switch.away = True
    status = await oq.status()
    assert [store.reachable for store in status.stores] == [True, False]
    assert status.problems == ["the store of results can't be reached: the store is away"]
    assert status.queues == []


async def test_a_queue_that_is_away_leaves_the_rest_unknown() -> None:
    switch = Switch()
    oq = front_door(reference_place(queue=lambda space: FlakyQueueStore(space, switch)))
    switch.away = True
    status = await oq.status()
    assert status.problems == ["the store of tasks and results can't be reached: the store is away"]
    assert (status.queues, status.workers, status.schedules) == (None, None, None)


async def test_a_queue_without_a_worker(place: Place, virtual_clock: VirtualClock) -> None:
    async with front_door(place) as oq:
        store = oq.task_queue.store
        for name in ("high", "default", "low"):
            await oq.enqueue(tasks.nothing, queue_name=name)
        await oq.task_queue.pause_queue("low")
        assert (await oq.status()).problems == []  # not yet
        await store.beat(WorkerRecord(name="w", queues=("high",), lease=60.0))
        virtual_clock.advance(60)
        (problem,) = (await oq.status()).problems
        assert problem == "queue default: a task has been due for 60 s, and no living worker serves the queue"
        virtual_clock.advance(60)
        status = await oq.status()
        assert [worker.name for worker in status.gone] == ["w"]
        assert status.workers == []
        assert len(status.problems) == 2


async def test_a_worker_whose_breaker_is_open(place: Place) -> None:
    open_ = BreakerStatus(location="redis://h:1/0", state=BreakerState.OPEN, since=0.5, error="it is away")
    async with front_door(place) as oq:
        await oq.task_queue.store.beat(WorkerRecord(name="w", breakers=(open_, BreakerStatus(location="x"))))
        (problem,) = (await oq.status()).problems
    assert problem == "worker w: redis://h:1/0 has failed since 1970-01-01 00:00:00 UTC: it is away"


async def test_a_long_lease_keeps_a_worker_alive(place: Place, virtual_clock: VirtualClock) -> None:
    async with front_door(place) as oq:
        await oq.task_queue.store.beat(WorkerRecord(name="w", lease=1000.0))
        virtual_clock.advance(900)
        assert (await oq.status()).gone == []


def test_it_blocks_too(tmp_path: Path) -> None:
    with OmniQ(config={"task_queue": {"type": "sqlite", "config": {"base_dir": str(tmp_path)}}}) as oq:
        status = oq.status()
        assert isinstance(status, Status)
        assert [each.location for each in oq.breakers()] == [store.location for store in status.stores]


# ── the command ─────────────────────────────────────────────────────────────


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_the_command_shows_what_there_is(cli: Cli) -> None:
    cli("enqueue", f"{TASKS}:greet", "name=Tom", "--run-in", "60")
    shown = cli("status")
    assert shown.exit_code == 0, shown.output
    lines_ = shown.stdout.splitlines()
    assert lines_[0].split() == ["STORE", "KEEPS", "ANSWERS-IN", "BREAKER", "GUARANTEES"]
    assert "tasks results" in lines_[1]
    assert " closed " in lines_[1]
    assert "kill" in lines_[1]
    assert any(line.startswith("default ") for line in lines_)
    assert "no workers" in shown.stderr
    told = json.loads(cli("status", "--json").stdout)
    assert told["ok"] is True
    assert told["problems"] == []
    assert told["queues"][0]["counts"]["scheduled"] == 1
    assert told["schedules"]["active"] == 0
    assert told["stores"][0]["breaker"]["state"] == "closed"


def test_the_command_says_that_a_store_is_away(cli: Cli) -> None:
    arguments = ("--url", "postgresql://nobody:hidden@127.0.0.1:1/none", "status")
    shown = cli(*arguments)
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[1].split()[-4:] == ["results", "away", "closed", "-"]
    assert "error: the store of tasks and results can't be reached: " in shown.stderr
    assert "Traceback" not in shown.output
    assert "hidden" not in shown.output
    told = cli(*arguments, "--json")
    assert told.exit_code == 1
    data = json.loads(told.stdout)
    assert (data["ok"], data["queues"], data["workers"]) == (False, None, None)


async def test_a_worker_is_shown_with_its_breaker(tmp_path: Path, cli: Cli) -> None:
    open_ = BreakerStatus(location="redis://h:1/0", state=BreakerState.OPEN, since=0.5, error="it \x1b[31m is away")
    config = json.loads((await asyncio.to_thread(cli, "status", "--json")).stdout)["stores"][0]["location"]
    async with AsyncOmniQ(config={"task_queue": {"url": f"sqlite:///{config.removeprefix('sqlite:')}"}}) as oq:
        await oq.task_queue.store.beat(WorkerRecord(name="w", slots=8, running=3, breakers=(open_,)))
    shown = await asyncio.to_thread(cli, "status")
    assert shown.exit_code == 1
    row = next(line.split() for line in shown.stdout.splitlines() if line.startswith("w "))
    assert row[1:2] + row[4:5] == ["alive", "3/8"]
    assert row[-1] == "redis://h:1/0=open"
    assert "\x1b[31m" not in shown.output
