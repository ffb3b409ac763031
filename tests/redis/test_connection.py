"""What becomes of a store when its server dies, is loading, forgets its scripts, refuses or isn't asked politely."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from omniq.errors import StoreError, StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage.records import NEW, Change, LapsedLease, Lease, ScheduleRecord, TaskFilter, WorkerRecord
from omniq.testing.builders import claim, fire, new_task, success
from omniq_redis import connection
from omniq_redis.codec import PARCEL
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.connection import script
from omniq_redis.queue import RedisQueueStore

from tests.redis.support import QUEUE, elapsed, opened, until
from tests.servers.redis import RedisServer

Verb = Callable[[RedisQueueStore], Awaitable[object]]

VERBS: dict[str, Verb] = {
    "connect": lambda store: store.connect(),
    "guarantees": lambda store: store.guarantees(),
    "add": lambda store: store.add([new_task()]),
    "claim": claim,
    "extend": lambda store: store.extend([Lease("t", 1, "w")], lease=30.0),
    "held": lambda store: store.held("w"),
    "lapsed": lambda store: store.lapsed(limit=10),
    "reap": lambda store: store.reap([LapsedLease("t", 1, "w", 0.0)]),
    "beat": lambda store: store.beat(WorkerRecord(name="w")),
    "workers": lambda store: store.workers(),
    "now": lambda store: store.now(),
    "transition": lambda store: store.transition([Change(task_id="t", to=TaskState.CANCELLED, from_states=())]),
    "get": lambda store: store.get(["t"]),
    "find": lambda store: store.find(TaskFilter()),
    "find-expired": lambda store: store.find(TaskFilter(expired=True)),
    "stats": lambda store: store.stats(),
    "children": lambda store: store.children(["t"]),
    "purge": lambda store: store.purge(older_than=60.0),
    "delete": lambda store: store.delete(["t"]),
    "pause": lambda store: store.pause("other", paused=True),
    "put_schedule": lambda store: store.put_schedule(
        ScheduleRecord(id="s", queue_name=QUEUE, body=b"", next_run=None), if_version=None
    ),
    "schedules": lambda store: store.schedules(),
    "delete_schedule": lambda store: store.delete_schedule("s"),
    "fire": lambda store: fire(store, "s", if_version=1, next_run=None, task=new_task()),
    "put-results": lambda store: store.result_storage().put([]),
    "get-results": lambda store: store.result_storage().get(["t"]),
    "find-results": lambda store: store.result_storage().find("s"),
    "purge-results": lambda store: store.result_storage().purge(),
}


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisQueueStore]:
    async with opened(redis_server.url) as store:
        yield store


@pytest.fixture
async def shared(redis_url: str) -> AsyncIterator[RedisQueueStore]:
    async with opened(redis_url) as store:
        yield store


class TestRestart:
    async def test_what_was_acknowledged_survives_a_kill(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.add([new_task(f"t{n}") for n in range(300)])
        done, held, *_ = await claim(store)
        await store.transition([success(done)])
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)
        records = [record for record in await store.get([f"t{n}" for n in range(300)]) if record is not None]
        assert len(records) == 300
        assert {record.id: record for record in records}[held.id] == held
        assert [result and result.body for result in await store.result_storage().get([done.id])] == [b"result"]

    async def test_every_verb_works_at_once_after_a_restart(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await asyncio.gather(*(verb(store) for verb in VERBS.values()))  # so that many connections are open
        done = []
        for name, verb in VERBS.items():
            await asyncio.to_thread(redis_server.kill)
            await asyncio.to_thread(redis_server.start)
            await verb(store)
            done.append(name)
        assert done == list(VERBS)

    async def test_every_verb_says_that_the_server_is_away(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        redis_server.kill()
        for name, verb in VERBS.items():
            if name in ("connect", "put-results"):  # done already, and nothing to do
                continue
            with pytest.raises(StoreUnavailable):
                await verb(store)

    async def test_a_server_that_is_loading_is_unavailable_and_then_works(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.add([new_task("t")])
        with redis_server.client() as client, client.pipeline(transaction=False) as pipeline:
            for n in range(10_000):
                pipeline.set("other", n)
            pipeline.execute()
        await asyncio.to_thread(redis_server.kill)
        # Microseconds that it takes for each command when it loads.
        await asyncio.to_thread(redis_server.start, "--key-load-delay", "100", ready=False)
        with pytest.raises(StoreUnavailable, match=r"(?i)loading"):
            await store.get(["t"])

        async def loaded() -> bool:
            try:
                return await store.get(["t"]) != [None]
            except StoreUnavailable:
                return False

        await until(loaded)


class TestScripts:
    async def test_a_server_that_forgot_the_scripts_gets_them_again(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        done = []
        for name, verb in VERBS.items():
            redis_server.ask("SCRIPT FLUSH")
            await verb(store)
            done.append(name)
        assert done == list(VERBS)

    async def test_concurrent_calls_may_all_find_them_forgotten(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        redis_server.ask("SCRIPT FLUSH")
        answers = await asyncio.gather(*(store.add([new_task(f"t{n}")]) for n in range(100)))
        assert answers == [[NEW]] * 100

    @pytest.mark.server
    async def test_a_batch_in_parts_may_find_them_forgotten(self) -> None:
        server = RedisServer("valkey9", "--proto-max-bulk-len", "1mb")
        server.start()
        body = bytes(4000)
        try:
            async with opened(server.url) as store:
                for _ in range(3):
                    tasks = [new_task(body=body) for _ in range(PARCEL)]
                    server.ask("SCRIPT FLUSH")
                    assert await store.add(tasks) == [NEW] * len(tasks)
                    server.ask("SCRIPT FLUSH")
                    records = await claim(store, limit=PARCEL)
                    server.ask("SCRIPT FLUSH")
                    changed = await store.transition([success(record, body) for record in records])
                    assert [change.status for change in changed] == ["applied"] * len(tasks)
        finally:
            server.remove()

    def test_a_digest_is_that_of_the_source(self, redis_server: RedisServer) -> None:
        for name in ("add", "claim", "transition"):
            assert redis_server.ask("SCRIPT LOAD", script(name).source) == script(name).digest


class TestCancelling:
    @pytest.mark.parametrize("turns", range(0, 24, 3))
    async def test_no_answer_is_left_for_the_next_caller(self, shared: RedisQueueStore, turns: int) -> None:
        await shared.add([new_task(f"t{n}") for n in range(10)])
        for _ in range(5):
            calls = [asyncio.ensure_future(shared.get([f"t{n}"])) for n in range(10)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            answers = await asyncio.gather(*(shared.get([f"t{n}"]) for n in range(10)))
            assert [record and record.id for (record,) in answers] == [f"t{n}" for n in range(10)]

    @pytest.mark.parametrize("turns", range(0, 24, 3))
    async def test_a_large_batch_leaves_none_either(self, shared: RedisQueueStore, turns: int) -> None:
        await shared.add([new_task(f"t{n}") for n in range(10)])
        many = [new_task() for _ in range(2 * PARCEL)]
        calls = [asyncio.ensure_future(shared.add(many))]
        for _ in range(turns):
            await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        answers = await asyncio.gather(*(shared.get([f"t{n}"]) for n in range(10)))
        assert [record and record.id for (record,) in answers] == [f"t{n}" for n in range(10)]

    async def test_cancelled_calls_use_no_connections_up(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        for _ in range(20):
            calls = [asyncio.ensure_future(store.get(["t"])) for _ in range(connection.IN_FLIGHT)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*(store.get(["t"]) for _ in range(200)))
        assert redis_server.ask("INFO", "clients")["connected_clients"] <= connection.IN_FLIGHT + 1


class TestRefusals:
    @pytest.mark.parametrize("user_info", [":wr0ng@", "nobody:wr0ng@", ""])
    async def test_a_wrong_password_is_told_without_it(self, redis_server: RedisServer, user_info: str) -> None:
        redis_server.ask("CONFIG SET", "requirepass", "r1ght")
        store = RedisQueueStore(RedisTaskQueueConfig.from_url(f"redis://{user_info}127.0.0.1:{redis_server.port}"))
        with pytest.raises(StoreError) as refused:
            await store.connect()
        await store.close()
        assert not isinstance(refused.value, StoreUnavailable)
        assert not [secret for secret in ("wr0ng", "r1ght") if secret in str(refused.value)]

    async def test_the_right_password_opens(self, redis_server: RedisServer) -> None:
        redis_server.ask(
            "ACL SETUSER", "joe", "on", ">r1ght", "~{omniq:*", "resetchannels", "&{omniq:*", "+@all", "-config"
        )
        async with opened(f"redis://joe:r1ght@127.0.0.1:{redis_server.port}") as store:
            assert await store.add([new_task("t")]) == [NEW]
            async with asyncio.timeout(5):
                await store.wait([QUEUE], 60)  # it has something due

    async def test_a_full_server_refuses_tasks_and_lets_workers_end_theirs(
        self, redis_server: RedisServer, store: RedisQueueStore
    ) -> None:
        await store.add([new_task("t")])
        redis_server.ask("CONFIG SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await store.add([new_task("u")])
        (record,) = await claim(store)
        assert [changed.status for changed in await store.transition([success(record)])] == ["applied"]
        redis_server.ask("CONFIG SET", "maxmemory", "0")
        assert [found and found.id for found in await store.get(["t", "u"])] == ["t", None]
        assert [(queue.name, queue.counts) for queue in await store.stats()] == [(QUEUE, {TaskState.SUCCESS: 1})]

    @pytest.mark.parametrize(("newer", "told"), [(1, "upgrade omniq-redis"), (-1, "an older omniq-redis wrote this")])
    async def test_another_layout_is_refused(self, redis_server: RedisServer, newer: int, told: str) -> None:
        redis_server.ask("SET", "{omniq:default}:version", connection.LAYOUT + newer)
        store = RedisQueueStore(RedisTaskQueueConfig.from_url(redis_server.url))
        with pytest.raises(StoreError, match=told):
            await store.connect()
        await store.close()

    @pytest.mark.parametrize("place", ["redis://{}", "redis+cluster://{}", "redis+sentinel://{}/primary"])
    async def test_nobody_there_is_unavailable(self, place: str) -> None:
        store = RedisQueueStore(RedisTaskQueueConfig.from_url(place.format(":s3cret@127.0.0.1:1")))
        with pytest.raises(StoreUnavailable) as refused:
            await store.connect()
        assert 0.9 < await elapsed(store.wait([QUEUE], 60)) < 1.5
        await store.close()
        assert "s3cret" not in str(refused.value)

    async def test_a_server_that_is_no_cluster_is_told(self, redis_server: RedisServer) -> None:
        store = RedisQueueStore(RedisTaskQueueConfig(host="127.0.0.1", port=redis_server.port, cluster=True))
        with pytest.raises(StoreError, match="Cluster mode is not enabled"):
            await store.connect()
        await store.close()


class TestGuarantees:
    @pytest.mark.parametrize(
        ("settings", "survives"),
        [
            ({}, (True, False)),
            ({"appendfsync": "always"}, (True, True)),
            ({"appendonly": "no"}, (False, False)),
        ],
    )
    async def test_they_follow_the_servers_settings(
        self,
        redis_server: RedisServer,
        store: RedisQueueStore,
        settings: dict[str, str],
        survives: tuple[bool, bool],
    ) -> None:
        for name, value in settings.items():
            redis_server.ask("CONFIG SET", name, value)
        found = await store.guarantees()
        assert (found.survives_process_kill, found.survives_power_loss) == survives
        assert (found.survives_failover, found.clock) == (False, "server")
        assert found.push
        assert found.atomic_results
        assert "maxmemory-policy=noeviction" in found.evidence

    async def test_what_may_not_be_asked_is_not_promised(self, redis_server: RedisServer) -> None:
        redis_server.ask("CONFIG SET", "appendfsync", "always")
        redis_server.ask("ACL SETUSER", "default", "-config")
        async with opened(redis_server.url) as store:
            found = await store.guarantees()
        assert (found.survives_process_kill, found.survives_power_loss) == (True, False)
        assert "appendfsync=unknown" in found.evidence

    async def test_what_endangers_tasks_is_logged_once(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis_server.ask("CONFIG SET", "appendonly", "no")
        redis_server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
        with caplog.at_level(logging.INFO, "omniq.redis"):
            for _ in range(2):
                async with opened(redis_server.url):
                    pass
        levels = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert [level for level, _ in levels] == ["INFO", "WARNING", "WARNING"]
        assert "appendonly" in levels[1][1]
        assert "allkeys-lru" in levels[2][1]
