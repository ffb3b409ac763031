"""dramatiq on the server that BENCH_URL names: `python -m peers.dramatiq_redis` enqueues, its own command works."""

from __future__ import annotations

import os
import time
from functools import cache

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from measure import TASKS, report

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_URL"]))


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@dramatiq.actor  # type: ignore[untyped-decorator]
def count() -> None:
    os.write(_file(), b"1")


if __name__ == "__main__":
    began = time.perf_counter()
    for _ in range(TASKS):
        count.send()
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))
