"""What SQLite's tables hold, and how its statements go through them."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omniq import clock
from omniq.models.event import EventType, TaskEvent
from omniq.models.task import TaskState
from omniq.storage.records import EventFilter, NewTask, TaskFilter
from omniq.storage.sql.claiming import CHANGED, lapsed
from omniq.storage.sql.queue import Counter, select_old
from omniq.testing.builders import claim, success
from omniq_sqlite import verbs
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig
from omniq_sqlite.dialect import DIALECT, carry_out
from omniq_sqlite.events import SQLiteEventStore
from omniq_sqlite.opening import _NamedByNumber, open_connection
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore
from omniq_sqlite.verbs import COUNT, END, OLDEST, SELECT_DUE, UPDATE, claim_tasks, find_tasks, scans
from omniq_sqlite.watching import next_due

QUEUE = "default"
MEGABYTE = 1024 * 1024
UNORDERED = ("task_pending", "task_scheduled", "task_running")
"""The indexes that aren't in the order of ids."""


@pytest.fixture
def config(tmp_path: Path) -> SQLiteTaskQueueConfig:
    return SQLiteTaskQueueConfig(base_dir=str(tmp_path))


@pytest.fixture
async def queue(config: SQLiteTaskQueueConfig) -> AsyncIterator[SQLiteQueueStore]:
    store = SQLiteQueueStore(config)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def results(tmp_path: Path) -> AsyncIterator[SQLiteResultStore]:
    store = SQLiteResultStore(SQLiteResultStorageConfig(base_dir=str(tmp_path)))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
def connection(config: SQLiteTaskQueueConfig) -> Iterator[sqlite3.Connection]:
    opened = open_connection(config.settings, read_only=False)
    yield opened
    opened.close()


class TestRows:
    async def test_times_come_back_to_the_bit(self, queue: SQLiteQueueStore) -> None:
        times = [1700000000.1234567, 1700000000.3333333, 2**31 - 1e-6, clock.now() + 1 / 3]
        await queue.add([NewTask(id=f"t{n}", queue_name=QUEUE, body=b"", run_at=t) for n, t in enumerate(times)])
        records = await queue.get([f"t{n}" for n in range(len(times))])
        assert [record.run_at for record in records if record] == times

    async def test_the_end_of_time_is_far_but_finite(self, queue: SQLiteQueueStore) -> None:
        await queue.add([NewTask(id="a", queue_name=QUEUE, body=b"", run_at=1e300, ttl=1e300)])
        (record,) = await queue.get(["a"])
        assert record is not None
        assert 1e12 < record.run_at < 1e13
        assert await claim(queue) == []

    @pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, 8 * MEGABYTE])
    async def test_bodies_of_any_size(self, size: int, queue: SQLiteQueueStore, results: SQLiteResultStore) -> None:
        body, small = os.urandom(size), os.urandom(100)
        bodies = {"a": small, "b": body, "c": b"", "d": small}
        await queue.add([NewTask(id=id_, queue_name=QUEUE, body=body) for id_, body in bodies.items()])
        claimed = await claim(queue)
        assert {record.id: record.body for record in claimed} == bodies
        await queue.transition([success(record, record.body) for record in claimed])
        stored = await results.get(list(bodies))
        assert {record.task_id: record.body for record in stored if record} == bodies

    async def test_a_large_body_goes_with_its_task(
        self, queue: SQLiteQueueStore, connection: sqlite3.Connection
    ) -> None:
        await queue.add([NewTask(id="a", queue_name=QUEUE, body=b"x" * MEGABYTE)])
        await queue.transition([success((await claim(queue))[0], b"")])
        assert await queue.purge(older_than=0.0) == 1
        assert connection.execute("select count(*) from large_body").fetchone() == (0,)

    async def test_a_schedules_body_may_be_empty(self, queue: SQLiteQueueStore, connection: sqlite3.Connection) -> None:
        connection.execute(f"insert into schedule values ('s', '{QUEUE}', x'', null, null, 0, 1)")
        (schedule,) = await queue.schedules()
        assert (schedule.body, schedule.next_run, schedule.version) == (b"", None, 1)

    @pytest.mark.parametrize(
        "damage",
        [
            "epoch = 'x'",
            "state = 'unheard of'",
            "body = 'text'",
            "run_at = 'soon'",
            "depends_on = 'x'",
            "attempts = 0.5",
        ],
    )
    async def test_what_a_worker_could_not_read_is_refused(
        self, damage: str, queue: SQLiteQueueStore, connection: sqlite3.Connection
    ) -> None:
        await queue.add([NewTask(id="a", queue_name=QUEUE, body=b"")])
        with pytest.raises(sqlite3.Error):
            connection.execute(f"update task set {damage}")
        assert [record.id for record in await claim(queue)] == ["a"]

    async def test_damaged_text_disturbs_no_other_task(
        self, queue: SQLiteQueueStore, connection: sqlite3.Connection
    ) -> None:
        await queue.add([NewTask(id=id_, queue_name=QUEUE, body=b"") for id_ in "ab"])
        connection.execute("update task set schedule_id = cast(x'ff' as text) where id = 'a'")
        assert [record.schedule_id for record in await claim(queue)] == ["\N{REPLACEMENT CHARACTER}", None]

    async def test_events_are_plain_columns_and_json(self, tmp_path: Path, connection: sqlite3.Connection) -> None:
        store = SQLiteEventStore(SQLiteEventStorageConfig(base_dir=str(tmp_path)))
        data = {"delay": [0.1, "é"]}
        event = TaskEvent(
            id="e", type=EventType.RETRY, time=1700000000.25, task_id="a", name="m:f", attempt=2, data=data
        )
        await store.append([event])
        row = connection.execute("select type, time, task_id, attempt, data ->> '$.delay[1]' from event").fetchone()
        assert row == ("RETRY", 1700000000.25, "a", 2, "é")
        assert (await store.query(EventFilter())).events == [event]
        await store.close()


