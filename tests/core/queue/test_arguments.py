"""Arguments that a function doesn't take are refused when they are enqueued, and no others."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import InvalidTask
from omniq.models.task import new_id
from omniq.queue.options import FuncArgs
from omniq.queue.request import split_args
from omniq.serialization.base import surely_takes


def two(x: int, y: int = 2) -> int:
    return x + y


def keyword(x: int, *, y: int) -> int:
    return x + y


def by_place(x: int, /, y: int = 2) -> int:
    return x + y


def any_(*args: Any, **kwargs: Any) -> None: ...


def any_by_place(x: int, *args: int) -> None: ...


@functools.wraps(two)
def wrapped(*args: Any) -> int:
    return two(1, *args)


class Adder:
    def __call__(self, x: int) -> int:
        return x

    def method(self, x: int) -> int:
        return x


TAKEN: list[tuple[Callable[..., Any], FuncArgs]] = [
    (two, [1]),
    (two, [1, 2]),
    (two, {"x": 1}),
    (two, {"y": 1, "x": 1}),
    (keyword, {"x": 1, "y": 2}),
    (by_place, [1, 2]),
    (any_, [1, 2, 3]),
    (any_, {"a": 1}),
    (any_by_place, [1, 2, 3]),
    (wrapped, [5]),
    (wrapped, []),
    (functools.partial(two, 1), [2]),
    (functools.partial(two, y=1), [2]),
    (Adder(), [1]),
    (Adder().method, [1]),
    (time.time, []),
    (print, ["a", "b"]),
    (dict, {"a": 1}),
]
REFUSED: list[tuple[Callable[..., Any], FuncArgs, str]] = [
    (two, [], r"two\(x, y=2\): missing a required argument: 'x'"),
    (two, [1, 2, 3], "too many positional arguments"),
    (two, {"y": 1}, "missing a required argument: 'x'"),
    (two, {"x": 1, "z": 1}, "got an unexpected keyword argument 'z'"),
    (keyword, [1, 2], "too many positional arguments"),
    (keyword, [1], "missing a required (keyword-only )?argument: 'y'"),
    (by_place, {"x": 1}, "'x'"),
    (any_by_place, [], "missing a required argument: 'x'"),
    (any_by_place, {"x": 1, "y": 1}, "got an unexpected keyword argument 'y'"),
    (functools.partial(two, 1), [2, 3], "too many positional arguments"),
    (Adder(), [], "missing a required argument: 'x'"),
    (Adder().method, [1, 2], "too many positional arguments"),
]


@pytest.fixture
def url() -> str:
    return f"memory://{new_id()}"


@pytest.mark.parametrize(("func", "func_args"), TAKEN)
def test_what_a_function_takes_is_enqueued(url: str, func: Callable[..., Any], func_args: FuncArgs) -> None:
    with OmniQ(task_queue=url) as oq:
        assert oq.get_task(oq.enqueue(func, func_args)).state == "pending"


@pytest.mark.parametrize(("func", "func_args", "reason"), REFUSED)
async def test_what_it_does_not_take_is_refused(
    url: str, func: Callable[..., Any], func_args: FuncArgs, reason: str
) -> None:
    async with AsyncOmniQ(task_queue=url) as oq:
        with pytest.raises(InvalidTask, match=f"func_args: .*{reason}"):
            await oq.enqueue(func, func_args)
        with pytest.raises(InvalidTask, match=f"func_args: .*{reason}"):
            await oq.schedule(func, func_args, interval=60)
        assert await oq.list_tasks() == []


def test_a_quick_look_tells_no_lie() -> None:
    for func, func_args, _ in REFUSED:
        assert not surely_takes(func, *split_args(func_args))
    assert [func for func, func_args in TAKEN if surely_takes(func, *split_args(func_args))] == [two] * 4 + [any_] * 1
