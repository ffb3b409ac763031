"""What is special about SQLite: one file, group commit, statements per batch. The rest is the suite's business."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace
from omniq.errors import ConfigError, StoreError, StoreUnavailable
from omniq.loops import forget
from omniq.storage.base import Capability
from omniq.storage.records import DUPLICATE, NEW, Added
from omniq.testing.builders import claim, new_task, reap
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig
from omniq_sqlite.connection import Database, SQLiteStore
from omniq_sqlite.opening import SCHEMA_VERSION, open_connection
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore

QUEUE = "default"


@pytest.fixture
def config(tmp_path: Path) -> SQLiteTaskQueueConfig:
    return SQLiteTaskQueueConfig(base_dir=str(tmp_path), busy_timeout=0.05)


@pytest.fixture
async def queue(config: SQLiteTaskQueueConfig) -> AsyncIterator[SQLiteQueueStore]:
    store = SQLiteQueueStore(config)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def database(config: SQLiteTaskQueueConfig) -> AsyncIterator[Database]:
    shared = SQLiteStore.connections.take(config.settings)
    yield shared
    await SQLiteStore.connections.give_back(shared)


@pytest.fixture
def connection(config: SQLiteTaskQueueConfig) -> Iterator[sqlite3.Connection]:
    opened = open_connection(config.settings, read_only=False)
    yield opened
    opened.close()


def insert_schedule(connection: sqlite3.Connection, *, schedule_id: str) -> int:
    """A job whose effect is easy to see, and that fails when it is repeated."""
    sql = "insert into schedule values (?, 'default', x'', null, null, 0, 1)"
    return connection.execute(sql, (schedule_id,)).rowcount


async def refusal(config: SQLiteTaskQueueConfig, error: type[StoreError] = StoreError) -> str:
    """Why the file isn't opened."""
    store = SQLiteQueueStore(config)
    with pytest.raises(error) as refused:
        await store.connect()
    await store.close()
    return str(refused.value)


class TestConfig:
    def test_the_project_has_its_own_file(self, tmp_path: Path) -> None:
        config = SQLiteTaskQueueConfig(base_dir=str(tmp_path), project_name="shop")
        assert config.file == os.path.realpath(tmp_path / "shop.db")

    def test_the_default_is_below_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert SQLiteResultStorageConfig().file == os.path.realpath(tmp_path / ".omniq" / "default.db")

    def test_a_tilde_is_the_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert SQLiteEventStorageConfig(base_dir="~/q").file == os.path.realpath(tmp_path / "q" / "default.db")

    @pytest.mark.parametrize(
        ("url", "path"),
        [("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b.db", "/a/b.db"), ("sqlite:///a%20b.db", "a b.db")],
    )
    def test_a_url_gives_the_path(self, url: str, path: str) -> None:
        assert SQLiteTaskQueueConfig.from_url(url) == SQLiteTaskQueueConfig(path=path)

    def test_a_url_gives_options(self) -> None:
        config = SQLiteResultStorageConfig.from_url("sqlite:///a.db?synchronous=NORMAL&busy_timeout=2.5")
        assert (config.synchronous, config.busy_timeout) == ("NORMAL", 2.5)

    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite://host/a.db",
            "postgresql:///a",
            "sqlite:///a.db?synchronous=OFF",
            "sqlite:///a.db?busy_timeout=-1",
            "sqlite:///a.db?what=1",
            "sqlite:///a.db?synchronous",
        ],
    )
    def test_a_url_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"^url[:.]"):
            SQLiteTaskQueueConfig.from_url(url)

    @pytest.mark.parametrize("path", [":memory:", "", "file::memory:?cache=shared"])
    def test_memory_is_refused_and_the_memory_backend_named(self, path: str) -> None:
        with pytest.raises(ConfigError, match=r'^path: .*backend "memory"'):
            SQLiteTaskQueueConfig(path=path)


