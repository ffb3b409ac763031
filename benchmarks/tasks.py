"""The tasks that are measured: they count themselves and return 1."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from counter import SharedCounter
from measure import tick


async def count_async() -> int:
    tick()
    return 1


def count_sync() -> int:
    tick()
    return 1


async def count_shared() -> int:
    counter().increment()
    return 1


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def count_in_file() -> int:
    """Leave a byte in the file that BENCH_FILE names."""
    os.write(_file(), b"1")
    return 1


async def count_in_file_async() -> int:
    """The same on an event loop."""
    return count_in_file()


async def nothing() -> int:
    return 1


@cache
def some_bytes(size: int) -> bytes:
    """The same each time, so that making them isn't measured."""
    return os.urandom(size)


@cache
def counter() -> SharedCounter:
    """The one that BENCH_COUNTER names."""
    return SharedCounter(Path(os.environ["BENCH_COUNTER"]))


async def count_values(*values: object) -> int:
    """How many values it was given."""
    return len(values)
