"""Waiting for a task's value, wherever it runs: never for ever where the answer is knowable."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any, TypeAlias

from omniq import clock
from omniq.batching import level_of
from omniq.clock import Duration, as_datetime, seconds
from omniq.errors import (
    InvalidTask,
    ResultError,
    ResultExpired,
    ResultTimeout,
    SerializationError,
    SignatureError,
    StoreUnavailable,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    WorkerError,
)
from omniq.loops import Background, Wait, spawn
from omniq.models.config import ResultStorageConfig
from omniq.models.result import ResultStatus, TaskResult
from omniq.models.task import QUEUED, TaskRef, TaskState, check_id, id_of
from omniq.queue.engine import AsyncTaskQueue
from omniq.results import AsyncResultStorage, answered, task_result
from omniq.serialization.manager import SerializationManager
from omniq.serialization.parents import ParentResult
from omniq.status import attendance
from omniq.storage.base import look_up
from omniq.storage.records import ResultRecord, TaskRecord
from omniq.texts import get_logger

log = get_logger("omniq.results")

KINDS = ("latest", "first", "all")
LOOK_AFTER_S, LOOK_AGAIN_AFTER_S = 10.0, 60.0
"""Seconds until the task itself is looked at while its result is waited for, and between two looks from then on: its
end, too, comes with a result."""
NEXT_SLOT = 0.5
"""Seconds after which a schedule is asked again for its next slot."""
RETRY_PAUSE = 1.0
"""Seconds until a store is asked again that was away."""
STALE_PAUSE = 0.05
"""Seconds between two looks while there is only an outdated result."""
WATCH_INTERVAL = 1.0
"""Seconds between two looks of who watches a task: nobody tells that it was started, or failed and is tried again."""
SERVED_AFTER = 0.5
"""Seconds, or half of the time there is, after which it is asked whether the queue of a task that is due is served."""
LOOKS = 20
"""So many looks for a schedule's result come to one at whether its slot is due and nobody serves its queue."""


Look: TypeAlias = tuple[TaskResult, ResultRecord | None, TaskRecord | None]
"""How things stand, the result or progress that is stored, and the task."""


