"""The result store, another one than the queue's, is killed under load, and comes back: what goes on, and what doesn't.

`python -m tests.reliability.degrade --down 20 --worker thread`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec import Struct, field
from omniq import AsyncOmniQ
from omniq.models.task import TaskState
from omniq.workers import AsyncWorkerPool, WorkerPool
from omniq.workers.jobs import Job

from tests.reliability.outages import Server
from tests.reliability.servers import running
from tests.servers import exit_without_server

PACE = 0.002
"""Seconds between two tasks of the load."""
SLOTS, PREFETCH = 8, 24
WITHIN = 5.0
"""Seconds after its return within which all that was kept must be settled."""


def note(path: str, number: int) -> int:
    """Write down that this task has run."""
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{number}\n")
    time.sleep(0.001)
    return number


class Observed(Struct, kw_only=True):
    """What was seen."""

    enqueued: int = 0
    enqueued_meanwhile: int = 0
    most_held: int = 0
    """Tasks in the worker's hands."""
    started_meanwhile: int = 0
    """Runs that began once the bound had been reached, until the store was back."""
    told: list[str] = field(default_factory=list)
    """Problems that `omniq status` of another process has told meanwhile."""
    exit_codes: list[int] = field(default_factory=list)
    """Of `omniq status`: before, meanwhile, and afterwards."""
    settled_after: float = 0.0
    """Seconds after the return when all that was kept was settled."""
    run_again: int = 0
    wrong: int = 0
    """Tasks without the state or the value that they should have."""

    @property
    def failures(self) -> list[str]:
        """What isn't as it should be."""
        checks = {
            "nothing was enqueued during the outage": self.enqueued_meanwhile > 0,
            f"the worker held {self.most_held} tasks": self.most_held <= SLOTS + PREFETCH,
            f"{self.started_meanwhile} tasks were begun beyond the bound": self.started_meanwhile == 0,
            f"omniq status ended with {self.exit_codes}": self.exit_codes == [0, 1, 0],
            f"the worker's breaker wasn't told: {self.told}": any("worker " in problem for problem in self.told),
            f"it took {self.settled_after:.1f} s to settle": self.settled_after <= WITHIN,
            f"{self.run_again} tasks ran again": self.run_again == 0,
            f"{self.wrong} tasks have another state or value": self.wrong == 0,
        }
        return [failure for failure, passed in checks.items() if not passed]


class Play:
    """One outage."""

    def __init__(self, server: Server, directory: Path, *, down: float, lease: float, worker: str) -> None:
        self._server = server
        self._log = directory / "log"
        self._config = directory / "omniq.json"
        self._down = down
        self._lease = lease
        self._worker = worker
        self._ids: list[str] = []
        self.seen = Observed()
        queue = f"sqlite:///{directory}/queue.db?synchronous=NORMAL"
        config = {"task_queue": queue, "result_store": server.url, "defaults": {"max_retries": 0}}
        self._config.write_bytes(msgspec.json.encode(config))

    async def run(self) -> Observed:
        """Play it, and judge."""
        self._log.touch()
        async with AsyncOmniQ(config=self._config) as oq, self._working(oq) as pool:
            feeding = asyncio.create_task(self._feed(oq))
            await self._until(lambda: len(self._runs()) > 100)
            await self._ask_status()
            await self._outage(oq, pool)
            feeding.cancel()
            await self._judge(oq)
            await self._beaten(oq, pool)
            await self._ask_status()
        self.seen.enqueued = len(self._ids)
        return self.seen

    @asynccontextmanager
    async def _working(self, oq: AsyncOmniQ) -> AsyncIterator[AsyncWorkerPool]:
        size = {"max_workers": SLOTS, "prefetch": PREFETCH}
        pool = oq.worker_pool(self._worker, lease=self._lease, reap_interval=0.5, **size)
        worker = WorkerPool(pool)
        await asyncio.to_thread(worker.start)
        try:
            yield pool
        finally:
            await asyncio.to_thread(worker.stop)

    async def _feed(self, oq: AsyncOmniQ) -> None:
        while True:
            self._ids.append(await oq.enqueue(note, [str(self._log), len(self._ids)]))
            await asyncio.sleep(PACE)

    async def _outage(self, oq: AsyncOmniQ, pool: AsyncWorkerPool) -> None:
        seen, before = self.seen, len(self._ids)
        await asyncio.to_thread(self._server.kill)
        ends_at = time.monotonic() + self._down
        await self._until(lambda: bool(pool.in_flight.held) and all(job.done for job in _held(pool)))
        await self._beaten(oq, pool, away=True)
        kept, runs = [job.record.id for job in _held(pool)], len(self._runs())
        asking = asyncio.create_task(self._ask_status())
        while time.monotonic() < ends_at or not asking.done():
            seen.most_held = max(seen.most_held, len(pool.in_flight.held))
            await asyncio.sleep(0.02)
        seen.started_meanwhile = len(self._runs()) - runs
        seen.enqueued_meanwhile = len(self._ids) - before
        await asyncio.to_thread(self._server.start)
        back_at = time.monotonic()
        while any([(await oq.get_task(id_)).state is TaskState.RUNNING for id_ in kept]):
            await asyncio.sleep(0.02)
        seen.settled_after = time.monotonic() - back_at

    async def _beaten(self, oq: AsyncOmniQ, pool: AsyncWorkerPool, *, away: bool = False) -> None:
        """Wait until the worker has said how its breakers are now."""
        while True:
            found = [worker for worker in await oq.task_queue.store.workers() if worker.name == pool.name]
            if any(breaker.state != "closed" for worker in found for breaker in worker.breakers) is away:
                return
            await asyncio.sleep(0.05)

    async def _ask_status(self) -> None:
        """Ask another process how things stand."""
        command = [sys.executable, "-m", "omniq", "--config", str(self._config), "status", "--json"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
        pipe = asyncio.subprocess.PIPE
        asking = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environ)
        out, _ = await asking.communicate()
        self.seen.exit_codes.append(asking.returncode or 0)
        self.seen.told += msgspec.json.decode(out)["problems"]

    async def _judge(self, oq: AsyncOmniQ) -> None:
        """Wait for every result, and count what isn't as it should be."""
        values = await asyncio.gather(*(oq.get_result(id_, timeout=60) for id_ in self._ids), return_exceptions=True)
        self.seen.wrong = sum(value != number for number, value in enumerate(values))
        self.seen.run_again = sum(times - 1 for times in Counter(self._runs()).values())

    def _runs(self) -> list[str]:
        return self._log.read_text("ascii").split()

    @staticmethod
    async def _until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)


def _held(pool: AsyncWorkerPool) -> list[Job]:
    return list(pool.in_flight.held.values())


def main() -> int:
    """Play one outage; the exit code says whether all was as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.degrade", description=__doc__)
    parser.add_argument("--down", type=float, default=20.0, help="seconds")
    parser.add_argument("--lease", type=float, default=6.0, help="seconds; less than --down shows that it is renewed")
    parser.add_argument("--worker", default="async", help="async, thread or process")
    parser.add_argument("--server", choices=("redis", "postgres"), default="redis", help="that keeps the results")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="omniq-degrade-"))
    with exit_without_server(), running(options.server) as server:
        play = Play(server, directory, down=options.down, lease=options.lease, worker=options.worker)
        seen = asyncio.run(play.run())
    print(msgspec.json.format(msgspec.json.encode(seen), indent=2).decode())
    for failure in seen.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if seen.failures else 0


if __name__ == "__main__":
    sys.exit(main())
