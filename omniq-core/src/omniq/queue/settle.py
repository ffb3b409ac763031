"""Ending tasks: their results and their states, in the order that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from msgspec.structs import replace

from omniq.backoff import repeated
from omniq.errors import CorruptPayload, StoreUnavailable
from omniq.models.result import Outcome
from omniq.models.state import EventType, TaskState
from omniq.serialization.manager import SerializationManager
from omniq.storage.calls import carry_out
from omniq.storage.capabilities import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import Change, Changed, ChangeStatus, ResultRecord, TaskRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.sizes import change_bytes, result_bytes

RESULT_TTL = 86_400.0
"""Seconds for which a result is kept that nobody said anything about."""

ENDINGS = {
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
    TaskState.ERROR: EventType.ERROR,
}

DUE = (TaskState.PENDING, TaskState.SCHEDULED)


class Settler:
    """Applies changes that carry results.

    Where queue and results share one location and the store can, both are written in one atomic step;
    elsewhere the results go first, so that a task is never seen as ended without one. A result that was
    written for a change which is then refused has an older epoch than the accepted one and gives way to it.
    """

    def __init__(self, queue: BaseTaskQueue, results: BaseResultStorage | None) -> None:
        self._queue = queue
        self._results = results
        self.atomic = (
            results is not None
            and Capability.ATOMIC_RESULTS in queue.capabilities
            and results.location == queue.location
        )
        """Whether a result is stored in the very step that ends its task."""
        self._max_bytes = min(store.max_bytes for store in (queue, results) if store is not None)

    async def settle(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply the changes and store their results, in calls that no store finds too large.

        Raises `StoreError` when a store failed: try again then; and `PayloadTooLarge` for a result that it won't take.
        """
        size, most = change_bytes, self._max_bytes
        return await carry_out(self._queue, self._settle, changes, id_of=_id_of, size=size, max_bytes=most)

    async def _settle(self, changes: Sequence[Change]) -> list[Changed]:
        if not self.atomic:
            changes = await self._results_first(changes)
        return await self._queue.transition(changes)

    async def answers(self) -> bool:
        """Whether the stores can be reached just now."""
        try:
            await self._queue.get(["any"], bodies=False)
            if not self.atomic and self._results is not None:
                await self._results.get(["any"])
        except StoreUnavailable:
            return False
        return True

    async def end(self, changes: Sequence[Change]) -> list[Changed]:
        """As `settle`, made again where the answer was lost: what is found done then was done by the first call."""

        async def settle(again: bool) -> list[Changed]:
            changed = await self.settle(changes)
            return [_as_applied(each) for each in changed] if again else changed

        return await repeated(settle)

    async def _results_first(self, changes: Sequence[Change]) -> list[Change]:
        records = [change.result for change in changes if change.result is not None]
        if records and self._results is not None:
            await carry_out(self._results, self._results.put, records, id_of=_id_of, size=result_bytes)
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
