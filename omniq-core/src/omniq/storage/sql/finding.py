"""Reading tasks, by their ids or by anything else, and counting them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from msgspec.structs import asdict

from omniq.models.state import TaskState
from omniq.storage.damage import shown, state_of
from omniq.storage.records import MAX_TIME, QueueStats, TaskFilter
from omniq.storage.rules import queue_stats
from omniq.storage.sql.steps import Steps, ask, conditions, texts

_CHILDREN = "select parent, child from omniq.edge where parent {any[ids]} order by parent, child"
_PAUSED = "select queue_name from omniq.paused_queue"
NOT_AWAITED: Final = """
    not exists (
        select 1 from omniq.edge as edge join omniq.task as child on child.id = edge.child
        where edge.parent = task.id and child.state = 'waiting')
"""
_OLD = f"""
    select id from omniq.task as task
    where finished_at is not null and finished_at <= {{now}} - :older_than and {NOT_AWAITED}
    order by finished_at limit :limit {{skip_locked}}
"""
DELETE_EDGES: Final = "delete from omniq.edge where parent {any[ids]} or child {any[ids]}"
_TERMS: Final = {
    "after": "id > {text[after]}",
    "before": "id < {text[before]}",
    "queue_name": "queue_name = :queue_name",
    "name": "name = :name",
    "schedule_id": "schedule_id = :schedule_id",
    "expired": "expires_at <= {now}",
}

Count: TypeAlias = tuple[str, TaskState, int]
"""How many tasks of a queue are in a state."""


def children(ids: Sequence[str]) -> Steps[list[list[str]]]:
    """As `BaseTaskQueue.children`; of those that can be told."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for parent, child in (yield from ask(("text", "text"), _CHILDREN, ids=ids)):
        if child.isprintable():
            found[parent].append(child)
    return [found[id_] for id_ in ids]


def select_old(older_than: float, limit: int) -> Steps[list[str]]:
    """The tasks that ended that long ago and that no WAITING child depends on, longest ago first."""
    return (yield from texts(_OLD, older_than=older_than, limit=limit))


def restrictions(where: TaskFilter, cursor: object, *, newest_first: bool) -> tuple[str, dict[str, Any]]:
    """SQL for what a page of tasks is restricted to beside their states, and its values."""
    values = asdict(where) | {"expired": where.expired or None, "before" if newest_first else "after": cursor}
    return conditions(_TERMS, values), values


class Counter:
    """How many tasks there are, from `stats` to `stats`: many aren't counted again at once.

    Counting reads the entry of each task in an index. Were that done in each transaction instead, those who write
    would wait for each other.
    """

    SLOW = 0.02
    """Seconds of counting from which on its outcome is remembered,"""
    WORTH = 20
    """so many times as long,"""
    STALE_AFTER = 3.0
    """but for no more than so many seconds."""

    def __init__(self, count: str, oldest_due: str) -> None:
        """`count` selects queue, state and number; `oldest_due`, of `:queues`, queue and time."""
        self._count_sql, self._oldest_due_sql = count, oldest_due
        self._counts: list[Count] = []
        self._queues: list[str] = []
        self._good_until = 0.0

    def stats(self) -> Steps[list[QueueStats]]:
        """As `BaseTaskQueue.stats`."""
        began = time.monotonic()
        if began >= self._good_until:
            yield from self._count()
            took = time.monotonic() - began
            self._good_until = began + (min(self.WORTH * took, self.STALE_AFTER) if took > self.SLOW else 0.0)
        due = yield from ask(("text", "time"), self._oldest_due_sql, queues=self._queues)
        oldest = {name: run_at if abs(run_at) <= MAX_TIME else 0.0 for name, run_at in due}
        paused = yield from texts(_PAUSED)
        return queue_stats(self._counts, map(shown, paused), oldest)

    def _count(self) -> Steps[None]:
        rows = yield from ask(("text", "text", "integer"), self._count_sql)
        self._queues = [name for name in dict.fromkeys(name for name, *_ in rows) if name.isprintable()]
        self._counts = [(shown(name), state_of(state), count) for name, state, count in rows]
