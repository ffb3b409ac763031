"""What dill carries, what it can't, and where it is refused."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from omniq.errors import CorruptPayload, FunctionNotFound, SerializationError
from omniq.serialization import (
    DillSerializer,
    LoadedCall,
    NotCarried,
    SerializationManager,
    Signer,
)


class Ids(TypedDict):
    task_id: str
    queue_name: str


IDS: Ids = {"task_id": "t1", "queue_name": "default"}


def add(x: int, y: int = 0) -> int:
    return x + y


class Stubborn:
    """Refuses to be pickled."""

    def __getstate__(self) -> object:
        raise ZeroDivisionError("not today")


class Brittle:
    """Can be pickled, and not be rebuilt."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int, int]]:
        return divmod, (1, 0)


class Exits:
    """Ends the process that rebuilds it, if it can."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return sys.exit, ("bye",)


def trip(manager: SerializationManager, function: Callable[..., Any], *args: Any, **kwargs: Any) -> LoadedCall:
    return manager.load_call(manager.read_call(manager.pack_call(function, args, kwargs, **IDS), **IDS))


def test_a_value_nested_too_deeply_for_both_is_refused_at_enqueue() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"argument 'x': can't serialize list: it is nested too deeply"):
        SerializationManager().pack_call(add, (deep,), {}, **IDS)


def test_a_closure_over_what_cannot_be_packed_names_the_function() -> None:
    stubborn = Stubborn()
    with pytest.raises(SerializationError, match=r"function '.*<lambda>': .* travel by value: .*not today"):
        SerializationManager().pack_call(lambda: stubborn, (), {}, **IDS)


@pytest.mark.parametrize(("value", "cause"), [(Brittle(), ZeroDivisionError), (Exits(), SystemExit)])
def test_what_cannot_be_rebuilt_raises_with_its_cause(value: object, cause: type[BaseException]) -> None:
    with pytest.raises(SerializationError, match="can't rebuild a value here") as raised:
        trip(SerializationManager(), add, value)
    assert isinstance(raised.value.__cause__, cause)


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"no pickle", b"\x80\x04]"])
def test_bytes_that_are_no_pickle_raise_serialization_errors(data: bytes) -> None:
    with pytest.raises(SerializationError):
        DillSerializer().loads(data)


def test_bytecode_of_another_python_is_not_loaded() -> None:
    manager = SerializationManager()
    data = manager.pack_call(lambda: None, (), {}, **IDS)
    here = b"python%d.%d\n" % sys.version_info[:2]
    other, none = here.translate(bytes.maketrans(b"123456789", b"0" * 9)), here.replace(b"python", b"nohtyp")
    moved = data.replace(here, other)
    with pytest.raises(SerializationError, match=r"packed by python0\.0+, but this is python3"):
        manager.load_call(manager.read_call(moved, **IDS))
    with pytest.raises(CorruptPayload, match="aren't a function"):
        manager.load_call(manager.read_call(data.replace(here, none), **IDS))


# ── where dill is refused ────────────────────────────────────────────────────


def test_mode_msgspec_writes_no_dill() -> None:
    plain = SerializationManager("msgspec")
    assert trip(plain, add, 1).args == [1]
    with pytest.raises(SerializationError, match=r"^argument 'x': can't serialize type by msgspec, and serializer="):
        plain.pack_call(add, ({1, Stubborn}, 2), {}, **IDS)
    with pytest.raises(SerializationError, match=r"^function '.*<lambda>': .* it needs dill, and serializer='msgspec'"):
        plain.pack_call(lambda: 1, (), {}, **IDS)
    assert not plain.uses_dill


@pytest.mark.parametrize(("function", "value"), [(add, Exits()), (lambda x: x, 1)])
def test_mode_msgspec_reads_no_dill(function: Callable[..., Any], value: object) -> None:
    plain = SerializationManager("msgspec")
    call = plain.read_call(SerializationManager().pack_call(function, (value,), {}, **IDS), **IDS)
    with pytest.raises(SerializationError, match="packed by dill, and serializer='msgspec' turns dill off"):
        plain.load_call(call)
    assert not plain.uses_dill


def test_mode_msgspec_refuses_results_by_type() -> None:
    plain = SerializationManager("msgspec")
    with pytest.raises(SerializationError, match=r"can't serialize range by msgspec, and serializer") as raised:
        plain.dump_value(range(3))
    assert isinstance(raised.value.__cause__, NotCarried)
    with pytest.raises(SerializationError, match="it was not decoded"):
        plain.load_value(*SerializationManager().dump_value(Exits()))


def test_allowed_modules_take_a_signer_for_dill() -> None:
    unsigned = SerializationManager(allowed_modules=[__name__])
    signed = SerializationManager(signer=Signer("k" * 16), allowed_modules=[__name__])
    with pytest.raises(SerializationError, match="allowed_modules is set but OMNIQ_SIGNING_KEY isn't"):
        unsigned.pack_call(lambda: 1, (), {}, **IDS)
    with pytest.raises(SerializationError, match="allowed_modules is set but OMNIQ_SIGNING_KEY isn't"):
        unsigned.load_value("d", DillSerializer().dumps(Exits()))
    assert trip(signed, lambda: 1).func() == 1
    with pytest.raises(FunctionNotFound, match="isn't among allowed_modules"):
        trip(signed, len, [])


def test_dill_is_imported_when_it_is_first_needed() -> None:
    code = (
        "import sys; from omniq.serialization import *; manager = SerializationManager();"
        "manager.dump_value((1, 'a')); print('dill' in sys.modules);"
        "manager.dump_value(range(1)); print('dill' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]


# ── scripts ──────────────────────────────────────────────────────────────────

SCRIPT = """
import enum, json, sys, typing
import nearby
from dataclasses import dataclass
from omniq.errors import SerializationError
from omniq.serialization import SerializationManager

