"""Large payloads, many at once: `python -m tests.reliability.large postgres|redis|sqlite [--loop uvloop] [--part 1.0]`.

At full size, 900 callers enqueue 1.25 MB each at once, and 100 tasks return 12 MB each at once. Every call must succeed
and every value arrive; the peak of this process's memory is printed beside the bytes that it had to hold anyway.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall

from tests.core import payloads, tasks
from tests.loops import LOOPS, run_on
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

CALLS, CALL_BYTES = 900, 1_250_000
RESULTS, RESULT_BYTES = 100, 12_000_000
PATIENCE = 300.0


async def many_large_calls(url: str, calls: int = CALLS, size: int = CALL_BYTES) -> list[int]:
    """As many concurrent `enqueue` calls, each with so many bytes, and a worker that takes them all.

    Returns how many bytes each task has got.
    """
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq:
        payload = b"x" * size
        ids = await asyncio.gather(*(oq.enqueue(payloads.size_of, [payload]) for _ in range(calls)))
        await oq.start_worker("async")
        return list(await asyncio.gather(*(oq.get_result(id_, timeout=PATIENCE) for id_ in ids)))


async def many_large_results(url: str, results: int = RESULTS, size: int = RESULT_BYTES) -> list[int]:
    """As many tasks that end at once, each with a value of so many bytes, and some small ones behind them.

    Returns how many bytes each value has; those behind them must be right, and no task run twice.
    """
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq:
        ids = await oq.enqueue_many(TaskCall(func=payloads.bytes_of_async, func_args=[size]) for _ in range(results))
        small = await oq.enqueue_many(TaskCall(func=tasks.add, func_args=[n, 1]) for n in range(20))
        await oq.start_worker("async")
        sizes = [len(await oq.get_result(id_, timeout=PATIENCE)) for id_ in ids]
        found = await asyncio.gather(*(oq.get_result(id_, timeout=PATIENCE) for id_ in small))
        assert found == [n + 1 for n in range(20)]
        records = await oq.task_queue.store.get([*ids, *small], bodies=False)
        assert {(record.epoch, record.crashes) for record in records if record} == {(1, 0)}
        return sizes


@contextmanager
def _server(store: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        if store == "sqlite":
            yield f"sqlite:///{folder}/omniq.db"
            return
        server = PostgresServer() if store == "postgres" else RedisServer()
        if isinstance(server, PostgresServer):
            server.create()
        server.start()
        try:
            yield server.url
        finally:
            server.remove()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=["postgres", "redis", "sqlite"])
    parser.add_argument("--loop", choices=list(LOOPS), default="uvloop")
    parser.add_argument("--part", type=float, default=1.0, help="of the full number of calls and results")
    options = parser.parse_args()
    calls, results = int(CALLS * options.part), int(RESULTS * options.part)
    with _server(options.store) as url:
        assert run_on(options.loop, many_large_results(url, results)) == [RESULT_BYTES] * results
        print(f"{results} results of {RESULT_BYTES:,} bytes: peak {_peak():,.0f} MB", file=sys.stderr)
        assert run_on(options.loop, many_large_calls(url, calls)) == [CALL_BYTES] * calls
        print(f"{calls} calls of {CALL_BYTES:,} bytes: peak {_peak():,.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
