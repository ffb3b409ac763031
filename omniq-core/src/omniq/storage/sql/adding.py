"""What is to become of new tasks, and when those are due that were added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from omniq import clock
from omniq.storage.records import NEW, Added, NewTask
from omniq.storage.rules import judge
from omniq.storage.sql.steps import Steps, ask, texts

_KNOWN = """
    with parents as (select id from omniq.task where id {any[parents]} order by id {key_share})
    select id from parents union all select id from omniq.task where id {any[ids]}
"""
_HOLDERS = "select unique_key, id from omniq.task where unique_key {any[keys]}"


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
