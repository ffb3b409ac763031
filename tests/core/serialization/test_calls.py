"""Calls, outcomes and schedules as the engine packs and reads them, and what dill adds."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from omniq.errors import CorruptPayload, FunctionNotFound, SerializationError
from omniq.models.result import Outcome
from omniq.models.schedule import Timing
from omniq.models.task import TaskState
from omniq.serialization import (
    CallOptions,
    ScheduledCall,
    SerializationManager,
    Signer,
)


class Ids(TypedDict):
    task_id: str
    queue_name: str


class Ended(TypedDict):
    task_id: str
    epoch: int
    status: TaskState
    schedule_id: str | None


IDS: Ids = {"task_id": "t1", "queue_name": "default"}
ENDED: Ended = {"task_id": "t1", "epoch": 3, "status": TaskState.SUCCESS, "schedule_id": None}


def add(x: int, y: int = 0) -> int:
    return x + y


def notify(result: object) -> object:
    return result


def make_local() -> Any:
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

        def twice(self) -> int:
            return 2 * self.n

    return Local(4)


class Stubborn:
    """Refuses to be pickled."""

    def __getstate__(self) -> object:
        raise ZeroDivisionError("not today")


class Exits:
    """Ends the process that rebuilds it, if it can."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return sys.exit, ("bye",)


# ── calls ────────────────────────────────────────────────────────────────────


def test_a_call_comes_back_with_its_options() -> None:
    manager = SerializationManager()
    options = CallOptions(
        timeout=1.5,
        max_retries=3,
        retry_delay=0.5,
        result_ttl=60.0,
        metadata={"tenant": [1, {"a": None}]},
        on_success=notify,
        on_failure=add,
        on_parent_failure="run",
    )
    call = manager.read_call(manager.pack_call(add, (1,), {"y": 2}, options, **IDS), **IDS)
    assert (call.func, call.args_format, call.by_value) == (f"{__name__}:add", "m", False)
    assert (call.timeout, call.max_retries, call.retry_delay, call.result_ttl) == (1.5, 3, 0.5, 60.0)
    assert (call.metadata, call.on_parent_failure) == ({"tenant": [1, {"a": None}]}, "run")
    assert call.on_success is not None
    assert manager.resolve(call.on_success) is notify
    assert call.on_failure == call.func
    loaded = manager.load_call(call)
    assert loaded.func(*loaded.args, **loaded.kwargs) == 3
    assert not manager.uses_dill


def test_arguments_that_need_dill_leave_the_function_a_reference() -> None:
    manager = SerializationManager()
    data = manager.pack_call(add, (make_local(),), {"y": lambda: 7}, **IDS)
    call = manager.read_call(data, **IDS)
    assert (data[3:4], call.args_format, call.by_value) == (b"d", "d", False)
    loaded = manager.load_call(call)
    assert (loaded.func, loaded.args[0].twice(), loaded.kwargs["y"]()) == (add, 8, 7)
    assert manager.uses_dill


def test_reading_a_call_neither_imports_nor_unpickles() -> None:
    manager = SerializationManager()
    call = manager.build_call(add, (Exits(),), {})
    lost = manager.reseal(call, **IDS).replace(f"{__name__}:add".encode(), f"{__name__}:odd".encode())
    assert manager.read_call(lost, **IDS).func == f"{__name__}:odd"
    with pytest.raises(FunctionNotFound):
        manager.load_call(manager.read_call(lost, **IDS))


def test_a_call_can_be_resealed_for_another_task() -> None:
    manager = SerializationManager(signer=Signer("k" * 32))
    call = manager.build_call(add, (1,), {})
    data = manager.reseal(call, task_id="t2", queue_name="low")
    assert manager.read_call(data, task_id="t2", queue_name="low") == call


@pytest.mark.parametrize(
    "metadata", [{"a": (1,)}, {"a": {1}}, {1: "a"}, {"a": 2**70}, {"a": Ellipsis}, {"a": "\ud800"}], ids=repr
)
def test_metadata_that_would_not_come_back_is_refused(metadata: dict[Any, Any]) -> None:
    with pytest.raises(SerializationError, match=r"^metadata: "):
        SerializationManager().build_call(add, (), {}, CallOptions(metadata=metadata))


@pytest.mark.parametrize("name", ["on_success", "on_failure"])
def test_a_callback_that_cannot_be_imported_is_refused(name: str) -> None:
    lost = functools.partial(notify, 1)
    options = CallOptions(on_success=lost) if name == "on_success" else CallOptions(on_failure=lost)
    with pytest.raises(SerializationError, match=f"^{name}: a worker can't import"):
        SerializationManager().build_call(add, (), {}, options)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ((n for n in "ab"), "argument 'y': can't serialize generator: "),
        (Stubborn(), f"argument 'y': can't serialize {__name__}.Stubborn: not today"),
        ([Stubborn()], "argument 'y': can't serialize list: not today"),
    ],
    ids=["generator", "getstate", "nested"],
)
def test_an_argument_that_cannot_be_packed_is_named(value: object, told: str) -> None:
    manager = SerializationManager()
    for args, kwargs in (((1, value), {}), ((1,), {"y": value})):
        for function in (add, functools.wraps(add)(lambda x, y: None)):
            with pytest.raises(SerializationError) as raised:
                manager.pack_call(function, args, kwargs, **IDS)
            assert str(raised.value).startswith(told)
            assert isinstance(raised.value.__cause__, SerializationError)


# ── outcomes and schedules ───────────────────────────────────────────────────


@pytest.mark.parametrize("value", [None, 1, (1, "a"), {"a": {1}}, range(3)], ids=repr)
def test_an_outcome_comes_back(value: Any) -> None:
    manager = SerializationManager(signer=Signer("k" * 16))
    format, packed = manager.dump_value(value)
    outcome = Outcome(value=packed, value_format=format, attempts=2, started_at=1.5, worker="w")
    read = manager.read_outcome(manager.pack_outcome(outcome, **ENDED), **ENDED)
    assert read == outcome
    assert manager.load_value(read.value_format, read.value) == value


def test_an_outcome_without_a_value_is_none_of_a_success() -> None:
    manager = SerializationManager()
    outcome = Outcome(error_type="ValueError", error_message="no", traceback="…", attempts=1)
    read = manager.read_outcome(manager.pack_outcome(outcome, **ENDED), **ENDED)
    assert read == outcome
    with pytest.raises(CorruptPayload, match="unknown format ''"):
        manager.load_value(read.value_format, read.value)


def test_a_result_that_cannot_be_packed_names_its_type() -> None:
    with pytest.raises(SerializationError, match=rf"can't serialize {__name__}.Stubborn: not today"):
        SerializationManager().dump_value(Stubborn())


@pytest.mark.parametrize("function", [add, lambda x: x + 1])
def test_a_schedule_keeps_a_call_for_each_firing(function: Callable[[int], int]) -> None:
    manager = SerializationManager(signer=Signer("k" * 16))
    scheduled = ScheduledCall(
        timing=Timing(interval=60.0), call=manager.build_call(function, (1,), {}), priority=5, ttl=30.0
    )
    place = {"schedule_id": "s1", "queue_name": "default"}
    read = manager.read_schedule(manager.pack_schedule(scheduled, **place), **place)
    assert read == scheduled
    loaded = manager.load_call(manager.read_call(manager.reseal(read.call, **IDS), **IDS))
    assert loaded.func(*loaded.args) == function(1)
