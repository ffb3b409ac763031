"""Results: what users call, on top of any store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import UNSET, UnsetType

from omniq.backend import BaseBackend, BlockingChosen, Chosen, SecuredComponent, check_backend
from omniq.batching import Batcher, apart, level_of, repeating, within
from omniq.clock import Duration, as_datetime, seconds
from omniq.config.loader import OmniQConfig, Security
from omniq.errors import Closed, CorruptPayload, ResultTimeout, SerializationError, StoreUnavailable
from omniq.loops import PerLoop, Wait, spawn
from omniq.models.config import BreakerConfig, ResultStorageConfig
from omniq.models.result import NO_VALUE, ResultStatus, StoredValue, TaskResult
from omniq.models.task import TaskRef, TaskState, check_flags, check_id, check_limit, id_of
from omniq.plugins.registry import load_class
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseResultStorage, look_up
from omniq.storage.records import ResultRecord
from omniq.sync import blocking, cancel_and_wait
from omniq.texts import get_logger

# ── from records to results ─────────────────────────────────────────────────


def task_result(record: ResultRecord, serialization: SerializationManager) -> TaskResult:
    """The result as users see it, its value still packed.

    Raises `SerializationError` when it is damaged or not signed by us.
    """
    if record.damage is not None:
        raise CorruptPayload(f"the stored result of task {record.task_id} is damaged: {record.damage}")
    outcome = serialization.read_outcome(
        record.body,
        task_id=record.task_id,
        epoch=record.epoch,
        status=record.status,
        schedule_id=record.schedule_id,
    )
    succeeded = record.status is TaskState.SUCCESS  # what failed has no value, whatever its record says
    return TaskResult(
        task_id=record.task_id,
        status=ResultStatus(record.status.value),
        stored=StoredValue(outcome.value_format, outcome.value, serialization.load_value) if succeeded else NO_VALUE,
        error_type=outcome.error_type,
        error_message=outcome.error_message,
        traceback=outcome.traceback,
        epoch=record.epoch,
        attempts=outcome.attempts,
        started_at=as_datetime(outcome.started_at),
        finished_at=as_datetime(record.finished_at) if record.is_final else None,
        expires_at=as_datetime(record.expires_at) if record.is_final else None,
        worker=outcome.worker,
        schedule_id=record.schedule_id,
        progress=None if record.is_final else outcome.progress,
    )


def listed_result(record: ResultRecord, serialization: SerializationManager) -> TaskResult:
    """The result as one of a list: where it can't be read, an error that says why, so that the others are seen."""
    try:
        return task_result(record, serialization)
    except SerializationError as error:
        return TaskResult(
            task_id=record.task_id,
            status=ResultStatus.ERROR,
            error_type=f"{type(error).__module__}.{type(error).__qualname__}",
            error_message=str(error),
            epoch=record.epoch,
            finished_at=as_datetime(record.finished_at),
            expires_at=as_datetime(record.expires_at),
            schedule_id=record.schedule_id,
        )


# ── waiting for many ────────────────────────────────────────────────────────


log = get_logger("omniq.results")

LOOK_AFTER_S, MAX_LOOK_AFTER_S, SHARE = 10.0, 60.0, 100
"""Seconds after which all are looked at though nothing was heard, at least and at most; in between, so many times as
long as the last look at all of them took."""
PAUSE = 1.0
"""Seconds until a store is asked again that has failed."""


class _Waiting(NamedTuple):
    """Somebody who waits for a result, or for whatever is `other_than` what he has seen."""

    future: asyncio.Future[ResultRecord]
    other_than: ResultRecord | UnsetType | None

    def tell(self, answer: ResultRecord | Exception) -> bool:
        """Tell him of what is there; returns whether he waits no longer."""
        if self.future.done():
            return True
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
        elif answer.is_final if self.other_than is UNSET else answer != self.other_than:
            self.future.set_result(answer)
        return self.future.done()


class ResultWatcher:
    """Waits for many results at once, with one read for all that may have come meanwhile."""

    def __init__(self, store: BaseResultStorage) -> None:
        self._store = store
        self._waiting: dict[str, list[_Waiting]] = {}
        self._news = store.wakeups.subscribe()
        self._runner: asyncio.Task[None] | None = None
        self._took = 0.0
        """Seconds that the last look at all has taken."""

    async def wait(self, task_id: str, *, other_than: ResultRecord | UnsetType | None = UNSET) -> ResultRecord:
        """The result of the task, once it is there; or any record, be it of progress, that is `other_than` this."""
        future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(future, other_than)
        self._waiting.setdefault(task_id, []).append(waiting)
        self._news.follow(task_id)
        if self._runner is None or self._runner.done():
            self._runner = spawn(self._run())
        try:
            return await future
        finally:
            self._forget(task_id, waiting)

    async def close(self) -> None:
        """Stop watching; whoever still waits gets `Closed`."""
        if self._runner is not None:
            await cancel_and_wait(self._runner)
        for task_id in list(self._waiting):
            self._tell(task_id, Closed(f"nobody waits for the result of task {task_id} any more"))

    def _forget(self, task_id: str, one: _Waiting) -> None:
        waiting = self._waiting.get(task_id, [])
        if one in waiting:
            waiting.remove(one)
        if not waiting:
            self._waiting.pop(task_id, None)
            self._news.leave(task_id)

    async def _run(self) -> None:
        hearing = spawn(self._hear())
        try:
            while self._waiting:
                await self._look(await self._news.told())
        finally:
            hearing.end()

    async def _hear(self) -> None:
        """Let others be heard, and have all looked at from time to time: nothing depends on what is heard."""
        while True:
            try:
                await self._store.hear(max(LOOK_AFTER_S, min(SHARE * self._took, MAX_LOOK_AFTER_S)))
            except Exception as error:  # whatever it is: those who wait would else wait for ever
                log.warning("can't hear of results, polling: %s", error)
                await asyncio.sleep(PAUSE)
            self._news.tell(list(self._waiting))

    async def _look(self, told: Collection[str]) -> None:
        """Tell those who wait what is there of what may be."""
        ids = [task_id for task_id in told if task_id in self._waiting]
        if not ids:
            return
        began = time.monotonic()
        answers = await apart(partial(look_up, self._store, self._store.get_recent), ids)
        if len(ids) >= len(self._waiting):
            self._took = time.monotonic() - began
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        is_away = len(errors) == len(ids) or any(isinstance(error, StoreUnavailable) for error in errors)
        for task_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, Exception):
                if not is_away:  # else it's the store's
                    self._tell(task_id, answer)
            elif answer is not None:
                self._tell(task_id, answer)
        if is_away:
            log.log(level_of(errors[-1]), "results can't be read, trying again: %s", errors[-1])
            self._news.tell(ids)
            await asyncio.sleep(PAUSE)

    def _tell(self, task_id: str, answer: ResultRecord | Exception) -> None:
        left = [one for one in self._waiting.pop(task_id, ()) if not one.tell(answer)]
        if left:
            self._waiting[task_id] = left


