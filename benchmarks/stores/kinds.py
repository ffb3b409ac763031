"""Workers of each kind on Redis, beside those of others: sync tasks that do nothing but tell that they were run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contestants import Contestant
from goals import Ratio

from stores import redis
from stores.base import Place, Store

THREADS, GREENLETS, PROCESSES = "16", "100", "2"
"""Tasks that run at once, on both sides."""


@contextmanager
def place() -> Iterator[Place]:
    """As on Redis, and a file in which tasks leave a byte each."""
    with redis.place() as found, tempfile.TemporaryDirectory() as folder:
        yield {**found, "BENCH_FILE": str(Path(folder) / "done")}


def ours(kind: str, size: str) -> Contestant:
    """A worker of ours."""
    commands = (("ours", "enqueue", "file"), ("watched", "ours", "work", kind, size))
    return Contestant(f"omniq-{kind}", commands)


def ours_in(processes: int) -> Contestant:
    """Worker processes of ours, under one supervisor, with async slots."""
    command = ("omniq.cli", "worker", "ours:served", "--type", "async", "--processes", str(processes))
    return Contestant(f"omniq-x{processes}", (("ours", "enqueue", "file-async"), ("watched", *command)))


def celery(pool: str, size: str) -> Contestant:
    """Celery's worker with such a pool."""
    worker = ("celery", "-A", "peers.celery_redis", "worker", "-P", pool, "-c", size, "-l", "error")
    commands = (("peers.celery_redis",), ("watched", *worker))
    return Contestant(f"celery-{pool}", commands, ("celery[redis]", "gevent"))


DRAMATIQ = Contestant(
    "dramatiq",
    (("peers.dramatiq_redis",), ("watched", "dramatiq", "peers.dramatiq_redis", "-p", "1", "-t", THREADS)),
    ("dramatiq[redis]",),
)

STORE = Store(
    packages=("omniq-core", "omniq-redis", "omniq-gevent", "gevent", "redis", "hiredis", "uvloop"),
    contestants=(
        ours("thread", THREADS),
        DRAMATIQ,
        ours("gevent", GREENLETS),
        celery("gevent", GREENLETS),
        ours("process", PROCESSES),
        celery("prefork", PROCESSES),
        ours_in(1),
        ours_in(2),
    ),
    goals=(
        Ratio(("omniq-thread", "process_per_s"), ("dramatiq", "process_per_s"), 6.0),
        Ratio(("omniq-gevent", "process_per_s"), ("celery-gevent", "process_per_s"), 4.0),
        Ratio(("omniq-process", "process_per_s"), ("celery-prefork", "process_per_s"), 3.0),
        Ratio(("omniq-x2", "process_per_s"), ("omniq-x1", "process_per_s"), 1.5),
    ),
    tasks=20_000,
    describe=redis.describe,
    place=place,
    corner=redis.corner,
    tidy=redis.tidy,
)
