"""The state in which a run left the store, and whether it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omniq import AsyncOmniQ
from omniq.models.task import Task
from omniq.results import task_result
from omniq.storage.records import ResultRecord

from tests.reliability.run import Final

PAGE = 10_000


async def unfinished(oq: AsyncOmniQ) -> int:
    """How many tasks haven't ended."""
    stats = await oq.task_queue.stats()
    return sum(count for queue in stats for state, count in queue.counts.items() if not state.is_terminal)


async def final_states(oq: AsyncOmniQ) -> dict[str, Final]:
    """Every task in the store, with its result."""
    tasks = await oq.list_tasks(limit=PAGE)
    assert len(tasks) < PAGE, "the run has more tasks than one page holds"
    results = await _results(oq, [task.id for task in tasks])
    return {task.id: _final(oq, task, results) for task in tasks}


async def _results(oq: AsyncOmniQ, ids: Sequence[str]) -> Mapping[str, ResultRecord]:
    store = await oq.result_store.ready()
    return {record.task_id: record for record in await store.get(ids) if record is not None}


def _final(oq: AsyncOmniQ, task: Task, results: Mapping[str, ResultRecord]) -> Final:
    record = results.get(task.id)
    value = None if record is None else task_result(record, oq.task_queue.serialization).value
    return Final(
        state=task.state,
        epoch=task.epoch,
        result_epoch=None if record is None else record.epoch,
        result_value=value,
        attempts=task.attempts,
        crashes=task.crashes,
        slot=None if task.schedule_id is None else (task.schedule_id, round(task.run_at.timestamp(), 6)),
    )
