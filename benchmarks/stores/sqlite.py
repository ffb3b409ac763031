"""SQLite: files in a fresh folder."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contestants import Contestant
from goals import Ratio

from stores.base import LATENCY, OMNIQ, Place, Store, filesystem


def describe() -> str:
    return f"SQLite {sqlite3.sqlite_version}, files on {filesystem(Path.cwd())}"


@contextmanager
def place() -> Iterator[Place]:
    # Beside the code, not in the system's temporary folder: that may be memory, which never waits for a disk.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        yield {"BENCH_URL": f"sqlite:///{folder}/omniq.db", "BENCH_FILE": f"{folder}/peer.db"}


def corner(url: str, name: str) -> str:
    return url.replace("omniq.db", f"{name}.db")


STORE = Store(
    packages=("omniq-core", "omniq-sqlite", "uvloop"),
    contestants=(
        OMNIQ,
        Contestant(
            "huey", (("peers.huey_stores", "enqueue", "sqlite"), ("peers.huey_stores", "work", "sqlite")), ("huey",)
        ),
        Contestant("probe", (("probes.sqlite",),)),
        Contestant("omniq-thread", (("ours", "enqueue", "thread"), ("ours", "work", "thread"))),
        Contestant("omniq-concurrent", (("ours", "concurrent"),)),
        LATENCY,
        Contestant("omniq-import", (("ours", "import"),)),
    ),
    goals=(
        Ratio(("omniq", "process_per_s"), ("huey", "process_per_s"), 10.0),
        Ratio(("omniq", "process_per_s"), ("probe", "process_per_s"), 0.5),
        Ratio(("omniq-thread", "process_per_s"), ("huey", "process_per_s"), 4.0),
        Ratio(("omniq", "enqueue_per_s"), ("huey", "enqueue_per_s"), 1.0),
    ),
    tasks=10_000,
    describe=describe,
    place=place,
    corner=corner,
)
