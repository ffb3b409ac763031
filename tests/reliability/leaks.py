"""A worker runs for minutes, under a mix of tasks that end in every way, and nothing of it grows.

`python -m tests.reliability.leaks --kind thread --server redis --minutes 10`

After the first fifth of the time, its memory, descriptors, threads and coroutines, with those of its children, and what
the store holds must stay as they are: medians of the second fifth and of the last are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil
import redis
from omniq import AsyncOmniQ, OmniQ, call, current_task
from omniq.models.task import TaskState
from omniq.queue.options import TaskCall
from omniq.workers.base import WorkerPool

from tests.reliability.servers import running
from tests.servers import exit_without_server

KINDS: Final = ("async", "thread", "process", "gevent")
EVERY: Final = 5.0
"""Seconds between two samples."""
LEASE: Final = 2.0
KEPT: Final = 20.0
"""Seconds for which ended tasks and results are kept: ten leases, as a worker's least."""
PAUSE: Final = 0.5
"""Seconds between two batches of tasks."""
BACKLOG: Final = 300
"""Tasks that may wait: the store holds no more for a worker that is slow."""
GROWTH: Final = {
    "rss_mb": (1.05, 4.0),
    "descriptors": (1.05, 3.0),
    "threads": (1.05, 3.0),
    "coroutines": (1.05, 3.0),
    "store_mb": (1.25, 2.0),
}
"""By how much each may have grown: a factor, and so much more. Ended tasks are forgotten once a minute."""

# ── tasks ───────────────────────────────────────────────────────────────────


def nothing() -> None:
    """Return at once."""


def fail() -> None:
    raise ValueError("as it was meant to")


def linger(seconds: float) -> None:
    """Block, for longer than the task's timeout perhaps, until it is told to stop."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not current_task().cancelled:
        time.sleep(0.01)


def echo(data: bytes) -> bytes:
    return data


async def nap(seconds: float) -> None:
    current_task().progress(0.5)
    await asyncio.sleep(seconds)


def some_calls(random: Random) -> list[TaskCall]:
    """Calls of every way to end."""
    ways = [
        *[call(nothing)] * 60,
        *[call(nap, [0.01])] * 20,
        *[call(fail, max_retries=0)] * 5,
        *[call(fail, max_retries=1, retry_delay=0.1)] * 5,
        *[call(linger, [5.0], timeout=0.2, max_retries=0)],
        *[call(nap, [5.0], timeout=0.2, max_retries=0)],
        *[call(echo, [random.randbytes(size)]) for size in (10, 1000, 1000, 200_000)],
        *[call(nothing, on_success=nothing_of)] * 4,
    ]
    return random.sample(ways, len(ways))


def nothing_of(result: object) -> None:
    """A callback."""


# ── the worker's side ───────────────────────────────────────────────────────


def work(url: str, kind: str) -> None:
    """Run a worker, and print a sample whenever a line comes in."""
    config = {"lease": LEASE, "reap_interval": 1.0, "retention": KEPT, "dead_letter_retention": KEPT, "max_workers": 8}
    oq = OmniQ(config={"task_queue": {"url": url}, "defaults": {"result_ttl": KEPT}})
    pool = WorkerPool(oq.aio.worker_pool(kind, **config))
    pool.start()
    for _ in sys.stdin:
        print(json.dumps(sample(pool)), flush=True)


def sample(pool: WorkerPool) -> dict[str, float]:
    """What the worker's process and its children take."""
    assert pool._portal is not None
    me = psutil.Process()
    taken = [process for each in [me, *me.children(recursive=True)] if (process := _taken(each)) is not None]
    return {
        "rss_mb": sum(rss for rss, _, _ in taken) / 1e6,
        "descriptors": sum(descriptors for _, descriptors, _ in taken),
        "threads": sum(threads for _, _, threads in taken),
        "coroutines": len(asyncio.all_tasks(pool._portal.loop)),
        "ended": sum(pool.aio.ended.values()),
    }


def _taken(process: psutil.Process) -> tuple[int, int, int] | None:
    """Bytes, descriptors and threads of a process; None if it has just ended, as a child whose task is late does."""
    try:
        return process.memory_info().rss, process.num_fds(), process.num_threads()
    except psutil.Error:
        return None


@contextmanager
def worker(url: str, kind: str) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which is killed in the end."""
    command = [sys.executable, "-m", "tests.reliability.leaks", "--work", url, "--kind", kind]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# ── watching ────────────────────────────────────────────────────────────────


async def feed(url: str, seed: int) -> None:
    """Enqueue without end, as fast as the worker is."""
    from tests.reliability import leaks  # as a worker imports its tasks, and not as the program that is run

    random = Random(seed)
    async with AsyncOmniQ(config={"task_queue": {"url": url}, "defaults": {"result_ttl": KEPT}}) as oq:
        while True:
            if sum(queue.counts.get(TaskState.PENDING, 0) for queue in await oq.stats()) < BACKLOG:
                await oq.enqueue_many(leaks.some_calls(random))
            await asyncio.sleep(PAUSE)


async def watch(process: subprocess.Popen[str], url: str, seconds: float) -> list[dict[str, float]]:
    """A sample every few seconds."""
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    for number in itertools.count(1):
        await asyncio.sleep(max(0.0, began + number * EVERY - time.monotonic()))
        if time.monotonic() - began > seconds:
            return samples
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        line = await asyncio.to_thread(process.stdout.readline)
        samples.append({**json.loads(line), "store_mb": stored(url)})
        if number % 12 == 0:
            print({name: round(value, 1) for name, value in samples[-1].items()}, flush=True)
    raise AssertionError


def stored(url: str) -> float:
    """Megabytes that a Redis server holds: of other stores nothing is told."""
    if not url.startswith("redis"):
        return 0.0
    with redis.Redis.from_url(url.partition("?")[0]) as client:
        return float(client.info("memory")["used_memory"]) / 1e6


def grown(samples: Sequence[Mapping[str, float]]) -> list[str]:
    """What has grown between the second fifth of the time and the last."""
    fifth = len(samples) // 5
    found = []
    for name, (factor, more) in GROWTH.items():
        before = statistics.median(each[name] for each in samples[fifth : 2 * fifth])
        after = statistics.median(each[name] for each in samples[-fifth:])
        print(f"  {name:<12} {before:>10.1f} → {after:>10.1f}")
        if after > before * factor + more:
            found.append(f"{name} have grown from {before:.1f} to {after:.1f}")
    return found


async def soak(url: str, options: argparse.Namespace) -> list[str]:
    """Let a worker run, and tell what has grown."""
    with worker(url, options.kind) as process:
        feeding = asyncio.create_task(feed(url, options.seed))
        try:
            samples = await watch(process, url, options.minutes * 60)
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
    print(f"{options.kind}: {samples[-1]['ended']:,.0f} runs in {options.minutes:g} minutes")
    return grown(samples)


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="async")
    parser.add_argument("--server", default="redis", help="redis or postgres, which is started; or sqlite")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.work:
        work(options.work, options.kind)
        return 0
    if options.server == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            failures = asyncio.run(soak(f"sqlite:///{Path(folder) / 'q.db'}", options))
    else:
        with exit_without_server(), running(options.server) as server:
            failures = asyncio.run(soak(server.url, options))
    print("\n".join(failures) or "nothing grows")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
