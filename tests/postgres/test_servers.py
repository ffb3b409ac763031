"""What happens to a store when its server dies, and when many processes share one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest
from omniq import AsyncOmniQ
from omniq.errors import StoreUnavailable
from omniq.storage.records import DUPLICATE, NEW
from omniq.testing.builders import claim, new_task, success
from omniq.testing.conformance.results import connect_only, in_children
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore

from tests.postgres.support import PATIENCE, QUEUE, database_of, seconds_of, tasks, until
from tests.servers.postgres import PostgresServer

BACK_IN_TIME = 5.0
"""Seconds after a server's return within which everything must work again."""


async def echo(value: int) -> int:
    return value


@pytest.fixture
async def fragile(postgres_server: PostgresServer) -> AsyncIterator[PostgresQueueStore]:
    """A store on a server that the test may kill."""
    store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(postgres_server.url))
    await store.connect()
    yield store
    await store.close()


class TestRestart:
    async def test_every_verb_works_again(self, fragile: PostgresQueueStore, postgres_server: PostgresServer) -> None:
        await fragile.add(tasks(3))
        held = await claim(fragile)
        postgres_server.kill()
        with pytest.raises(StoreUnavailable):
            await fragile.add([new_task("lost")])
        with pytest.raises(StoreUnavailable):
            await claim(fragile)
        postgres_server.start()
        assert await fragile.add([new_task("u")]) == [NEW]
        assert [changed.status for changed in await fragile.transition([success(held[0])])] == ["applied"]
        assert [record.id for record in await claim(fragile)] == ["u"]
        results = fragile.result_storage()
        assert [record and record.body for record in await results.get([held[0].id])] == [b"result"]
        await results.close()

    async def test_a_restart_that_nobody_noticed_is_no_error(
        self, fragile: PostgresQueueStore, postgres_server: PostgresServer
    ) -> None:
        await asyncio.gather(*(fragile.add([new]) for new in tasks(4)))
        postgres_server.restart()  # in this thread: the loop hasn't read yet that its connections are gone
        assert len(await claim(fragile)) == 4

    async def test_a_call_in_flight_is_told(self, fragile: PostgresQueueStore, postgres_server: PostgresServer) -> None:
        connection = await asyncpg.connect(postgres_server.url)
        await connection.execute("begin; lock table omniq.task")
        blocked = asyncio.create_task(fragile.add([new_task("t")]))
        await until(lambda: connection.fetchval("select exists (select from pg_locks where not granted)"))
        postgres_server.kill()
        with pytest.raises(StoreUnavailable):
            await blocked
        connection.terminate()

    @pytest.mark.starvable
    async def test_workers_go_on_by_themselves(self, postgres_server: PostgresServer) -> None:
        async with AsyncOmniQ(config={"task_queue": {"url": postgres_server.url}}) as oq:
            await oq.start_worker("async")
            assert await oq.get_result(await oq.enqueue(echo, [1]), timeout=PATIENCE) == 1
            await asyncio.to_thread(postgres_server.restart)
            back = time.monotonic()
            assert await oq.get_result(await oq.enqueue(echo, [2]), timeout=PATIENCE) == 2
            assert time.monotonic() - back < BACK_IN_TIME


class TestManyProcesses:
    async def test_ten_may_create_the_schema_at_once(self, config: PostgresTaskQueueConfig) -> None:
        assert await in_children(partial(PostgresQueueStore, config), *[connect_only] * 10) == [0] * 10

    def test_a_forked_child_has_its_own_connections(self, config: PostgresTaskQueueConfig) -> None:
        store = PostgresQueueStore(config)
        with asyncio.Runner() as runner:
            runner.run(store.add([new_task("parent")]))
            child = os.fork()
            if child == 0:
                os._exit(_exit_code_of(store))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            found = runner.run(store.get(["parent", "child"]))
            assert [record and record.id for record in found] == ["parent", "child"]
            runner.run(store.close())


def _exit_code_of(store: PostgresQueueStore) -> int:
    """Use the store in a forked child; 0 if that went well."""
    try:
        return int(asyncio.run(store.add([new_task("child")])) != [NEW])
    except BaseException:
        return 2


class TestNarrowWays:
    async def test_one_connection_is_enough(self, postgres_url: str) -> None:
        config = {"task_queue": {"url": postgres_url, "config": {"pool_size": 1}}}
        async with AsyncOmniQ(config=config) as oq:
            await oq.start_worker("async")
            ids = await asyncio.gather(*(oq.enqueue(echo, [number]) for number in range(50)))
            results = await asyncio.gather(*(oq.get_result(id_, timeout=PATIENCE) for id_ in ids))
            assert results == list(range(50))

    @pytest.mark.starvable
    async def test_a_pooler_is_noticed_and_borne(self, pgbouncer_url: str) -> None:
        store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(pgbouncer_url))
        await store.connect()
        assert database_of(store).pooled
        assert (await store.guarantees()).push is False
        assert await store.add(tasks(100)) == [NEW] * 100
        assert await store.add([*tasks(100), new_task("child", parents=("t000000",))]) == [DUPLICATE] * 100 + [NEW]
        claims = await asyncio.gather(*(claim(store, limit=10) for _ in range(10)))
        changes = [[success(record) for record in records] for records in claims]
        answers = await asyncio.gather(*(store.transition(batch) for batch in changes))
        assert [changed.status for batch in answers for changed in batch] == ["applied"] * 100
        assert await seconds_of(store.wait([QUEUE], 30)) < 1.1
        await store.close()

    async def test_a_transaction_may_go_through_a_pooler(self, pgbouncer_url: str) -> None:
        store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(pgbouncer_url))
        connection = await asyncpg.connect(pgbouncer_url.partition("?")[0], statement_cache_size=0)
        async with connection.transaction():
            assert await store.add_within(connection, tasks(3)) == [NEW] * 3
        assert len(await claim(store)) == 3
        await connection.close()
        await store.close()

    async def test_workers_work_through_a_pooler(self, pgbouncer_url: str) -> None:
        async with AsyncOmniQ(config={"task_queue": {"url": pgbouncer_url}}) as oq:
            await oq.start_worker("async")
            ids = [await oq.enqueue(echo, [number]) for number in range(5)]
            assert [await oq.get_result(id_, timeout=PATIENCE) for id_ in ids] == list(range(5))
