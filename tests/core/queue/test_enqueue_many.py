"""Many tasks at once, from what people have at hand: calls, tuples, chains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ, call, chain
from omniq.testing import Sandbox

from tests.core.tasks import add, nothing


@pytest.fixture
def app() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def values(app: Sandbox, ids: list[Any]) -> list[Any]:
    app.drain()
    return [app.get_result(id_) for id_ in ids]


def test_calls_and_tuples_go_together(app: Sandbox) -> None:
    ids = app.enqueue_many(
        [
            app.call(add, [1, 1]),
            call(add, {"x": 1, "y": 2}),
            (add, [1, 3]),
            (add, (1, 4)),
            (add, {"x": 1, "y": 5}),
            (add, [1], {"y": 6}),
            (add, [], {"x": 1, "y": 7}),
            (add, [1, 8], {}),
            (nothing, None),
            (max, [3, 9], {"key": abs}),
        ]
    )
    assert values(app, ids) == [2, 3, 4, 5, 6, 7, 8, 9, None, 9]


def test_a_call_has_the_options_of_enqueue(app: Sandbox) -> None:
    first, second = app.enqueue_many(
        [app.call(add, [1, 2], task_id="mine", priority=7), app.call(add, [3, 4], depends_on="mine")]
    )
    assert (first, app.get_task("mine").priority) == ("mine", 7)
    assert app.get_task(second).depends_on == ("mine",)


def test_any_iterable_will_do(app: Sandbox) -> None:
    assert values(app, app.enqueue_many((add, [n, 1]) for n in range(3))) == [1, 2, 3]
    assert values(app, app.enqueue_many(chain(app.call(add, [1, 1]), app.call(add, [2, 2])))) == [2, 4]
    assert app.enqueue_many([]) == []


async def test_async_alike() -> None:
    assert AsyncOmniQ.call is OmniQ.call
    oq = AsyncOmniQ(task_queue="memory://many")
    async with oq:
        await oq.start_worker()
        ids = await oq.enqueue_many([oq.call(add, [1, 2]), (add, [1], {"y": 4})])
        assert [await oq.get_result(id_, timeout=30) for id_ in ids] == [3, 5]
