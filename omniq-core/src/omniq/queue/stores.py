"""Where a queue's tasks, results and events are, told once; the store's clock; how tasks are ended without a loss."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple, Unpack

from msgspec.structs import replace

from omniq import clock
from omniq.batching import repeated
from omniq.callbacks import CallbackManager, check_callbacks
from omniq.errors import CorruptPayload, StoreUnavailable
from omniq.events.logger import AnyTask, AsyncEventLogger, EventFields
from omniq.models.config import DEAD_LETTER_RETENTION
from omniq.models.event import EventType
from omniq.models.result import Outcome, TaskResult
from omniq.models.task import Call, TaskState
from omniq.queue.request import UNREADABLE, read_call
from omniq.results import task_result
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, carry_out
from omniq.storage.breakers import breakers_of
from omniq.storage.records import (
    BreakerStatus,
    Change,
    Changed,
    ChangeStatus,
    ResultRecord,
    TaskRecord,
    change_bytes,
    result_bytes,
)

# ── the store's clock ───────────────────────────────────────────────────────


ASK_AGAIN = 30.0
"""Seconds after which a store's clock is asked again."""


class StoreClock:
    """The clock of a queue's store, which alone says what is due: those of hosts differ.

    It is asked seldom, since what passes in between can be measured here.
    """

    def __init__(self, store: BaseTaskQueue) -> None:
        self._store = store
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of `time.monotonic()`, without `omniq.clock.offset()`."""
        self._asked_at = -math.inf

    async def now(self) -> float:
        """Seconds since the epoch on the store's clock. Raises `StoreError`."""
        if time.monotonic() - self._asked_at > ASK_AGAIN:
            await self._ask()
        return time.monotonic() + self._ahead + clock.offset()

    async def _ask(self) -> None:
        began = time.monotonic()
        now = await self._store.now() - clock.offset()
        self._asked_at = time.monotonic()
        self._ahead = now - (began + self._asked_at) / 2


# ── the stores ──────────────────────────────────────────────────────────────


FEW = 25
"""Tasks whose calls are read at once, since those may be large."""

ENDINGS = {
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
}

DUE = (TaskState.PENDING, TaskState.SCHEDULED)


class Ended(NamedTuple):
    """A task that was ended without being run, as it was last seen."""

    record: TaskRecord
    call: Call
    change: Change
    has_children: bool


def kept_for(call: Call, to: TaskState, dead_letters: float | None) -> float | None:
    """Seconds for which the result of a task that ends so is kept, None for ever: a dead letter's as long as it is."""
    if to is not TaskState.ERROR or call.result_ttl is None:
        return call.result_ttl
    return None if dead_letters is None else max(call.result_ttl, dead_letters)


