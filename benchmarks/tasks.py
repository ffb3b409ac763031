"""The tasks that are measured: they count themselves and return 1."""

from __future__ import annotations

from measure import tick


async def count_async() -> int:
    tick()
    return 1


def count_sync() -> int:
    tick()
    return 1


async def nothing() -> int:
    return 1
