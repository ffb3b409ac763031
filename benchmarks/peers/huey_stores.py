"""huey at the path that BENCH_FILE names: `python -m peers.huey_stores enqueue|work sqlite|file`."""

from __future__ import annotations

import logging
import os
import sys
import time

from huey import FileHuey, SqliteHuey
from measure import TASKS, report, tick

path = os.environ["BENCH_FILE"]
huey = SqliteHuey("bench", filename=path) if sys.argv[2] == "sqlite" else FileHuey("bench", path=path)


@huey.task()  # type: ignore[untyped-decorator]
def count() -> int:
    tick()
    return 1


def enqueue() -> None:
    began = time.perf_counter()
    for _ in range(TASKS):
        count()
    report(enqueue_per_s=round(TASKS / (time.perf_counter() - began)))


def work() -> None:
    logging.disable(logging.CRITICAL)
    huey.create_consumer(workers=1, initial_delay=0.01).run()


if __name__ == "__main__":
    {"enqueue": enqueue, "work": work}[sys.argv[1]]()
