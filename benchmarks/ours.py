"""OmniQ's side: `ours.py enqueue|work|alone|concurrent|latency|import`, on the store that BENCH_URL names."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import TASKS, report
from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall
from omniq.sync import new_event_loop
from tasks import count_async, count_in_file, count_in_file_async, count_sync, nothing

TASK_OF: dict[str, Callable[[], Any]] = {
    "thread": count_sync,
    "file": count_in_file,
    "file-async": count_in_file_async,
}
COROUTINES = 1000
LATENCY_CALLS = 300


def queue(url: str | None = None) -> AsyncOmniQ:
    """OmniQ at that URL, or the one that BENCH_URL names; all else as it is by default."""
    return AsyncOmniQ(config={"task_queue": {"url": url or os.environ["BENCH_URL"]}})


async def enqueue(kind: str) -> None:
    task = TASK_OF.get(kind, count_async)
    async with queue() as oq:
        began = time.perf_counter()
        await oq.enqueue_many(TaskCall(func=task) for _ in range(TASKS))
        report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))


async def concurrent() -> None:
    """1,000 coroutines, each awaiting one `enqueue` after the other."""
    async with queue() as oq:

        async def producer(count: int) -> None:
            for _ in range(count):
                await oq.enqueue(nothing)

        began = time.perf_counter()
        await asyncio.gather(*(producer(TASKS // COROUTINES) for _ in range(COROUTINES)))
        report(concurrent_per_s=round(TASKS / (time.perf_counter() - began)))


async def alone(kind: str) -> None:
    """Enqueue and work in one process, for what no other process sees; ended by the last task."""
    async with queue() as oq:
        await oq.enqueue_many(TaskCall(func=count_sync if kind == "thread" else count_async) for _ in range(TASKS))
        await oq.start_worker(kind)
        await asyncio.Event().wait()


async def work(kind: str, size: str = "") -> None:
    """Work until the process is ended, as by the last task."""
    async with queue() as oq:
        await oq.start_worker(kind, **({"max_workers": int(size)} if size else {}))
        await asyncio.Event().wait()


async def latency() -> None:
    async with queue() as oq:
        await oq.start_worker("async")
        for _ in range(20):
            await oq.get_result(await oq.enqueue(nothing))
        times: list[float] = []
        for _ in range(LATENCY_CALLS):
            began = time.perf_counter()
            await oq.get_result(await oq.enqueue(nothing))
            times.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.002)
        report(p50_ms=round(statistics.median(times), 2), p99_ms=round(statistics.quantiles(times, n=100)[98], 2))


def import_time() -> None:
    """The median of 11 imports in fresh processes, less that of a process which imports nothing."""
    report(import_ms=round(_start_ms("import omniq") - _start_ms("pass"), 1))


def _start_ms(code: str) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - began) * 1e3

    return statistics.median(once() for _ in range(11))


def served() -> AsyncOmniQ:
    """What `omniq worker ours:served` serves."""
    return queue()


def main(what: str, kind: str = "async", *sizes: str) -> None:
    if what == "import":
        import_time()
        return
    measurements: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "enqueue": partial(enqueue, kind),
        "alone": partial(alone, kind),
        "concurrent": concurrent,
        "work": partial(work, kind, *sizes),
        "latency": latency,
    }
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(measurements[what]())


if __name__ == "__main__":
    if "BENCH_URL" in os.environ:
        main(*sys.argv[1:])
    else:
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            os.environ["BENCH_URL"] = f"sqlite:///{folder}/bench.db"
            main(*sys.argv[1:])
