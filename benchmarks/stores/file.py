"""Files: a fresh folder on a local disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contestants import Contestant
from goals import Floor, Ratio

from stores.base import LATENCY, OMNIQ, Place, Store, filesystem


def describe() -> str:
    return f"files on {filesystem(Path.cwd())}"


@contextmanager
def place() -> Iterator[Place]:
    # Beside the code, not in the system's temporary folder: that may be memory, which never waits for a disk.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        yield {"BENCH_URL": f"file://{folder}/omniq", "BENCH_FILE": f"{folder}/peer"}


def corner(url: str, name: str) -> str:
    return f"{url}-{name}"


STORE = Store(
    packages=("omniq-core", "omniq-fsspec", "fsspec", "uvloop"),
    contestants=(
        OMNIQ,
        Contestant(
            "huey", (("peers.huey_stores", "enqueue", "file"), ("peers.huey_stores", "work", "file")), ("huey",)
        ),
        Contestant("omniq-thread", (("ours", "enqueue", "thread"), ("ours", "work", "thread"))),
        Contestant("omniq-concurrent", (("ours", "concurrent"),)),
        LATENCY,
    ),
    goals=(
        Ratio(("omniq", "process_per_s"), ("huey", "process_per_s"), 5.0),
        Floor(("omniq", "enqueue_per_s"), 20_000.0),
    ),
    tasks=10_000,
    describe=describe,
    place=place,
    corner=corner,
)
