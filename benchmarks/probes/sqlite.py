"""The bare loop on SQLite, in the file that BENCH_FILE names: `python -m probes.sqlite`.

WAL, synchronous=FULL, one thread for the connection. What it reaches is the practical limit of one process
that goes to SQLite row by row.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import uvloop

from probes.loop import Probe, encode

TASKS = 50_000
"""Whatever the others do: it is too fast to be measured on less."""
SCHEMA = """
create table task (id text primary key, queue text not null, priority int not null default 0,
    run_at real not null default 0, state text not null default 'pending', body blob, attempt int default 0,
    token text, until real) without rowid;
create index ready on task (queue, priority desc, run_at, id) where state = 'pending';
create index lease on task (until) where state = 'running';
create table result (id text primary key, body blob, expires real) without rowid;
"""
ADD_SQL = "insert into task (id, queue, body) values (?, ?, ?)"
CLAIM_SQL = """
update task set state = 'running', token = 'me', until = ?, attempt = attempt + 1 where id in (
    select id from task where state = 'pending' and queue = 'default' and run_at <= ?
    order by priority desc, run_at, id limit ?) returning id, body
"""
SETTLE_SQL = "update task set state = 'success' where id = ? and token = 'me' and state = 'running'"
BODY = encode({"f": "m:noop", "a": {"x": 1}})

T = TypeVar("T")


class SQLiteProbe(Probe):
    """One connection on one thread, and a loop that keeps it busy."""

    def __init__(self, path: str) -> None:
        super().__init__(TASKS)
        self.thread = ThreadPoolExecutor(1)
        self.path = path
        self.lock = asyncio.Lock()

    async def do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """A job in one transaction."""

        def transaction() -> T:
            self.connection.execute("begin immediate")
            answer = job(self.connection)
            self.connection.execute("commit")
            return answer

        async with self.lock:
            return await asyncio.get_running_loop().run_in_executor(self.thread, transaction)

    async def open(self) -> None:
        def connect() -> None:
            self.connection = sqlite3.connect(self.path, isolation_level=None)
            self.connection.execute("pragma journal_mode = wal")
            self.connection.execute("pragma synchronous = full")
            self.connection.executescript(SCHEMA)

        await asyncio.get_running_loop().run_in_executor(self.thread, connect)

    async def add(self, ids: Sequence[str]) -> None:
        await self.do(partial(add, rows=[(task_id, "default", BODY) for task_id in ids]))

    async def claim(self, limit: int) -> list[str]:
        return [task_id for task_id, _ in await self.do(partial(claim, limit=limit))]

    async def settle(self, batch: Sequence[tuple[str, bytes]]) -> int:
        return await self.do(partial(settle, batch=batch))


def add(connection: sqlite3.Connection, rows: list[tuple[str, str, bytes]]) -> None:
    connection.executemany(ADD_SQL, rows)


def claim(connection: sqlite3.Connection, limit: int) -> list[tuple[str, bytes]]:
    now = time.time()
    return connection.execute(CLAIM_SQL, (now + 30, now, limit)).fetchall()


def settle(connection: sqlite3.Connection, batch: Sequence[tuple[str, bytes]]) -> int:
    connection.executemany("insert into result values (?, ?, 0)", batch)
    return connection.executemany(SETTLE_SQL, [(task_id,) for task_id, _ in batch]).rowcount


if __name__ == "__main__":
    uvloop.run(SQLiteProbe(os.environ["BENCH_FILE"]).measure())