# ── the result storage ──────────────────────────────────────────────────────


C = TypeVar("C", bound=ResultStorageConfig)
T = TypeVar("T")

LAST_ANSWER = 0.3
"""Seconds beyond a deadline within which the store may still tell how things stand."""


class AsyncResultStorage(SecuredComponent[C, BaseResultStorage], Chosen, Generic[C]):
    """A result storage on a store."""

    kind, contract = "result_store", BaseResultStorage

    def __init__(
        self,
        store: Callable[[C], BaseResultStorage],
        config: C,
        *,
        security: Security | None = None,
        serialization: SerializationManager | None = None,
        breaker: BreakerConfig | None = None,
    ) -> None:
        """`serialization` is that of the task queue whose results are read, unless `security` says how to."""
        told = Security() if serialization is not None else None
        super().__init__(store, config, security or told, breaker)
        self._own_security = security
        if serialization is not None and security is None:
            self.serialization = serialization
        self._gets = PerLoop(lambda: Batcher(self._get_many))
        self._watchers = PerLoop(lambda: ResultWatcher(self.store))

    def as_part(
        self,
        project: str | None,
        serialization: SerializationManager | None = None,
        breaker: BreakerConfig | None = None,
    ) -> AsyncResultStorage[C]:
        """The same storage as part of something larger: what it wasn't given itself, it takes from there."""
        make_store, config = self._at(project)
        own = self._own_security
        breaker = self._own_breaker or breaker
        serialization = serialization or self.serialization
        return AsyncResultStorage(make_store, config, security=own, serialization=serialization, breaker=breaker)

    @classmethod
    def options_of(cls, config: OmniQConfig) -> dict[str, Any]:
        return {"breaker": config.breaker, "security": Security.of(config)}

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> AsyncResultStorage[Any]:
        """A backend's result storage; `overrides` are fields of its config."""
        store = load_class(check_backend(backend).specs.result_store.store, BaseResultStorage)  # type: ignore[type-abstract]
        return AsyncResultStorage(store, backend.result_store_config(**overrides))

    async def get(self, task_id: TaskRef) -> TaskResult | None:
        """The result as it is now, or None when there is none (yet, or no longer). Doesn't wait.

        Its value is decoded when it is asked for. Raises `InvalidTask` for what can't be an id, `SerializationError`
        when the result is damaged or not signed by us.
        """
        record = await self._final(id_of(task_id))
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
        record = await self._final(task_id)
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
            return await self._final(task_id)

    async def _next(self, task_id: str, seconds: float | None) -> ResultRecord:
        """The result, which the watcher looks for first and then listens for. Raises `TimeoutError`."""
        await self.ready()
        async with asyncio.timeout(seconds):
            return await self._watchers.get().wait(task_id)

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[TaskResult]:
        """Results of a schedule's tasks in the order in which they ended.

        One that is damaged, or not signed by us, is an error that says so. Raises as `get` does for an id.
        """
        id_, size = check_id(schedule_id, "schedule_id"), check_limit(limit)
        check_flags(newest_first=newest_first)
        found = await self.find_records(id_, newest_first=newest_first, limit=size)
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

    async def newest(self, task_id: str) -> ResultRecord | None:
        """What the store holds of the task: its result or, while it is running, its progress."""
        return await self._gets.get().submit(task_id)

    async def until_other(self, task_id: str, seen: ResultRecord | None, limit: float) -> None:
        """Wait until the store holds something else of the task than was seen, at most `limit` seconds."""
        await self.ready()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._watchers.get().wait(task_id, other_than=seen)

    async def _final(self, task_id: str) -> ResultRecord | None:
        record = await self.newest(task_id)
        return record if record is not None and record.is_final else None

    @repeating
    async def _get_many(self, ids: Sequence[str]) -> Sequence[ResultRecord | None]:
        store = await self.ready()
        return await look_up(store, store.get, ids)


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


# ── blocking ────────────────────────────────────────────────────────────────


class ResultStorage(BlockingChosen[AsyncResultStorage[Any]]):
    """A result storage whose methods block; `aio` is its async core."""

    kind = "result_store"

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> ResultStorage:
        """A backend's result storage; `overrides` are fields of its config."""
        return ResultStorage(AsyncResultStorage.from_backend(backend, **overrides))

    get = blocking(AsyncResultStorage.get)
    wait = blocking(AsyncResultStorage.wait)
    find = blocking(AsyncResultStorage.find)
    purge = blocking(AsyncResultStorage.purge)
