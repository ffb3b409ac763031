"""Counts executions inside a worker and reports when the last one has run; shared by all contestants."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Iterator

TASKS = int(os.environ.get("BENCH_TASKS", "10000"))
BATCH = 5000
"""Tasks of one call of a peer's bulk enqueue: with more, none of them is faster, and with 1,000 some are slower."""

_lock = threading.Lock()
_count = 0
_first = 0.0


def tick() -> None:
    """One task has run. The last one prints the worker's rate and ends the process."""
    global _count, _first
    with _lock:
        if _count == 0:
            _first = time.perf_counter()
        _count += 1
        last = _count == TASKS
    if last:
        elapsed = time.perf_counter() - _first
        usage = resource.getrusage(resource.RUSAGE_SELF)
        report(
            process_per_s=round(TASKS / elapsed),
            cpu_us_per_task=round((usage.ru_utime + usage.ru_stime) / TASKS * 1e6, 1),
            rss_mb=round(usage.ru_maxrss / 1024),
        )
        threading.Timer(0.3, os._exit, (0,)).start()


def batches() -> Iterator[int]:
    """How many tasks a peer enqueues with each of its calls."""
    for start in range(0, TASKS, BATCH):
        yield min(BATCH, TASKS - start)


def report(**figures: float) -> None:
    """Print figures as the line that `compare.py` looks for."""
    print(json.dumps({"figures": figures}), flush=True)
