"""Child processes that are replaced after so many tasks or bytes, and what each calls first."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.config import ConfigProvider
from omniq.errors import ConfigError, WorkerError
from omniq.workers import process

from tests.core import tasks
from tests.core.support import SOON, front_door, lines, reference_place, results_of, until, working
from tests.core.workers import slot_tasks

CHILDREN = ("process", "gevent")
INITIALIZE = "tests.core.workers.slot_tasks:initialize"
MIB = 2**20


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    async with front_door(reference_place()) as oq:
        yield oq


async def uncharged(oq: AsyncOmniQ, ids: Sequence[str]) -> bool:
    """Whether each was run at its first attempt."""
    found = [await oq.get_task(id_) for id_ in ids]
    return all((task.crashes, task.attempts) == (0, 0) for task in found)


@pytest.mark.parametrize(("kind", "most", "count"), [("process", 4, 16), ("gevent", 3, 5)])
async def test_a_child_runs_so_many_tasks_and_no_more(oq: AsyncOmniQ, kind: str, most: int, count: int) -> None:
    async with working(oq, kind, max_tasks_per_child=most):
        ids = [await oq.enqueue(tasks.process_id) for _ in range(count)]
        ran = Counter(await results_of(oq, ids))
        assert max(ran.values()) == most
        assert await uncharged(oq, ids)


async def test_a_process_for_each_task(oq: AsyncOmniQ) -> None:
    async with working(oq, "process", max_tasks_per_child=1):
        ran = await results_of(oq, [await oq.enqueue(tasks.process_id) for _ in range(4)])
    assert len(set(ran)) == 4


@pytest.mark.parametrize("kind", CHILDREN)
async def test_its_successor_is_ready_before_its_last_task_ends(
    oq: AsyncOmniQ, kind: str, gate: Path, log: Path
) -> None:
    """And with max_workers=1 it waits for that end: no more tasks run at once than there are workers."""
    async with working(oq, kind, max_workers=1, max_tasks_per_child=1, prefetch=1) as pool:
        first = await oq.enqueue(slot_tasks.pid_at_gate, [str(gate), str(log)])
        second = await oq.enqueue(slot_tasks.pid_at_gate, [str(gate), str(log)])
        runner: Any = pool.runners.main
        await until(lambda: len(runner._children) == 2)
        await until(lambda: len(lines(log)) == 1)
        assert pool.in_flight.buffered == 1
        gate.touch()
        one, other = await results_of(oq, [first, second])
        assert lines(log) == [str(one), str(other)]
        assert one != other


@pytest.mark.parametrize("kind", CHILDREN)
async def test_a_greedy_child_is_replaced(oq: AsyncOmniQ, kind: str) -> None:
    async with working(oq, kind, max_workers=1, max_memory_per_child=200 * MIB):  # a fresh one takes a third of it
        pids = [await oq.get_result(await oq.enqueue(tasks.process_id), timeout=SOON) for _ in range(3)]
        borrowed = await oq.get_result(await oq.enqueue(slot_tasks.borrow, [MIB]), timeout=SOON)
        ids = [await oq.enqueue(slot_tasks.keep, [300 * MIB]), *[await oq.enqueue(tasks.process_id) for _ in range(3)]]
        greedy, *later = await results_of(oq, ids)
        assert {*pids, borrowed, greedy} == {greedy}
        last = await oq.get_result(await oq.enqueue(tasks.process_id), timeout=SOON)
        assert last != greedy
        assert await uncharged(oq, ids)
        if kind == "process":
            assert set(later) == {last}


async def test_one_that_is_too_large_from_the_start_is_told_of(
    oq: AsyncOmniQ, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with working(oq, "process", max_workers=1, max_memory_per_child=MIB):
        assert await results_of(oq, [await oq.enqueue(tasks.add, [n, 1]) for n in range(3)]) == [1, 2, 3]
    assert "MiB after 1 tasks: more than max_memory_per_child, so it is replaced" in capfd.readouterr().err


# ── the initializer ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", CHILDREN)
async def test_each_child_calls_the_initializer_once_and_first(oq: AsyncOmniQ, kind: str) -> None:
    async with working(oq, kind, max_workers=1, max_tasks_per_child=2, initializer=INITIALIZE):
        found = await results_of(oq, [await oq.enqueue(slot_tasks.initialized) for _ in range(4)])
    assert all(len(each) == 1 for each in found)
    assert len(set(itertools.chain(*found))) == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("slot_tasks:fail_to_initialize", "ConnectionError: postgresql://me:***@db is down and out"),
        ("slot_tasks:exit_instead", "SystemExit: 3"),
        ("slot_tasks:initialize_async", "TypeError: it is async, and no event loop runs yet: make it a plain function"),
        ("slot_tasks:nothing", "AttributeError: module 'tests.core.workers.slot_tasks' has no attribute 'nothing'"),
        ("no_such_tasks:set_up", "ModuleNotFoundError: No module named 'tests.core.workers.no_such_tasks'"),
    ],
)
async def test_one_that_fails_is_told_in_one_line(
    oq: AsyncOmniQ, name: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "FAILED_STARTS", 2)
    pool = oq.worker_pool("process", max_workers=1, initializer=f"tests.core.workers.{name}")
    await pool.start()
    await asyncio.wait_for(pool.finished.wait(), SOON)
    line = f"the initializer tests.core.workers.{name} has failed: {why}"
    assert f"no child process can be started, trying again in 0.1 s: {line}" in caplog.messages
    assert isinstance(pool.failure, WorkerError)
    assert str(pool.failure) == f"no child process can be started: {line}"


async def test_gevents_child_tells_of_it_too(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "FAILED_STARTS", 1)
    pool = oq.worker_pool("gevent", initializer="tests.core.workers.slot_tasks:exit_instead")
    await pool.start()
    await asyncio.wait_for(pool.finished.wait(), SOON)
    assert "slot_tasks:exit_instead has failed: SystemExit: 3" in str(pool.failure)


# ── whose options they are ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("thread", {"max_tasks_per_child": 1}, "ThreadPoolWorker.max_tasks_per_child: only gevent and process workers"),
        ("async", {"initializer": "a:b"}, "AsyncWorker.initializer: only gevent and process workers have it"),
        ("process", {"max_abandoned": 1}, "ProcessPoolWorker.max_abandoned: only async and thread workers have it"),
        ("process", {"max_task_per_child": 1}, "unknown name, did you mean 'max_tasks_per_child'?"),
        ("process", {"max_tasks_per_child": 0}, "ProcessPoolWorker.max_tasks_per_child: expected int >= 1"),
        ("process", {"max_tasks_per_child": True}, "ProcessPoolWorker.max_tasks_per_child: expected int, got bool"),
        ("process", {"max_memory_per_child": "1G"}, "ProcessPoolWorker.max_memory_per_child: expected int, got str"),
        ("gevent", {"max_memory_per_child": -1}, "GeventPoolWorker.max_memory_per_child: expected int >= 1"),
        ("process", {"initializer": "app"}, "initializer: expected a reference such as 'package.module:function'"),
        ("process", {"initializer": print}, "ProcessPoolWorker.initializer: expected str, got builtin_function"),
        ("thread", {"max_abandoned": -1}, "ThreadPoolWorker.max_abandoned: expected int >= 0"),
    ],
)
async def test_what_makes_no_sense_is_refused(oq: AsyncOmniQ, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        oq.worker_pool(kind, **options)
    assert message in str(refused.value)


def load(worker: Any, environ: dict[str, str] | None = None) -> Any:
    return ConfigProvider({"worker": worker}, environ=environ or {}).load().worker


def test_options_stand_by_kind() -> None:
    worker = load(
        {"config": {"lease": 5.0}, "options": {"process": {"max_tasks_per_child": 3, "lease": 7.0}}},
        {"OMNIQ_WORKER_OPTIONS": '{"process": {"initializer": "app:up"}, "thread": {"max_abandoned": 2}}'},
    )
    found = worker.settings_for("process")
    assert (found.max_tasks_per_child, found.initializer, found.lease) == (3, "app:up", 7.0)
    assert (worker.settings_for("thread").max_abandoned, worker.settings_for("thread").lease) == (2, 5.0)
    assert worker.settings_for("async").lease == 5.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"config": {"max_tasks_per_child": 1}},
            "worker.config.max_tasks_per_child: only gevent and process workers have it; a configuration says it in "
            "worker.options.gevent or worker.options.process",
        ),
        ({"config": {"max_task": 1}}, "worker.config.max_task: unknown name"),
        ({"options": {"proces": {}}}, "worker.options.proces: unknown kind of worker, did you mean 'process'?"),
        ({"options": {"process": 3}}, "worker.options.process: expected mapping, got int"),
    ],
)
def test_at_the_wrong_place_they_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(given)
    assert message in str(refused.value)


def test_so_is_what_another_kind_does_not_have_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"worker\.options\.process\.max_tasks_per_chld: unknown name, did you mean"):
        OmniQ(config={"worker": {"options": {"process": {"max_tasks_per_chld": 3}, "gevent": {}}}})


def test_so_is_a_wrong_value_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"worker\.options\.thread\.max_tasks_per_child: only gevent and process"):
        OmniQ(config={"worker": {"options": {"thread": {"max_tasks_per_child": 3}}}})


@pytest.mark.parametrize("environ", [{"OMNIQ_WORKER_OPTIONS": "3"}, {"OMNIQ_WORKER_OPTIONS": "{"}])
def test_the_variable_holds_json(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="OMNIQ_WORKER_OPTIONS"):
        load({}, environ)
