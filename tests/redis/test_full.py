"""A server whose memory is full: it takes nothing new, and what it holds is kept, worked off, and lost by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import StoreFull
from omniq.models.task import TaskState
from omniq.storage.records import Change, LeaseStatus, ResultRecord, ScheduleRecord, TaskFilter
from omniq.testing.builders import claim, fire, lease_of, new_task, success
from omniq_redis.queue import RedisQueueStore

from tests.core import tasks
from tests.core.support import SOON, lines, results_of, until_outlived, working
from tests.core.support import until as until_true
from tests.redis.support import QUEUE, opened
from tests.servers.redis import PROGRAMS, RedisServer

LEASE = 2.0
SCHEDULE = ScheduleRecord(id="s", queue_name=QUEUE, body=b"schedule", next_run=0.0)


def fill(server: RedisServer) -> None:
    """Let its memory be full."""
    server.ask("CONFIG SET", "maxmemory", "1")


def make_room(server: RedisServer) -> None:
    server.ask("CONFIG SET", "maxmemory", "0")


@pytest.fixture(scope="module", params=list(PROGRAMS))
def module_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(request.param)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def redis_server(module_server: RedisServer) -> Iterator[RedisServer]:
    """An empty server with room, of each kind in turn."""
    module_server.ask("FLUSHALL")
    yield module_server
    make_room(module_server)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisQueueStore]:
    async with opened(redis_server.url) as store:
        yield store


class TestVerbs:
    async def test_new_tasks_are_refused_and_room_is_asked_for(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.put_schedule(SCHEDULE, if_version=None)
        fill(redis_server)
        refused = (
            store.add([new_task("t")]),
            fire(store, "s", if_version=1, next_run=None, task=new_task("t")),
            store.put_schedule(replace(SCHEDULE, id="other"), if_version=None),
            store.result_storage().put([ResultRecord(task_id="t", epoch=1, status=TaskState.SUCCESS, body=b"result")]),
        )
        for call in refused:
            with pytest.raises(StoreFull, match=r"maxmemory"):
                await call
        make_room(redis_server)
        assert await store.get(["t"]) == [None]

    async def test_leases_are_renewed(self, redis_server: RedisServer, store: RedisQueueStore) -> None:
        await store.add([new_task("t")])
        (held,) = await claim(store, lease=30.0)
        fill(redis_server)
        assert await store.extend([lease_of(held)], lease=60.0) == [LeaseStatus(True, False)]
        (record,) = await store.get(["t"])
        assert record is not None
        assert record.lease_until is not None
        assert record.claimed_at is not None
        assert record.lease_until - record.claimed_at > 59.0

    async def test_tasks_are_ended_cancelled_and_tried_again(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.add([new_task(f"t{n}") for n in range(4)])
        held = {record.id: record for record in await claim(store, limit=3)}
        fill(redis_server)
        running = (TaskState.RUNNING,)
        changes = [
            Change(task_id="t0", to=TaskState.RUNNING, from_states=running, epoch=1, request_cancel=True),
            Change(task_id="t1", to=TaskState.PENDING, from_states=running, epoch=1, delay=60.0, attempted=True),
            success(held["t2"]),
            Change(task_id="t3", to=TaskState.CANCELLED, from_states=(TaskState.PENDING,)),
        ]
        for change in changes:
            assert [changed.status for changed in await store.transition([change])] == ["applied"], change
        assert await store.extend([lease_of(held["t0"])], lease=60.0) == [LeaseStatus(True, True)]
        assert [result and result.body for result in await store.result_storage().get(["t2"])] == [b"result"]

    async def test_a_task_whose_result_is_replaced_is_ended_with_others(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.add([new_task("a"), new_task("b")])
        await store.transition(list(map(success, await claim(store))))
        again = Change(task_id="b", to=TaskState.PENDING, from_states=(TaskState.SUCCESS,), fresh=True)
        await store.transition([again])
        await store.add([new_task("c")])
        held = sorted(await claim(store), key=lambda record: record.id, reverse=True)
        fill(redis_server)
        changed = await store.transition([success(record, b"new") for record in held])
        assert [change.status for change in changed] == ["applied", "applied"]
        assert [result and result.body for result in await store.result_storage().get(["b", "c"])] == [b"new", b"new"]

    async def test_queues_and_schedules_are_paused_and_deleted(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.put_schedule(SCHEDULE, if_version=None)
        fill(redis_server)
        await store.pause(QUEUE, paused=True)
        assert [queue.paused for queue in await store.stats()] == [True]
        assert await store.put_schedule(replace(SCHEDULE, paused=True), if_version=1)
        assert [schedule.paused for schedule in await store.schedules()] == [True]
        assert await store.delete_schedule("s")

    async def test_upkeep_goes_on(self, redis_server: RedisServer, store: RedisQueueStore) -> None:
        await store.add([new_task("lapsed"), new_task("ended"), new_task("expired", delay=0.01, ttl=0.01)])
        held = {record.id: record for record in await store.claim([QUEUE], limit=2, lease=0.01, worker="w")}
        await store.transition([success(held["ended"])])
        await asyncio.sleep(0.05)
        fill(redis_server)
        assert [record.id for record in (await store.find(TaskFilter(expired=True))).tasks] == ["expired"]
        assert [record.id for record in await store.reap(await store.lapsed(limit=10))] == ["lapsed"]
        assert await store.purge(older_than=0.0) == 1
        assert sorted(record.id for record in await claim(store)) == ["expired", "lapsed"]

    @pytest.mark.parametrize("used_before", [True, False])
    async def test_whoever_comes_now_can_connect(self, redis_server: RedisServer, used_before: bool) -> None:
        if used_before:
            async with opened(redis_server.url) as store:
                await store.add([new_task("t")])
        fill(redis_server)
        async with opened(redis_server.url) as store:
            assert [record and record.id for record in await store.get(["t"])] == ["t" if used_before else None]


async def test_long_tasks_outlive_a_full_server(redis_server: RedisServer, log: Path, gate: Path) -> None:
    place = {"url": redis_server.url}
    async with AsyncOmniQ(config={"task_queue": place, "defaults": {"max_retries": 0}}) as oq:
        ids = [await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)]) for _ in range(3)]
        async with working(oq, "async", max_workers=3, lease=LEASE, reap_interval=0.2) as pool:
            await until_true(lambda: len(lines(log)) == 3)
            fill(redis_server)
            with pytest.raises(StoreFull) as refused:
                await oq.enqueue(tasks.nothing)
            assert len(refused.value.task_ids) == 1
            for id_ in ids:
                await until_outlived(oq, id_, LEASE)
            gate.touch()
            assert await results_of(oq, ids) == ["done"] * 3
            make_room(redis_server)
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
            assert pool.failure is None
        assert [(t.epoch, t.crashes) for t in [await oq.get_task(id_) for id_ in ids]] == [(1, 0)] * 3
