"""What `enqueue` returns: plain text wherever it goes, that also tells whether the call added the task."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle

import pytest
from omniq import AsyncOmniQ, TaskId, call
from omniq.config.loader import Security
from omniq.queue.options import TaskCall

from tests.core import tasks
from tests.core.support import KINDS, SOON, Place, blocking_door, front_door, results_of, working


async def test_an_id_tells_whether_its_task_was_added(oq: AsyncOmniQ) -> None:
    mine = await oq.enqueue(tasks.nothing, task_id="mine")
    again = await oq.enqueue(tasks.nothing, task_id="mine")
    held = await oq.enqueue(tasks.nothing, task_id="other", unique_key="mine")
    holder = await oq.enqueue(tasks.nothing, unique_key="mine")
    assert [(id_, id_.added) for id_ in (mine, again, held, holder)] == [
        ("mine", True),
        ("mine", False),
        ("other", True),
        ("other", False),
    ]


async def test_so_do_those_of_many(oq: AsyncOmniQ) -> None:
    await oq.enqueue(tasks.nothing, task_id="there")
    calls = [TaskCall(func=tasks.nothing, options={"task_id": name}) for name in ("there", "a", "a", "b")]
    ids = await oq.enqueue_many(calls)
    assert [(id_, id_.added) for id_ in ids] == [("there", False), ("a", True), ("a", False), ("b", True)]
    assert all(id_.added for id_ in await oq.enqueue_many([TaskCall(func=tasks.nothing) for _ in range(3)]))


async def test_so_do_those_of_many_that_depend_on_each_other(oq: AsyncOmniQ) -> None:
    calls = [call(tasks.nothing, task_id=name, depends_on=parents) for name, parents in TWICE]
    ids = await oq.enqueue_many(calls)
    assert [(id_, id_.added) for id_ in ids] == [("b", True), ("a", True), ("a", False), ("b", False), ("c", True)]
    assert (await oq.get_task("b")).depends_on == ("a",)


TWICE: list[tuple[str, list[str]]] = [("b", ["a"]), ("a", []), ("a", []), ("b", []), ("c", ["b"])]


async def test_of_concurrent_calls_one_has_added_it(oq: AsyncOmniQ) -> None:
    ids = await asyncio.gather(*(oq.enqueue(tasks.nothing, unique_key="key") for _ in range(50)))
    assert (len(set(ids)), sum(id_.added for id_ in ids)) == (1, 1)


async def test_it_is_text_like_any_other(oq: AsyncOmniQ) -> None:
    for task_id in (await oq.enqueue(tasks.nothing, task_id="t"), await oq.enqueue(tasks.nothing, task_id="t")):
        assert (task_id, repr(task_id), f"{task_id}", hash(task_id)) == ("t", "'t'", "t", hash("t"))
        known: dict[str, int] = {"t": 1}
        assert known[task_id] == 1
        assert json.loads(json.dumps({task_id: [task_id]})) == {"t": ["t"]}
        for copied in (pickle.loads(pickle.dumps(task_id)), copy.copy(task_id), copy.deepcopy(task_id)):
            assert (type(copied), copied) == (str, "t")
        with pytest.raises(AttributeError):
            task_id.mine = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
async def test_tasks_get_it_as_text_without_dill(place: Place, kind: str) -> None:
    async with front_door(place, security=Security(serializer="msgspec")) as oq:
        first = await oq.enqueue(tasks.type_names, [1])
        known = await oq.enqueue(tasks.nothing, task_id=first)
        given = [first, [known, {first: (first,)}]]
        then = await oq.enqueue(
            tasks.type_names, [given], depends_on=[first], task_id=TaskId("then"), metadata={"parent": first}
        )
        async with working(oq, kind):
            assert await results_of(oq, [then]) == [["str", "str", "str", "str"]]
        assert (await oq.get_task(then)).metadata == {"parent": first}
        assert type((await oq.get_task(then)).depends_on[0]) is str


def test_blocking_doors_return_it_too(place: Place) -> None:
    with blocking_door(place) as oq:
        assert oq.enqueue(tasks.nothing, task_id="t").added
        assert not oq.enqueue(tasks.nothing, task_id="t").added
        oq.start_worker("thread")
        assert oq.get_result(TaskId("t"), timeout=SOON) is None
