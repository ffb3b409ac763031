"""The bare loop on SQLite: claim, call, settle with a stored result, in batches, and nothing else of a queue.

WAL, synchronous=FULL, one thread for the connection. What it reaches is the practical limit of one process
that goes to SQLite row by row.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from measure import report

TASKS = 50_000
SLOTS = 100
CLAIM = 200
SCHEMA = """
create table task (id text primary key, queue text not null, priority int not null default 0,
    run_at real not null default 0, state text not null default 'pending', body blob, attempt int default 0,
    token text, until real) without rowid;
create index ready on task (queue, priority desc, run_at, id) where state = 'pending';
create index lease on task (until) where state = 'running';
create table result (id text primary key, body blob, expires real) without rowid;
"""
CLAIM_SQL = """
update task set state = 'running', token = 'me', until = ?, attempt = attempt + 1 where id in (
    select id from task where state = 'pending' and queue = 'default' and run_at <= ?
    order by priority desc, run_at, id limit ?) returning id, body
"""
SETTLE_SQL = "update task set state = 'success' where id = ? and token = 'me' and state = 'running'"

encode = msgspec.msgpack.encode
T = TypeVar("T")


class Probe:
    """One connection on one thread, and a loop that keeps it busy."""

    def __init__(self, path: str) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.path = path
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.done: list[tuple[str, bytes]] = []
        self.has_done = asyncio.Event()
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

    async def fill(self) -> float:
        """Add all tasks; returns how many a second."""
        body = encode({"f": "m:noop", "a": {"x": 1}})
        began = time.perf_counter()
        for start in range(0, TASKS, 500):
            rows = [(f"{number:032x}", "default", body) for number in range(start, start + 500)]
            await self.do(partial(add, rows=rows))
        return TASKS / (time.perf_counter() - began)

    async def work(self) -> float:
        """Run all tasks; returns how many a second."""
        began = time.perf_counter()
        slots = [asyncio.create_task(self.slot()) for _ in range(SLOTS)]
        await asyncio.gather(self.fetch(), self.settle())
        elapsed = time.perf_counter() - began
        for slot in slots:
            slot.cancel()
        return TASKS / elapsed

    async def slot(self) -> None:
        while True:
            task_id = await self.inbox.get()
            async with asyncio.timeout(60):
                value = await noop()
            self.done.append((task_id, encode({"s": "success", "v": value})))
            self.has_done.set()

    async def fetch(self) -> None:
        left = TASKS
        while left:
            if self.inbox.qsize() >= SLOTS:
                await asyncio.sleep(0)
                continue
            rows = await self.do(claim)
            left -= len(rows)
            for task_id, _ in rows:
                self.inbox.put_nowait(task_id)

    async def settle(self) -> None:
        left = TASKS
        while left:
            await self.has_done.wait()
            self.has_done.clear()
            batch, self.done = self.done, []

            await self.do(partial(settle, batch=batch))
            left -= len(batch)


def add(connection: sqlite3.Connection, rows: list[tuple[str, str, bytes]]) -> None:
    connection.executemany("insert into task (id, queue, body) values (?, ?, ?)", rows)


def claim(connection: sqlite3.Connection) -> list[tuple[str, bytes]]:
    now = time.time()
    return connection.execute(CLAIM_SQL, (now + 30, now, CLAIM)).fetchall()


def settle(connection: sqlite3.Connection, batch: list[tuple[str, bytes]]) -> None:
    connection.executemany("insert into result values (?, ?, 0)", batch)
    connection.executemany(SETTLE_SQL, [(task_id,) for task_id, _ in batch])


async def noop() -> int:
    return 1


async def main() -> None:
    probe = Probe(os.environ["BENCH_FILE"])
    await probe.open()
    enqueue = await probe.fill()
    report(enqueue_per_s=round(enqueue), process_per_s=round(await probe.work()))


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
