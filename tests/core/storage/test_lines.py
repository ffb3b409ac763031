"""The order in which tasks are claimed that are due at the same time."""

from __future__ import annotations

from omniq.storage.records import NewTask
from omniq.storage.tables import TaskTable

IDS = [f"t{n}" for n in range(6)]


def claimed(table: TaskTable, limit: int, max_bytes: int = 1000) -> list[str]:
    rows = table.claim(["q"], 101.0, limit=limit, lease=60.0, worker="w", max_bytes=max_bytes)
    return [row.id for row in rows]


def full() -> TaskTable:
    table = TaskTable()
    table.add([NewTask(id=id_, queue_name="q", body=b"x") for id_ in IDS], 100.0)
    table.settle()
    return table


def test_what_is_undone_is_first_again() -> None:
    table = full()
    for limit in (2, 6, 1):
        claimed(table, limit)
        table.undo()
    assert claimed(table, 6) == IDS


def test_what_does_not_fit_is_first_the_next_time() -> None:
    table = full()
    assert claimed(table, 6, max_bytes=2) == IDS[:2]
    assert claimed(table, 6) == IDS[2:]
