"""A queue's stores, told once; what time it is there; and how tasks end in them, in the order that loses nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from msgspec.structs import replace

from omniq import clock
from omniq.batching import repeated
from omniq.errors import (
    CorruptPayload,
    StoreUnavailable,
)
from omniq.events import AsyncEventLogger
from omniq.models.task import EventType, Outcome, TaskState
from omniq.queue.request import RESULT_TTL
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability, carry_out, change_bytes, result_bytes
from omniq.storage.records import Change, Changed, ChangeStatus, ResultRecord, TaskRecord

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


ENDINGS = {
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
    TaskState.ERROR: EventType.ERROR,
}

DUE = (TaskState.PENDING, TaskState.SCHEDULED)


class Ended(NamedTuple):
    """A task that was ended, as it was last seen."""

    record: TaskRecord
    has_children: bool


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
    ) -> None:
        self.queue: Final = queue
        self.results: Final = results
        """Where results go; None if they are kept nowhere."""
        self.events: Final = events
        self.serialization: Final = serialization
        self.clock: Final = StoreClock(queue)
        self.atomic: Final = (
            results is not None
            and Capability.ATOMIC_RESULTS in queue.capabilities
            and results.location == queue.location
        )
        """Whether a result is stored in the very step that ends its task."""
        self.max_bytes: Final = min(store.max_bytes for store in (queue, results) if store is not None)
        """Bytes of bodies that one call to settle brings at most."""

    def log(self, type: EventType, record: TaskRecord) -> None:
        """Take an event of a task, if events are kept."""
        if self.events is not None:
            self.events.log(type, task_id=record.id, queue_name=record.queue_name)

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
        self, records: Sequence[TaskRecord], to: TaskState, outcome: Outcome, *, if_expired: bool = False
    ) -> list[Ended]:
        """End tasks that no worker holds, as they were last seen; returns those that this call ended.

        Made again where the answer was lost: what is found done then was done by the first call. Their children are
        left to whoever calls.
        """
        if not records:
            return []
        changes = [ending(record, to, outcome, self.serialization, if_expired=if_expired) for record in records]

        async def settle(again: bool) -> list[Changed]:
            changed = await self.settle(changes)
            return [_as_applied(each) for each in changed] if again else changed

        changed = await repeated(settle)
        ended = [
            Ended(record, change.has_children)
            for record, change in zip(records, changed, strict=True)
            if change.status is ChangeStatus.APPLIED
        ]
        for record, _ in ended:
            self.log(ENDINGS[to], record)
        return ended

    async def end_damaged(self, records: Sequence[TaskRecord]) -> list[Ended]:
        """As `end`: dead-letter tasks whose rows are damaged."""
        return [ended for record in records for ended in await self.end([record], TaskState.ERROR, damaged(record))]

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
            ttl=RESULT_TTL,
            schedule_id=record.schedule_id,
        ),
    )


def damaged(record: TaskRecord) -> Outcome:
    """How a task ends whose stored row is damaged."""
    kind = f"{CorruptPayload.__module__}.{CorruptPayload.__qualname__}"
    return Outcome(error_type=kind, error_message=f"the stored task is damaged: {record.damage}")
