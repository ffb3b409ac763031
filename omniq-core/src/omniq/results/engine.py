"""The result storage that everybody shares: what users call, on top of any store's contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from omniq.backend.base import BaseBackend, check_backend
from omniq.backend.component import SecuredComponent
from omniq.backoff import repeating
from omniq.batching import Batcher
from omniq.config.security import Security
from omniq.deadlines import within
from omniq.errors import ResultTimeout
from omniq.ids import check_id
from omniq.loops import PerLoop, Wait
from omniq.models.config import ResultStorageConfig
from omniq.models.result import TaskResult
from omniq.models.task import TaskRef, id_of
from omniq.models.times import Duration, seconds
from omniq.plugins.registry import load_class
from omniq.results.view import listed_result, task_result
from omniq.results.watcher import ResultWatcher
from omniq.serialization.manager import SerializationManager
from omniq.storage.calls import look_up
from omniq.storage.records import ResultRecord
from omniq.storage.results import BaseResultStorage

C = TypeVar("C", bound=ResultStorageConfig)
T = TypeVar("T")

LAST_ANSWER = 0.3
"""Seconds beyond a deadline within which the store may still tell how things stand."""


class AsyncResultStorage(SecuredComponent[C, BaseResultStorage], Generic[C]):
    """A result storage on a store."""

    def __init__(self, store: Callable[[C], BaseResultStorage], config: C, *, security: Security | None = None) -> None:
        super().__init__(store, config, security)
        self._gets = PerLoop(lambda: Batcher(self._get_many))
        self._watchers = PerLoop(lambda: ResultWatcher(self.store))

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> AsyncResultStorage[Any]:
        """A backend's result storage; `overrides` are fields of its config."""
        store = load_class(check_backend(backend).specs.result_store.store, BaseResultStorage)  # type: ignore[type-abstract]
        return AsyncResultStorage(store, backend.result_store_config(**overrides))

    def use_serialization(self, serialization: SerializationManager) -> None:
        """Read results as the task queue writes them, unless this storage was given a `Security` of its own."""
        if not self._own_security:
            self.serialization = serialization

    async def get(self, task_id: TaskRef) -> TaskResult | None:
        """The result as it is now, or None when there is none (yet, or no longer). Doesn't wait.

        Its value is decoded when it is asked for. Raises `InvalidTask` for what can't be an id, `SerializationError`
        when the result is damaged or not signed by us.
        """
        record = await self._gets.get().submit(id_of(task_id))
        return None if record is None else task_result(record, self.serialization)

    async def wait(self, task_id: TaskRef, timeout: Duration | None = None) -> TaskResult | None:
        """Wait until the task has ended, at most `timeout` seconds; None when it hasn't by then.

        Raises as `get` does, `ResultTimeout` when the store hasn't answered by then, and `Closed` when this storage is
        closed meanwhile.
        """
        id_, limit = id_of(task_id), seconds("timeout", timeout)
        return await answered(f"task {id_}", limit, self._wait(id_, limit))

    async def _wait(self, task_id: str, limit: float | None) -> TaskResult | None:
        waits = self.waits
        record = await self._gets.get().submit(task_id)
        if record is None:
            with Wait(waits):
                record = await self._next_or_last(task_id, limit)
        return None if record is None else task_result(record, self.serialization)

    async def within(self, task_id: str, seconds: float | None) -> TaskResult | None:
        """As `wait`, and on top of it as long as the store takes to answer; closing doesn't end it.

        It doesn't look once more in the end: whoever asks looks at the task then, which tells whether there is one.
        """
        try:
            record = await self._next(task_id, seconds)
        except TimeoutError:
            return None
        return task_result(record, self.serialization)

    async def _next_or_last(self, task_id: str, seconds: float | None) -> ResultRecord | None:
        """The result, or what is there in the end."""
        try:
            return await self._next(task_id, seconds)
        except TimeoutError:
            return await self._gets.get().submit(task_id)

    async def _next(self, task_id: str, seconds: float | None) -> ResultRecord:
        """The result, which the watcher looks for first and then listens for. Raises `TimeoutError`."""
        await self.ready()
        async with asyncio.timeout(seconds):
            return await self._watchers.get().wait(task_id)

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[TaskResult]:
        """Results of a schedule's tasks in the order in which they ended.

        One that is damaged, or not signed by us, is an error that says so. Raises as `get` does for an id.
        """
        id_ = check_id(schedule_id, "schedule_id")
        found = await self.find_records(id_, newest_first=newest_first, limit=limit)
        return [listed_result(record, self.serialization) for record in found]

    @repeating
    async def find_records(self, schedule_id: str, *, newest_first: bool, limit: int) -> list[ResultRecord]:
        """The same as the store holds them."""
        return await (await self.ready()).find(schedule_id, newest_first=newest_first, limit=limit)

    async def purge(self) -> int:
        """Delete results whose TTL is over, as workers do from time to time; returns how many."""
        deleted = 0
        while (count := await (await self.ready()).purge()) > 0:
            deleted += count
        return deleted

    async def close(self) -> None:
        self._end_waits()
        if (watcher := self._watchers.pop()) is not None:
            await watcher.close()
        if (gets := self._gets.pop()) is not None:
            await gets.drain()
        await super().close()

    @repeating
    async def _get_many(self, ids: Sequence[str]) -> Sequence[ResultRecord | None]:
        store = await self.ready()
        found = await look_up(store, store.get, ids)
        return [record if record is not None and record.is_final else None for record in found]


async def answered(what: str, limit: float | None, waiting: Coroutine[Any, Any, T]) -> T:
    """What waiting comes to, which keeps to the limit itself as long as the store answers.

    Raises `ResultTimeout` when the store doesn't.
    """
    if limit is None:
        return await waiting
    try:
        return await within(limit + LAST_ANSWER, waiting)
    except ResultTimeout:
        raise
    except TimeoutError:
        raise ResultTimeout(f"{what}: the store hasn't answered within {limit:g} s") from None