class OutcomeWaiter:
    """Waits for the outcome of tasks of one queue whose results go to one storage."""

    def __init__(self, queue: AsyncTaskQueue[Any], results: AsyncResultStorage[Any]) -> None:
        self._queue = queue
        self._results = results

    async def value(self, task_id: TaskRef, timeout: Duration | None = None) -> Any:
        """What the task returned.

        Raises `TaskFailed`, `TaskCancelled`, `TaskExpired`, `TaskNotFound`, `ResultExpired`, or
        `ResultTimeout` when it hasn't ended within `timeout` seconds (None: no limit); `InvalidTask` for what
        can't be an id, and `Closed` when queue or results are closed meanwhile.
        """
        return (await self.result(task_id, timeout)).unwrap()

    async def result(self, task_id: TaskRef, timeout: Duration | None = None) -> TaskResult:
        """The outcome, once there is one; raises as `value` does when there can't be one."""
        id_, limit = id_of(task_id), seconds("timeout", timeout)
        return await answered(f"task {id_}", limit, self._result(id_, limit))

    async def peek(self, task_id: TaskRef) -> TaskResult:
        """How things stand with the task; doesn't wait.

        Raises `TaskNotFound`, `ResultExpired` where it has succeeded and its result is no longer kept, `InvalidTask`
        for what can't be an id, and `SerializationError` for what is damaged or not signed by us.
        """
        return (await self._look(id_of(task_id)))[0]

    def watch(self, task_id: TaskRef, timeout: Duration | None = None) -> AsyncGenerator[TaskResult, None]:
        """How things stand with the task, at once and whenever that has changed; the last one tells how it has ended.

        Raises as `peek` does, `ResultTimeout` when it hasn't ended within `timeout` seconds (None: no limit), and
        `Closed` when queue or results are closed meanwhile.
        """
        return self._watch(id_of(task_id), seconds("timeout", timeout))

    async def _watch(self, task_id: str, limit: float | None) -> AsyncGenerator[TaskResult, None]:
        deadline = math.inf if limit is None else time.monotonic() + limit
        look = await answered(f"task {task_id}", limit, self._look(task_id))
        while True:
            yield look[0]
            if look[0].is_final:
                return
            look = await self._next_look(look, deadline)

    async def _next_look(self, look: Look, deadline: float) -> Look:
        """The next look that shows something else."""
        last, seen, record = look
        with Wait(self._queue.waits, self._results.waits):
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ResultTimeout(f"task {last.task_id} is still {last.status}{self._hint(record)}")
                try:
                    await self._results.until_other(last.task_id, seen, min(left, WATCH_INTERVAL))
                    now, seen, record = await self._look(last.task_id)
                except StoreUnavailable as error:
                    log.log(level_of(error), "task %s can't be looked at, trying again: %s", last.task_id, error)
                    await asyncio.sleep(min(left, RETRY_PAUSE))
                    continue
                if now != last:
                    return now, seen, record
                await self._mind(record)

    async def _look(self, task_id: str) -> Look:
        """How things stand, and what the result store holds of the task."""
        for again in (True, False):
            record = await self._queue.look(task_id)
            if again and record is not None and _is_overdue(record):
                await self._queue.ttl.expire_records([record])
                continue
            found = await self._results.newest(task_id)
            result = None if found is None else task_result(found, self._results.serialization)
            if record is None:
                if result is None or not result.is_final:
                    raise self._unknown(task_id)
                return result, found, record
            if result is not None and (_ends(result, record) or self._is_news(result, record)):
                return result, found, record
            if again and result is not None and result.epoch > record.epoch:  # it runs again since it was looked at
                continue
            return _standing(record, result), found, record
        raise AssertionError("the second look is the last")

    def _unknown(self, task_id: str) -> TaskNotFound:
        return TaskNotFound(f"no task {task_id} in {self._queue.store.location}")

    async def _result(self, task_id: str, limit: float | None) -> TaskResult:
        began = time.monotonic()
        record = await self._queue.look(task_id)
        if record is None or record.state.is_terminal:
            result = await self._results.get(task_id)
            if result is not None and (record is None or _ends(result, record)):
                return result
        with Wait(self._queue.waits, self._results.waits):
            record = await self._check(task_id, record)
            with self._minding(record, limit):
                return await self._wait_for(record, began, limit)

    async def _wait_for(self, record: TaskRecord, began: float, limit: float | None) -> TaskResult:
        task_id = record.id
        while True:
            waited = time.monotonic() - began
            left = None if limit is None else limit - waited
            if left is not None and left <= 0 and not record.state.is_terminal:
                raise ResultTimeout(f"task {task_id} is still {record.state} after {limit:g} s{self._hint(record)}")
            pause = self._pause(record, waited, left)
            try:
                if (result := await self._wait(record, pause)) is not None:
                    return result
                record = await self._check(task_id, await self._queue.look(task_id))
                await self._mind(record)
            except StoreUnavailable as error:
                log.log(level_of(error), "task %s can't be looked at, trying again: %s", task_id, error)
                await asyncio.sleep(min(pause, RETRY_PAUSE))

    @contextmanager
    def _minding(self, record: TaskRecord, limit: float | None) -> Iterator[None]:
        """Say soon if nobody serves the queue of a task that is due, unless it ends before that."""
        asking: list[Background[None]] = []
        after = SERVED_AFTER if limit is None else min(SERVED_AFTER, limit / 2)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(after, lambda: asking.append(spawn(self._mind(record))), context=Context())
        try:
            yield
        finally:
            timer.cancel()
            for task in asking:
                task.end()

    async def _mind(self, record: TaskRecord | None) -> None:
        if record is not None and _is_due(record):
            await attendance.look(self._queue.store, record.queue_name)

    def _hint(self, record: TaskRecord | None) -> str:
        return attendance.hint(self._queue.store, record.queue_name) if record is not None and _is_due(record) else ""

    async def _wait(self, record: TaskRecord, pause: float) -> TaskResult | None:
        """The result, if it comes within so many seconds and is that of the task's end."""
        result = await self._results.within(record.id, pause)
        if result is None or self._is_news(result, record) or await self._is_final(result):
            return result
        await asyncio.sleep(STALE_PAUSE)
        return None

    def _is_news(self, result: TaskResult, record: TaskRecord) -> bool:
        """Whether the result alone tells that the task has ended since it was looked at.

        Where a result comes in one step with the end of its claim, that of the claim which was running then, or
        of a later one, can only be new.
        """
        running = record.state is TaskState.RUNNING and result.epoch == record.epoch
        return self._queue.stores.atomic and result.is_final and (running or result.epoch > record.epoch)

    async def _is_final(self, result: TaskResult) -> bool:
        """Whether the task has ended by the claim that the result is of.

        It hasn't while the task runs again after a requeue, or where the result was written to another store
        by a claim whose end was then refused.
        """
        record = await self._queue.look(result.task_id)
        return record is None or _ends(result, record)

    async def _check(self, task_id: str, record: TaskRecord | None) -> TaskRecord:
        """The task, as long as its outcome is to come; raises what is known of it otherwise."""
        if record is None:
            raise self._unknown(task_id)
        if _is_overdue(record):
            await self._queue.ttl.expire_unless_told(record)
        elif record.state.is_terminal:
            await self._ended(record)
        return record

    async def _ended(self, record: TaskRecord) -> None:
        """Raise what the state alone tells, unless the result has just come."""
        result = await self._results.get(record.id)
        if result is not None and (result.epoch > record.epoch or _ends(result, record)):
            return
        if result is not None and self._must_agree(result, record):
            if await self._is_unchanged(record):
                raise SignatureError(
                    f"task {record.id}: its state is {record.state}, but its signed result says {result.status}: one "
                    "of them was changed"
                )
            return
        raise _without_result(record.id, record)

    def _must_agree(self, result: TaskResult, record: TaskRecord) -> bool:
        """Whether a task can't be in another state than its signed result says, unless somebody changed it.

        Where the result isn't stored in the step that ends the task, a claim that lost its lease may have left one
        of another status, but never for a task that has succeeded.
        """
        one_step = self._queue.stores.atomic or record.state is TaskState.SUCCESS
        return one_step and self._queue.serialization.signs and result.epoch == record.epoch

    async def _is_unchanged(self, record: TaskRecord) -> bool:
        (now,) = await self._queue.store.get([record.id])
        return now is not None and (now.state, now.epoch) == (record.state, record.epoch)

    @staticmethod
    def _pause(record: TaskRecord, waited: float, left: float | None) -> float:
        """Seconds until the task itself is looked at."""
        pauses = [LOOK_AFTER_S if waited < LOOK_AFTER_S else LOOK_AGAIN_AFTER_S]
        if left is not None:
            pauses.append(max(0.0, left))
        if record.state in QUEUED and record.expires_at is not None:
            left = record.expires_at - clock.now()
            pauses.append(left + 0.01 if left > 0 else RETRY_PAUSE)  # a worker is about to end it
        return min(pauses)

    async def scheduled(self, schedule_id: str, kind: str, timeout: Duration | None) -> Any:
        """What a schedule's tasks returned: `latest` or `first` (waits for one), or `all` so far, as a list.

        Raises `ScheduleNotFound`, `ResultExpired` where it has ended and none is kept, or what `value` raises for the
        task in question.
        """
        id_, limit = check_id(schedule_id, "schedule_id"), seconds("timeout", timeout)
        return await answered(f"schedule {id_}", limit, self._scheduled(id_, kind, limit))

    async def _scheduled(self, schedule_id: str, kind: str, limit: float | None) -> Any:
        with Wait(self._queue.waits, self._results.waits):
            if kind == "all":
                return [result.unwrap() for result in await self._found(schedule_id, newest=False, limit=10_000)]
            return (await self._next(schedule_id, kind, limit)).unwrap()

    async def _next(self, schedule_id: str, kind: str, limit: float | None) -> TaskResult:
        """The latest or first result, once there is one."""
        try:
            async with asyncio.timeout(limit):
                return await self._scheduled_result(schedule_id, newest=kind == "latest")
        except TimeoutError:
            raise ResultTimeout(f"schedule {schedule_id} has no result after {limit:g} s") from None

    async def _scheduled_result(self, schedule_id: str, *, newest: bool) -> TaskResult:
        slot_task: str | None = ""
        for look in count():
            found = await self._found(schedule_id, newest=newest, limit=1 if self._queue.stores.atomic else 100)
            if found:
                return found[0]
            if slot_task is None:  # nothing was to come when the results were looked at just now
                raise ResultExpired(f"schedule {schedule_id} has ended, and no result of it is kept")
            slot_task = await self._queue.scheduler.next_task_id(schedule_id)
            if slot_task is not None:
                await self._results.within(slot_task, NEXT_SLOT)
            if look % LOOKS == 0:
                for schedule in await self._queue.store.schedules([schedule_id], within=0.0):
                    await attendance.look(self._queue.store, schedule.queue_name)
        raise AssertionError("it never ends by itself")

    async def _found(self, schedule_id: str, *, newest: bool, limit: int) -> list[TaskResult]:
        """The results among these by which tasks of the schedule have ended."""
        found = await self._results.find_records(schedule_id, newest_first=newest, limit=limit)
        if found and not self._queue.stores.atomic:
            tasks = await self._queue.store.get([result.task_id for result in found], bodies=False)
            pairs = zip(found, tasks, strict=True)
            found = [result for result, task in pairs if task is None or _ends(result, task)]
        return [task_result(result, self._results.serialization) for result in found]


