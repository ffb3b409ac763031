"""`@oq.task(…)`: functions that are tasks."""

from __future__ import annotations

import datetime as dt
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omniq import OmniQ
from omniq.declaring import TaskFunction
from omniq.errors import InvalidTask, SerializationError
from omniq.serialization.base import declared as registered

from tests.core.workers import declared_tasks as tasks

SIGNED = {"signing_key": "k1:" + "ab" * 32, "allowed_modules": ["@task"]}


@pytest.fixture
def oq(tmp_path: Path) -> Iterator[OmniQ]:
    """A queue whose tasks are declared by the test."""
    with OmniQ(config={"task_queue": {"url": f"sqlite:///{tmp_path}/q.db", "config": {"queues": ["high"]}}}) as oq:
        yield oq


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module with an application, its queue in this test's directory."""
    monkeypatch.setenv("DECLARED_TASKS", str(tmp_path))
    monkeypatch.delitem(sys.modules, tasks.__name__)
    module = __import__(tasks.__name__, fromlist=["oq"])
    with module.oq:
        yield module


def test_it_is_the_function_as_before(declared: Any) -> None:
    assert declared.area(3) == 6
    assert declared.area.__doc__ == "How large it is."
    assert declared.area.__name__ == "area"
    assert pickle.loads(pickle.dumps(declared.area)) is declared.area


def test_its_tasks_have_the_declared_options_and_those_of_the_call_win(declared: Any) -> None:
    oq = declared.oq
    ids = [declared.area.enqueue(3), oq.enqueue(declared.area, [3]), oq.enqueue_many([declared.area.call(3)])[0]]
    for id_ in ids:
        task = oq.get_task(id_)
        assert (task.queue_name, task.max_retries, task.timeout, task.priority) == ("high", 0, 30.0, 3)
    other = oq.get_task(declared.area.options(priority=-1, timeout=None).enqueue(3))
    assert (other.queue_name, other.timeout, other.priority) == ("high", None, -1)
    assert oq.get_task(oq.enqueue(declared.area, [3], queue_name="default")).queue_name == "default"


def test_a_worker_runs_it_and_its_result_can_be_waited_for(declared: Any) -> None:
    declared.oq.start_worker("thread")
    assert declared.area.result(declared.area.enqueue(3, height=4), timeout=30) == 12
    inner = declared.oq.get_result(declared.calls_another.enqueue(5), timeout=30)
    assert declared.area.result(inner, timeout=30) == 10


async def test_an_async_one(declared: Any) -> None:
    async with declared.aoq as oq:
        await oq.start_worker("async")
        task_id = await declared.doubled.enqueue(21)
        assert await declared.doubled.result(task_id, timeout=30) == 42
        assert (await oq.get_task(task_id)).max_retries == 1
        await oq.stop_worker()


def test_schedules_take_what_one_would_write(declared: Any) -> None:
    when: list[Any] = ["0 9 * * *", dt.timedelta(hours=1), dt.datetime(2200, 1, 1, tzinfo=dt.UTC), {"cron": "@daily"}]
    for each in when:
        schedule = declared.oq.get_schedule(declared.area.schedule(each, 3))
        assert schedule.queue_name == "high"
    named = {"interval": 60, "schedule_id": "hourly", "misfire": "skip"}
    assert declared.area.schedule(named, 3) == declared.area.schedule(named, 4) == "hourly"


def test_they_are_listed(declared: Any) -> None:
    assert f"{tasks.__name__}:area" in declared.oq.tasks


