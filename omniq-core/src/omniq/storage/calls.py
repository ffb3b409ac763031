"""Calls on a store, as the contract promises them: never an empty one, each id once, and no more than it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from omniq.batching import parts
from omniq.storage.base import Store

T = TypeVar("T")
R = TypeVar("R")


async def look_up(store: Store, read: Callable[[Sequence[str]], Awaitable[Sequence[R]]], ids: Iterable[str]) -> list[R]:
    """What the store answers to each id, asked once for each that comes twice."""
    asked = list(ids)
    found: dict[str, R] = {}
    for part in parts(list(dict.fromkeys(asked)), limit=store.max_items):
        found.update(zip(part, await read(part), strict=True))
    return [found[id_] for id_ in asked]


async def carry_out(
    store: Store,
    write: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
    items: Sequence[T],
    *,
    id_of: Callable[[T], str],
    size: Callable[[T], int] | None = None,
    max_bytes: int | None = None,
) -> list[R]:
    """What the store answers to each item, in order; items of one id go in different calls, one after the other.

    `max_bytes` is the store's, unless another is smaller.
    """
    answers: list[R] = []
    most = store.max_bytes if max_bytes is None else max_bytes
    for part in parts(items, size, limit=store.max_items, max_bytes=most, id_of=id_of):
        answers += await write(part)
    return answers
