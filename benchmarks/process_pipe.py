"""Results of a process worker's task beside the same bytes through a plain pipe: `process_pipe.py [--size 1048576]`.

Both cross from one child process to this one. The pipe's are written and read in pieces as large as a result; the
worker's are returned by tasks, so they are packed, framed, received and handed in, but not stored.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time

from goals import at_least
from omniq.config.loader import Security
from omniq.models.task import TaskState
from omniq.storage.base import SizeLimit
from omniq.storage.records import TaskRecord
from omniq.sync import new_event_loop
from omniq.workers.execution import Execution
from omniq.workers.jobs import InFlight, Job
from omniq.workers.process import ProcessRunner
from tasks import some_bytes

GOAL = 0.5


def piped(size: int, count: int) -> float:
    """Bytes a second through a pipe."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        data = some_bytes(size)
        for _ in range(count + 1):
            view = memoryview(data)
            while view:
                view = view[os.write(writing, view) :]
        os._exit(0)
    os.close(writing)
    with open(reading, "rb", 0) as pipe:
        _read(pipe.fileno(), size)
        began = time.perf_counter()
        for _ in range(count):
            _read(pipe.fileno(), size)
        seconds = time.perf_counter() - began
    os.wait()
    return size * count / seconds


def _read(descriptor: int, size: int) -> None:
    pieces: list[bytes] = []
    while size:
        pieces.append(os.read(descriptor, size))
        size -= len(pieces[-1])
    b"".join(pieces)


async def worked(size: int, count: int) -> float:
    """Bytes a second as results of tasks in one child."""
    desk, execution = InFlight(lease=600.0), Execution(Security(), SizeLimit(sys.maxsize, "nothing"))
    runner = ProcessRunner(desk.main, execution, max_workers=1)
    await runner.open()
    try:
        await _run(desk, runner, size, 8)  # the child is ready and knows what it returns
        began = time.perf_counter()
        await _run(desk, runner, size, count)
        return size * count / (time.perf_counter() - began)
    finally:
        await runner.close()


async def _run(desk: InFlight, runner: ProcessRunner, size: int, count: int) -> None:
    call = Security().manager().build_call(some_bytes, (size,), {})
    for number in range(count):
        desk.accept([Job(_record(f"{number:032}"), call)])
    runner.wake()
    while count:
        await desk.has_done.wait()
        batch = desk.collect(count, sys.maxsize)
        assert all(len(ran.value) > size for _, ran in batch)
        count -= len(batch)


def _record(task_id: str) -> TaskRecord:
    return TaskRecord(
        id=task_id,
        queue_name="default",
        body=b"",
        state=TaskState.RUNNING,
        priority=0,
        created_at=0.0,
        run_at=0.0,
        epoch=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2**20, help="bytes of a result")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = max(4, 2**28 // options.size)
    ratios = []
    for number in range(options.rounds):
        pipe = piped(options.size, count)
        with asyncio.Runner(loop_factory=new_event_loop) as loop:
            results = loop.run(worked(options.size, count))
        ratios.append(results / pipe)
        print(f"round {number + 1}: pipe {pipe / 2**20:,.0f} MiB/s, results {results / 2**20:,.0f} MiB/s")
    print(at_least(f"results of {options.size} bytes / pipe", statistics.median(ratios), GOAL))


if __name__ == "__main__":
    main()
