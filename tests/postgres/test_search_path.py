"""What others plant into `public` is never called: names are looked up in the server's own catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import asyncpg
import pytest
from omniq.models import TaskState
from omniq.models.event import EventType, TaskEvent
from omniq.storage.records import EventFilter, Lease, TaskFilter, WorkerRecord
from omniq.testing.builders import claim, new_task, success
from omniq_postgres.config import PostgresEventStorageConfig, PostgresTaskQueueConfig
from omniq_postgres.events import PostgresEventStore
from omniq_postgres.queue import PostgresQueueStore

from tests.postgres.support import QUEUE, database_of
from tests.servers.postgres import PostgresServer, with_options

TRAPS = """
    create role mallory;
    grant create on schema public to mallory;
    create table caught (what text);
    grant insert, select on caught to public;
    set role mallory;
    create function public.unnest(text[]) returns setof text language plpgsql as
        $$ begin
            insert into public.caught values ('unnest');
            return query select x from pg_catalog.unnest($1) x;
        end $$;
    create function public.unnest(int[]) returns setof int language plpgsql as
        $$ begin
            insert into public.caught values ('unnest');
            return query select x from pg_catalog.unnest($1) x;
        end $$;
    create function public.least(int, int) returns int language plpgsql as
        $$ begin insert into public.caught values ('least'); return 0; end $$;
    create function public.coalesce(float8, float8) returns float8 language plpgsql as
        $$ begin insert into public.caught values ('coalesce'); return 0; end $$;
    create function public.to_timestamp(int) returns timestamptz language plpgsql as
        $$ begin insert into public.caught values ('to_timestamp'); return pg_catalog.now(); end $$;
    create function public.array_position(text[], text) returns int language plpgsql as
        $$ begin insert into public.caught values ('array_position'); return 0; end $$;
    create function public.equal(text, text) returns boolean language plpgsql as
        $$ begin insert into public.caught values ('='); return $1 operator(pg_catalog.=) $2; end $$;
    create operator public.= (leftarg = text, rightarg = text, function = public.equal);
    create function public.equal(text, varchar) returns boolean language plpgsql as
        $$ begin insert into public.caught values ('='); return $1 operator(pg_catalog.=) $2; end $$;
    create operator public.= (leftarg = text, rightarg = varchar, function = public.equal);
    create function public.later(double precision, numeric) returns boolean language plpgsql as
        $$ begin insert into public.caught values ('<='); return true; end $$;
    create operator public.<= (leftarg = double precision, rightarg = numeric, function = public.later);
    create function public.hashtextextended(varchar, int) returns bigint language plpgsql as
        $$ begin insert into public.caught values ('hashtextextended'); return 0; end $$;
    create domain public.text as pg_catalog.text;
    reset role;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer("fsync=off")
    server.create()
    server.start()
    asyncio.run(_set_traps(server))
    yield server
    server.remove()


async def _set_traps(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(TRAPS)
    await connection.close()


@pytest.fixture
def url(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A schema of the test's own."""
    return with_options(server.url, schema=f"own_{abs(hash(request.node.name)) % 10**8}")


@pytest.fixture
async def queue(url: str) -> AsyncIterator[PostgresQueueStore]:
    store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(url))
    await store.connect()
    yield store
    await store.close()


async def caught(server: PostgresServer) -> Sequence[object]:
    connection = await asyncpg.connect(server.url)
    try:
        return [row["what"] for row in await connection.fetch("select what from public.caught")]
    finally:
        await connection.close()


async def everything(store: PostgresQueueStore) -> None:
    """A round through the verbs."""
    await store.add([new_task("parent"), new_task("child", parents=("parent",)), new_task("other")])
    records = await claim(store)
    await store.extend([Lease(record.id, record.epoch, record.worker or "") for record in records], lease=0.0)
    await store.reap(await store.lapsed(limit=10))
    worker = WorkerRecord(name="w")
    await store.beat(worker)
    await store.workers()
    await store.held("w")
    await store.beat(worker, leaving=True)
    await store.now()
    records = await claim(store)
    await store.transition([success(record) for record in records])
    await store.find(TaskFilter(states=(TaskState.WAITING,), queue_name=QUEUE))
    await store.find(TaskFilter(expired=True))
    await store.stats()
    await store.children(["parent"])
    await store.schedules(["a"], within=1.0)
    await store.result_storage().get(["parent", "other"])
    await store.pause(QUEUE, paused=True)
    await store.pause(QUEUE, paused=False)
    await store.purge(older_than=0.0)


async def test_no_verb_calls_what_others_have_planted(server: PostgresServer, queue: PostgresQueueStore) -> None:
    await everything(queue)
    assert await caught(server) == []


async def test_not_even_where_a_pooler_keeps_the_session_from_being_ours(
    server: PostgresServer, queue: PostgresQueueStore
) -> None:
    database = database_of(queue)
    database.pooled = True  # as it finds out behind one
    for connection in database._connections:
        connection.terminate()
    await everything(queue)
    assert await caught(server) == []


async def test_events_neither(server: PostgresServer, url: str) -> None:
    store = PostgresEventStore(PostgresEventStorageConfig.from_url(url))
    await store.append([TaskEvent(id="e", type=EventType.COMPLETE, time=1.0, task_id="a", data={"a": 1})])
    where = EventFilter(types=(EventType.COMPLETE,), task_id="a")
    assert len((await store.query(where)).events) == 1
    assert await store.purge(before=2.0) == 1
    await store.close()
    assert await caught(server) == []


async def test_a_callers_own_transaction_is_safe_and_gets_its_path_back(
    server: PostgresServer, queue: PostgresQueueStore
) -> None:
    connection = await asyncpg.connect(server.url)
    async with connection.transaction():
        await connection.execute("set local search_path = public, pg_catalog")
        await queue.add_within(connection, [new_task("a"), new_task("b")])
        assert await connection.fetchval("show search_path") == "public, pg_catalog"
        await queue.add_within(connection, [new_task("c", parents=("a",))])
    assert await connection.fetchval("show search_path") == '"$user", public'
    await connection.close()
    assert [record.id for record in (await queue.find(TaskFilter())).tasks] == ["a", "b", "c"]
    assert await caught(server) == []
