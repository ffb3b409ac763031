"""Wrong calls of the public API, on both front doors: each is refused with a typed error that names the argument."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import math
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import omniq
import omniq.backend
import omniq.config
import omniq.events
import omniq.models
import omniq.queue
import omniq.results
import omniq.storage
import omniq.sync
import omniq.testing
import omniq.workers
import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import BlockingCallInLoop, InvalidTask, OmniQError, WorkerError
from omniq.models import Page

VAST = 10**400
LONG = "x" * 10**6
IDS: Sequence[object] = (5, "", "a\0b", "x" * 2000, b"x", 1.5, [], {}, object(), uuid.UUID(int=5), "\ud800")
"""What is no id; where one is needed, None isn't either."""
NEEDED_IDS: Sequence[object] = (None, *IDS)
FLAGS: Sequence[object] = (None, 0, 1, "yes", math.nan, [], object())
LIMITS: Sequence[object] = (None, 0, -1, 10**6, VAST, "5", 1.5, math.nan, True, object())
SPANS: Sequence[object] = ("5", -1, math.nan, math.inf, VAST, b"5", [], object(), True, dt.timedelta(days=-1))
NEEDED_SPANS: Sequence[object] = (None, *SPANS)
FUNCTIONS: Sequence[object] = (None, 5, "print", b"x", [], {}, object())
ARGUMENTS: Sequence[object] = (5, "ab", b"ab", 1.5, object(), {5: 1}, {"no_such_argument": 1}, [1, 2, 3])
NUMBERS: Sequence[object] = ("5", math.nan, math.inf, VAST, b"5", [], object(), True)
TEXTS: Sequence[object] = (5, b"x", [], {}, object(), "a\0b")
TIMES: Sequence[object] = ("tomorrow", math.nan, math.inf, VAST, object(), [], dt.timedelta(1), b"5")
CURSORS: Sequence[object] = (5, "", "a\0b", b"x", [], object(), 1.5)
QUEUES: Sequence[object] = ("no such queue", LONG, "\ud800", "", 5, b"default", [], object())
OPTIONS: Mapping[str, Sequence[object]] = {
    "priority": (*NUMBERS, 101, -101, 1.5),
    "ttl": SPANS,
    "result_ttl": SPANS,
    "timeout": (*SPANS, 0),
    "heartbeat_timeout": (*SPANS, 0),
    "max_retries": (*NUMBERS, -1, 1.5, 2**64),
    "retry_delay": SPANS,
    "retry_factor": (*NUMBERS, 0.5),
    "retry_max_delay": SPANS,
    "retry_jitter": (*NUMBERS, -0.1, 1.1),
    "retry_on": (5, "ValueError", [None], [5], object()),
    "give_up_on": (5, "ValueError", [None], [5], object()),
    "metadata": (5, "a", [1], {5: 5}, {"a": object()}, {"a": math.nan}),
    "on_success": (5, "f", object()),
    "on_failure": (5, "f", object()),
    "on_parent_failure": (5, "explode", object()),
    "worker": (5, "no such kind", LONG, "\ud800", "", object()),
}
CONDITIONS: Mapping[str, Sequence[object]] = {
    "state": ("no such state", 5, [None], ["error", 5], [], object()),
    "queue_name": TEXTS,
    "name": TEXTS,
    "schedule_id": IDS,
    "error": TEXTS,
    "since": TIMES,
    "until": TIMES,
}
EVENT_CONDITIONS: Mapping[str, Sequence[object]] = {
    "task_id": IDS,
    "queue_name": TEXTS,
    "name": TEXTS,
    "schedule_id": IDS,
    "worker": TEXTS,
    "type": ("no such type", 5, [None], [5], object()),
    "since": TIMES,
    "until": TIMES,
}
LISTS: Mapping[str, Sequence[object]] = {"newest_first": FLAGS, "limit": LIMITS, "cursor": CURSORS, **CONDITIONS}
EVENT_LISTS: Mapping[str, Sequence[object]] = {"oldest_first": FLAGS, "limit": LIMITS, "cursor": CURSORS}
BULK: Mapping[str, Sequence[object]] = {
    "ids": ("a", b"a", 5, object(), {"a": 1}, [None], [5], [""]),
    "all": FLAGS,
    "dry_run": FLAGS,
    **CONDITIONS,
}


