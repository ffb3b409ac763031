"""Scripts: what `__main__` defines goes to workers and comes back as what it was, or the error says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import abc
import sys
import xml.etree.ElementTree
from collections import namedtuple
from dataclasses import dataclass, field

from omniq import OmniQ


@dataclass
class Point:
    x: int
    tags: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    point: Point


@dataclass(slots=True)
class Slotted:
    x: int


class Plain:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Plain and other.x == self.x


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2

    def __eq__(self, other):
        return isinstance(other, Shape) and other.area() == self.area()


Pair = namedtuple("Pair", "left right")


def everything():
    return [Point(1), {"a": (Frozen(Point(2)),)}, Slotted(3), Plain(4), Square(5), Pair(7, Point(8))]


def same(value):
    return value, type(value) is Point, value == Point(1)


def tag_of(text):
    return xml.etree.ElementTree.fromstring(text).tag


def keep(_):
    return Point(9)


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    with OmniQ(project_name="script", task_queue=url) as oq:
        if kind == "again":
            print(oq.get_result("kept", timeout=30) == Point(9))
            raise SystemExit
        oq.start_worker(kind, max_workers=2)
        ids = [oq.enqueue(everything, max_retries=0) for _ in range(3)]
        print([oq.get_result(id_, timeout=60) == everything() for id_ in ids])
        value, is_point, is_equal = oq.get_result(oq.enqueue(same, [Point(1)], max_retries=0), timeout=60)
        print(value == Point(1), type(value) is Point, is_point, is_equal)
        print(oq.get_result(oq.enqueue(tag_of, ["<a/>"], max_retries=0), timeout=60))
        print(oq.get_result(oq.enqueue(keep, [Point(0)], task_id="kept"), timeout=60) == Point(9))
"""

USES_ITS_OWN_QUEUE = """
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import SerializationError

oq, aoq = OmniQ(task_queue="memory://own"), AsyncOmniQ(task_queue="memory://own")
queue = oq.task_queue


def again():
    oq.enqueue(again)


def again_async():
    return aoq.enqueue(print)


def look():
    return queue.stats()


for function in (again, again_async, look):
    try:
        oq.enqueue(function)
    except SerializationError as error:
        print(error)
"""

ENQUEUES_AT_THE_END = """
from omniq import OmniQ

oq = OmniQ(task_queue="memory://late")


class Late:
    def __del__(self):
        try:
            oq.enqueue(print, ["late"])
        except Exception as error:
            print(type(error).__name__, error)


late = Late()
oq.enqueue(print, ["in time"])
"""


def run(folder: Path, program: str, *arguments: str) -> list[str]:
    """What a script prints, with warnings as errors; it mustn't hang."""
    script = folder / "script.py"
    script.write_text(program, "utf-8")
    command = [sys.executable, "-W", "error", str(script), *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout.splitlines()


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
def test_classes_of_a_script_come_back_as_themselves(tmp_path: Path, kind: str) -> None:
    url = f"sqlite:///{tmp_path}/script.db"
    assert run(tmp_path, SCRIPT, kind, url) == ["[True, True, True]", "True True True True", "a", "True"]
    assert run(tmp_path, SCRIPT, "again", url) == ["True"]  # of another run of the same script


def test_another_class_of_that_name_is_another_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/script.db"
    run(tmp_path, SCRIPT, "async", url)
    changed = SCRIPT.replace("    x: int\n    tags: list", "    x: int\n    y: int = 0\n    tags: list")
    assert changed != SCRIPT
    assert run(tmp_path, changed, "again", url) == ["False"]


def test_a_task_that_uses_a_queue_of_its_script_is_refused_with_advice(tmp_path: Path) -> None:
    told = run(tmp_path, USES_ITS_OWN_QUEUE)
    advice = (
        "has connections and stays in its process: put it, and the tasks that use it, into a module that workers import"
    )
    assert [line.partition("by value: can't serialize function: ")[2].partition(";")[0] for line in told] == [
        f"its global 'oq': OmniQ {advice}",
        f"its global 'aoq': AsyncOmniQ {advice}",
        f"its global 'queue': TaskQueue {advice}",
    ]


def test_enqueueing_while_the_interpreter_ends_is_refused(tmp_path: Path) -> None:
    (told,) = run(tmp_path, ENQUEUES_AT_THE_END)
    assert told == "Closed the interpreter is ending: there is no event loop for blocking calls any more"
