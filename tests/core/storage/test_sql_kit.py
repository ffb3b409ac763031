"""The kit for stores on SQL databases, apart from any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from msgspec import Struct
from omniq.models.task import TaskState
from omniq.storage.records import Change, ChangeStatus, NewTask, ResultRecord, TaskRecord
from omniq.storage.rules import new_record
from omniq.storage.sql import (
    Call,
    Dialect,
    Do,
    Given,
    Kinds,
    Statement,
    Steps,
    Verb,
    ask,
    call,
    conditions,
    do,
    kinds,
)
from omniq.storage.sql.claiming import Decided, Ending, Seen, Settled, settle

T = TypeVar("T")


class Plain(Dialect):
    """A database that numbers its parameters with a dollar."""

    prefix: ClassVar[str] = "mine."
    words: ClassVar[Mapping[str, str]] = {"now": ":now + 1", "any": "in unnest(:{})", "false": "false"}

    def given(self, kinds: Kinds) -> str:
        return f"given as (values ({', '.join(f':{name}' for name, _ in kinds)}))"

    def parameter(self, number: int) -> str:
        return f"${number}"

    def now(self) -> float:
        return 7.0

    def sent(self, given: Given) -> Mapping[str, object]:
        return {name: column for (name, _), column in zip(*given, strict=True)}


PLAIN = Plain()


def answered(verb: Verb[T], *answers: object) -> tuple[list[Any], T]:
    """The steps of a verb that gets these answers, and what it comes to."""
    steps, asked, left = verb(), [], iter(answers)
    answer = None
    while True:
        try:
            asked.append(steps.send(answer))
        except StopIteration as end:
            return asked, end.value
        answer = next(left)


class TestStatements:
    def test_values_are_numbered_in_the_order_of_the_text(self) -> None:
        bound = PLAIN.bound(Statement("select :b::text, :a, :b from omniq.task", {"a": 1, "b": 2, "c": 3}))
        assert bound == ("select $1::text, $2, $1 from mine.task", [2, 1])

    def test_a_dialect_has_words_of_its_own(self) -> None:
        bound = PLAIN.bound(Statement("id {any[ids]} and at <= {now}", {"ids": ["x"]}))
        assert bound == ("id in unnest($1) and at <= $2 + 1", [["x"], 7.0])

    def test_a_statement_may_have_a_time_of_its_own(self) -> None:
        assert PLAIN.bound(Statement("{now}", {"now": 3.0}))[1] == [3.0]

    def test_rows_are_given_by_columns(self) -> None:
        given = Given(kinds("id text, at time"), [["x", "y"], [1.0, 2.0]])
        sql, values = PLAIN.bound(Statement("with {given} select * from given where :z", {"z": 0}, given))
        assert sql == "with given as (values ($1, $2)) select * from given where $3"
        assert values == [["x", "y"], [1.0, 2.0], 0]

    def test_only_what_is_asked_for_is_a_condition(self) -> None:
        terms = {"a": "a = :a", "b": "b = :b", "c": "c"}
        assert conditions(terms, {"a": 0, "b": None}) == "a = :a"
        assert conditions(terms, {}) == "true"


class Item(Struct):
    a: int
    b: str


class TestGiven:
    def test_columns_are_the_attributes_of_the_items(self) -> None:
        given = Given.of(kinds("a integer, b text, c text"), [Item(1, "x"), Item(2, "y")], c=["p", "q"])
        assert list(map(list, given.columns)) == [[1, 2], ["x", "y"], ["p", "q"]]

    def test_one_attribute_is_a_column_too(self) -> None:
        assert list(map(list, Given.of(kinds("b text"), [Item(1, "x")]).columns)) == [["x"]]

    def test_without_items_the_columns_are_empty(self) -> None:
        assert list(map(list, Given.of(kinds("a integer, b text"), []).columns)) == [[], []]

    def test_columns_go_beside_each_other(self) -> None:
        both = Given(kinds("a integer"), [[1]]).beside(Given(kinds("b text"), [["x"]]))
        assert both == (kinds("a integer, b text"), [[1], ["x"]])


def test_a_verb_yields_its_steps_and_returns_what_it_comes_to() -> None:
    def verb() -> Steps[str]:
        done = yield from do("delete", limit=1)
        ((name,),) = yield from ask(("text",), "select")
        return f"{done} {name} {yield from call(str)}"

    steps, came_to = answered(verb, 3, [("x",)], "called")
    assert came_to == "3 x called"
    assert (steps[0], steps[2]) == (Do("delete", {"limit": 1}), Call(str))


def running(id_: str, epoch: int) -> TaskRecord:
    record = new_record(NewTask(id=id_, queue_name="q", body=b""), now=1.0)
    return TaskRecord(**{name: getattr(record, name) for name in record.__struct_fields__} | {"epoch": epoch})


def test_what_somebody_else_has_changed_is_read_and_decided_again() -> None:
    """`a` is written at once, `b` is read twice and has passed on then, and `c` isn't there."""
    changes = [Change(task_id=id_, to=TaskState.CANCELLED, from_states=(TaskState.PENDING,), epoch=1) for id_ in "cba"]
    looks: list[Sequence[str]] = []

    def look(ids: Sequence[str]) -> Steps[Seen]:
        looks.append(ids)
        yield from do("look")
        return Seen({id_: running(id_, len(looks)) for id_ in ids if id_ != "c"}, 2.0)

    def write(decided: Decided) -> Steps[list[str]]:
        yield from do("write")
        return [record.id for record in decided.records if record.id != "b"]

    def end(outcome: Ending, changes: Sequence[Change]) -> Steps[list[str]]:
        raise AssertionError("none of them is running")

    steps, settled = answered(lambda: settle(changes, Settled(), end=end, look=look, write=write), 0, 0, 0)
    assert looks == [["a", "b", "c"], ["b"]]
    assert [step.text for step in steps] == ["look", "write", "look"]
    assert settled.statuses == {"a": ChangeStatus.APPLIED, "b": ChangeStatus.REFUSED, "c": ChangeStatus.MISSING}
    assert (settled.due, settled.ended) == ({}, [])