class TestOpening:
    def test_stores_of_one_file_have_one_location(self, tmp_path: Path, config: SQLiteTaskQueueConfig) -> None:
        queue = SQLiteQueueStore(config)
        (tmp_path / "link").symlink_to(tmp_path)
        results = SQLiteResultStore(SQLiteResultStorageConfig(base_dir=str(tmp_path / "link")))
        assert results.location == queue.location == f"sqlite:{os.path.realpath(tmp_path / 'default.db')}"
        assert Capability.ATOMIC_RESULTS in queue.capabilities

    async def test_the_last_close_ends_the_threads_and_empties_the_wal(self, config: SQLiteTaskQueueConfig) -> None:
        before = set(threading.enumerate())
        stores = [SQLiteQueueStore(config), SQLiteQueueStore(config)]
        await asyncio.gather(*(store.connect() for store in stores))
        await stores[0].add([new_task("a")])
        for store in (*stores, *stores):
            await store.close()
        started = set(threading.enumerate()) - before
        assert not [thread for thread in started if thread.name.startswith("omniq-sqlite")]
        assert os.listdir(os.path.dirname(config.file)) == ["default.db"]

    async def test_calls_that_nobody_waits_for_any_more_keep_no_thread(self, config: SQLiteTaskQueueConfig) -> None:
        shared, gate = SQLiteStore.connections.take(config.settings), threading.Event()
        calls = [asyncio.ensure_future(shared.read(lambda _: gate.wait())) for _ in range(2)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        asyncio.get_running_loop().call_later(0.05, gate.set)
        await SQLiteStore.connections.give_back(shared)
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("omniq-sqlite")] == []

    async def test_a_closed_store_opens_again(self, queue: SQLiteQueueStore) -> None:
        await queue.add([new_task("a")])
        await queue.close()
        assert [record.id for record in await claim(queue)] == ["a"]

    async def test_a_file_that_is_no_database_is_named(self, config: SQLiteTaskQueueConfig, tmp_path: Path) -> None:
        (tmp_path / "default.db").write_bytes(b"something else, long enough to be read as a header" * 100)
        assert "default.db: file is not a database" in await refusal(config)

    async def test_a_newer_schema_is_refused(
        self, config: SQLiteTaskQueueConfig, connection: sqlite3.Connection
    ) -> None:
        connection.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
        assert "default.db: a newer omniq-sqlite" in await refusal(config)

    async def test_an_older_schema_is_refused(
        self, config: SQLiteTaskQueueConfig, connection: sqlite3.Connection
    ) -> None:
        connection.execute(f"pragma user_version = {SCHEMA_VERSION - 1}")
        assert "default.db: an older omniq-sqlite" in await refusal(config)

    async def test_a_foreign_database_is_left_alone(self, config: SQLiteTaskQueueConfig) -> None:
        foreign = sqlite3.connect(config.file)
        foreign.execute("create table task (x)")
        foreign.close()
        assert "isn't OmniQ's" in await refusal(config)

    async def test_two_projects_that_name_one_file_are_apart(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        configs = [SQLiteTaskQueueConfig(path=str(tmp_path / "x.db"), project_name=name) for name in ("a", "b", "c")]
        stores = [SQLiteQueueStore(config) for config in configs]
        for store, config in zip(stores, configs, strict=True):
            assert await store.add([new_task(config.project)]) == [NEW]
        assert sorted(file.name for file in tmp_path.glob("*.db")) == ["x-b.db", "x-c.db", "x.db"]
        for store, config in zip(stores, configs, strict=True):
            assert [task.id for task in await claim(store)] == [config.project]
            await store.close()
        assert f"sqlite:{tmp_path}/x.db: this file belongs to the project 'a', not to 'b'" in caplog.text
        await self._are_kept_in_their_files(configs, tmp_path)

    async def _are_kept_in_their_files(self, configs: list[SQLiteTaskQueueConfig], folder: Path) -> None:
        """Also where the one that was named is gone, and another project comes first."""
        for name in ("x.db", "x.db-wal", "x.db-shm"):
            (folder / name).unlink(missing_ok=True)
        last = SQLiteQueueStore(configs[2])
        assert (await last.get(["c"]))[0] is not None
        await last.drop()
        assert sorted(file.name for file in folder.glob("x-*.db")) == ["x-b.db"]
        await last.close()

    async def test_who_comes_first_at_the_same_time(self, tmp_path: Path) -> None:
        configs = [SQLiteTaskQueueConfig(path=str(tmp_path / "x.db"), project_name=f"p{n}") for n in range(6)]
        stores = [SQLiteQueueStore(config) for config in configs]
        await asyncio.gather(*(store.add([new_task(config.project)]) for store, config in zip(stores, configs)))  # noqa: B905
        for store, config in zip(stores, configs, strict=True):
            assert [task.id for task in await claim(store)] == [config.project]
            await store.close()

    async def test_a_file_beside_that_is_somebody_else_s_is_refused(self, tmp_path: Path) -> None:
        for name in ("a", "a-b"):
            store = SQLiteQueueStore(SQLiteTaskQueueConfig(base_dir=str(tmp_path), project_name=name))
            assert await store.add([new_task("t")]) == [NEW]
            await store.close()
        refused = await refusal(SQLiteTaskQueueConfig(path=str(tmp_path / "a.db"), project_name="b"))
        assert "a-b.db: this file belongs to the project 'a-b', not to 'b': give each project a path" in refused

    async def test_a_file_of_nobody_belongs_to_who_opens_it_first(
        self, config: SQLiteTaskQueueConfig, connection: sqlite3.Connection
    ) -> None:
        connection.execute("drop table installation")
        store = SQLiteQueueStore(config)
        assert await store.add([new_task("a")]) == [NEW]
        await store.close()
        other = SQLiteQueueStore(replace(config, path=config.file, project_name="b"))
        assert await other.get(["a"]) == [None]
        await other.close()

    async def test_a_directory_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "taken").touch()
        for base_dir in (tmp_path / "taken", tmp_path / "taken" / "below"):
            assert (await refusal(SQLiteTaskQueueConfig(base_dir=str(base_dir)))).startswith(f"{base_dir}: ")

    async def test_a_path_that_is_a_directory_is_named(self, tmp_path: Path) -> None:
        config = SQLiteTaskQueueConfig(path=str(tmp_path))
        assert (await refusal(config, StoreUnavailable)).startswith(f"{tmp_path}: unable to open")


