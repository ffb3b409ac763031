"""Constructors that take the fields of a config struct, and backends, which are made of one."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast
from unittest.mock import create_autospec

import pytest
from msgspec import Meta, field
from omniq import AsyncOmniQ, OmniQ
from omniq.backend import BaseBackend, RedisBackend, SQLiteBackend
from omniq.config import ComponentChoice, configured_by
from omniq.errors import ConfigError, UnknownBackend
from omniq.events import AsyncEventStorage
from omniq.models import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig, TaskQueueConfig
from omniq.models.config import Name, default_queues
from omniq.queue import SQLiteTaskQueue
from omniq.queue.engine import AsyncTaskQueue
from omniq.results import AsyncResultStorage
from omniq.storage import SQLiteResultStorage
from omniq.workers import AsyncWorker


class ShelfConfig(TaskQueueConfig, frozen=True, kw_only=True):
    base_dir: str
    timeout: Annotated[float, Meta(gt=0)] = 1.0
    options: dict[str, str] = field(default_factory=dict)
    queues: list[Name] = field(default_factory=default_queues)


class Shelf:
    @configured_by(ShelfConfig)
    def __init__(self, config: ShelfConfig) -> None:
        """Put up a shelf."""
        self.config = config


class LongShelf(Shelf):
    pass


def test_arguments_become_the_config() -> None:
    assert Shelf(base_dir="x", queues=["a"]).config == ShelfConfig(base_dir="x", queues=["a"])


def test_paths_durations_and_tuples_are_taken_too() -> None:
    arguments: dict[str, Any] = {"base_dir": Path("a/b"), "timeout": dt.timedelta(minutes=1), "queues": ("a", "b")}
    assert Shelf(**arguments).config == ShelfConfig(base_dir="a/b", timeout=60.0, queues=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_dir": 5}, "LongShelf: base_dir: expected str, got int"),
        ({"base_dir": None}, "LongShelf: base_dir: expected str, got null"),
        ({}, "LongShelf: base_dir: missing"),
        ({"base_dr": "x", "base_dir": "x"}, "LongShelf: base_dr: unknown name, did you mean 'base_dir'?"),
        ({"base_dir": "x", "timeout": 0}, "LongShelf: timeout: expected float > 0.0"),
        ({"base_dir": "x", "timeout": "1"}, "LongShelf: timeout: expected float, got str"),
        ({"base_dir": "x", "queues": "high"}, "LongShelf: queues: expected list, got str"),
        ({"base_dir": "x", "queues": ["a", 1]}, "LongShelf: queues[1]: expected str, got int"),
        ({"base_dir": "x", "options": {"a": 1}}, "LongShelf: options.a: expected str, got int"),
    ],
)
def test_a_wrong_argument_is_named_with_the_class(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LongShelf(**arguments)
    assert str(caught.value) == message


def test_positional_arguments_are_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^Shelf takes keyword arguments only$"):
        Shelf("x")  # type: ignore[call-arg]


def test_help_shows_the_fields() -> None:
    assert list(inspect.signature(Shelf).parameters) == [
        "project_name",
        *ShelfConfig.__annotations__,
    ]
    assert Shelf.__init__.__doc__ == "Put up a shelf."


# ── backends ─────────────────────────────────────────────────────────────────


def test_a_backend_configures_its_components_alike() -> None:
    backend = SQLiteBackend(project_name="shop", base_dir="some/path", synchronous="NORMAL", queues=["high"])
    shared: dict[str, Any] = {"project_name": "shop", "base_dir": "some/path", "synchronous": "NORMAL"}
    assert backend.task_queue_config() == SQLiteTaskQueueConfig(**shared, queues=["high"])
    assert backend.result_store_config() == SQLiteResultStorageConfig(**shared)
    assert backend.event_store_config() == SQLiteEventStorageConfig(**shared)
    assert backend.project_name == "shop"
    assert backend.has_events


def test_a_component_may_differ_from_its_backend() -> None:
    backend = SQLiteBackend(base_dir="some/path", queues=["high"])
    assert backend.task_queue_config(queues=["low"]) == SQLiteTaskQueueConfig(base_dir="some/path", queues=["low"])
    assert backend.result_store_config(path="r.db") == SQLiteResultStorageConfig(base_dir="some/path", path="r.db")
    assert backend.task_queue_config() == SQLiteTaskQueueConfig(base_dir="some/path", queues=["high"])


def test_a_backend_s_specs_are_the_plugin_s() -> None:
    specs = SQLiteBackend().specs
    assert {specs.task_queue.name, specs.result_store.name} == {"sqlite"}
    assert specs.event_store is not None
    assert specs.event_store.store == "omniq_sqlite.events:SQLiteEventStore"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_dir": 1}, "SQLiteBackend: base_dir: expected str, got int"),
        ({"synchronous": "OFF"}, "SQLiteBackend: synchronous: expected one of 'FULL', 'NORMAL', got 'OFF'"),
        ({"queue": ["a"]}, "SQLiteBackend: queue: unknown name, did you mean 'queues'?"),
        ({"host": "h"}, "SQLiteBackend: host: unknown name; known: base_dir, "),
    ],
)
def test_a_backend_checks_its_arguments_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLiteBackend(**arguments)
    assert str(caught.value).startswith(message)


def test_an_override_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^SQLiteBackend\.queues: expected list, got str$"):
        SQLiteBackend().task_queue_config(queues="high")
    with pytest.raises(ConfigError, match=r"^SQLiteBackend\.queues: unknown name"):
        SQLiteBackend().result_store_config(queues=["high"])


class NowhereBackend(BaseBackend):
    name = "nowhere"


def test_a_backend_that_no_plugin_provides_says_so() -> None:
    backend = NowhereBackend(ShelfConfig(project_name="shop", base_dir="x"))
    assert not backend.has_events
    assert backend.task_queue_config(queues=["a"]) == ShelfConfig(project_name="shop", base_dir="x", queues=["a"])
    with pytest.raises(UnknownBackend, match="unknown backend 'nowhere'"):
        backend.result_store_config()


def test_a_backend_s_repr_shows_no_secret() -> None:
    class SafeConfig(TaskQueueConfig, frozen=True, kw_only=True):
        password: str

    assert "hunter2" not in repr(NowhereBackend(SafeConfig(password="hunter2")))


ANY: Any = "sqlite"
NUMBER: Any = 5

PARTS: dict[str, Callable[[str], Any]] = {
    "URL": lambda path: f"sqlite:///{path}/shop.db",
    "dict": lambda path: {"type": "sqlite", "config": {"base_dir": path}},
    "dict with a URL": lambda path: {"url": f"sqlite:///{path}/shop.db"},
    "choice": lambda path: ComponentChoice(type="sqlite", config={"base_dir": path}),
    "backend": lambda path: SQLiteBackend(base_dir=path),
}
"""Ways to say where a component is, whichever it is."""


@pytest.mark.parametrize("way", PARTS)
@pytest.mark.parametrize("door", [OmniQ, AsyncOmniQ])
def test_a_component_is_said_in_any_way(door: type[OmniQ] | type[AsyncOmniQ], way: str, tmp_path: Path) -> None:
    part = PARTS[way](str(tmp_path))
    oq = door(task_queue=part, result_store=part, event_store=part, project_name="shop")
    core = oq.aio if isinstance(oq, OmniQ) else oq
    assert core.event_store is not None
    stores = (core.task_queue.store, core.result_store.store, core.event_store.store)
    assert {store.location for store in stores} == {f"sqlite:{tmp_path}/shop.db"}
    assert core.task_queue.config.project == "shop"


def test_a_component_is_said_by_its_struct_or_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    struct = SQLiteTaskQueueConfig(base_dir=str(tmp_path), queues=["high"])
    oq = AsyncOmniQ(task_queue=struct, result_store=SQLiteResultStorageConfig(base_dir=str(tmp_path)))
    assert oq.task_queue.config.queues == ["high"]
    assert oq.task_queue.store.location == oq.result_store.store.location == f"sqlite:{tmp_path}/default.db"
    monkeypatch.chdir(tmp_path)
    assert AsyncOmniQ(task_queue="sqlite").task_queue.store.location == f"sqlite:{tmp_path}/.omniq/default.db"


def test_what_is_given_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", "redis://elsewhere")
    oq = AsyncOmniQ(task_queue=f"sqlite:///{tmp_path}/omniq.db", config={"task_queue": "postgresql://h/db"})
    assert oq.task_queue.store.location == f"sqlite:{tmp_path}/omniq.db"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: OmniQ(task_queue=NUMBER),
            "task_queue: expected a URL, .* an AsyncTaskQueue .*, got int",
        ),
        (lambda: AsyncOmniQ(result_store=NUMBER), "result_store: expected a URL, .* an AsyncResultStorage .*, got int"),
        (lambda: AsyncOmniQ(event_store=NUMBER), "event_store: expected a URL, .* an AsyncEventStorage .*, got int"),
        (
            lambda: OmniQ(task_queue=cast("Any", SQLiteResultStorage())),
            "task_queue: .*, got AsyncSQLite",
        ),
        (lambda: OmniQ(task_queue=SQLiteResultStorageConfig()), "SQLiteResultStorageConfig isn't the configuration"),
        (lambda: OmniQ(task_queue={"base_dir": "x"}), "task_queue.base_dir: unknown name; known: config, type, url"),
        (lambda: OmniQ(task_queue={"type": "sqlite", "config": {"queues": 1}}), "task_queue.config.queues: expected"),
        (lambda: OmniQ(task_queue="sqlite:///x.db?pth=1"), "task_queue.url.pth: unknown name, did you mean 'path'"),
        (lambda: OmniQ(event_store=RedisBackend()), "event_store: redis keeps no events"),
        (lambda: AsyncOmniQ(worker_config=ANY), "worker_config: expected mapping, got str"),
        (lambda: AsyncOmniQ(config=cast("Any", 7)), "config: expected a file's path, .*, got int"),
        (lambda: AsyncWorker(cast("Any", 7)), "^queue: expected a URL, .* an AsyncTaskQueue .*, got int"),
        (lambda: AsyncWorker(cast("Any", None)), "^queue: expected a URL, .* an AsyncTaskQueue .*, got None"),
        (lambda: AsyncWorker({"type": "sqlite", "config": {"pth": 1}}), "^queue.config.pth: unknown name"),
        (lambda: AsyncWorker("sqlite", max_worker=1), "^AsyncWorker.max_worker: unknown name, did you mean"),
        (lambda: OmniQ(worker_type="threads"), "^worker_type: unknown kind of worker, did you mean 'thread'"),
        (lambda: OmniQ(worker_config={"max_worker": 1}), "^worker_config.max_worker: unknown name, did you mean"),
        (lambda: OmniQ(worker_type="thread", worker_config={"initializer": "a:b"}), "^worker_config.initializer: only"),
        (lambda: OmniQ(worker_config={"max_workers": 0}), "^worker_config.max_workers: expected int >= 1"),
        (lambda: OmniQ(task_queue="sqlite:orders.db"), "^task_queue.url: .* did you mean 'sqlite:///orders.db'"),
        (lambda: SQLiteTaskQueue.from_url("sqlite:orders.db"), "^url: .* did you mean 'sqlite:///orders.db'"),
        (lambda: SQLiteTaskQueue.from_url("sqlite:/a/orders.db"), "^url: .* did you mean 'sqlite:////a/orders.db'"),
        (lambda: OmniQ.from_backend(ANY), r"backend: expected one such as SQLiteBackend\(\), got str"),
        (lambda: AsyncTaskQueue.from_backend(ANY), "backend: expected one .*, got str"),
        (lambda: AsyncResultStorage.from_backend(ANY), "backend: expected one .*, got str"),
        (lambda: AsyncEventStorage.from_backend(ANY), "backend: expected one .*, got str"),
    ],
)
def test_a_component_that_is_none_is_named(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make()


def test_a_struct_of_another_component_is_refused() -> None:
    with pytest.raises(ConfigError, match="config: expected SQLiteTaskQueueConfig, got SQLiteResultStorage"):
        SQLiteTaskQueue.from_config(SQLiteResultStorageConfig())
    with pytest.raises(ConfigError, match="config: expected SQLiteTaskQueueConfig, got dict"):
        SQLiteBackend.from_config(cast("Any", {"base_dir": "x"}))


@pytest.mark.parametrize("name", ["enqueue", "get_result", "list_tasks", "schedule"])
def test_methods_show_what_they_take(name: str) -> None:
    of_queue = inspect.signature(getattr(AsyncTaskQueue if name in dir(AsyncTaskQueue) else AsyncOmniQ, name))
    wanted = list(of_queue.parameters)[1:]
    for oq in (OmniQ(task_queue="memory"), AsyncOmniQ(task_queue="memory")):
        assert list(inspect.signature(getattr(oq, name)).parameters) == wanted


def test_a_double_of_the_front_door_knows_its_methods() -> None:
    double = create_autospec(OmniQ, instance=True)
    double.enqueue(len, ["ab"])
    double.enqueue.assert_called_once()


def test_a_worker_of_no_queue_is_refused() -> None:
    with pytest.raises(ConfigError, match="queues: none given"):
        AsyncOmniQ(task_queue="memory").worker_pool(queues=[])
