"""Replacing the bodies of tasks and results, as when they are signed with another key."""

from __future__ import annotations

from collections.abc import Sequence

from omniq.storage.records import NewBody

from omniq_postgres.connection import Session

_GIVEN = "unnest($1::text[], $2::bytea[], $3::bytea[]) as given (id, old, body)"
_OF_TASKS = f"""
    update omniq.task set body = given.body from {_GIVEN}
    where task.id = given.id and task.body = given.old
    returning task.id
"""
_OF_RESULTS = f"""
    update omniq.result set body = given.body from {_GIVEN}
    where result.task_id = given.id and result.body = given.old
    returning result.task_id
"""


async def replace_task_bodies(session: Session, bodies: Sequence[NewBody]) -> list[bool]:
    """Whether each was replaced."""
    return await _replace(session, _OF_TASKS, bodies)


async def replace_result_bodies(session: Session, bodies: Sequence[NewBody]) -> list[bool]:
    """Whether each was replaced."""
    return await _replace(session, _OF_RESULTS, bodies)


async def _replace(session: Session, sql: str, bodies: Sequence[NewBody]) -> list[bool]:
    ordered = sorted(bodies, key=_task_id)  # those who lock rows in one order don't lock each other out
    rows = await session.fetch(
        sql, [new.task_id for new in ordered], [new.old for new in ordered], [new.body for new in ordered]
    )
    replaced = {row[0] for row in rows}
    return [new.task_id in replaced for new in bodies]


def _task_id(new: NewBody) -> str:
    return new.task_id