OFFSET = 5
class Stubborn:
    def __reduce__(self): raise TypeError("not today")
stubborn = Stubborn()
unused = Stubborn()
class Colour(enum.Enum):
    RED = 1
class Node:
    root: object = None
Node.root = Node()
T = typing.TypeVar("T")
class Base:
    def value(self): return shifted(1)
class Derived(Base):
    def value(self): return super().value() + 1
@dataclass
class Point:
    x: int
    def moved(self): return Point(self.x + OFFSET).x
def shifted(n): return n + OFFSET
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def encoded(n): return json.dumps([shifted(i) for i in range(n)])
def near(n): return nearby.count(n)
def nested(n):
    class Local:
        offset = OFFSET
    def step(k): return Local.offset + n if k == 0 else step(k - 1)
    return step(3)
def touch(n): return stubborn

manager = SerializationManager()
CASES = [(even, 4), (encoded, 2), (near, 3), (nested, 1), (Derived.value, Derived()), (Point.moved, Point(1)),
         (lambda f: f(4), odd), (nearby.adder(3), 1)]
for function, argument in CASES:
    print(manager.pack_call(function, (argument,), {}, task_id="t1", queue_name="default").hex())
for function, argument in [(touch, 1), (shifted, Colour.RED), (shifted, Node()), (shifted, T)]:
    try:
        manager.pack_call(function, (argument,), {}, task_id="t1", queue_name="default")
    except SerializationError as error:
        print(error, file=sys.stderr)
"""
NEARBY = """
import threading
lock = threading.Lock()
seen = []
class Unpicklable:
    def __reduce__(self): raise TypeError("modules go by name")
resource = Unpicklable()
def count(n):
    seen.append(n)
    return len(seen)
def adder(n):
    return lambda x: (x + n, resource is not None)
"""
WORKER = """
import sys
from omniq.serialization import SerializationManager
OFFSET = 1000
manager = SerializationManager()
for line in sys.stdin:
    call = manager.load_call(manager.read_call(bytes.fromhex(line), task_id="t1", queue_name="default"))
    print(call.func(*call.args))
print("the worker's own:", OFFSET, "shifted" in globals())
"""


def test_what_a_script_defines_runs_in_another_process(tmp_path: Path) -> None:
    for name, text in (("script.py", SCRIPT), ("nearby.py", NEARBY), ("worker.py", WORKER)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-W", "error"]
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    packed = run([*command, "script.py"])
    refused = packed.stderr.splitlines()
    assert len(refused) == 4, packed.stderr
    assert "function '__main__:touch'" in refused[0]
    assert "its global 'stubborn': not today" in refused[0]
    assert refused[1].startswith("argument 'n': can't serialize __main__.Colour: Colour is an enum or Struct")
    assert refused[2].startswith("argument 'n': can't serialize __main__.Node: Node refers to itself")
    assert refused[3].startswith("argument 'n': can't serialize typing.TypeVar: T goes by name")
    done = run([*command, "worker.py"], input=packed.stdout)
    assert done.stderr == ""
    *results, own = done.stdout.splitlines()
    assert results == ["True", "[5, 6]", "1", "6", "7", "6", "False", "(4, True)"]
    assert own == "the worker's own: 1000 False"


@pytest.mark.parametrize(("serializer", "loaded"), [("auto", True), ("msgspec", False)])
def test_a_worker_has_dill_before_its_first_task_where_payloads_may_need_it(
    serializer: str, loaded: bool, tmp_path: Path
) -> None:
    script = f"""
        import sys
        from omniq import OmniQ
        with OmniQ(config={{"task_queue": {{
            "type": "sqlite", "config": {{"base_dir": "{tmp_path}", "serializer": "{serializer}"}}}}}}) as oq:
            oq.enqueue(print, ["text"])
            before = "dill" in sys.modules
            oq.start_worker("thread", max_workers=1)
            print(before, "dill" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert f"False {loaded}" in done.stdout