# ── results as arguments ────────────────────────────────────────────────────


async def parent_results(
    queue: AsyncTaskQueue[Any], ids: Sequence[str]
) -> dict[str, ParentResult | SerializationError]:
    """How tasks have ended whose results are arguments of others; an error for a result that can't be trusted.

    Raises `StoreError`.
    """
    stores = queue.stores
    store = stores.results
    found = [None] * len(ids) if store is None else await look_up(store, store.get, ids)
    results = dict(zip(ids, found, strict=True))
    # Where a result comes in one step with the end of its task, that alone tells how it ended.
    asked = [id_ for id_, result in results.items() if result is None or not result.is_final or not stores.atomic]
    records = await look_up(stores.queue, partial(stores.queue.get, bodies=False), asked)
    tasks = dict(zip(asked, records, strict=True))
    return {id_: _parent_result(id_, results[id_], tasks.get(id_), queue.serialization) for id_ in ids}


def _parent_result(
    task_id: str, result: ResultRecord | None, record: TaskRecord | None, serialization: SerializationManager
) -> ParentResult | SerializationError:
    if result is None or not result.is_final or not (record is None or _ends(result, record)):
        return ParentResult.of_error(_without_result(task_id, record))
    try:
        ended = task_result(result, serialization)
    except SerializationError as error:
        return error
    if ended.status is ResultStatus.SUCCESS:
        return ParentResult(*ended.stored.packed)
    return ParentResult.of_error(ended.failure())