class TestGroupCommit:
    async def test_jobs_that_come_during_a_transaction_share_the_next(self, database: Database) -> None:
        statements: list[str] = []
        gate = threading.Event()

        def trace(connection: sqlite3.Connection) -> None:
            gate.wait()
            connection.set_trace_callback(statements.append)

        jobs = [partial(insert_schedule, schedule_id=f"s{n}") for n in range(50)]
        writes = asyncio.gather(database.write(trace), *map(database.write, jobs))
        await asyncio.sleep(0)
        gate.set()
        await writes
        assert statements.count("begin immediate") <= 1
        assert statements.count("commit") <= 2
        assert len([statement for statement in statements if statement.startswith("insert")]) == 50

    async def test_a_failing_job_hurts_only_its_caller(self, database: Database) -> None:
        gate = threading.Event()
        writes = asyncio.gather(
            database.write(lambda connection: gate.wait()),
            database.write(partial(insert_schedule, schedule_id="a")),
            database.write(partial(insert_schedule, schedule_id="a")),
            database.write(lambda connection: connection.execute("insert into nowhere values (1)")),
            database.write(partial(insert_schedule, schedule_id="b")),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        gate.set()
        _, first, twin, nowhere, last = await writes
        assert (first, last) == (1, 1)
        for error in (twin, nowhere):
            assert type(error) is StoreError
            assert isinstance(error.__cause__, sqlite3.Error)
        rows = await database.read(lambda connection: connection.execute("select id from schedule").fetchall())
        assert rows == [("a",), ("b",)]

    async def test_a_cancelled_callers_job_is_done(self, queue: SQLiteQueueStore, database: Database) -> None:
        gate = threading.Event()
        blocker = asyncio.create_task(database.write(lambda connection: gate.wait()))
        adding = asyncio.create_task(queue.add([new_task("a")]))
        await asyncio.sleep(0)
        adding.cancel()
        gate.set()
        await blocker
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await queue.add([new_task("b"), new_task("a")]) == [NEW, DUPLICATE]

    async def test_a_lock_that_stays_is_reported(self, queue: SQLiteQueueStore, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        with pytest.raises(StoreUnavailable, match=r"default\.db: database is locked"):
            await queue.add([new_task("a")])
        connection.execute("rollback")
        assert await queue.add([new_task("a")]) == [NEW]

    async def test_idle_calls_need_no_lock(self, queue: SQLiteQueueStore, connection: sqlite3.Connection) -> None:
        connection.execute("begin immediate")
        assert await claim(queue) == []
        assert await reap(queue) == []
        assert await queue.get(["a"]) == [None]

    async def test_a_busy_loop_does_not_starve_its_own_calls(self, queue: SQLiteQueueStore) -> None:
        async def be_busy() -> None:
            while True:
                until = time.perf_counter() + 0.0002
                while time.perf_counter() < until:
                    pass
                await asyncio.sleep(0)

        busy = asyncio.create_task(be_busy())
        async with asyncio.timeout(20):  # it takes less than a second, and without `_GilYielder` up to a minute
            for n in range(20):
                await queue.add([new_task(f"{n}-{i}") for i in range(500)])
                assert len(await claim(queue, limit=500)) == 500
        busy.cancel()

    def test_two_loops_share_one_store(self, config: SQLiteTaskQueueConfig) -> None:
        store = SQLiteQueueStore(config)
        claimed: list[str] = []

        async def session(name: str) -> None:
            await store.connect()
            await store.add([new_task(f"{name}{n}") for n in range(50)])
            while records := await claim(store, limit=7):
                claimed.extend(record.id for record in records)
            await store.close()

        threads = [threading.Thread(target=asyncio.run, args=(session(name),)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claimed) == sorted(f"{name}{n}" for name in "ab" for n in range(50))

    def test_a_loop_that_is_closed_amid_a_call_takes_nobody_along(self, config: SQLiteTaskQueueConfig) -> None:
        entered, gate = threading.Event(), threading.Event()

        def wait(connection: sqlite3.Connection) -> None:
            entered.set()
            gate.wait()

        async def add() -> list[Added]:
            store = SQLiteQueueStore(config)
            added = await store.add([new_task("a")])
            await store.close()
            return added

        shared = SQLiteStore.connections.take(config.settings)
        loop = asyncio.new_event_loop()
        call = loop.create_task(shared.write(wait))
        loop.run_until_complete(asyncio.sleep(0))
        assert entered.wait(10)
        forget(call)
        loop.close()
        gate.set()
        assert asyncio.run(add()) == [NEW]
        SQLiteStore.connections.drop(shared)

    async def test_what_is_done_is_let_go(self, database: Database) -> None:
        class Large(bytearray):
            """Something that can be watched."""

        def write(body: Large, connection: sqlite3.Connection) -> Large:
            return body

        answer = await database.write(partial(write, Large(b"x")))
        watched = weakref.ref(answer)
        del answer
        await asyncio.sleep(0.05)
        gc.collect()
        assert watched() is None
