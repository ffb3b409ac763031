"""A worker whose host's clock is off by so many seconds: `python -m tests.reliability.off_clock SECONDS URL`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

OFF = float(sys.argv[1])
_time, _time_ns = time.time, time.time_ns


async def work(url: str) -> None:
    """Work until it is told to stop."""
    from omniq import AsyncOmniQ

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq, oq.worker_pool("async", lease=10.0):
        await stopped.wait()


if __name__ == "__main__":
    time.time = lambda: _time() + OFF
    time.time_ns = lambda: _time_ns() + int(OFF * 1e9)
    asyncio.run(work(sys.argv[2]))
