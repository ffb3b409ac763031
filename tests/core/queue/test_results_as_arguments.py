"""`result_of`: what a task returned is an argument of those that wait for it."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ, current_task, result_of
from omniq.config.loader import Security
from omniq.errors import (
    DependencyCycle,
    InvalidTask,
    SerializationError,
    StoreUnavailable,
    TaskFailed,
    UnknownParent,
)
from omniq.models import TaskState
from omniq.queue import TaskCall
from omniq.queue.options import EnqueueOptions
from omniq.serialization import SerializationManager
from omniq.serialization.parents import OutOfPlace
from omniq.storage.records import ResultRecord
from omniq.testing import ReferenceResultStore, VirtualClock
from omniq.workers import fetching

from tests.core import tasks
from tests.core.support import (
    KINDS,
    SOON,
    front_door,
    lines,
    reference_place,
    states_of,
    until_states,
    working,
)
from tests.core.tasks import Box

doors: list[AsyncOmniQ] = []
"""Where tasks of this process enqueue others."""


async def make_result_of() -> Any:
    return result_of("t")


async def split(count: int) -> str:
    """Add children of this very task, and a task that takes what they return; returns that one's id."""
    mine = EnqueueOptions(depends_on=current_task().id)
    parts = await doors[0].enqueue_many(TaskCall(func=tasks.add, func_args=[n, n], options=mine) for n in range(count))
    return await doors[0].enqueue(sum, [[result_of(part) for part in parts]])


async def error_of(oq: AsyncOmniQ, task_id: str) -> str:
    with pytest.raises(TaskFailed) as failed:
        await oq.get_result(task_id, timeout=SOON)
    return f"{failed.value.error_type.rpartition('.')[2]}: {failed.value.error_message}"


@pytest.mark.parametrize("kind", KINDS)
async def test_results_are_put_in_wherever_they_are_asked_for(oq: AsyncOmniQ, kind: str) -> None:
    three, text = await oq.enqueue(tasks.add, [1, 2]), await oq.enqueue(tasks.echo, ["x" * 100_000])
    nested = {"a": [result_of(three), (result_of(text), result_of(three))], 2**70: "plain"}
    child = await oq.enqueue(tasks.echo, {"value": nested})
    by_dill = await oq.enqueue(tasks.opened, [Box([result_of(three), Box(1)])])
    local = 10
    by_value = await oq.enqueue(lambda x, *, y: x + y + local, {"x": result_of(three), "y": result_of(by_dill)})
    also = await oq.enqueue(tasks.echo_noted, [result_of(text), result_of(await oq.get_task(three))], task_id="also")
    assert set((await oq.get_task(child)).depends_on) == {three, text}
    async with working(oq, kind):
        assert await oq.get_result(child, timeout=SOON) == {"a": [3, ("x" * 100_000, 3)], 2**70: "plain"}
        found = await oq.get_result(by_dill, timeout=SOON)
        assert (found[0], found[1].content) == (3, 1)
        assert "OSError" in await error_of(oq, also)  # the arguments came: no file has so long a name
        assert "TypeError" in await error_of(oq, by_value)


async def test_what_it_takes_is_a_parent_beside_the_others(oq: AsyncOmniQ) -> None:
    one, other = await oq.enqueue(tasks.add, [1, 2]), await oq.enqueue(tasks.nothing, run_in=3600)
    child = await oq.enqueue(tasks.echo, [result_of(one)], depends_on=[other])
    assert (await oq.get_task(child)).depends_on == (other, one)


async def test_calls_that_are_enqueued_together_take_each_others_results(oq: AsyncOmniQ) -> None:
    first = TaskCall(func=tasks.add, func_args=[1, 2])
    second = TaskCall(func=tasks.add, func_args=[result_of(first), 10])
    third = TaskCall(func=tasks.echo, func_args=[[result_of(first), result_of(second)]], options={"depends_on": first})
    ids = await oq.enqueue_many([third, second, first])
    assert ids[1:] == [second.reserve_id(), first.reserve_id()]
    async with working(oq, "async"):
        assert await oq.get_result(ids[0], timeout=SOON) == [3, 13]