def test_what_ends_alike_is_ended_at_once_and_the_rest_is_decided() -> None:
    """`a` is ended, `b` isn't held any more; `c` goes back, and `d` ends with a result of another epoch."""
    change = partial(Change, from_states=(TaskState.RUNNING,), epoch=1, worker="w")
    result = ResultRecord(task_id="d", epoch=2, status=TaskState.SUCCESS, body=b"")
    changes = [
        change(task_id="d", to=TaskState.SUCCESS, result=result),
        change(task_id="c", to=TaskState.PENDING, attempted=True),
        change(task_id="b", to=TaskState.SUCCESS),
        change(task_id="a", to=TaskState.SUCCESS),
    ]
    ends: list[tuple[Ending, list[str]]] = []

    def end(outcome: Ending, changes: Sequence[Change]) -> Steps[list[str]]:
        ends.append((outcome, [change.task_id for change in changes]))
        yield from do("end")
        return ["a"]

    def look(ids: Sequence[str]) -> Steps[Seen]:
        yield from do("look")
        assert sorted(ids) == ["b", "c", "d"]
        return Seen({}, 2.0)

    def write(decided: Decided) -> Steps[list[str]]:
        raise AssertionError("none of them is there")

    _, settled = answered(lambda: settle(changes, Settled(), end=end, look=look, write=write), 0, 0)
    assert ends == [(Ending(TaskState.SUCCESS, False, False, "w"), ["a", "b"])]
    assert settled.statuses == {"a": ChangeStatus.APPLIED, **dict.fromkeys("bcd", ChangeStatus.MISSING)}
