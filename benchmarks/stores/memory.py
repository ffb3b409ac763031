"""Memory: nothing is shared, so one process enqueues and works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contestants import Contestant
from goals import Floor
from omniq.models.task import new_id

from stores.base import LATENCY, Place, Store


def describe() -> str:
    return "the process's own memory"


@contextmanager
def place() -> Iterator[Place]:
    yield {"BENCH_URL": f"memory://{new_id()}"}


def corner(url: str, name: str) -> str:
    return f"{url}-{name}"


STORE = Store(
    packages=("omniq-core", "omniq-fsspec", "fsspec", "uvloop"),
    contestants=(
        Contestant("omniq", (("ours", "enqueue"), ("ours", "alone"))),
        Contestant("omniq-thread", (("ours", "enqueue", "thread"), ("ours", "alone", "thread"))),
        Contestant("omniq-concurrent", (("ours", "concurrent"),)),
        LATENCY,
    ),
    goals=(Floor(("omniq", "process_per_s"), 40_000.0),),
    tasks=50_000,
    describe=describe,
    place=place,
    corner=corner,
)