def test_numbered_parameters_are_the_same_whatever_they_are_taken_for() -> None:
    """Python 3.12.0 to 3.12.3 take them for names, and warn."""
    connection = sqlite3.connect(":memory:", factory=_NamedByNumber)
    assert connection.execute("select ?2, ?1, ?2", ("a", "b")).fetchone() == ("b", "a", "b")
    assert connection.execute("select ?, ?", ["a", "b"]).fetchone() == ("a", "b")
    assert connection.execute("select 1").fetchone() == (1,)
    connection.close()


def find(connection: sqlite3.Connection, where: TaskFilter, *, newest_first: bool = False) -> list[str]:
    """The ids of the tasks that are found."""
    page = carry_out(connection, partial(find_tasks, where, newest_first=newest_first))
    return [task.id for task in page.tasks]


def plan_of(connection: sqlite3.Connection, sql: str) -> str:
    numbers = re.findall(r"\?(\d+)", sql)
    parameters = dict.fromkeys(numbers) if numbers else [None] * sql.count("?")
    rows = connection.execute(f"explain query plan {sql}", parameters)
    return "\n".join(row[3] for row in rows)


def steps_of(connection: sqlite3.Connection, job: Callable[[sqlite3.Connection], object]) -> int:
    """How many thousands of SQLite's instructions a job takes."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 1000)
    job(connection)
    connection.set_progress_handler(None, 0)
    return steps


def add_rows(connection: sqlite3.Connection, count: int, **values: str) -> None:
    """Add so many tasks, with an SQL expression in `n` for each column."""
    row = {"id": f"'{values['state']}' || n", "queue_name": f"'{QUEUE}'", "priority": "0", "created_at": "0"}
    row |= {"run_at": "n", "body": "x''"} | values | {"state": f"'{values['state']}'"}
    connection.execute(
        f"with recursive number (n) as (select 1 union all select n + 1 from number where n < {count}) "
        f"insert into task ({', '.join(row)}) select {', '.join(row.values())} from number"
    )


class TestPlans:
    def test_a_claim_walks_one_index_without_sorting(self, connection: sqlite3.Connection) -> None:
        plan = plan_of(connection, SELECT_DUE)
        assert "COVERING INDEX task_pending (queue_name=?)" in plan
        assert "TEMP B-TREE" not in plan

    def test_settling_finds_each_task_by_its_key(self, connection: sqlite3.Connection) -> None:
        for sql, _ in (DIALECT.compiled(END), DIALECT.compiled(UPDATE, CHANGED)):
            plan = plan_of(connection, sql)
            assert "SEARCH task USING PRIMARY KEY (id=?)" in plan
            assert "SCAN task" not in plan

    @pytest.mark.parametrize(
        ("where", "index"),
        [
            (TaskFilter(states=(TaskState.PENDING,)), "task_pending"),
            (TaskFilter(states=(TaskState.SCHEDULED,)), "task_scheduled"),
            (TaskFilter(states=(TaskState.WAITING,)), "task_waiting"),
            (TaskFilter(states=(TaskState.RUNNING,)), "task_running"),
            (TaskFilter(states=(TaskState.ERROR,)), "task_ended"),
            (TaskFilter(states=(TaskState.SUCCESS,), queue_name="q"), "task_ended"),
            (TaskFilter(name="n"), "task_of_name"),
        ],
    )
    def test_tasks_of_a_state_are_found_in_an_index(
        self, where: TaskFilter, index: str, connection: sqlite3.Connection
    ) -> None:
        (scan,) = carry_out(connection, partial(scans, where))
        restrictions = [f"{column} = ?" for column in ("queue_name", "name") if getattr(where, column) is not None]
        sql = scan.sql(" and ".join(restrictions) or "true", order="asc")
        plan = plan_of(connection, sql.replace(":limit", "9"))
        assert re.search(rf"COVERING INDEX {index}\b", plan)
        assert ("TEMP B-TREE" in plan) == (index in UNORDERED or scan.by_queue)

    @pytest.mark.parametrize("newest_first", [False, True])
    @pytest.mark.parametrize("fields", [{"queue_name": "rare"}, {"name": "rare"}, {"schedule_id": "rare"}])
    def test_rare_tasks_are_found_among_many(
        self,
        fields: dict[str, Any],
        newest_first: bool,
        connection: sqlite3.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(verbs, "FEW", 100)
        (column,) = fields
        for state in ("success", "error"):
            add_rows(connection, 20_000, state=state, finished_at="n", **{column: "iif(n = 77, 'rare', 'x' || n % 3)"})
        add_rows(connection, 1, state="pending", id="'pending'", **{column: "'rare'"})
        ids = {"pending": "pending", "success": "success77", "error": "error77"}
        for states in ((), *[(TaskState(state),) for state in ids]):
            found = partial(find, where=TaskFilter(states=states, **fields), newest_first=newest_first)
            assert steps_of(connection, found) <= 2
            wanted = sorted(map(ids.__getitem__, states or ids), reverse=newest_first)
            assert found(connection) == wanted

    def test_a_backlog_does_not_slow_the_look_at_its_oldest_task(self, connection: sqlite3.Connection) -> None:
        add_rows(connection, 100_000, state="pending", priority="n % 5")
        asked = {"queues": f'["{QUEUE}"]', "now": clock.now()}
        assert steps_of(connection, lambda c: c.execute(OLDEST, asked).fetchall()) <= 1
        assert connection.execute(OLDEST, asked).fetchall() == [(QUEUE, 1.0)]

    def test_counting_reads_indexes_only(self, connection: sqlite3.Connection) -> None:
        plan = plan_of(connection, COUNT)
        assert plan.count("COVERING INDEX") == plan.count(" task USING ") == len(TaskState) + 1

    def test_a_backlog_of_delayed_tasks_does_not_slow_an_idle_claim(self, connection: sqlite3.Connection) -> None:
        add_rows(connection, 200_000, state="scheduled", run_at="1e10 + n")
        assert steps_of(connection, lambda c: next_due(c, [QUEUE])) <= 1
        assert (
            steps_of(connection, lambda c: claim_tasks(c, [QUEUE], limit=100, lease=30.0, worker="w", max_bytes=1000))
            <= 1
        )

    def test_many_finished_tasks_do_not_slow_the_sweeps(self, connection: sqlite3.Connection) -> None:
        add_rows(connection, 20_000, state="success", finished_at="1e10 + n", expires_at="n")
        add_rows(connection, 10, state="waiting", expires_at="n")
        add_rows(connection, 20_000, state="error", finished_at="n")  # dead letters that are kept for longer
        old = partial(carry_out, verb=partial(select_old, clock.now() - 1e9, (TaskState.SUCCESS,), 100))
        for job in (partial(carry_out, verb=partial(lapsed, limit=10)), old):
            assert steps_of(connection, job) <= 1
        for where in (TaskFilter(expired=True), TaskFilter(states=(TaskState.WAITING, TaskState.RUNNING))):
            assert steps_of(connection, partial(find, where=where)) <= 2
            assert len(find(connection, where)) == 10

    def test_a_count_that_takes_long_is_kept_for_a_while(
        self, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counter = Counter(COUNT, OLDEST)
        monkeypatch.setattr(Counter, "WORTH", 1e9)
        for slow, seen in ((1e9, [1, 2]), (-1.0, [3, 3])):
            monkeypatch.setattr(Counter, "SLOW", slow)
            for count in seen:
                add_rows(connection, 1, state="pending", id="hex(randomblob(8))")
                assert [queue.counts for queue in carry_out(connection, counter.stats)] == [{TaskState.PENDING: count}]