@pytest.mark.parametrize("make", ["enqueue", "options", "call", "schedule"])
def test_it_goes_by_name_whichever_way_it_is_enqueued(
    declared: Any, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    monkeypatch.setenv("OMNIQ_SERIALIZER", "msgspec")  # which refuses functions that go by value
    ways: dict[str, Callable[[Any, Any], Any]] = {
        "enqueue": lambda oq, area: area.enqueue(3),
        "options": lambda oq, area: area.options(priority=1).enqueue(3),
        "call": lambda oq, area: oq.enqueue_many([area.options(priority=1).call(3)])[0],
        "schedule": lambda oq, area: oq.run_schedule(area.schedule("@daily", 3)),
    }
    with OmniQ(config=declared.CONFIG) as oq:
        oq.start_worker("thread")
        area = oq.task(queue="high")(declared.area.function)  # by a second OmniQ, too
        assert oq.get_result(ways[make](oq, area), timeout=30) == 6


def test_methods_belong_to_their_object(declared: Any) -> None:
    shop = declared.Shop("Tom")
    assert (shop.sell(2), declared.Shop.sell(shop, 3)) == ("Tom sells 2", "Tom sells 3")
    assert (shop.add(1, 2), declared.Shop.add(1, 2), shop.kind("!")) == (3, 3, "Shop!")
    declared.oq.start_worker("thread")
    ids = [shop.sell.enqueue(2), declared.Shop.sell.enqueue(shop, 3), declared.Shop.add.enqueue(1, right=2)]
    ids += [declared.oq.enqueue(declared.Shop.kind, ["!"])]
    assert [declared.oq.get_result(id_, timeout=30) for id_ in ids] == ["Tom sells 2", "Tom sells 3", 3, "Shop!"]
    assert declared.oq.get_task(ids[0]).queue_name == "high"
    with pytest.raises(InvalidTask, match=r"func_args: sell\(count=1\): too many"):
        shop.sell.enqueue(2, 3)


def test_a_class_method_never_takes_an_argument_for_its_class(declared: Any) -> None:
    if sys.version_info >= (3, 13):
        with pytest.raises(InvalidTask, match="is a class method"):
            declared.Shop.kind.enqueue("!")
    else:
        declared.oq.start_worker("thread")
        assert declared.oq.get_result(declared.Shop.kind.enqueue("!"), timeout=30) == "Shop!"


def test_names_of_its_own_stay_its_own(oq: OmniQ) -> None:
    def told(**numbers: int) -> int:
        return sum(numbers.values())

    told.enqueue, told.mine = None, 5  # type: ignore[attr-defined]
    task: Any = oq.task()(told)
    assert task.mine == 5
    assert task(self=1) == task.call(self=1).func(self=1) == 1
    assert oq.get_task(task.enqueue(self=1, when=2)).func.endswith("told")


def test_the_kind_of_worker_is_told(declared: Any) -> None:
    assert declared.oq.get_task(declared.where_on_a_process.enqueue()).worker_kind == "process"
    assert declared.oq.get_task(declared.area.enqueue(3)).worker_kind is None


def test_what_has_no_signature_or_name_of_its_own(oq: OmniQ) -> None:
    with pytest.raises(InvalidTask, match="task: builtins:max can't be declared: no signature"):
        oq.task()(max)
    assert oq.task()(partial(sum, [1]))() == 1
    assert "functools:partial" not in registered  # which allowed_modules would let anybody make


BAD_CALLS: dict[str, Callable[[Any], Any]] = {
    "func_args: area(width, height=2): missing": lambda it: it.area.enqueue(),
    "func_args: area(width, height=2): got an": lambda it: it.area.enqueue(1, depth=3),
    "func_args: area(width, height=2): too many": lambda it: it.oq.enqueue(it.area, [1, 2, 3]),
    "func_args: area": lambda it: it.area.call(),
    "when: expected": lambda it: it.area.schedule(3, 1),
    "priority: ": lambda it: it.area.options(priority=1000),
    "prio: no such option, did you mean 'priority'": lambda it: it.area.options(prio=1),
}


@pytest.mark.parametrize("problem", BAD_CALLS)
def test_bad_calls_are_refused(declared: Any, problem: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        BAD_CALLS[problem](declared)
    assert str(caught.value).startswith(problem)


BAD_DECLARATIONS: dict[str, dict[str, Any]] = {
    "queue: 'nope' isn't one of the declared queues": {"queue": "nope"},
    "retries: expected a whole number": {"retries": -1},
    "timeout: ": {"timeout": -1},
    "timeout: expected": {"timeout": "soon"},
    "worker: unknown worker 'proces', did you mean 'process'?": {"worker": "proces"},
    "worker: expected the name": {"worker": 3},
    "task_id: a task can't be declared with it: give it to options()": {"task_id": "x"},
    "retry: a task can't be declared with it: no such option": {"retry": 3},
}


@pytest.mark.parametrize("problem", BAD_DECLARATIONS)
def test_bad_declarations_are_refused_where_they_are_made(oq: OmniQ, problem: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        oq.task(**BAD_DECLARATIONS[problem])
    assert str(caught.value).startswith(problem)
    with pytest.raises(InvalidTask) as caught:
        oq.aio.task(**BAD_DECLARATIONS[problem])
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("function", [3, None, int])
def test_only_functions_are_declared(oq: OmniQ, function: Any) -> None:
    with pytest.raises(InvalidTask, match="task: "):
        oq.task()(function)


def test_without_parentheses_it_says_what_to_write(oq: OmniQ) -> None:
    with pytest.raises(InvalidTask, match=r"@oq\.task\(\)"):
        oq.task(lambda: None)  # type: ignore[arg-type]


def test_a_function_that_no_module_has_goes_by_value(oq: OmniQ) -> None:
    @oq.task()
    def local(number: int) -> int:
        return number + 1

    assert isinstance(local, TaskFunction)
    oq.start_worker("process")
    assert local.result(local.enqueue(1), timeout=30) == 2
    with pytest.raises(SerializationError, match="no module can be imported for it"):
        oq.enqueue(print, [local])


# ── allowed_modules ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_only_declared_tasks_are_run_where_that_is_all_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("DECLARED_TASKS", str(tmp_path))
    program = f"""
import sys
from omniq import OmniQ
from omniq.errors import TaskFailed
from {tasks.__name__} import CONFIG, area, where
with OmniQ(config={{**CONFIG, **{SIGNED!r}}}) as oq:
    oq.start_worker({kind!r})
    print(oq.get_result(oq.enqueue(area, [3]), timeout=30))
    try:
        oq.get_result(oq.enqueue(where, max_retries=0), timeout=30)
    except TaskFailed as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    value, refusal = done.stdout.splitlines()[:2]
    assert value == "6"
    assert "allowed_modules allows declared tasks" in refusal or "isn't among allowed_modules" in refusal
