"""Celery on the server that BENCH_URL names: `python -m peers.celery_redis` enqueues, its own command works."""

from __future__ import annotations

import os
import time
from functools import cache

from celery import Celery
from measure import TASKS, report

app = Celery("peers.celery_redis", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
app.conf.worker_prefetch_multiplier = 100
app.conf.result_expires = 3600


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task  # type: ignore[untyped-decorator]
def count() -> int:
    os.write(_file(), b"1")
    return 1


if __name__ == "__main__":
    began = time.perf_counter()
    for _ in range(TASKS):
        count.delay()
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))