class Stores:
    """Where a queue's tasks, their results and events are, and what packs their payloads. Built once, never changed.

    Where queue and results share one location and the store can, a change and its result are written in one atomic
    step; elsewhere the results go first, so that a task is never seen as ended without one. A result that was
    written for a change which is then refused has an older epoch than the accepted one and gives way to it.
    """

    def __init__(
        self,
        queue: BaseTaskQueue,
        results: BaseResultStorage | None,
        events: AsyncEventLogger | None,
        serialization: SerializationManager,
        callbacks: CallbackManager | None = None,
    ) -> None:
        self.queue: Final = queue
        self.results: Final = results
        """Where results go; None if they are kept nowhere."""
        self.events: Final = events
        self.serialization: Final = serialization
        self.callbacks: Final = check_callbacks(callbacks)
        self.clock: Final = StoreClock(queue)
        self.atomic: Final = (
            results is not None
            and Capability.ATOMIC_RESULTS in queue.capabilities
            and results.location == queue.location
        )
        """Whether a result is stored in the very step that ends its task."""
        self.apart: Final = results is not None and results.location != queue.location
        """Whether results can be away while tasks aren't."""
        self.max_bytes: Final = min(store.max_bytes for store in (queue, results) if store is not None)
        """Bytes of bodies that one call to settle brings at most."""

    @property
    def breakers(self) -> tuple[BreakerStatus, ...]:
        """The circuit breakers of all of them, as they are in this process."""
        return breakers_of(self.queue, self.results, None if self.events is None else self.events.store)

    def keeps(self, type: EventType) -> bool:
        """Whether events of this type are kept."""
        return self.events is not None and self.events.keeps(type)

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event, if events are kept."""
        if self.events is not None:
            self.events.log(type, **fields)

    def log_task(self, type: EventType, task: AnyTask, **fields: Unpack[EventFields]) -> None:
        """As `log`, of a task."""
        if self.events is not None:
            self.events.log_task(type, task, **fields)

    def log_failed(self, task: AnyTask, **fields: Unpack[EventFields]) -> None:
        """Take the events of a task that has failed for good."""
        self.log_task(EventType.ERROR, task, **fields)
        self.log_task(EventType.DEAD_LETTERED, task, **fields)

    async def settle(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply the changes and store their results, in calls that no store finds too large.

        Raises `StoreError` when a store failed: try again then; and `PayloadTooLarge` for a result that it won't take.
        """
        size, most = change_bytes, self.max_bytes
        return await carry_out(self.queue, self._settle, changes, id_of=_id_of, size=size, max_bytes=most)

    async def _settle(self, changes: Sequence[Change]) -> list[Changed]:
        if not self.atomic:
            changes = await self._results_first(changes)
        return await self.queue.transition(changes)

    async def answers(self) -> bool:
        """Whether the stores can be reached just now."""
        try:
            await self.queue.get(["any"], bodies=False)
            if not self.atomic and self.results is not None:
                await self.results.get(["any"])
        except StoreUnavailable:
            return False
        return True

    async def end(
        self,
        records: Sequence[TaskRecord],
        to: TaskState,
        outcome: Outcome,
        *,
        if_expired: bool = False,
        dead_letters: float | None = DEAD_LETTER_RETENTION,
    ) -> list[Ended]:
        """End tasks that no worker holds, as they were last seen; returns those that this call ended.

        Made again where the answer was lost: what is found done then was done by the first call. Their children are
        left to whoever calls. `dead_letters` is for how many seconds those are kept.
        """
        if not records:
            return []
        calls = await self.calls(records)
        changes = [
            ending(record, to, outcome, self.serialization, if_expired=if_expired, ttl=kept_for(call, to, dead_letters))
            for record, call in zip(records, calls, strict=True)
        ]

        async def settle(again: bool) -> list[Changed]:
            changed = await self.settle(changes)
            return [_as_applied(each) for each in changed] if again else changed

        answers = zip(records, calls, changes, await repeated(settle), strict=True)
        ended = [
            Ended(record, call, change, done.has_children)
            for record, call, change, done in answers
            if done.status is ChangeStatus.APPLIED
        ]
        self._log_ended([each.record for each in ended], to, outcome)
        if self.callbacks.ended:
            for each in ended:
                self.callbacks.tell_ended(each.record, self.result_of(each.change))
        return ended

    def result_of(self, change: Change) -> TaskResult:
        """The result that a task has ended with just now, as users see it."""
        assert change.result is not None
        return task_result(replace(change.result, finished_at=clock.now()), self.serialization)

    def _log_ended(self, records: Sequence[TaskRecord], to: TaskState, outcome: Outcome) -> None:
        for record in records:
            if to is TaskState.ERROR:
                self.log_failed(record, data={"error_type": outcome.error_type})
            else:
                self.log_task(ENDINGS[to], record)

    async def calls(self, records: Sequence[TaskRecord]) -> list[Call]:
        """The calls of tasks, which say what is to become of their results and whom to tell; read few at a time."""
        calls: list[Call] = []
        for start in range(0, len(records), FEW):
            ids = [record.id for record in records[start : start + FEW]]
            found = await repeated(partial(self._get, ids))
            calls += [UNREADABLE if record is None else read_call(record, self.serialization) for record in found]
        return calls

    async def end_damaged(
        self, records: Sequence[TaskRecord], *, dead_letters: float | None = DEAD_LETTER_RETENTION
    ) -> list[Ended]:
        """As `end`: dead-letter tasks whose rows are damaged."""
        ended: list[Ended] = []
        for record in records:
            ended += await self.end([record], TaskState.ERROR, damaged(record), dead_letters=dead_letters)
        return ended

    async def _get(self, ids: Sequence[str], _: bool) -> list[TaskRecord | None]:
        return await self.queue.get(ids)

    async def _results_first(self, changes: Sequence[Change]) -> list[Change]:
        records = [change.result for change in changes if change.result is not None]
        if records and self.results is not None:
            await carry_out(self.results, self.results.put, records, id_of=_id_of, size=result_bytes)
        return [change if change.result is None else replace(change, result=None) for change in changes]


_id_of = attrgetter("task_id")


def _as_applied(changed: Changed) -> Changed:
    return replace(changed, status=ChangeStatus.APPLIED) if changed.status is ChangeStatus.REPEATED else changed


def ending(
    record: TaskRecord,
    to: TaskState,
    outcome: Outcome,
    serialization: SerializationManager,
    *,
    if_expired: bool = False,
    ttl: float | None,
) -> Change:
    """The change that ends a task as it was last seen, with its result."""
    return Change(
        task_id=record.id,
        to=to,
        from_states=DUE if record.state in DUE else (record.state,),
        epoch=record.epoch,
        if_expired=if_expired,
        result=ResultRecord(
            task_id=record.id,
            epoch=record.epoch,
            status=to,
            body=serialization.pack_outcome(
                outcome, task_id=record.id, epoch=record.epoch, status=to, schedule_id=record.schedule_id
            ),
            ttl=ttl,
            schedule_id=record.schedule_id,
        ),
    )


def damaged(record: TaskRecord) -> Outcome:
    """How a task ends whose stored row is damaged."""
    kind = f"{CorruptPayload.__module__}.{CorruptPayload.__qualname__}"
    return Outcome(error_type=kind, error_message=f"the stored task is damaged: {record.damage}")
