"""What users, damaged stores and attackers may hand in: it is refused where it is, and hurts nobody else."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import dill
import pytest
from omniq import AsyncOmniQ, group
from omniq.config.loader import Security
from omniq.errors import (
    FunctionNotFound,
    InvalidTask,
    SerializationError,
    SignatureError,
    TaskFailed,
    TaskNotFound,
    UnknownParent,
    UnsupportedCapability,
)
from omniq.models import TaskState
from omniq.queue.graph import TaskDependencyGraph
from omniq.queue.options import TaskCall

from tests.core import oddities, tasks
from tests.core.support import KINDS, SOON, Place, front_door, lines, plant, results_of, working

KEY = "0123456789abcdef0123456789abcdef"
SIGNED = Security(signing_key=KEY)
NAIVE = dt.datetime(2030, 1, 1)
AWARE = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)

BAD_OPTIONS: list[tuple[str, Any]] = [
    ("queue_name", "hihg"),
    ("queue_name", ""),
    ("queue_name", None),
    ("queue_name", ["high"]),
    ("run_in", -1),
    ("run_in", "soon"),
    ("run_in", float("nan")),
    ("run_in", 1e300),
    ("run_in", dt.timedelta.max),
    ("run_at", NAIVE),
    ("run_at", 17),
    ("run_at", "tomorrow"),
    ("priority", 101),
    ("priority", -101),
    ("priority", 1.5),
    ("priority", True),
    ("priority", None),
    ("ttl", -1),
    ("ttl", "1h"),
    ("ttl", float("inf")),
    ("ttl", 1e12),
    ("result_ttl", -0.1),
    ("result_ttl", 1e300),
    ("timeout", 0),
    ("timeout", -5),
    ("timeout", True),
    ("timeout", 1e300),
    ("max_retries", -1),
    ("max_retries", 1.5),
    ("max_retries", True),
    ("max_retries", "3"),
    ("retry_delay", -1),
    ("retry_delay", [1]),
    ("retry_delay", 1e300),
    ("depends_on", 17),
    ("depends_on", [17]),
    ("depends_on", [None]),
    ("depends_on", ["a\x00b"]),
    ("depends_on", ["\ud83d"]),
    ("on_parent_failure", "explode"),
    ("on_parent_failure", None),
    ("task_id", ""),
    ("task_id", "x" * 256),
    ("task_id", "a\nb"),
    ("task_id", "\ud83d"),
    ("task_id", 17),
    ("metadata", 17),
    ("metadata", [("a", 1)]),
]


class TestOptions:
    @pytest.mark.parametrize(("name", "value"), BAD_OPTIONS, ids=lambda value: f"{value!r:.30}")
    async def test_a_bad_option_is_named(self, oq: AsyncOmniQ, name: str, value: Any) -> None:
        options: Any = {name: value}
        with pytest.raises(InvalidTask, match=f"^{name}: "):
            await oq.enqueue(tasks.nothing, **options)
        with pytest.raises(InvalidTask, match=rf"^calls\[1\]\.{name}: "):
            await oq.enqueue_many([TaskCall(func=tasks.nothing), TaskCall(func=tasks.nothing, options=options)])
        assert await oq.list_tasks() == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"queue": "high"}, "queue: no such option, did you mean 'queue_name'"),
            ({"frobnicate": 1}, "frobnicate: no such option"),
            ({"run_in": 1, "run_at": AWARE}, "run_in: give run_in or run_at, not both"),
            ({"task_id": "t", "depends_on": ["t"]}, "depends_on: task t can't depend on itself"),
        ],
    )
    async def test_options_that_do_not_exist_or_go_together(self, oq: AsyncOmniQ, options: Any, message: str) -> None:
        with pytest.raises(InvalidTask, match=message):
            await oq.enqueue(tasks.nothing, **options)

    async def test_a_transaction_of_the_callers_is_not_ignored(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(UnsupportedCapability, match="within a transaction"):
            await oq.enqueue(tasks.nothing, connection=object())
        with pytest.raises(InvalidTask, match=r"^calls\[0\]\.connection: "):
            await oq.enqueue_many([TaskCall(func=tasks.nothing, options={"connection": object()})])
        assert await oq.list_tasks() == []

    @pytest.mark.parametrize("calls", [None, 17, tasks.nothing, "ab", b"ab", {"func": tasks.nothing}])
    async def test_what_is_no_list_of_calls_is_told(self, oq: AsyncOmniQ, calls: Any) -> None:
        with pytest.raises(InvalidTask, match="^calls: expected a list of calls, each what oq.call makes, or a tuple"):
            await oq.enqueue_many(calls)
        with pytest.raises(InvalidTask, match="^calls: "):
            TaskDependencyGraph.of(calls)

    @pytest.mark.parametrize(
        ("bad", "problem"),
        [
            (tasks.nothing, r"calls\[1\]: expected what oq.call makes, or a tuple .*; got function"),
            ({"func": tasks.nothing}, r"calls\[1\]: expected what oq.call makes.*; got dict"),
            ([tasks.add, [1, 2]], r"calls\[1\]: expected what oq.call makes.*; got list"),
            (None, r"calls\[1\]: .*; got NoneType"),
            (group(), r"calls\[1\]: .*; got Group"),
            ("ab", r"calls\[1\]: .*; got str"),
            ((), r"calls\[1\]: .*; got a tuple of 0"),
            ((tasks.add,), r"calls\[1\]: .*; got a tuple of 1"),
            ((tasks.add, [1, 2], {}, {}), r"calls\[1\]: .*; got a tuple of 4"),
            ((17, [1, 2]), r"calls\[1\]\.func: expected a function, got int"),
            ((tasks.add, "12"), r"calls\[1\]\.func_args: expected a mapping .* or a sequence"),
            ((tasks.add, [1]), r"calls\[1\]\.func_args: add\(.*\): missing a required argument: 'y'"),
            ((tasks.add, [1], {"x": 2, "y": 3}), r"calls\[1\]\.func_args: add\(.*\): multiple values for argument 'x'"),
            (
                (tasks.add, {"x": 1}, {"y": 2}),
                r"calls\[1\]\[1\]: expected a sequence of positional arguments, got dict",
            ),
            ((tasks.add, [1], [2]), r"calls\[1\]\[2\]: expected a mapping of keyword arguments, got list"),
            ((tasks.add, [1], {1: 2}), r"calls\[1\]\.func_args: keyword arguments need str keys, got int"),
        ],
    )
    async def test_what_is_no_call_is_told_by_its_index(self, oq: AsyncOmniQ, bad: Any, problem: str) -> None:
        with pytest.raises(InvalidTask, match=f"^{problem}"):
            await oq.enqueue_many([(tasks.add, [1, 2]), bad])
        assert await oq.list_tasks() == []

    async def test_arguments_that_cannot_be_stored_are_told_by_their_index(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(SerializationError, match=r"^calls\[2\]: argument 'x': can't serialize frame"):
            await oq.enqueue_many([(tasks.add, [1, 2]), (tasks.add, [3, 4]), (tasks.add, [sys._getframe(), 1])])
        assert await oq.list_tasks() == []

    @pytest.mark.parametrize("func", [None, 17, "tests.core.tasks:add", object()])
    async def test_a_function_is_callable(self, oq: AsyncOmniQ, func: Any) -> None:
        with pytest.raises(InvalidTask, match="^func: expected a function, got"):
            await oq.enqueue(func)

    @pytest.mark.parametrize("func_args", ["ab", b"ab", 17, {1, 2}, {1: 2}, iter([1, 2])])
    async def test_arguments_are_a_mapping_or_a_sequence(self, oq: AsyncOmniQ, func_args: Any) -> None:
        with pytest.raises(InvalidTask, match="^func_args: "):
            await oq.enqueue(tasks.add, func_args)

    @pytest.mark.parametrize("options", [{"metadata": {1: 2}}, {"metadata": {"a": object()}}])
    async def test_metadata_is_plain(self, oq: AsyncOmniQ, options: Any) -> None:
        with pytest.raises((SerializationError, InvalidTask), match=f"^{next(iter(options))}: "):
            await oq.enqueue(tasks.nothing, **options)

    @pytest.mark.parametrize("name", ["on_success", "on_failure"])
    async def test_callbacks_are_functions(self, oq: AsyncOmniQ, name: str) -> None:
        options: dict[str, Any] = {name: 17}
        with pytest.raises(InvalidTask, match=f"^{name}: expected a function, got int$"):
            await oq.enqueue(tasks.nothing, **options)

    @pytest.mark.parametrize("arguments", [{"state": "sleeping"}, {"limit": 0}, {"limit": -1}, {"limit": 10_001}])
    async def test_a_bad_filter_is_named(self, oq: AsyncOmniQ, arguments: Any) -> None:
        with pytest.raises(InvalidTask, match=f"^{next(iter(arguments))}: "):
            await oq.list_tasks(**arguments)

    async def test_ids_that_nobody_has(self, oq: AsyncOmniQ) -> None:
        for task_id in ("nobody", "x" * 255, "%", "'; drop table task; --"):
            with pytest.raises(TaskNotFound):
                await oq.get_task(task_id)
            with pytest.raises(TaskNotFound):
                await oq.get_result(task_id)
        with pytest.raises(UnknownParent):
            await oq.enqueue(tasks.nothing, depends_on=["nobody"])

    async def test_extreme_values_that_are_right(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(
            tasks.echo,
            ["x" * 1_000_000],
            priority=-100,
            run_at=dt.datetime(1970, 1, 2, tzinfo=dt.UTC),
            ttl=dt.timedelta(days=3650),
            result_ttl=0.001,
            timeout=dt.timedelta(days=365),
            max_retries=1_000_000,
            retry_delay=0,
            task_id="任务-✓ %_'\"" + "x" * 200,
        )
        assert (await oq.get_task(task_id)).id == task_id
        later = await oq.enqueue(tasks.nothing, run_in=dt.timedelta(days=3650))
        assert (await oq.get_task(later)).state is TaskState.SCHEDULED


class TestArguments:
    @pytest.mark.parametrize("value", [(n for n in range(3)), oddities.Homebody()], ids=["generator", "homebody"])
    async def test_an_argument_that_cannot_travel_is_named_at_once(self, oq: AsyncOmniQ, value: Any) -> None:
        with pytest.raises(SerializationError, match="argument 'value'"):
            await oq.enqueue(tasks.echo, {"value": value})
        with pytest.raises(SerializationError, match="argument 'y'"):
            await oq.enqueue(tasks.add, [1, value])
        assert await oq.list_tasks() == []


class TestHostileBytes:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_unsigned_dill_is_never_decoded_where_a_key_is_set(
        self, place: Place, log: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with front_door(place) as attacker:
            hostile = [
                await attacker.enqueue(tasks.echo, [oddities.Canary(str(log))]),
                await attacker.enqueue(lambda path: tasks.note(path), [str(log)]),
                await plant(attacker, body=dill.dumps(oddities.Canary(str(log)))),
            ]
        assert lines(log) == []
        monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)
        async with front_door(place) as oq:
            good = await oq.enqueue(tasks.echo, [{1, 2}])
            async with working(oq, kind):
                assert await oq.get_result(good, timeout=SOON) == {1, 2}
                for task_id in hostile:
                    with pytest.raises(TaskFailed) as failed:
                        await oq.get_result(task_id, timeout=SOON)
                    assert failed.value.error_type in ("omniq.errors.SignatureError", "omniq.errors.CorruptPayload")
            assert {task.id for task in await oq.list_dead()} == set(hostile)
        assert lines(log) == []

    async def test_a_result_that_somebody_else_wrote_is_not_decoded(self, place: Place, log: Path) -> None:
        async with front_door(place) as attacker, working(attacker, "async"):
            task_id = await attacker.enqueue(oddities.make_canary, [str(log)])
            await attacker.result_store.wait(task_id, SOON)
            async with front_door(place, security=SIGNED) as oq:
                with pytest.raises(SignatureError, match="not decoded"):
                    await oq.get_result(task_id, timeout=SOON)
        assert lines(log) == []

    async def test_a_signed_task_under_another_id_is_refused(self, place: Place) -> None:
        async with front_door(place, security=SIGNED) as oq:
            (record,) = await oq.task_queue.store.get([await oq.enqueue(tasks.add, [1, 2])])
            assert record is not None
            copy = await plant(oq, body=record.body)
            async with working(oq, "async"):
                assert await oq.get_result(record.id, timeout=SOON) == 3
                with pytest.raises(TaskFailed, match="signature is wrong"):
                    await oq.get_result(copy, timeout=SOON)


@pytest.mark.parametrize("kind", KINDS)
async def test_damaged_tasks_are_parked_with_their_bytes_and_the_rest_is_done(oq: AsyncOmniQ, kind: str) -> None:
    (record,) = await oq.task_queue.store.get([await oq.enqueue(tasks.add, [1, 2], task_id="good-1")])
    assert record is not None
    half, body = len(record.body) // 2, record.body
    damaged = [b"", b"\x00", b"OQ1", b"OQ1M\x00", b"OQ1M\x00\xc1", body[:half], body[:-1], b"x" + body, b"\xff" * 5000]
    flipped = [bytes([*body[:n], body[n] ^ 0xFF, *body[n + 1 :]]) for n in range(6)]
    bad = {await plant(oq, body=bytes_): bytes_ for bytes_ in [*damaged, *flipped]}
    await oq.enqueue(tasks.add, [3, 4], task_id="good-2")
    async with working(oq, kind) as pool:
        assert await results_of(oq, ["good-1", "good-2"]) == [3, 7]
        for task_id in bad:
            with pytest.raises(TaskFailed):
                await oq.get_result(task_id, timeout=SOON)
        assert not pool.finished.is_set()
    dead = {task.id: task for task in await oq.list_dead()}
    assert {id_: (await oq.get_task(id_)).body for id_ in dead} == bad
    assert {(task.crashes, task.attempts) for task in dead.values()} == {(0, 1)}
    assert (await oq.get_task(next(iter(bad)))).func == "(unreadable)"


@pytest.mark.parametrize("kind", KINDS)
async def test_only_allowed_modules_are_run(place: Place, kind: str) -> None:
    security = Security(serializer="msgspec", allowed_modules=["tests.core.tasks"])
    async with front_door(place, security=security) as oq:
        allowed = await oq.enqueue(tasks.add, [1, 2])
        refused = [await plant(oq, func=func) for func in ("os:getcwd", "posix:getpid", "tests.core.tasks:os.getpid")]
        async with working(oq, kind):
            assert await oq.get_result(allowed, timeout=SOON) == 3
            for task_id in refused:
                with pytest.raises(TaskFailed) as failed:
                    await oq.get_result(task_id, timeout=SOON)
                assert failed.value.error_type == f"{FunctionNotFound.__module__}.{FunctionNotFound.__qualname__}"
