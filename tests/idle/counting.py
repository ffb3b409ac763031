"""How often a store is asked."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Store

QUIET = frozenset({"connect", "close", "wait"})
"""These ask the store nothing that a server wouldn't show anyway: they are counted there."""


def count_calls(store: Store, calls: Counter[str]) -> None:
    """From now on, count each call of a verb of the contract on this store."""
    for contract in (BaseTaskQueue, BaseResultStorage, BaseEventStorage):
        if isinstance(store, contract):
            for name, verb in inspect.getmembers(contract, inspect.iscoroutinefunction):
                if verb.__name__ not in QUIET:
                    setattr(store, name, _counted(getattr(store, name), name, calls))


def _counted(verb: Callable[..., Awaitable[Any]], name: str, calls: Counter[str]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(verb)
    async def counted(*args: Any, **options: Any) -> Any:
        calls[name] += 1
        return await verb(*args, **options)

    return counted
