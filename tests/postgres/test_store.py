"""What is special about PostgreSQL: one schema per project, COPY, plans, a caller's own transaction, guarantees."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace
from omniq import clock
from omniq.errors import StoreError, StoreUnavailable
from omniq.models.event import EventType, TaskEvent
from omniq.models.task import TaskState
from omniq.storage.records import DUPLICATE, NEW, UNKNOWN_PARENT, Added, AddStatus, EventFilter, LapsedLease, TaskFilter
from omniq.storage.sql import Given, Statement
from omniq.storage.sql.claiming import HEAD, LAPSED, SEEN, TAKE_BACK, UNRENEWED
from omniq.testing.builders import claim, new_task, reap, success
from omniq_postgres.config import PostgresEventStorageConfig, PostgresTaskQueueConfig
from omniq_postgres.dialect import DIALECT
from omniq_postgres.events import PostgresEventStore
from omniq_postgres.opening import judge
from omniq_postgres.queue import COPY_FROM, PostgresQueueStore
from omniq_postgres.verbs import CLAIM, PROMOTE

from tests.postgres.support import QUEUE, database_of, tasks

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection

MANY = 200_000


class TestSchema:
    async def test_another_projects_schema_is_refused(self, queue: PostgresQueueStore, config: Any) -> None:
        other = PostgresQueueStore(replace(config, project_name="other"))
        with pytest.raises(StoreError, match="belongs to the project 'default', not to 'other'"):
            await other.connect()
        await other.close()

    @pytest.mark.parametrize(
        ("version", "advice"), [(-1, "give OmniQ a place of its own"), (+1, "upgrade omniq-postgres")]
    )
    async def test_a_schema_of_another_version_is_refused(
        self,
        queue: PostgresQueueStore,
        config: PostgresTaskQueueConfig,
        connection: Connection,
        version: int,
        advice: str,
    ) -> None:
        await queue.close()
        await connection.execute(f'update "{config.schema}".installation set version = version + {version}')
        with pytest.raises(StoreError, match=advice):
            await queue.connect()

    async def test_an_empty_schema_may_be_there_already(
        self, config: PostgresTaskQueueConfig, connection: Connection
    ) -> None:
        await connection.execute(f'create schema "{config.schema}"')
        store = PostgresQueueStore(config)
        assert await store.add([new_task("t")]) == [NEW]
        await store.close()

    async def test_verbs_need_no_connect(self, config: PostgresTaskQueueConfig) -> None:
        store = PostgresQueueStore(config)
        assert await asyncio.gather(*(store.add([new_task("t")]) for _ in range(3))) != []
        await store.close()


class TestErrors:
    async def test_a_server_that_is_away(self) -> None:
        store = PostgresQueueStore(PostgresTaskQueueConfig(host="127.0.0.1", port=1, password="s3cr3t"))
        with pytest.raises(StoreUnavailable, match="postgres:127.0.0.1:1/postgres/omniq") as error:
            await store.connect()
        assert "s3cr3t" not in str(error.value)
        await store.close()

    async def test_a_database_that_is_not_there(self, config: PostgresTaskQueueConfig) -> None:
        store = PostgresQueueStore(replace(config, database="nowhere"))
        with pytest.raises(StoreError, match='database "nowhere" does not exist') as error:
            await store.connect()
        assert not isinstance(error.value, StoreUnavailable)
        await store.close()

    async def test_a_statement_that_takes_too_long(
        self, config: PostgresTaskQueueConfig, connection: Connection
    ) -> None:
        store = PostgresQueueStore(replace(config, timeout=0.3))
        await store.add([new_task("t")])
        async with connection.transaction():
            await connection.execute(f'lock table "{config.schema}".task')
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await store.get(["t"])
        assert [record and record.id for record in await store.get(["t"])] == ["t"]
        await store.close()

    async def test_what_the_server_refuses(self, queue: PostgresQueueStore) -> None:
        with pytest.raises(StoreError, match="invalid byte sequence") as error:
            await queue.add([new_task("nul\0")])
        assert not isinstance(error.value, StoreUnavailable)
        assert await queue.add([new_task("t")]) == [NEW]


class TestCopy:
    async def test_copied_tasks_are_as_the_inserted_ones(self, queue: PostgresQueueStore) -> None:
        many = [replace(t, priority=5, schedule_id="s") for t in tasks(COPY_FROM)]
        assert await queue.add(many) == [NEW] * COPY_FROM
        assert await queue.add([new_task("one")]) == [NEW]
        copied, inserted = await queue.get([many[0].id, "one"])
        assert copied is not None
        assert inserted is not None
        same = replace(copied, id="one", priority=0, schedule_id=None, created_at=inserted.created_at)
        assert replace(same, run_at=inserted.run_at) == inserted
        assert copied.run_at == copied.created_at == pytest.approx(clock.now(), abs=2)

    async def test_one_that_is_there_leaves_the_others_new(self, queue: PostgresQueueStore) -> None:
        many = tasks(COPY_FROM)
        await queue.add([many[7]])
        answers = await queue.add(many)
        assert [index for index, answer in enumerate(answers) if answer == DUPLICATE] == [7]


class TestCallersTransaction:
    async def test_tasks_come_with_the_commit(self, queue: PostgresQueueStore, connection: Connection) -> None:
        async with connection.transaction():
            assert await queue.add_within(connection, tasks(3)) == [NEW] * 3
            assert await claim(queue) == []
        assert len(await claim(queue)) == 3

    async def test_a_rollback_takes_them_away(self, queue: PostgresQueueStore, connection: Connection) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await queue.add_within(connection, tasks(3))
        await transaction.rollback()
        assert (await queue.find(TaskFilter())).tasks == []

    async def test_a_duplicate_spoils_no_transaction(self, queue: PostgresQueueStore, connection: Connection) -> None:
        await queue.add([new_task("t")])
        async with connection.transaction():
            added = [new_task("t"), new_task("u"), new_task("v", parents=("nobody",))]
            answers = await queue.add_within(connection, added)
            assert answers == [DUPLICATE, NEW, UNKNOWN_PARENT]
            assert await connection.fetchval("select 1") == 1
        assert [record and record.id for record in await queue.get(["u", "v"])] == ["u", None]

    async def test_a_key_is_held_from_the_commit_on(self, queue: PostgresQueueStore, connection: Connection) -> None:
        first, second = (replace(new_task(name), unique="key") for name in ("first", "second"))
        transaction = connection.transaction()
        await transaction.start()
        assert await queue.add_within(connection, [first]) == [NEW]
        adding = asyncio.create_task(queue.add([second]))  # whether the key is free is known at the end
        await asyncio.sleep(0.1)
        assert not adding.done()
        await transaction.commit()
        assert await adding == [Added(AddStatus.DUPLICATE, "first")]

    async def test_a_key_is_free_after_a_rollback(self, queue: PostgresQueueStore, connection: Connection) -> None:
        first, second = (replace(new_task(name), unique="key") for name in ("first", "second"))
        transaction = connection.transaction()
        await transaction.start()
        assert await queue.add_within(connection, [first, replace(second, id="third")]) == [
            NEW,
            Added(AddStatus.DUPLICATE, "first"),
        ]
        await transaction.rollback()
        assert await queue.add([second]) == [NEW]

    async def test_a_long_one_keeps_nobody_from_a_parent(
        self, queue: PostgresQueueStore, connection: Connection
    ) -> None:
        await queue.add([new_task("parent")])
        async with connection.transaction():
            await queue.add_within(connection, [new_task("child", parents=("parent",))])
            (record,) = await claim(queue)
            assert [changed.status for changed in await queue.transition([success(record)])] == ["applied"]
            assert await queue.purge(older_than=-60) == 0
        assert await queue.children(["parent"]) == [["child"]]

    async def test_a_waiter_hears_of_the_commit(self, queue: PostgresQueueStore, connection: Connection) -> None:
        waiting = asyncio.create_task(queue.wait([QUEUE], 60))
        while not database_of(queue).channel.live:
            await asyncio.sleep(0.01)
        await waiting  # it began before anything could be heard, and so was short
        waiting = asyncio.create_task(queue.wait([QUEUE], 60))
        async with connection.transaction():
            await queue.add_within(connection, [new_task("t")])
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)


class TestPlans:
    """The server walks the index that is meant for a statement, and no more of it than it must."""

    @pytest.fixture
    async def crowd(self, queue: PostgresQueueStore, config: PostgresTaskQueueConfig, connection: Connection) -> str:
        """A table of many delayed and many due tasks, in the eyes of a planner that was told so."""
        sql = f"""
            insert into "{config.schema}".task (id, queue_name, state, priority, created_at, run_at, body)
            select 'id' || n, case n % 2 when 0 then 'due' else 'delayed' end,
                case n % 2 when 0 then 'pending' else 'scheduled' end, n % 3, n, 1e10 + n, ''
            from generate_series(1, {2 * MANY}) n;
            analyze "{config.schema}".task"""
        await connection.execute(sql)
        return str(config.schema)

    async def explain(self, queue: PostgresQueueStore, sql: str, *values: object) -> dict[str, Any]:
        rows = await database_of(queue).run(
            lambda session: session.fetch(f"explain (analyze, buffers, format json) {sql}", *values)
        )
        plan: dict[str, Any] = msgspec.json.decode(rows[0][0])[0]["Plan"]
        return plan

    async def explain_claim(self, queue: PostgresQueueStore, queues: list[str]) -> dict[str, Any]:
        ranks, run_ats, ids = zip(*[HEAD] * len(queues), strict=True)
        return await self.explain(queue, CLAIM, 0.0, queues, ranks, run_ats, ids, 100, False, 30.0, "w")

    async def test_an_idle_claim_is_cheap_beside_many_delayed_tasks(
        self, queue: PostgresQueueStore, crowd: str
    ) -> None:
        plan = await self.explain_claim(queue, ["delayed", "empty"])
        assert {node["Node Type"] for node in nodes(plan)}.isdisjoint({"Seq Scan", "Sort"})
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50

    async def test_a_claim_reads_as_many_due_tasks_as_it_takes(self, queue: PostgresQueueStore, crowd: str) -> None:
        plan = await self.explain_claim(queue, ["empty", "due", "delayed"])
        (scan,) = [node for node in nodes(plan) if node.get("Index Name") == "task_pending"]
        assert scan["Actual Rows"] * scan["Actual Loops"] == 100
        assert {node["Node Type"] for node in nodes(plan)}.isdisjoint({"Seq Scan", "Sort"})
        assert plan["Actual Rows"] == 100

    async def test_a_promotion_reads_as_many_as_it_takes(self, queue: PostgresQueueStore, crowd: str) -> None:
        plan = await self.explain(queue, PROMOTE, 2e10, ["delayed", "due"], 100)
        (scan,) = [node for node in nodes(plan) if node.get("Index Name") == "task_scheduled"]
        assert scan["Actual Rows"] * scan["Actual Loops"] == 100
        assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}

    async def test_a_reaper_reads_what_runs(self, queue: PostgresQueueStore, crowd: str) -> None:
        sql, values = DIALECT.bound(Statement(LAPSED, {"at": -math.inf, "after": "", "limit": 100}))
        plan = await self.explain(queue, sql, *values)
        assert "task_running" in {node.get("Index Name") for node in nodes(plan)}
        assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50

    async def test_what_is_taken_back_is_looked_up_by_its_id(self, queue: PostgresQueueStore, crowd: str) -> None:
        ids = [f"id{n}" for n in range(100)]
        seen = [LapsedLease(id_, 1, "w", 1.0) for id_ in ids]
        for statement in (Statement(UNRENEWED, {"ids": ids}, Given.of(SEEN, seen)), Statement(TAKE_BACK, {"ids": ids})):
            sql, values = DIALECT.bound(statement)
            plan = await self.explain(queue, sql, *values)
            assert "task_pkey" in {node.get("Index Name") for node in nodes(plan)}
            assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}

    async def test_a_list_reads_no_more_than_a_page_of_the_ended(
        self, queue: PostgresQueueStore, config: PostgresTaskQueueConfig, connection: Connection
    ) -> None:
        await connection.execute(
            f"""
            insert into "{config.schema}".task (id, queue_name, name, state, priority, finished_at, body)
            select 'id' || n, 'q' || n % 3, 'f' || n % 5, 'success', 0, n, '' from generate_series(1, {MANY}) n"""
        )
        success = (TaskState.SUCCESS,)
        for where in (TaskFilter(states=success), TaskFilter(queue_name="q1"), TaskFilter(name="f1", states=success)):
            before = await fetched(connection, str(config.schema))
            assert len((await queue.find(where, newest_first=True)).tasks) == 100
            assert await fetched(connection, str(config.schema)) - before < MANY / 50

    async def test_no_statement_walks_the_whole_table(
        self, queue: PostgresQueueStore, crowd: str, connection: Connection
    ) -> None:
        before = await scans(connection, crowd)
        (*records,) = await queue.claim(["due"], limit=10, lease=30, worker="w")
        await queue.transition([success(record) for record in records[:5]])
        await queue.transition([replace(success(r), to=TaskState.PENDING, result=None) for r in records[5:]])
        await queue.find(TaskFilter(expired=True))
        await queue.find(TaskFilter(states=(TaskState.WAITING,)))
        await queue.find(TaskFilter(states=(TaskState.ERROR,)))
        await queue.find(TaskFilter(queue_name="due", name="f"))
        await queue.find(TaskFilter(schedule_id="s"), newest_first=True)
        await queue.purge(older_than=60)
        await reap(queue)
        await queue.stats()
        assert await scans(connection, crowd) == before


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def fetched(connection: Connection, schema: str) -> int:
    """How many rows of the table were read through indexes."""
    await asyncio.sleep(1.1)  # the server counts once a second
    await connection.execute("select pg_stat_clear_snapshot()")
    sql = "select idx_tup_fetch from pg_stat_user_tables where schemaname = $1 and relname = 'task'"
    return int(await connection.fetchval(sql, schema))


async def scans(connection: Connection, schema: str) -> object:
    """How often the table was read from end to end."""
    await asyncio.sleep(1.1)  # the server counts once a second
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchval(
        "select seq_scan from pg_stat_user_tables where schemaname = $1 and relname = 'task'", schema
    )


class TestGuarantees:
    async def test_the_server_is_asked(self, queue: PostgresQueueStore, connection: Connection) -> None:
        guarantees = await queue.guarantees()
        fsync = await connection.fetchval("show fsync")
        assert guarantees.survives_power_loss == (fsync == "on")
        assert f"fsync={fsync}" in guarantees.evidence
        assert (guarantees.clock, guarantees.fenced, guarantees.push) == ("server", True, True)
        assert guarantees == await queue.result_storage().guarantees()

    @pytest.mark.parametrize(
        ("changed", "kill", "power", "failover"),
        [
            ({}, True, True, False),
            ({"fsync": "off"}, True, False, False),
            ({"full_page_writes": "off"}, True, False, False),
            ({"synchronous_commit": "off"}, False, False, False),
            ({"synchronous_standby_names": "*"}, True, True, True),
            ({"synchronous_standby_names": "*", "synchronous_commit": "local"}, True, True, False),
        ],
    )
    def test_what_follows_from_its_settings(
        self, changed: dict[str, str], kill: bool, power: bool, failover: bool
    ) -> None:
        usual = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": ""}
        found = judge({**usual, **changed}, push=True)
        assert (found.survives_process_kill, found.survives_power_loss, found.survives_failover) == (
            kill,
            power,
            failover,
        )
        assert found.fenced is kill


async def test_an_event_may_hold_what_the_server_can_not(postgres_url: str) -> None:
    store = PostgresEventStore(PostgresEventStorageConfig.from_url(postgres_url))
    data = {"text": "a\0b", "list": ["\0", 1], "plain": "\\u0000"}
    await store.append([TaskEvent(id="e", type=EventType.ERROR, time=1.0, data=data)])
    (event,) = (await store.query(EventFilter())).events
    assert event.data == {"text": "a\ufffdb", "list": ["\ufffd", 1], "plain": "\\u0000"}
    await store.close()


def test_no_statement_names_another_schema() -> None:
    assert set(re.findall(r"(\w+)\.(?:task|paused_queue)\b", CLAIM + PROMOTE)) == {"omniq"}
