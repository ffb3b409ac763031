"""Processes that lag by chance send transactions to one log, and all have the same tables in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.lines import decode_rows, encode_lines
from omniq.storage.records import AddStatus, Change, ChangeStatus
from omniq.storage.table_set import Step, Tables
from omniq.storage.transactions import Competition, Footprint, Trial, replay
from omniq.testing.builders import HOUR, QUEUE, new_task

NOW = 1_800_000_000.0


@dataclass
class Segment:
    """What is in the log."""

    lines: bytes
    sizes: list[int]
    base: int


@dataclass
class Replica:
    """What a process has of it."""

    log: list[Segment]
    tables: Tables = field(default_factory=Tables)
    competition: Competition = field(default_factory=lambda: Competition(0))
    position: int = 0

    def send(self, *steps: Step[Any]) -> tuple[int, list[Any]]:
        """Try steps and add what they have written; returns where that stands, and what they answered."""
        trial = Trial(self.tables, steps, NOW, self.position)
        lines = [line for step_lines in trial.lines for line in step_lines]
        self.log.append(Segment(encode_lines(lines), [len(each) for each in trial.lines], self.position))
        trial.undo()
        return len(self.log), trial.answers

    def follow(self, count: int | None = None) -> list[bool]:
        """Take over the next segments, all if nothing is said; returns what of the last one has taken effect."""
        took: list[bool] = []
        for segment in self.log[self.position :][:count]:
            self.position += 1
            lines = decode_rows(segment.lines)
            told = replay(self.tables, lines, segment.sizes, segment.base, self.position, self.competition)
            took = [written is not None for written in told]
        return took

    def do(self, *steps: Step[Any]) -> list[bool]:
        """Send, follow, and return what has taken effect."""
        self.send(*steps)
        return self.follow()


def rows_of(tables: Tables) -> dict[str, Any]:
    return {name: dict(sorted(table.rows.items())) for name, table in tables.by_name.items()}


def add(*ids: str, parents: Sequence[str] = (), unique: str | None = None) -> Step[Any]:
    tasks = [new_task(id_, parents=tuple(parents), unique=unique) for id_ in ids]
    return lambda tables, now: tables.tasks.add(tasks, now)


def claim(worker: str, limit: int = 1) -> Step[Any]:
    return lambda tables, now: tables.tasks.claim([QUEUE], now, limit=limit, lease=30, worker=worker, max_bytes=10**9)


def finish(id_: str, epoch: int) -> Step[Any]:
    change = Change(task_id=id_, to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=epoch)
    return lambda tables, now: tables.change(change, now)


def purge(tables: Tables, now: float) -> int:
    return tables.tasks.purge(now + HOUR, TERMINAL, 1000)


@pytest.fixture
def two() -> tuple[Replica, Replica]:
    log: list[Segment] = []
    return Replica(log), Replica(log)


def test_of_two_claims_of_one_task_the_first_takes_effect(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("a"))
    other.follow()
    one.send(claim("one"))
    other.send(claim("other"))
    one.follow(1)
    assert one.follow() == other.follow() == [False]
    assert rows_of(one.tables) == rows_of(other.tables)
    assert one.tables.tasks.rows["a"].worker == "one"


def test_claims_of_different_tasks_take_effect_wherever_they_stand(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("a", "b"))
    other.follow()
    one.do(claim("one"))
    other.send(lambda tables, now: tables.tasks.put(replace(tables.tasks.rows["b"], priority=3)))
    assert other.follow() == one.follow() == [True]


def test_of_two_tasks_that_bring_one_unique_key_the_first_gets_it(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.send(add("a", unique="key"))
    other.send(add("b", unique="key"))
    assert one.follow() == other.follow() == [False]
    assert set(one.tables.tasks.rows) == {"a"}


def test_a_unique_key_is_free_once_its_holder_has_ended(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("a", unique="key"), claim("one"), finish("a", 1))
    other.follow()
    assert other.do(add("b", unique="key")) == [True]


def test_a_child_that_comes_while_its_parent_ends_is_told_of(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("parent"), claim("one"))
    other.follow()
    other.send(add("child", parents=["parent"]))
    _, (changed,) = one.send(finish("parent", 1))
    assert not changed.has_children
    assert one.follow() == [False], "the parent doesn't end, as its writer doesn't know the child"
    _, (changed,) = one.send(finish("parent", 1))
    assert (changed.status, changed.has_children) == (ChangeStatus.APPLIED, True)


def test_a_child_that_comes_while_its_parent_is_purged_is_not_added(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("parent"), claim("one"), finish("parent", 1))
    other.follow()
    one.send(purge)
    other.send(add("child", parents=["parent"]))
    assert one.follow() == other.follow() == [False]
    _, ((added,),) = other.send(add("child", parents=["parent"]))
    assert added.status is AddStatus.UNKNOWN_PARENT


def test_a_parent_is_not_purged_while_a_child_comes(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("parent"), claim("one"), finish("parent", 1))
    other.follow()
    other.send(add("child", parents=["parent"]))
    one.send(purge)
    assert one.follow() == other.follow() == [False]
    assert set(one.tables.tasks.rows) == {"parent", "child"}


def test_what_rests_on_a_refused_transaction_of_its_segment_is_refused(two: tuple[Replica, Replica]) -> None:
    one, other = two
    one.do(add("a"))
    other.follow()
    one.send(claim("one"))
    other.send(claim("other"), finish("a", 1), add("b"))
    assert one.follow() == other.follow() == [False, False, True]
    assert one.tables.tasks.rows["a"].state is TaskState.RUNNING


def test_a_copy_of_a_segment_takes_no_effect(two: tuple[Replica, Replica]) -> None:
    one, _ = two
    one.send(add("a"))
    one.log.append(one.log[-1])
    assert one.follow() == [False]


def test_what_rests_on_a_position_before_the_snapshot_is_refused() -> None:
    anything = Footprint([("task", "a")], [])
    assert not Competition(since=5).admits(4, 6, anything)
    assert Competition(since=5).admits(5, 6, anything)


@pytest.mark.parametrize("seed", range(20))
def test_replicas_that_lag_by_chance_come_to_the_same_tables(seed: int) -> None:
    random = Random(seed)
    log: list[Segment] = []
    replicas = [Replica(log) for _ in range(4)]
    for number in range(150):
        replica = random.choice(replicas)
        replica.follow(random.choice([0, 1, 2, None]))
        running = [row for row in replica.tables.tasks.rows.values() if row.state is TaskState.RUNNING]
        ended = [id_ for id_, row in replica.tables.tasks.rows.items() if row.state in TERMINAL]
        ways = [add(f"t{number}"), add(f"u{number}", unique=random.choice("xy")), claim(f"w{number}", limit=2), purge]
        ways += [finish(row.id, row.epoch) for row in running]
        ways += [add(f"c{number}", parents=[id_]) for id_ in ended]
        steps = random.sample(ways, min(len(ways), random.choice([1, 2, 3])))
        replica.send(*steps)
    for replica in replicas:
        replica.follow()
    first = rows_of(replicas[0].tables)
    assert all(rows_of(replica.tables) == first for replica in replicas)
    rows = replicas[0].tables.tasks.rows
    keys = Counter(row.unique for row in rows.values() if row.unique is not None)
    assert not [key for key, count in keys.items() if count > 1], "a key has two holders"
    assert all(parent in rows for row in rows.values() if row.state is TaskState.WAITING for parent in row.depends_on)
