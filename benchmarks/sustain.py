"""Whether a store keeps its pace under lasting load, and while an old snapshot keeps it from cleaning up.

    python benchmarks/sustain.py postgres [--minutes 10]
    python benchmarks/sustain.py postgres [--minutes 10] --hold-snapshot 60

A producer keeps a bounded backlog while one worker process works, with everything as it is by default. With
`--hold-snapshot`, another session has a repeatable-read transaction open, with its snapshot taken, for so many seconds
at the end: in that time the server can clear away nothing that has died since. Prints the rate of every ten seconds,
that of the first and the last minute (or of the time in which the snapshot was held), and what the tables hold then.

Finished tasks and results are kept for a day, so the disk needs about 1 GB for each million tasks: at 30,000 a second,
18 GB for ten minutes. `TMPDIR` names another folder for the server's data, `OMNIQ_TEST_POSTGRES_URL` another server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from counter import SharedCounter
from goals import at_least
from stores import load
from versions import versions

from tests.servers import exit_without_server

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

HERE = Path(__file__).parent
STORES = ("postgres",)
INTERVAL = 10.0
"""Seconds between two samples; fewer in a run of less than two minutes."""
MINUTE = 60.0
PATIENCE = 30.0
"""Seconds until the first task must have run."""
GOAL, GOAL_WHILE_HELD = 0.8, 0.5

TABLES = """
select relname, n_live_tup as live, n_dead_tup as dead, autovacuum_count as vacuums,
    pg_total_relation_size(relid) / 1e6 as megabytes
from pg_stat_user_tables where n_live_tup + n_dead_tup > 0 order by relname
"""


@dataclass(frozen=True)
class Sample:
    """How many tasks had run after so many seconds."""

    at: float
    done: int


def rate(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Tasks a second, between the samples that are nearest to these times."""
    first, last = (min(samples, key=lambda sample: abs(sample.at - wanted)) for wanted in (begin, end))
    return speed(first, last)


def speed(before: Sample, after: Sample) -> float:
    """Tasks a second between two samples."""
    return (after.done - before.done) / (after.at - before.at)


@contextmanager
def pressure(env: Mapping[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A producer and a worker, which are killed in the end."""
    processes = [
        subprocess.Popen([sys.executable, "-m", "pressure", role], cwd=HERE, env={**os.environ, **env})
        for role in ("produce", "work")
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@asynccontextmanager
async def snapshot(url: str) -> AsyncIterator[None]:
    """Another session's transaction, which still sees everything as it is now."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("select pg_current_snapshot()::text")
            yield
    finally:
        await connection.close()


class Watch:
    """Looks at a counter and at the tables while others work."""

    def __init__(
        self, connection: Connection, counter: SharedCounter, processes: Sequence[subprocess.Popen[bytes]]
    ) -> None:
        self.samples: list[Sample] = []
        self._connection = connection
        self._counter = counter
        self._processes = processes
        self._began = 0.0

    async def begin(self) -> None:
        """Wait for the first task, from which on time is counted. Raises `RuntimeError` if none comes."""
        deadline = time.monotonic() + PATIENCE
        while not self._counter.value:
            self._check()
            if time.monotonic() > deadline:
                raise RuntimeError("no task has run")
            await asyncio.sleep(0.01)
        self._began = time.monotonic()
        self.samples.append(Sample(0.0, self._counter.value))

    async def until(self, end: float, interval: float, note: str = "") -> None:
        """Take and print samples up to so many seconds."""
        while self.samples[-1].at < end - interval / 2:
            wanted = min(self.samples[-1].at + interval, end)
            await asyncio.sleep(max(0.0, self._began + wanted - time.monotonic()))
            self._check()
            before, now = self.samples[-1], Sample(time.monotonic() - self._began, self._counter.value)
            self.samples.append(now)
            print(f"{now.at:>7.1f} s  {speed(before, now):>8,.0f}/s  dead rows: {await self._dead()}{note}", flush=True)

    def _check(self) -> None:
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError("the producer or the worker has ended")

    async def _dead(self) -> str:
        rows = await self._connection.fetch(TABLES)
        return ", ".join(f"{row['relname']} {row['dead']:,}" for row in rows if row["dead"]) or "none"

    async def tables(self) -> None:
        """Print what the tables hold."""
        for row in await self._connection.fetch(TABLES):
            print(
                f"  {row['relname']:<12} {row['live']:>10,} live  {row['dead']:>10,} dead  "
                f"{row['megabytes']:>8,.1f} MB with indexes  {row['vacuums']} autovacuums"
            )


async def watch(url: str, watcher: Watch, seconds: float, held: float) -> None:
    """Watch for so long, with a snapshot held at the end."""
    interval = min(INTERVAL, seconds / 12)
    await watcher.begin()
    await watcher.until(seconds - held, interval)
    if held:
        async with snapshot(url):
            await watcher.until(seconds, interval, "  (snapshot held)")
            await watcher.tables()
    else:
        await watcher.tables()


def conclude(samples: Sequence[Sample], seconds: float, held: float) -> None:
    """Print the rates at both ends, and whether the goal is kept."""
    end, window = samples[-1].at, min(MINUTE, seconds / 3)
    last_window = held or window
    first, last = rate(samples, 0.0, window), rate(samples, end - last_window, end)
    print(f"first {window:g} s: {first:,.0f}/s, last {last_window:g} s: {last:,.0f}/s, {samples[-1].done:,} tasks")
    print(at_least("last / first", last / first, GOAL_WHILE_HELD if held else GOAL))


async def run(place: Mapping[str, str], seconds: float, held: float) -> None:
    """Put an empty place under pressure, watch, and conclude."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "count"
        counter = SharedCounter.create(path)
        connection = await asyncpg.connect(place["BENCH_URL"])
        try:
            with pressure({**place, "BENCH_COUNTER": str(path)}) as processes:
                watcher = Watch(connection, counter, processes)
                await watch(place["BENCH_URL"], watcher, seconds, held)
        finally:
            await connection.close()
    conclude(watcher.samples, seconds, held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=STORES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hold-snapshot", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    seconds = options.minutes * 60
    if not 0 <= options.hold_snapshot <= seconds / 2:
        parser.error("--hold-snapshot: no longer than half of the run")
    store = load(options.store)
    print(f"{store.describe()}\n  {versions(store.packages)}")
    with store.place() as place:
        asyncio.run(run(place, seconds, options.hold_snapshot))


if __name__ == "__main__":
    with exit_without_server():
        main()
