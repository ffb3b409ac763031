"""Ending tasks: their results and their states, in the order that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from omniq.models.result import Outcome
from omniq.models.state import TaskState
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseResultStorage, BaseTaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.records import Change, Changed, ResultRecord, TaskRecord

RESULT_TTL = 86_400.0
"""Seconds for which a result is kept that nobody said anything about."""


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

    async def settle(self, changes: Sequence[Change]) -> list[Changed]:
        """Apply the changes and store their results. Raises `StoreError` when a store failed: try again then."""
        if not self.atomic:
            changes = await self._results_first(changes)
        return await self._queue.transition(changes)

    async def _results_first(self, changes: Sequence[Change]) -> list[Change]:
        records = [change.result for change in changes if change.result is not None]
        if records and self._results is not None:
            await self._results.put(records)
        return [change if change.result is None else replace(change, result=None) for change in changes]


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
            body=serialization.pack_outcome(outcome, task_id=record.id, epoch=record.epoch),
            ttl=RESULT_TTL,
            schedule_id=record.schedule_id,
        ),
    )
