"""Rows in memory: orders that don't grow, and steps that can be undone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import Change, TaskFilter
from omniq.storage.table_set import Tables
from omniq.storage.tables import Order
from omniq.testing.builders import new_schedule, new_task, success
from omniq.testing.reference import ReferenceSpace

QUEUES = ("a", "b")


class Row(Struct):
    number: float | None


def test_an_order_keeps_few_stale_keys() -> None:
    rows: dict[str, Row] = {}
    order = Order(rows, lambda row: row.number)
    for number in random.Random(1).sample(range(10_000), 1000):
        rows["only"] = Row(number)
        order.enter(number, "only")
        assert len(order) <= 66
    assert order.take() is rows["only"]


def test_an_order_gives_rows_by_their_numbers_whatever_order_they_came_in() -> None:
    rows = {str(number): Row(float(number)) for number in range(500)}
    order = Order(rows, lambda row: row.number)
    ids = list(rows)
    random.Random(2).shuffle(ids)
    for id_ in ids:
        order.enter(float(id_), id_)
    rows["17"] = Row(None)
    assert [row.number for row in iter(order.take, None)] == [float(n) for n in range(500) if n != 17]


def picture(tables: Tables) -> Any:
    """All that can be seen of the tables."""
    now = 1e9 + 1e6
    tasks = tables.tasks
    pages = [
        tasks.find(where, now, newest_first=False, limit=1000, cursor=None)
        for where in (
            TaskFilter(),
            TaskFilter(expired=True),
            TaskFilter(name="f"),
            *(TaskFilter(states=(state,)) for state in TaskState),
            *(TaskFilter(queue_name=queue) for queue in QUEUES),
        )
    ]
    return (
        pages,
        tasks.stats(now),
        tasks.next_due(QUEUES, now),
        tasks.lapsed(now, 1000, None),
        {id_: sorted(tasks.children(id_)) for id_ in sorted(tasks.rows)},
        dict(tasks._holders),
        tables.schedules.find(None),
        sorted(tables.results.rows.items()),
        [row.id for order in tasks._ended.values() for row in sorted(order, key=lambda row: row.id)],
    )


def do_something(tables: Tables, chance: random.Random, now: float, number: int) -> None:
    """A step of any kind."""
    tasks = tables.tasks
    ids = list(tasks.rows)
    kind = chance.randrange(8)
    if kind <= 1:
        parents = tuple(chance.sample(ids, 1)) if ids and chance.random() < 0.3 else ()
        unique = chance.choice([None, "x", "y"])
        task = new_task(
            f"t{number}", queue=chance.choice(QUEUES), name="f", parents=parents, priority=chance.randrange(3)
        )
        tasks.add([replace(task, unique=unique, delay=chance.choice([0.0, 50.0]), ttl=chance.choice([None, 9.0]))], now)
    elif kind == 2:
        tasks.claim(QUEUES, now, limit=3, lease=5.0, worker="w", max_bytes=1000)
    elif kind == 3:
        for row in list(tasks.rows.values())[:3]:
            if row.state is TaskState.RUNNING:
                tables.change(success(row), now)
    elif kind == 4:
        tasks.reap(tasks.lapsed(now, 2, None), now, {})
    elif kind == 5:
        tasks.purge(now - 20.0, TERMINAL, 2)
        tasks.delete(chance.choice(ids or ["none"]), TERMINAL)
    elif kind == 6:
        tasks.pause(chance.choice(QUEUES), paused=chance.random() < 0.5)
        tables.schedules.put(new_schedule(f"s{number}", next_run=now), None)
    elif ids:
        states = tuple(TaskState) if chance.random() < 0.5 else tuple(TERMINAL)
        again = Change(task_id=chance.choice(ids), to=TaskState.PENDING, from_states=states, fresh=True)
        tables.change(again, now)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_undone_leaves_nothing_behind_and_what_is_written_again_is_the_same(seed: int) -> None:
    chance = random.Random(seed)
    tables, twin = Tables(), Tables()
    now = 1e9
    for number in range(400):
        now += chance.random() * 3
        before = picture(tables)
        do_something(tables, chance, now, number)
        if chance.random() < 0.4:
            tables.undo()
            assert picture(tables) == before
            continue
        for name, rows in tables.settle().before.items():
            for id_ in rows:
                twin.by_name[name].write(id_, tables.by_name[name].rows.get(id_))
        assert picture(twin) == picture(tables)


def test_a_step_that_fails_changes_nothing() -> None:
    space = ReferenceSpace()

    def fail(tables: Tables, now: float) -> None:
        tables.tasks.add([new_task("t")], now)
        raise LookupError

    with pytest.raises(LookupError):
        space.do(fail)
    assert not space.tasks.rows
