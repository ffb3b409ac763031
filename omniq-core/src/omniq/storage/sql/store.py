"""The base of the stores, and verbs as their methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from omniq.storage.base import Store
from omniq.storage.channel import ALL
from omniq.storage.sql.steps import Steps
from omniq.storage.wakeups import News

P = ParamSpec("P")
T = TypeVar("T")

Verb: TypeAlias = Callable[[], Steps[T]]
"""Begins to carry something out. It may be begun again, after a rollback."""


class SQLStore(Store):
    """A store that carries out verbs."""

    @abstractmethod
    async def _read(self, verb: Verb[T]) -> T:
        """What a verb comes to that changes nothing."""

    @abstractmethod
    async def _write(self, verb: Verb[T], *, atomic: bool = False) -> T:
        """What a verb comes to. If `atomic`, all of its steps are one."""

    def _tell(self, news: News, *, tasks: int = ALL) -> None:
        """Tell everybody whom this store can reach what was written: as many workers as tasks are due."""
        self.wakeups.tell(news)


def reads(verb: Callable[P, Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A store's method that carries out this verb, which changes nothing."""

    @wraps(verb)
    async def method(store: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._read(partial(verb, *args, **kwargs))

    return method


def writes(verb: Callable[P, Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A store's method that carries out this verb."""

    @wraps(verb)
    async def method(store: SQLStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._write(partial(verb, *args, **kwargs))

    return method
