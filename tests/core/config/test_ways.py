"""Ways to say where: constructors on everything that is configured, and what holds when nobody has said it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, EventStore, OmniQ, ResultStore, TaskQueue
from omniq.backend import SQLiteBackend
from omniq.config import ComponentChoice, OmniQConfig, Settings, TaskDefaults
from omniq.errors import ConfigError
from omniq.events import AsyncEventStorage
from omniq.models import (
    FileTaskQueueConfig,
    SQLiteEventStorageConfig,
    SQLiteResultStorageConfig,
    SQLiteTaskQueueConfig,
)
from omniq.queue import AsyncSQLiteTaskQueue, AsyncTaskQueue, FileTaskQueue, SQLiteTaskQueue
from omniq.results import AsyncResultStorage
from omniq.storage import SQLiteResultStorage
from omniq.workers import AsyncWorker, ProcessPoolWorker, ThreadPoolWorker, WorkerPool

from tests.core import tasks

COMPONENTS: list[Any] = [AsyncTaskQueue, TaskQueue, AsyncResultStorage, ResultStore, AsyncEventStorage, EventStore]
STRUCTS = {
    "task_queue": SQLiteTaskQueueConfig,
    "result_store": SQLiteResultStorageConfig,
    "event_store": SQLiteEventStorageConfig,
}


def location(component: Any) -> str:
    """Where it is."""
    found: str = getattr(component, "aio", component).store.location
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(here: Path) -> Path:
    """A whole configuration in a file."""
    path = here / "omniq.yaml"
    place = f"sqlite:///{here}/x.db"
    path.write_text(f"task_queue: {place}\nresult_store: {place}\nevent_store: {place}\ndefaults: {{timeout: 5}}\n")
    return path


# ── components ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
def test_a_component_on_any_store_is_made_in_any_way(component: Any, here: Path, file: Path) -> None:
    struct = STRUCTS[component.kind](path=f"{here}/x.db")
    ways = [
        component.from_url(f"sqlite:///{here}/x.db"),
        component.from_dict({"type": "sqlite", "config": {"path": f"{here}/x.db"}}),
        component.from_dict({"url": f"sqlite:///{here}/x.db"}),
        component.from_config(struct),
        component.from_config_file(file),
        component.from_backend(SQLiteBackend(path=f"{here}/x.db")),
    ]
    assert {location(made) for made in ways} == {f"sqlite:{here}/x.db"}


@pytest.mark.parametrize("component", [TaskQueue, ResultStore, EventStore])
def test_a_facade_is_made_of_whatever_says_where(
    component: Any, here: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{here}/x.db"
    struct = STRUCTS[component.kind](path=f"{here}/x.db")
    places = [
        url,
        {"url": url},
        ComponentChoice(url=url),
        struct,
        SQLiteBackend(path=f"{here}/x.db"),
        component.from_url(url).aio,
    ]
    assert {location(component(place)) for place in places} == {f"sqlite:{here}/x.db"}
    monkeypatch.setenv("OMNIQ_CONFIG", str(file))
    assert location(component()) == f"sqlite:{here}/x.db"
    with pytest.raises(ConfigError, match=f"^{component.__name__}: aio: expected an Async.*, got int"):
        component(5)


def test_without_a_word_results_are_where_the_queue_is_and_events_nowhere(here: Path) -> None:
    (here / "omniq.yaml").write_text("task_queue: {type: sqlite, config: {path: q.db, queues: [a]}}")
    assert location(ResultStore.from_config_file("omniq.yaml")) == f"sqlite:{here}/q.db"
    with pytest.raises(ConfigError, match="^event_store: none is configured"):
        EventStore.from_config_file("omniq.yaml")


def test_a_whole_configuration_holds_for_the_queue_of_its_file(file: Path) -> None:
    with TaskQueue.from_config_file(file) as queue:
        assert queue.get_task(queue.enqueue(tasks.nothing)).timeout == 5.0


NONE: Any = None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskQueue.from_url(NONE), "url: expected text such as 'sqlite:///data/shop.db', got NoneType"),
        (lambda: SQLiteTaskQueue.from_url(NONE), "url: expected text such as"),
        (lambda: TaskQueue.from_dict(NONE), "config: expected a mapping, got NoneType"),
        (lambda: SQLiteTaskQueue.from_dict(NONE), "config: expected a mapping, got NoneType"),
        (lambda: TaskQueue.from_config(NONE), "config: expected the config struct of a store, got NoneType"),
        (lambda: TaskQueue.from_config(SQLiteResultStorageConfig()), "task_queue: SQLiteResultStorageConfig isn't"),
        (lambda: SQLiteTaskQueue.from_config_file(NONE), "path: expected that of a file, got NoneType"),
        (lambda: TaskQueue.from_config_file("nowhere.yaml"), "/nowhere.yaml: No such file or directory"),
        (lambda: OmniQ.from_url(NONE), "url: expected text such as"),
        (lambda: OmniQ.from_dict(NONE), "config: expected a mapping, got NoneType"),
        (lambda: OmniQ.from_config(NONE), "config: expected an OmniQConfig, got NoneType"),
        (lambda: OmniQ.from_config_file(NONE), "path: expected that of a file, got NoneType"),
        (lambda: ThreadPoolWorker.from_url(NONE), "url: expected text such as"),
        (lambda: ThreadPoolWorker.from_dict(NONE), "config: expected a mapping, got NoneType"),
        (lambda: ThreadPoolWorker.from_config(NONE), "config: expected an OmniQConfig, got NoneType"),
        (lambda: WorkerPool(NONE), "pool: expected an AsyncWorkerPool, such as oq.worker_pool(), got NoneType"),
    ],
)
def test_what_says_nothing_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


# ── workers ──────────────────────────────────────────────────────────────────


def test_a_worker_of_a_url_works_with_its_results_and_events(here: Path, file: Path) -> None:
    url = f"sqlite:///{here}/x.db"
    with OmniQ.from_config_file(file) as oq, ThreadPoolWorker(url, event_store=url, max_workers=2) as worker:
        assert worker.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=30) == 3
        worker.stop()
        assert "COMPLETE" in {event.type for event in oq.list_events()}


async def test_on_a_loop_it_gives_back_what_it_opened(here: Path) -> None:
    url = f"sqlite:///{here}/x.db"
    async with AsyncOmniQ.from_url(url) as oq, AsyncWorker(url):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=30) == 3


@pytest.mark.parametrize("make", [AsyncWorker, ThreadPoolWorker, ProcessPoolWorker])
def test_a_worker_is_made_of_a_whole_configuration(make: Any, here: Path, file: Path) -> None:
    ways = [
        make.from_config_file(file),
        make.from_dict({"task_queue": f"sqlite:///{here}/x.db"}),
        make.from_url(f"sqlite:///{here}/x.db"),
        make.from_config(OmniQConfig(task_queue=ComponentChoice(type="sqlite", config={"path": f"{here}/x.db"}))),
        make({"type": "sqlite", "config": {"path": f"{here}/x.db"}}),
        make(SQLiteBackend(path=f"{here}/x.db")),
        make(SQLiteTaskQueueConfig(path=f"{here}/x.db")),
    ]
    assert {worker._queue.store.location for worker in ways} == {f"sqlite:{here}/x.db"}


# ── the environment, and what wins over it ────────────────────────────────────


def test_an_argument_of_what_it_becomes_part_of_wins_over_the_environment_s_project(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIQ_PROJECT_NAME", "env")
    queue = SQLiteTaskQueue(base_dir=str(here))
    assert location(queue) == f"sqlite:{here}/env.db"
    assert AsyncOmniQ(task_queue=queue).task_queue.store.location == f"sqlite:{here}/env.db"
    assert AsyncOmniQ("shop", task_queue=queue).task_queue.store.location == f"sqlite:{here}/shop.db"
    mine = SQLiteTaskQueue(base_dir=str(here), project_name="mine")
    assert AsyncOmniQ("shop", task_queue=mine).task_queue.store.location == f"sqlite:{here}/mine.db"


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: SQLiteTaskQueue(), "env.db"),
        (lambda: SQLiteTaskQueue(synchronous="NORMAL"), "env.db"),
        (lambda: SQLiteTaskQueue(base_dir="own"), "own/default.db"),
        (lambda: SQLiteTaskQueue(path="own.db"), "own.db"),
        (lambda: SQLiteTaskQueue.from_url("sqlite:///own.db"), "own.db"),
        (lambda: SQLiteTaskQueue.from_config(SQLiteTaskQueueConfig(path="own.db")), "own.db"),
        (lambda: SQLiteTaskQueue.from_config(SQLiteTaskQueueConfig()), "env.db"),
        (lambda: OmniQ(task_queue="sqlite"), "env.db"),
        (lambda: OmniQ(task_queue={"type": "sqlite", "config": {"base_dir": "own"}}), "own/default.db"),
        (lambda: SQLiteResultStorage(), ".omniq/default.db"),
    ],
)
def test_the_environment_s_url_is_for_who_says_nothing(
    make: Callable[[], Any], place: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", f"sqlite:///{here}/env.db")
    made = make()
    assert location(made.task_queue if isinstance(made, OmniQ) else made) == f"sqlite:{here}/{place}"


def test_a_url_of_another_store_is_none_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", "redis://env")
    monkeypatch.setenv("OMNIQ_QUEUES", "high")
    queue = SQLiteTaskQueue()
    assert (location(queue), queue.aio.queues) == (f"sqlite:{here}/.omniq/default.db", ("high", "default"))


def test_a_struct_in_code_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_QUEUES", "env")
    monkeypatch.setenv("OMNIQ_MAX_BODY", "1000")
    monkeypatch.setenv("OMNIQ_RETRY_ATTEMPTS", "9")
    queue = SQLiteTaskQueue.from_config(SQLiteTaskQueueConfig(queues=["mine"]))
    assert (queue.aio.queues, queue.aio.config.max_body) == (("mine", "default"), SQLiteTaskQueueConfig().max_body)
    oq = AsyncOmniQ.from_config(OmniQConfig(defaults=TaskDefaults(max_retries=1)))
    assert (oq.config.defaults.max_retries, oq.task_queue.queues) == (1, ("default",))


@pytest.mark.parametrize("door", [OmniQ, AsyncOmniQ])
def test_no_events_are_none_whatever_is_configured(door: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_EVENT_STORAGE_URL", f"sqlite:///{here}/env.db")
    assert door().event_store is not None
    assert door(event_store=False).event_store is None
    assert door.from_backend(SQLiteBackend(), events=False).event_store is None
    assert location(door.from_backend(SQLiteBackend()).event_store) == f"sqlite:{here}/.omniq/default.db"


@pytest.mark.parametrize("name", list(Settings.__dataclass_fields__))
def test_a_setting_is_a_constant(name: str) -> None:
    before = getattr(Settings, name)
    with pytest.raises(ConfigError, match=f"^Settings.{name}: it is a constant; set OMNIQ_{name}, or "):
        setattr(Settings, name, "x")
    with pytest.raises(ConfigError, match=f"^Settings.{name}: it is a constant"):
        delattr(Settings, name)
    assert getattr(Settings, name) == before


# ── paths ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "make",
    [
        lambda: OmniQ(),
        lambda: OmniQ(task_queue="sqlite:///.omniq/default.db"),
        lambda: OmniQ(task_queue=SQLiteTaskQueueConfig(base_dir=".omniq")),
        lambda: OmniQ(task_queue=SQLiteTaskQueueConfig()),
        lambda: OmniQ.from_backend(SQLiteBackend()),
        lambda: SQLiteTaskQueue(),
        lambda: SQLiteTaskQueue(base_dir=".omniq"),
        lambda: FileTaskQueue(),
        lambda: FileTaskQueue.from_config(FileTaskQueueConfig(base_dir=".omniq")),
        lambda: SQLiteResultStorage(),
        lambda: ThreadPoolWorker("sqlite"),
    ],
)
def test_a_path_is_that_of_when_it_was_given(
    make: Callable[[], Any], here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = make()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    component = made.task_queue if isinstance(made, OmniQ) else getattr(made, "_queue", made)
    queue = made.task_queue if isinstance(made, OmniQ) else made
    if isinstance(queue, TaskQueue):
        queue.enqueue(tasks.nothing)
        queue.close()
        assert (here / ".omniq").exists()
    assert location(component).partition(":")[2].startswith(f"{here}/.omniq/default")


def test_a_struct_s_path_is_that_of_when_it_was_made(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    struct = SQLiteTaskQueueConfig(path="shop.db")
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert AsyncSQLiteTaskQueue.from_config(struct).store.location == f"sqlite:{here}/shop.db"


# ── both front doors ─────────────────────────────────────────────────────────


def test_the_blocking_door_has_its_components(here: Path, file: Path) -> None:
    with OmniQ.from_config_file(file) as oq:
        task_id = oq.task_queue.enqueue(tasks.add, [1, 2])
        pool = oq.worker_pool("thread", max_workers=2)
        pool.start()
        assert oq.result_store.wait(task_id, 30).value == 3  # type: ignore[union-attr]
        pool.stop()
        assert oq.event_store is not None
        assert [event.task_id for event in oq.event_store.list(type="ENQUEUED")] == [task_id]
        assert oq.config.defaults.timeout == 5.0


def test_whatever_the_async_door_has_the_blocking_one_has_too() -> None:
    public = {name for name in dir(AsyncOmniQ) if not name.startswith("_")}
    made = {name for name in vars(AsyncOmniQ()) if not name.startswith("_")}
    assert public | made <= {*dir(OmniQ), "aio"}


# ── logging in programs ──────────────────────────────────────────────────────


PROGRAM = """
import logging, sys
from omniq import OmniQ
from omniq.config import configure_logging
from omniq.queue import SQLiteTaskQueue
from omniq.workers import AsyncWorker
{before}
oq = {door}
{after}
for name in ("omniq.queue", "omniq.worker"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("%s %s", name, level)
"""


@pytest.mark.parametrize(
    ("environ", "door", "heard"),
    [
        ({}, "OmniQ()", "queue: warning error worker: warning error"),
        ({"LOG_LEVEL": "INFO"}, "OmniQ()", "queue: info warning error worker: info warning error"),
        ({"LOG_LEVEL": "error"}, "OmniQ()", "queue: error worker: error"),
        ({"LOG_LEVEL": "DISABLED"}, "OmniQ()", "queue: worker:"),
        ({"DISABLE_LOGGING": "true"}, "OmniQ()", "queue: worker:"),
        (
            {"COMPONENT_LOG_LEVELS": '{"worker": "DEBUG"}'},
            "OmniQ()",
            "queue: warning error worker: debug info warning error",
        ),
        ({"LOG_LEVEL": "INFO"}, "OmniQ(config={'logging': {'level': 'ERROR'}})", "queue: error worker: error"),
        (
            {},
            "OmniQ(config={'logging': {'components': {'queue': 'DEBUG'}}})",
            "queue: debug info warning error worker: warning error",
        ),
        ({"LOG_LEVEL": "ERROR"}, "SQLiteTaskQueue()", "queue: error worker: error"),
        (
            {"LOG_LEVEL": "ERROR"},
            "AsyncWorker('sqlite')",
            "queue: error worker: error",
        ),
    ],
)
@pytest.mark.parametrize("has_logging", [False, True])
def test_levels_hold_in_a_program(
    environ: dict[str, str], door: str, heard: str, has_logging: bool, here: Path
) -> None:
    before = "logging.basicConfig()" if has_logging else ""
    assert said_by(PROGRAM.format(before=before, door=door, after=""), environ) == heard


def test_a_program_s_own_word_wins(here: Path) -> None:
    program = PROGRAM.format(before="configure_logging('ERROR')", door="OmniQ()", after="OmniQ()")
    assert said_by(program, {"LOG_LEVEL": "DEBUG"}) == "queue: error worker: error"
    program = PROGRAM.format(before="OmniQ()", door="OmniQ()", after="logging.getLogger('omniq').setLevel(40); OmniQ()")
    assert said_by(program, {"LOG_LEVEL": "DEBUG"}) == "queue: error worker: error"


def said_by(program: str, environ: dict[str, str]) -> str:
    """The levels that a program's stderr shows, by component."""
    variables = {f"OMNIQ_{name}": text for name, text in environ.items()}
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    words = [line.split()[-2:] for line in ran.stderr.splitlines()]
    told = [
        " ".join([f"{part}:", *(level for name, level in words if name.endswith(part))]) for part in ("queue", "worker")
    ]
    return " ".join(told)