class TestRefused:
    async def test_a_parent_that_nobody_knows(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(UnknownParent, match="nobody"):
            await oq.enqueue(tasks.echo, [[result_of("nobody")]])
        with pytest.raises(UnknownParent, match="nobody"):
            await oq.enqueue_many([TaskCall(func=tasks.echo, func_args=[result_of("nobody")])])
        assert await oq.list_tasks() == []

    async def test_a_circle(self, oq: AsyncOmniQ) -> None:
        one, other = (TaskCall(func=tasks.echo, options={"task_id": name}) for name in ("one", "other"))
        one.func_args, other.func_args = [result_of(other)], [result_of(one)]
        with pytest.raises(DependencyCycle, match=r"one → other|other → one"):
            await oq.enqueue_many([one, other])
        with pytest.raises(InvalidTask, match="can't depend on itself"):
            await oq.enqueue(tasks.echo, [result_of("me")], task_id="me")

    @pytest.mark.parametrize("wrong", [None, 3, [], b"id", "", "a\nb", tasks.add])
    def test_what_is_no_task(self, wrong: Any) -> None:
        with pytest.raises(InvalidTask, match="^step: "):
            result_of(wrong)

    async def test_a_schedule_whose_tasks_have_no_parents(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="func_args: .*result_of"):
            await oq.schedule(tasks.echo, [result_of("t")], interval=60)

    async def test_as_the_value_of_a_task(self, oq: AsyncOmniQ) -> None:
        async with working(oq, "async"):
            task_id = await oq.enqueue(make_result_of)
            assert (await error_of(oq, task_id)).startswith("OutOfPlace: result_of: it stands for a result among")

    def test_outside_of_a_call(self) -> None:
        serialization = SerializationManager()
        for value in (result_of("t"), [result_of("t")], Box(result_of("t"))):
            with pytest.raises(OutOfPlace):
                serialization.dump_value(value)
        with pytest.raises(OutOfPlace):
            pickle.dumps(result_of("t"))
        with pytest.raises(TypeError, match="unhashable"):
            {result_of("t")}
        assert copy.deepcopy([result_of("t", default=1)])[0].default == 1

    def test_an_argument_beside_it_that_cannot_be_packed_is_named(self) -> None:
        with pytest.raises(SerializationError, match="argument 'y'"), open("/dev/null") as file:
            SerializationManager("msgspec").build_call(tasks.add, [result_of("t"), file], {})


class TestWithoutAValue:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_that_runs_all_the_same_takes_the_default_or_fails(self, oq: AsyncOmniQ, kind: str) -> None:
        bad = await oq.enqueue(tasks.fail)
        run: dict[str, Any] = {"on_parent_failure": "run", "max_retries": 5, "retry_delay": 3600}
        fallback = await oq.enqueue(
            tasks.echo, [[result_of(bad, default={"n": 2**70}), result_of(bad, default=None)]], **run
        )
        strict = await oq.enqueue(tasks.echo, [result_of(bad)], **run)
        async with working(oq, kind):
            assert await oq.get_result(fallback, timeout=SOON) == [{"n": 2**70}, None]
            said = await error_of(oq, strict)
        assert said == f"TaskFailed: task {bad} failed: ValueError: no luck"
        assert (await oq.get_task(strict)).attempts == 1  # there is nothing to try again

    async def test_a_cancelled_parent_and_an_expired_one(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        cancelled = await oq.enqueue(tasks.nothing)
        expired = await oq.enqueue(tasks.nothing, ttl=60)
        children = [
            await oq.enqueue(tasks.echo, [result_of(parent)], on_parent_failure="run")
            for parent in (cancelled, expired)
        ]
        await oq.cancel(cancelled)
        virtual_clock.advance(61)
        async with working(oq, "async"):
            said = [await error_of(oq, child) for child in children]
        assert said == [
            f"TaskCancelled: task {cancelled} was cancelled",
            f"TaskExpired: task {expired} wasn't started before its TTL ended",
        ]

    async def test_a_result_that_is_no_longer_kept(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        parent = await oq.enqueue(tasks.add, [1, 2], result_ttl=60)
        child = await oq.enqueue(tasks.echo, [result_of(parent, default="never")], run_in=120)
        async with working(oq, "async"):
            assert await oq.get_result(parent, timeout=SOON) == 3
            virtual_clock.advance(121)
            said = await error_of(oq, child)
        assert said == f"ResultExpired: task {parent} has succeeded, and its result is no longer kept"

    async def test_results_that_are_too_many_bytes(self, oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetching, "MAX_SUPPLIED", 100_000)
        parents = [await oq.enqueue(tasks.echo, ["x" * 60_000]) for _ in range(2)]
        fits = await oq.enqueue(len, [result_of(parents[0])])
        too_large = await oq.enqueue(len, [[result_of(parent) for parent in parents]])
        async with working(oq, "async"):
            assert await oq.get_result(fits, timeout=SOON) == 60_000
            assert "100,000 are allowed" in await error_of(oq, too_large)


class TestTrust:
    """The results that are arguments are verified as those are that users ask for."""

    async def test_a_result_that_nobody_signed_or_of_another_task_is_not_taken(self) -> None:
        async with front_door(reference_place(), security=Security(signing_key="k1:" + "s3cret" * 4)) as oq:
            parents = [await oq.enqueue(tasks.add, [n, 2]) for n in range(3)]
            async with working(oq, "async") as pool:
                await pool.drain()
            store = oq.result_store.store
            records = [record for record in await store.get(parents) if record is not None]
            mac_ends = records[0].body.index(b"k1") + 2 + 32
            for record, forged in zip(records, [b"OQ1m\0" + records[0].body[mac_ends:], records[2].body], strict=False):
                await store.put([replace(record, epoch=record.epoch + 1, body=forged)])
            children = [await oq.enqueue(tasks.echo, [result_of(parent)]) for parent in parents]
            async with working(oq, "async"):
                said = [await error_of(oq, child) for child in children[:2]]
                assert await oq.get_result(children[2], timeout=SOON) == 4
        assert [line.partition(" of")[0] for line in said] == ["SignatureError: result"] * 2

    async def test_a_worker_without_the_key_of_a_result_leaves_the_task_to_others(self) -> None:
        place = reference_place()
        both = Security(signing_key="k2:" + "an0ther" * 4 + ",k1:" + "s3cret" * 4)
        async with (
            front_door(place, security=Security(signing_key="k1:" + "s3cret" * 4)) as old,
            front_door(place, security=Security(signing_key="k2:" + "an0ther" * 4)) as new,
            front_door(place, security=both) as knowing,
        ):
            parent = await old.enqueue(tasks.add, [1, 2])
            async with working(old, "async"):
                await old.get_result(parent, timeout=SOON)
            child = await new.enqueue(tasks.echo, [result_of(parent)])
            async with working(new, "async") as pool:
                await pool.drain()
            assert await states_of(new, [child]) == [TaskState.SCHEDULED]
            with VirtualClock() as clock:
                clock.advance(60)
                async with working(knowing, "async"):
                    assert await knowing.get_result(child, timeout=SOON) == 3


class FlakyResults(ReferenceResultStore):
    """Can't be read at times."""

    away = False
    asked = 0

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        FlakyResults.asked += 1
        if FlakyResults.away:
            raise StoreUnavailable("away")
        return await super().get(ids)


async def test_while_the_results_are_away_tasks_that_need_them_go_back_and_others_run(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.01)
    async with front_door(reference_place(results=FlakyResults)) as oq:
        parent = await oq.enqueue(tasks.add, [1, 2])
        async with working(oq, "async") as pool:
            await oq.get_result(parent, timeout=SOON)
            monkeypatch.setattr(FlakyResults, "away", True)
            child = await oq.enqueue(tasks.echo, [result_of(parent)])
            free = await oq.enqueue(tasks.append, [str(log), "ran"])
            await until_states(oq, [free], TaskState.SUCCESS)
            await pool.in_flight.until_held_at_most(0)
            monkeypatch.setattr(FlakyResults, "away", False)
            assert await oq.get_result(child, timeout=SOON) == 3
    assert lines(log) == ["ran"]
    assert (await oq.get_task(child)).attempts == 0


async def test_the_results_for_a_batch_of_tasks_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with front_door(reference_place(results=FlakyResults)) as oq:
        parents = await oq.enqueue_many(TaskCall(func=tasks.add, func_args=[n, 1]) for n in range(20))
        async with working(oq, "async") as pool:
            await pool.drain()
        asked = FlakyResults.asked
        children = await oq.enqueue_many(
            TaskCall(func=tasks.add, func_args=[result_of(id_), result_of(parents[0])]) for id_ in parents
        )
        async with working(oq, "async", max_workers=20) as pool:
            await pool.drain()
        assert FlakyResults.asked == asked + 1
        assert await oq.get_result(children[-1], timeout=SOON) == 21


async def test_a_suspect_gets_its_results_too(oq: AsyncOmniQ) -> None:
    parent = await oq.enqueue(tasks.add, [1, 2])
    async with working(oq, "async"):
        await oq.get_result(parent, timeout=SOON)
    child = await oq.enqueue(tasks.echo, [result_of(parent)])
    store = oq.task_queue.store
    for _ in range(2):  # two workers die of it
        await store.claim(["default"], limit=1, lease=0.0, worker="dead")
        (lease,) = await store.lapsed(limit=1)
        await store.reap([lease])
    assert (await oq.get_task(child)).crashes == 2
    async with working(oq, "async"):
        assert await oq.get_result(child, timeout=SOON) == 3


async def test_a_task_adds_children_of_itself(oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(oq, "async"):
        monkeypatch.setattr(sys.modules[__name__], "doors", [oq])
        parent = await oq.enqueue(split, [4])
        last = await oq.get_result(parent, timeout=SOON)
        assert await oq.get_result(last, timeout=SOON) == 0 + 2 + 4 + 6
    assert len((await oq.get_task(last)).depends_on) == 4


def test_ids_are_kept_once_however_often_a_result_is_taken() -> None:
    marks = [result_of("t" * 200) for _ in range(50)]
    call = SerializationManager().build_call(tasks.echo, [marks], {})
    assert call.results_of == ("t" * 200,)
    assert len(call.args) < 300


def test_a_default_may_be_anything() -> None:
    zone = dt.timezone(dt.timedelta(hours=1))
    for default in (2**80, {"a": (1, {2})}, dt.datetime(2030, 1, 1, tzinfo=zone), Box(1)):
        assert SerializationManager().build_call(tasks.echo, [result_of("t", default=default)], {}).results_of == ("t",)