def _without_result(task_id: str, record: TaskRecord | None) -> ResultError:
    """What is known of a task that has ended and whose result isn't kept."""
    state = TaskState.SUCCESS if record is None else record.state
    if state is TaskState.CANCELLED:
        return TaskCancelled(f"task {task_id} was cancelled")
    if state is TaskState.EXPIRED:
        return TaskExpired(f"task {task_id} wasn't started before its TTL ended")
    if state is TaskState.SUCCESS:
        return ResultExpired(f"task {task_id} has succeeded, and its result is no longer kept")
    damage = None if record is None else record.damage
    return TaskFailed(task_id, "unknown", damage or "its result is no longer kept")


def results_of(queue: AsyncTaskQueue[Any]) -> AsyncResultStorage[Any]:
    """Where the results of a queue's tasks are, to be read as they are written. Raises `WorkerError` if nowhere."""
    store = queue.stores.results
    if store is None:
        raise WorkerError(f"{queue.store.location} keeps no results: give a result_store")
    config = ResultStorageConfig(project_name=queue.config.project_name)
    return AsyncResultStorage(lambda _: store, config, serialization=queue.serialization)


def _is_overdue(record: TaskRecord) -> bool:
    """Whether it can't be started any more, and nobody has ended it yet."""
    return record.state in QUEUED and record.expires_at is not None and record.expires_at <= clock.now()


def _is_due(record: TaskRecord) -> bool:
    """Whether a worker could start it."""
    return record.state in QUEUED and record.state is not TaskState.WAITING and record.run_at <= clock.now()


def _standing(record: TaskRecord, result: TaskResult | None) -> TaskResult:
    """How things stand with a task that has no result, or none of its end. Raises `ResultExpired`."""
    if record.state is TaskState.SUCCESS:
        raise ResultExpired(f"task {record.id} has succeeded, and its result is no longer kept")
    status = ResultStatus.PENDING if record.state in QUEUED else ResultStatus(record.state.value)
    told = result if result is not None and status is ResultStatus.RUNNING and _is_of(result, record) else None
    return TaskResult(
        task_id=record.id,
        status=status,
        epoch=record.epoch,
        attempts=record.attempts + (status is ResultStatus.RUNNING),
        started_at=None if told is None else told.started_at,
        finished_at=as_datetime(record.finished_at),
        worker=record.worker if status is ResultStatus.RUNNING else None,
        schedule_id=record.schedule_id,
        progress=None if told is None else told.progress,
    )


def _is_of(result: TaskResult, record: TaskRecord) -> bool:
    """Whether it is the progress of the claim that runs."""
    return not result.is_final and result.epoch == record.epoch


def _ends(result: TaskResult | ResultRecord, record: TaskRecord) -> bool:
    """Whether the task has ended, and by this result.

    A claim that lost its lease may have left one behind. It is told by its epoch, and where the task was ended
    since without another claim, as by a cancel, by its status.
    """
    ended = (record.state.is_terminal, record.epoch, record.state.value)
    return ended == (True, result.epoch, result.status.value)


def check_kind(kind: object) -> None:
    """Raise `InvalidTask` unless that says which results of a schedule are meant."""
    if kind not in KINDS:
        raise InvalidTask(f"kind: expected 'latest', 'first' or 'all', got {kind!r:.80}")
