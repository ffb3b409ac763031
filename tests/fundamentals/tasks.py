"""The functions of the tutorial: ordinary ones, in a module that a worker can import."""

from __future__ import annotations

import asyncio

from omniq import Retry, current_task

order: list[str] = []


def add(x: int, y: int) -> int:
    return x + y


async def add_slowly(x: int, y: int) -> int:
    await asyncio.sleep(0.01)
    return x + y


def note(name: str) -> None:
    order.append(name)


def divide(x: int, y: int) -> float:
    return x / y


def succeed_at(attempt: int) -> int:
    """Ask to be tried again until this attempt."""
    if current_task().attempt < attempt:
        raise Retry("not yet", delay=0.0)
    return current_task().attempt