def add(x: int = 1, y: int = 2) -> int:
    return x + y


INSTEAD_OF_INTERVAL = ("cron", "rrule", "run_at")

Wrong = tuple[Mapping[str, object], Mapping[str, Sequence[object]]]
"""The arguments of a right call, and values by which one of them may not be replaced."""

ONE_TASK: Wrong = {}, {"task_id": NEEDED_IDS}
ONE_SCHEDULE: Wrong = {}, {"schedule_id": NEEDED_IDS}
WORKFLOWS: Sequence[object] = (None, 5, "a", [None], [5], [add], object())

QUEUE_CALLS: Mapping[str, Wrong] = {
    "enqueue": (
        {"func": add},
        {
            "func": FUNCTIONS,
            "func_args": ARGUMENTS,
            **OPTIONS,
            "queue_name": (None, *QUEUES),
            "run_in": SPANS,
            "run_at": (*TIMES, dt.datetime(1, 1, 1)),
            "depends_on": (5, [None], [5], [""], ["no such task"], object()),
            "task_id": IDS,
            "unique_key": IDS,
            "connection": (5, object()),
            "no_such_option": (None, 5),
        },
    ),
    "enqueue_many": ({}, {"calls": (None, 5, "a", [None], [5], [add], [{"func": add}], object())}),
    "schedule": (
        {"func": add, "interval": 60},
        {
            "func": FUNCTIONS,
            "func_args": ARGUMENTS,
            **OPTIONS,
            "schedule_id": IDS,
            "queue_name": (None, *QUEUES),
            "interval": (0, *SPANS),
            "cron": (5, "* * *", "60 * * * *", "", object()),
            "rrule": (5, "FREQ=NEVER", "", object()),
            "run_at": TIMES,
            "start": TIMES,
            "end": TIMES,
            "timezone": (5, "Nowhere/City", object()),
            "grace": SPANS,
            "jitter": SPANS,
            "catch_up": (5, "sometimes", object()),
            "overlap": (5, "sometimes", object()),
            "max_running": (0, -1, "5", 1.5, math.nan, VAST),
            "no_such_option": (None, 5),
        },
    ),
    "cancel": ONE_TASK,
    "explain": ONE_TASK,
    "get_dead": ({"task_id": "t"}, {"task_id": NEEDED_IDS}),
    "get_task": ONE_TASK,
    "requeue": ONE_TASK,
    "delete_schedule": ONE_SCHEDULE,
    "get_schedule": ONE_SCHEDULE,
    "pause_schedule": ONE_SCHEDULE,
    "resume_schedule": ONE_SCHEDULE,
    "run_schedule": ONE_SCHEDULE,
    "purge_queue": ({}, {"queue_name": (None, *QUEUES), "dry_run": FLAGS}),
    "pause_queue": ({}, {"queue_name": (None, *QUEUES)}),
    "resume_queue": ({}, {"queue_name": (None, *QUEUES)}),
    "list_tasks": ({}, {**LISTS, "no_such_condition": (None, 5)}),
    "list_dead": ({}, {**LISTS, "tracebacks": FLAGS, "arguments": FLAGS, "no_such_condition": (None, 5)}),
    "cancel_many": ({"state": "pending"}, BULK),
    "requeue_many": ({"state": "error"}, BULK),
    "purge_dead": ({"state": "error"}, BULK),
}
RESULT_CALLS: Mapping[str, Wrong] = {
    "find": ({"schedule_id": "s"}, {"schedule_id": NEEDED_IDS, "newest_first": FLAGS, "limit": LIMITS}),
    "get": ONE_TASK,
    "wait": ({"task_id": "t", "timeout": 0.01}, {"task_id": NEEDED_IDS, "timeout": SPANS}),
}
EVENT_CALLS: Mapping[str, Wrong] = {
    "list": ({}, {**EVENT_LISTS, **EVENT_CONDITIONS, "no_such_condition": (None, 5)}),
    "iterate": ({}, {"oldest_first": FLAGS, "after": CURSORS, **EVENT_CONDITIONS}),
    "follow": ({}, {"after": CURSORS, "poll_interval": NEEDED_SPANS, "overlap": NEEDED_SPANS, **EVENT_CONDITIONS}),
    "purge": ({}, {"older_than": NEEDED_SPANS}),
}
WORKER_SETTINGS: Mapping[str, Sequence[object]] = {
    "max_workers": (0, -1, "5", 1.5, math.nan, VAST, object()),
    "queues": ([], ["no such queue"], [5], "default", 5, object()),
    "lease": NEEDED_SPANS,
    "poll_interval": NEEDED_SPANS,
    "policy": (5, "random", object()),
    "prefetch": (-1, "5", 1.5, math.nan, VAST),
    "no_such_setting": (None, 5),
}
DOOR_CALLS: Mapping[str, Wrong] = {
    **QUEUE_CALLS,
    "enqueue_workflow": ({}, {"workflow": WORKFLOWS}),
    "get_workflow": ONE_TASK,
    "get_result": (
        {"task_id": "t", "timeout": 0.01},
        {"task_id": IDS, "kind": (None, 5, "last", object(), []), "timeout": SPANS},
    ),
    "peek_result": ONE_TASK,
    "watch": ({"task_id": "t", "timeout": 0.01}, {"task_id": NEEDED_IDS, "timeout": SPANS}),
    "inspect_worker": ({"name": "w"}, {"name": NEEDED_IDS, "timeout": SPANS}),
    "list_events": ({}, {**EVENT_LISTS, **EVENT_CONDITIONS, "no_such_condition": (None, 5)}),
    "workers": ({}, {"alive": FLAGS}),
    "call": ({"func": add}, {"func": FUNCTIONS, "func_args": ARGUMENTS, "no_such_option": (None, 5)}),
    "configure": (
        {},
        {
            "log_level": (5, "loud", LONG, "\ud800", object()),
            "event_types": (5, "no such type", ["\ud800"], [5], object()),
            "max_workers": (0, "\ud800", -1, "5", 1.5, math.nan, VAST, object()),
            "no_such_setting": (None, 5),
            "task_queue_type": ("redis",),
        },
    ),
    "start_worker": ({}, {"worker_type": (5, "threads", "", object(), []), **WORKER_SETTINGS}),
    "stop_worker": ({}, {"grace_period": SPANS}),
    "task": (
        {},
        {
            **{name: values for name, values in OPTIONS.items() if name != "max_retries"},
            "queue": QUEUES,
            "retries": OPTIONS["max_retries"],
            "task_id": ("t",),
            "no_such_option": (None, 5),
        },
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def door(folder: Path) -> Iterator[OmniQ]:
    with OmniQ(task_queue="sqlite", event_store="sqlite") as oq:
        yield oq


@pytest.fixture
async def async_door(folder: Path) -> AsyncIterator[AsyncOmniQ]:
    async with AsyncOmniQ(task_queue="sqlite", event_store="sqlite") as oq:
        yield oq


def wrong_calls(calls: Mapping[str, Wrong]) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Each method, the argument that is wrong, and all arguments."""
    for method, (right, wrong) in calls.items():
        for name, values in wrong.items():
            others = {
                key: value for key, value in right.items() if key != "interval" or name not in INSTEAD_OF_INTERVAL
            }
            yield from ((method, name, {**others, name: value}) for value in values)


def problem(name: str, error: BaseException | None) -> str | None:
    """What is wrong with an answer to a wrong argument."""
    if error is None:
        return "is accepted"
    if isinstance(error, TypeError) and name.startswith("no_such"):  # Python's own words for a name that isn't there
        return None if f"'{name}'" in str(error) else f"isn't named: {error}"
    if not isinstance(error, OmniQError):
        return f"raises {error!r:.140}"
    text = str(error)
    if not re.search(rf"(^|[ .]){name}(\[\d+\])?[:.]", text):
        return f"isn't named: {text:.140}"
    if len(text) > 2000:
        return f"is told in {len(text)} characters"
    return f"is told in several lines: {text:.100}" if "\n" in text else None


def refused_by(owner: object, method: str, arguments: Mapping[str, Any]) -> BaseException | None:
    """What a blocking call raises."""
    try:
        answer = getattr(owner, method)(**arguments)
        if method in ("watch", "iterate", "follow"):
            next(iter(answer), None)
    except Exception as error:
        return error
    return None


async def refused_by_async(owner: object, method: str, arguments: Mapping[str, Any]) -> BaseException | None:
    """What an async call raises."""
    try:
        answer = getattr(owner, method)(**arguments)
        if inspect.isawaitable(answer):
            await answer
        elif hasattr(answer, "__anext__"):
            await anext(answer, None)
    except Exception as error:
        return error
    return None


def report(found: Sequence[tuple[str, str, Mapping[str, object], str | None]]) -> list[str]:
    return [  # all that is wrong, at once
        f"{method}({name}={arguments[name]!r:.40}) {what}"
        for method, name, arguments, what in found
        if what is not None
    ]


class TestOnBothDoors:
    def test_calls_of_the_blocking_one(self, door: OmniQ) -> None:
        wrong = list(wrong_calls(DOOR_CALLS))
        assert len(wrong) > 120
        assert report([(*each, problem(each[1], refused_by(door, each[0], each[2]))) for each in wrong]) == []
        assert door.list_tasks() == []

    async def test_calls_of_the_async_one(self, async_door: AsyncOmniQ) -> None:
        found = [
            (*each, problem(each[1], await refused_by_async(async_door, each[0], each[2])))
            for each in wrong_calls(DOOR_CALLS)
        ]
        assert report(found) == []
        assert await async_door.list_tasks() == []

    @pytest.mark.parametrize(
        ("component", "calls"),
        [("task_queue", QUEUE_CALLS), ("result_store", RESULT_CALLS), ("event_store", EVENT_CALLS)],
    )
    async def test_calls_of_components(
        self, async_door: AsyncOmniQ, component: str, calls: Mapping[str, Wrong]
    ) -> None:
        owner = getattr(async_door, component)
        found = [
            (*each, problem(each[1], await refused_by_async(owner, each[0], each[2]))) for each in wrong_calls(calls)
        ]
        assert report(found) == []

    @pytest.mark.parametrize(
        ("kind", "calls"),
        [
            (omniq.queue.SQLiteTaskQueue, QUEUE_CALLS),
            (omniq.storage.SQLiteResultStorage, RESULT_CALLS),
            (omniq.storage.SQLiteEventStorage, EVENT_CALLS),
        ],
    )
    def test_calls_of_blocking_components(
        self, folder: Path, kind: Callable[[], Any], calls: Mapping[str, Wrong]
    ) -> None:
        with kind() as owner:
            found = [(*each, problem(each[1], refused_by(owner, each[0], each[2]))) for each in wrong_calls(calls)]
        assert report(found) == []


NO_CONFIGS: Sequence[object] = (5, "x", b"x", [], object(), math.nan, True)
NO_MAPPINGS: Sequence[object] = (None, 5, "x", b"x", [], object(), math.nan, True)
NO_PATHS: Sequence[object] = (None, 5, b"x", 1.5, [], {}, object(), True)
NO_URLS: Sequence[object] = (None, 5, b"x", 1.5, [], {}, object(), True, "", "no such url", "no-such-scheme://x")
NO_BACKENDS: Sequence[object] = (None, 5, "sqlite", {}, object(), omniq.backend.SQLiteBackend)
CLASS_CALLS: Mapping[str, Wrong] = {
    "from_config": ({}, {"config": NO_CONFIGS}),
    "from_dict": ({}, {"config": NO_MAPPINGS}),
    "from_config_file": ({}, {"path": NO_PATHS}),
    "from_url": ({}, {"url": NO_URLS}),
    "from_backend": ({}, {"backend": NO_BACKENDS}),
}
CLASSES = (
    AsyncOmniQ,
    OmniQ,
    omniq.queue.AsyncTaskQueue,
    omniq.queue.TaskQueue,
    omniq.queue.SQLiteTaskQueue,
    omniq.results.AsyncResultStorage,
    omniq.results.ResultStorage,
    omniq.storage.SQLiteResultStorage,
    omniq.events.AsyncEventStorage,
    omniq.events.EventStorage,
    omniq.storage.SQLiteEventStorage,
    omniq.backend.SQLiteBackend,
    omniq.backend.FileBackend,
    omniq.workers.AsyncWorker,
    omniq.workers.ThreadPoolWorker,
    omniq.workers.ProcessPoolWorker,
)


@pytest.mark.parametrize("owner", CLASSES)
def test_calls_of_classes(folder: Path, owner: type) -> None:
    calls = {name: wrong for name, wrong in CLASS_CALLS.items() if hasattr(owner, name)}
    assert len(calls) >= 4
    assert report([(*each, problem(each[1], refused_by(owner, each[0], each[2]))) for each in wrong_calls(calls)]) == []
    assert list(folder.iterdir()) == []


NO_COMPONENTS: Sequence[object] = (
    5,
    "no such store",
    b"x",
    [],
    object(),
    math.nan,
    True,
    "sqlite:orders.db",
    {"url": 5},
    {"typ": "sqlite"},
)
OPENING: Mapping[str, Sequence[object]] = {
    "project_name": (5, "", "a b", b"x", object(), "x" * 100),
    "task_queue": (*NO_COMPONENTS, omniq.models.SQLiteResultStorageConfig(), omniq.storage.SQLiteResultStorage),
    "result_store": (*NO_COMPONENTS, omniq.models.SQLiteTaskQueueConfig(), omniq.queue.SQLiteTaskQueue),
    "event_store": (*NO_COMPONENTS[:-4], omniq.models.SQLiteTaskQueueConfig(), omniq.queue.SQLiteTaskQueue),
    "worker_type": (5, "threads", "", [], object()),
    "worker_config": (
        5,
        "x",
        [],
        {"max_worker": 1},
        {"queues": ["no"]},
        {"max_workers": "x"},
        {"max_workers": 0},
        object(),
    ),
    "config": (5, b"x", [], object(), math.nan),
    "callbacks": (5, "x", [], {}, object(), print),
}
QUEUED: Mapping[str, Sequence[object]] = {
    "queue": (None, *OPENING["task_queue"]),
    "result_store": OPENING["result_store"],
    "event_store": OPENING["event_store"],
    "callbacks": OPENING["callbacks"],
    **WORKER_SETTINGS,
}
NO_DOORS: Sequence[object] = (None, 5, "sqlite:///a.db", {}, object(), OmniQ)
MOVED = {"source": OmniQ(task_queue="memory://from"), "target": OmniQ(task_queue="memory://to")}
NEW: Mapping[Callable[..., object], Wrong] = {
    AsyncOmniQ: ({}, OPENING),
    OmniQ: ({}, OPENING),
    omniq.workers.AsyncWorker: ({"queue": "sqlite"}, QUEUED),
    omniq.workers.ThreadPoolWorker: ({"queue": "sqlite"}, QUEUED),
    omniq.workers.ProcessPoolWorker: ({"queue": "sqlite"}, QUEUED),
    omniq.workers.WorkerPool: ({}, {"pool": (None, 5, "x", object())}),
    omniq.queue.TaskQueue: ({}, {"aio": (5, 1.5, b"x", [], object(), int)}),
    omniq.results.ResultStorage: ({}, {"aio": (5, 1.5, b"x", [], object(), int)}),
    omniq.events.EventStorage: ({}, {"aio": (5, 1.5, b"x", [], object(), int)}),
    omniq.events.AsyncEventLogger: ({}, {"store": (None, 5, "x", {}, object())}),
    omniq.events.EventLogger: ({}, {"storage": (None, 5, "x", {}, object())}),
    omniq.queue.RetryManager: ({}, {"seed": ("x", 1.5, [], object(), True)}),
    omniq.queue.TaskDependencyGraph: ({}, {"nodes": (None, 5, "x", [None], [5])}),
    omniq.queue.SQLiteTaskQueue: ({}, {"queues": (5, "x", [5], ["a b"]), "base_dir": (5, [], object())}),
    omniq.storage.SQLiteResultStorage: ({}, {"base_dir": (5, [], object())}),
    omniq.storage.SQLiteEventStorage: ({}, {"base_dir": (5, [], object())}),
    omniq.backend.SQLiteBackend: ({}, {"base_dir": (5, [], object()), "project_name": (5, "", "a b")}),
    omniq.CallbackManager: ({}, {"timeout": SPANS}),
    omniq.call: ({"func": add}, {"func": FUNCTIONS, "func_args": ARGUMENTS, "no_such_option": (None, 5)}),
    omniq.config.mask_url: ({}, {"text": (None, 5, b"x", [])}),
    omniq.config.configure_logging: ({}, {"level": (5, "loud", object(), [])}),
    omniq.AsyncMigration: (MOVED, {"source": NO_DOORS, "target": NO_DOORS}),
    omniq.Migration: (MOVED, {"source": NO_DOORS, "target": NO_DOORS}),
    omniq.queue.Scheduler: ({}, {"queue": (None, 5, "x", {}, object())}),
    omniq.events.EventProcessor: ({}, {"source": (None, 5, "x", {}, object())}),
    omniq.events.AsyncEventProcessor: ({}, {"source": (None, 5, "x", {}, object())}),
    omniq.result_of: ({}, {"step": (None, 5, b"x", [], object(), "")}),
}


@pytest.mark.parametrize("owner", NEW, ids=lambda owner: owner.__name__)
def test_calls_of_constructors_and_functions(folder: Path, owner: Callable[..., object]) -> None:
    right, wrong = NEW[owner]
    found = []
    for name, values in wrong.items():
        for value in values:
            arguments = {**right, name: value}
            try:
                owner(**arguments)
            except Exception as error:
                found.append((owner.__name__, name, arguments, problem(name, error)))
            else:
                found.append((owner.__name__, name, arguments, problem(name, None)))
    assert report(found) == []


@pytest.mark.parametrize("combine", [omniq.chain, omniq.group])
@pytest.mark.parametrize("step", [None, 5, "x", [5], object(), add])
def test_steps_of_workflows(combine: Callable[..., object], step: object) -> None:
    with pytest.raises(InvalidTask, match=r"^(step|chain|group|workflow).*expected"):
        combine(step)


class TestAtTheWrongTime:
    def test_a_blocking_call_inside_a_loop(self, door: OmniQ) -> None:
        async def inside() -> None:
            door.enqueue(add)

        with pytest.raises(BlockingCallInLoop, match="use the async class"):
            asyncio.run(inside())

    def test_what_would_end_things_inside_a_loop(self, door: OmniQ) -> None:
        worker = omniq.workers.ThreadPoolWorker(door.task_queue)

        async def refused(end: Callable[[], None]) -> None:
            with pytest.raises(BlockingCallInLoop, match=r"(OmniQ\.stop_worker|stop|drain|OmniQ\.close)\(\) blocks"):
                end()

        door.start_worker("thread")
        worker.start()
        pool = door.worker_pool("thread")
        pool.start()
        for end in (door.stop_worker, door.close, worker.stop, pool.stop, pool.drain):
            asyncio.run(refused(end))
        pool.stop()
        worker.stop()
        assert door.get_result(door.enqueue(add, [2]), timeout=30) == 4  # nothing was ended
        door.stop_worker()
        asyncio.run(refused(door.close))

    @pytest.mark.parametrize("grace", [grace for grace in SPANS if grace is not None])
    def test_a_worker_goes_on_that_was_to_stop_in_a_time_that_is_none(self, door: OmniQ, grace: Any) -> None:
        worker, pool = omniq.workers.ThreadPoolWorker(door.task_queue), door.worker_pool("thread")
        worker.start()
        pool.start()
        for stop in (worker.stop, pool.stop):
            with pytest.raises(InvalidTask, match="^grace_period: "):
                stop(grace)
        worker.drain()
        pool.drain()
        worker.stop()
        pool.stop()

    def test_a_worker_that_runs_already(self, door: OmniQ) -> None:
        door.start_worker("thread")
        with pytest.raises(WorkerError, match="the worker is running already"):
            door.start_worker("thread")
        door.stop_worker()
        door.stop_worker()

    async def test_an_async_worker_that_runs_already(self, async_door: AsyncOmniQ) -> None:
        await async_door.start_worker("async")
        with pytest.raises(WorkerError, match="the worker is running already"):
            await async_door.start_worker("async")
        await async_door.stop_worker()
        await async_door.stop_worker()

    def test_what_no_task_runs(self) -> None:
        with pytest.raises(OmniQError, match="current_task"):
            omniq.current_task()


OF_CORE = {
    "at": "for core: None for what is no place, which its callers name",
    "configured": "for core: takes a whole configuration, which was checked",
    "on_store": "for core: takes a store and its configuration",
    "options_of": "for core: what a configuration says of a component",
    "as_part": "how a component becomes one of an OmniQ",
    "look": "for core: takes an id that was checked",
    "ready": "for core",
    "find_records": "for core",
    "newest": "for core",
    "until_other": "for core",
    "within": "for core",
    "page": "for core",
    "worker_pool": "as start_worker, which calls it",
    "resigner": "for `omniq resign`",
}
"""What has a public name and is called by core alone."""


@pytest.mark.parametrize(
    ("owner", "calls"),
    [
        (AsyncOmniQ, DOOR_CALLS),
        (OmniQ, DOOR_CALLS),
        (omniq.queue.AsyncTaskQueue, QUEUE_CALLS),
        (omniq.queue.TaskQueue, QUEUE_CALLS),
        (omniq.results.AsyncResultStorage, RESULT_CALLS),
        (omniq.results.ResultStorage, RESULT_CALLS),
        (omniq.events.AsyncEventStorage, EVENT_CALLS),
        (omniq.events.EventStorage, EVENT_CALLS),
    ],
)
def test_each_public_method_has_wrong_calls(owner: type, calls: Mapping[str, Wrong]) -> None:
    missing = [
        name
        for name, method in inspect.getmembers(owner, callable)
        if not name.startswith("_")
        and name not in {*calls, *CLASS_CALLS, *OF_CORE}
        and set(inspect.signature(method).parameters) - {"self"}
    ]
    assert missing == []


FRONTS = (omniq, omniq.queue, omniq.workers, omniq.events, omniq.config, omniq.storage, omniq.models, omniq.testing)
WITHOUT_WRONG_CALLS = {
    "chain": "test_steps_of_workflows",
    "group": "test_steps_of_workflows",
    "current_task": "takes nothing; test_what_no_task_runs",
    "redact": "takes anything",
    "configured_by": "for plugins: a decorator of their classes",
}
MADE_ELSEWHERE = {
    "AsyncSandbox": "tests/core/testing/test_misuse.py",
    "Sandbox": "tests/core/testing/test_misuse.py",
    "VirtualClock": "takes nothing; tests/core/testing",
    "ConfigProvider": "tests/core/config/test_malformed.py; as `OmniQ(config=…)`",
    "EnvConfig": "tests/core/config: reads the environment",
    "Settings": "tests/core/config/test_settings.py: refuses to be set",
    "Worker": "the base of the three",
}
"""Classes that users make, and where wrong arguments of theirs are tested."""
NOT_MADE_BY_USERS = (
    *(omniq.storage.BaseTaskQueue, omniq.storage.BaseResultStorage, omniq.storage.BaseEventStorage),
    *(omniq.events.AsyncEventStream, omniq.events.AsyncEvents, omniq.events.EventStream, omniq.events.Events),
    *(omniq.queue.AsyncScheduler, omniq.queue.AsyncWorkflow, omniq.queue.DependencyResolver, omniq.queue.TTLManager),
    *(omniq.queue.Workflow, omniq.queue.Explanation, omniq.queue.Resigner, omniq.queue.Chain, omniq.queue.Group),
    *(omniq.workers.AsyncWorkerPool, omniq.workers.Execution, omniq.workers.Runner, omniq.workers.TaskContext),
    *(omniq.workers.Job, omniq.workers.Line, omniq.storage.Wakeups),
    *(omniq.AsyncTaskDecorator, omniq.AsyncTaskFunction, omniq.TaskDecorator, omniq.TaskFunction),
    *(omniq.testing.ReferenceEventStore, omniq.testing.ReferenceQueueStore, omniq.testing.ReferenceResultStore),
    *(omniq.testing.ReferenceSpace, omniq.testing.Enqueued, omniq.models.StoredValue, omniq.events.AnyTask),
)
"""Classes whose objects users get from OmniQ, or implement."""


def test_each_public_function_and_class_has_wrong_calls() -> None:
    known = {*NEW, *CLASSES, *NOT_MADE_BY_USERS}
    offered = {value for front in FRONTS for name in front.__all__ if callable(value := getattr(front, name))}
    named = {*WITHOUT_WRONG_CALLS, *MADE_ELSEWHERE}
    assert sorted(each.__name__ for each in offered - known if is_called(each) and each.__name__ not in named) == []


def is_called(each: Any) -> bool:
    """Whether it is a function, or a class with a constructor of its own: what is data is checked by msgspec."""
    if not inspect.isclass(each):
        return inspect.isfunction(each)
    data = (msgspec.Struct, Enum, BaseException, str, tuple, dict, Page)
    return not issubclass(each, data) and "__init__" in {name for base in each.__mro__[:-1] for name in vars(base)}
