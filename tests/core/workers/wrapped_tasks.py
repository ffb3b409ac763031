"""Async tasks that don't look like it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from omniq import current_task

Where = tuple[str, int]
"""A thread and a loop."""


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that knows nothing of async functions."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def to_its_end(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """One that makes a sync function of an async one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return call


async def direct() -> Where:
    assert current_task().attempt == 1
    await asyncio.sleep(0)
    return threading.current_thread().name, id(asyncio.get_running_loop())


wrapped_direct = plain(direct)


@plain
async def wrapped() -> Where:
    return await direct()


@plain
@plain
async def wrapped_twice() -> Where:
    return await direct()


@to_its_end
async def run_to_its_end() -> Where:
    return await direct()


class Callee:
    async def __call__(self) -> Where:
        return await direct()


callee = Callee()


@plain
async def sleeps(seconds: float) -> None:
    await asyncio.sleep(seconds)


@plain
async def fails() -> None:
    raise ValueError("no")


@plain
async def exits() -> None:
    raise SystemExit(3)


cleaned_up = threading.Event()


@plain
async def cleans_up() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        cleaned_up.set()
