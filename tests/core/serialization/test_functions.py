"""Functions as references, and what the references can't reach."""

from __future__ import annotations

import functools
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from omniq.errors import FunctionNotFound
from omniq.serialization import Format, FunctionRegistry, SerializationManager, reference


class Ids(TypedDict):
    task_id: str
    queue_name: str


IDS: Ids = {"task_id": "t1", "queue_name": "default"}


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def add(x: int, y: int = 0) -> int:
    return x + y


@passing
def decorated(x: int) -> int:
    return x


@functools.lru_cache
def cached(x: int) -> int:
    return x


def closure(n: int) -> Callable[[int], int]:
    return lambda x: x + n


class Tasks:
    class Inner:
        @staticmethod
        def static(x: int) -> int:
            return x

    @classmethod
    def build(cls, x: int) -> tuple[type[Tasks], int]:
        return cls, x

    def method(self, x: int) -> int:
        return x

    def __call__(self, x: int) -> int:
        return x


class Child(Tasks):
    pass


@pytest.mark.parametrize(
    "function",
    [add, decorated, cached, Tasks, Tasks.build, Tasks.Inner.static, Tasks.method, math.sqrt, len, json.dumps],
)
def test_importable_functions_travel_as_references(function: Callable[..., Any]) -> None:
    ref = reference(function)
    assert ref is not None
    assert FunctionRegistry().resolve(ref) == function


def test_a_reference_names_module_and_path() -> None:
    assert reference(Tasks.Inner.static) == f"{__name__}:Tasks.Inner.static"
    assert reference(math.sqrt) == "math:sqrt"


def test_a_function_that_its_module_no_longer_holds_has_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    original = add
    monkeypatch.setattr(sys.modules[__name__], "add", decorated)
    assert reference(original) is None


BY_VALUE: list[Callable[[int], Any]] = [
    lambda x: x + 4,
    closure(4),
    functools.partial(add, 4),
    functools.partial(closure),
    Tasks().method,
    Child.build,
    Tasks(),
    [4].__contains__,
]


@pytest.mark.parametrize("function", BY_VALUE, ids=lambda function: type(function).__name__)
def test_other_callables_travel_by_value(function: Callable[[int], Any]) -> None:
    manager = SerializationManager()
    assert reference(function) is None
    call = manager.read_call(manager.pack_call(function, (4,), {}, **IDS), **IDS)
    assert (call.by_value, call.args_format) == (True, Format.DILL)
    loaded = manager.load_call(call)
    result, expected = loaded.func(*loaded.args), function(4)
    assert (result(3) if callable(result) else result) == (expected(3) if callable(expected) else expected)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("os:system", "doesn't define it"),
        ("subprocess:os.system", "isn't a class of that module"),
        ("omniq.serialization.base:os.system", "has no 'os'"),
        ("omniq.serialization.base:sys.exit", "isn't a class of that module"),
        ("omniq.serialization.base:import_module", "doesn't define it"),
        (f"{__name__}:Path.cwd", "isn't a class of that module"),
        (f"{__name__}:Tasks.__base__", "doesn't define it"),
        (f"{__name__}:Tasks.__subclasses__", "doesn't define it"),
        (f"{__name__}:add.__globals__.clear", "isn't a class of that module"),
        (f"{__name__}:Tasks.nothing", "'Tasks' has no 'nothing'"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        ("math:pi", "isn't callable"),
        ("nowhere.at_all:f", "no module 'nowhere' here"),
        ("os.nowhere:f", "no module 'os.nowhere' here"),
        ("..os:system", "isn't of the form"),
        ("os", "isn't of the form"),
        ("os:", "isn't of the form"),
        (f"{__name__}:closure.<locals>.<lambda>", "isn't of the form"),
    ],
)
def test_refused_references_say_what_failed(ref: str, message: str) -> None:
    with pytest.raises(FunctionNotFound, match=message):
        FunctionRegistry().resolve(ref)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_tasks.py").write_text("import omniq_missing_dependency\n")
    (tmp_path / "exiting_tasks.py").write_text("raise SystemExit('no main guard')\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("module", "message", "cause"),
    [("broken_tasks", "omniq_missing_dependency", ImportError), ("exiting_tasks", "no main guard", SystemExit)],
)
def test_a_module_that_fails_to_import_is_told_with_its_cause(
    module: str, message: str, cause: type[BaseException]
) -> None:
    with pytest.raises(FunctionNotFound, match=message) as raised:
        FunctionRegistry().resolve(f"{module}:f")
    assert isinstance(raised.value.__cause__, cause)


def test_allowed_modules_stand_for_themselves_and_what_is_below() -> None:
    registry = FunctionRegistry(["omniq.serialization", "json.decoder"])
    assert registry.resolve("omniq.serialization.base:reference") is reference
    assert registry.resolve("json.decoder:JSONDecoder") is json.JSONDecoder
    for ref in ("json:dumps", "posix:system", "omniq.models.task:new_id", "omniq.serializations:f"):
        with pytest.raises(FunctionNotFound, match="isn't among allowed_modules"):
            registry.resolve(ref)
    with pytest.raises(FunctionNotFound):
        FunctionRegistry([]).resolve("math:sqrt")
