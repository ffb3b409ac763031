"""What is to become of new tasks, and when those are due that were added."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeAlias

from omniq import clock
from omniq.storage.records import NEW, Added, NewTask
from omniq.storage.rules import judge
from omniq.storage.sql.steps import Overtaken, Steps, ask, atomically, texts

_KNOWN = """
    with parents as (select id from omniq.task where id {any[parents]} order by id {key_share})
    select id from parents union all select id from omniq.task where id {any[ids]}
"""
_HOLDERS = "select unique_key, id from omniq.task where unique_key {any[keys]}"


Insert: TypeAlias = Callable[[Sequence[NewTask]], Steps[Collection[str]]]


def add_tasks(tasks: Sequence[NewTask], insert: Insert) -> Steps[list[Added]]:
    """What became of each task.

    `insert` adds tasks whose ids and keys aren't there yet, and returns their ids: where all is well it decides alone.
    """
    added = () if any(task.depends_on for task in tasks) else (yield from insert(tasks))
    left = [task for task in tasks if task.id not in added]
    verdicts = iter((yield from atomically(partial(_judge_and_insert, left, insert))) if left else ())
    return [NEW if task.id in added else next(verdicts) for task in tasks]


def _judge_and_insert(tasks: Sequence[NewTask], insert: Insert) -> Steps[list[Added]]:
    verdicts = yield from judged(tasks)
    fresh = [task for task, verdict in zip(tasks, verdicts, strict=True) if verdict is NEW]
    if fresh and len((yield from insert(fresh))) < len(fresh):
        raise Overtaken
    return verdicts


def judged(tasks: Sequence[NewTask]) -> Steps[list[Added]]:
    """What is to become of each task.

    Until the transaction ends, the parents can't be purged, but they can be claimed, renewed and ended: a caller
    may have its transaction open for long.
    """
    ids = [task.id for task in tasks]
    parents = list({parent for task in tasks for parent in task.depends_on})
    keys = [task.unique for task in tasks if task.unique is not None]
    known = yield from texts(_KNOWN, parents=parents, ids=ids)
    holders: list[Any] = (yield from ask(("text", "text"), _HOLDERS, keys=keys)) if keys else []
    return judge(tasks, set(known), dict(holders))


def due_in(tasks: Sequence[NewTask], added: Sequence[Added]) -> dict[str, float]:
    """The queues that got tasks, and in about how many seconds the first of those is due."""
    due: dict[str, float] = {}
    now = clock.now()
    for task, verdict in zip(tasks, added, strict=True):
        if verdict is NEW and not task.depends_on:
            seconds = task.delay if task.run_at is None else task.run_at - now
            if seconds < due.get(task.queue_name, math.inf):
                due[task.queue_name] = seconds
    return due
