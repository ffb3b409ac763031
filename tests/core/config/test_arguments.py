"""Constructors that take the fields of a config struct, and backends, which are made of one."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from msgspec import Meta, field
from omniq import AsyncOmniQ, OmniQ
from omniq.backend import BaseBackend, SQLiteBackend
from omniq.config import configured_by
from omniq.errors import ConfigError, UnknownBackend
from omniq.events import AsyncEventStorage
from omniq.models import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig, TaskQueueConfig
from omniq.models.config import Name, default_queues
from omniq.queue.engine import AsyncTaskQueue
from omniq.results import AsyncResultStorage
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
        ({"base_dir": "x", "options": {"a": 1}}, "LongShelf: options[...]: expected str, got int"),
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


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: OmniQ(task_queue=ANY), "task_queue: expected AsyncTaskQueue or its blocking facade, got str"),
        (lambda: AsyncOmniQ(result_store=ANY), "result_store: expected AsyncResultStorage .*, got str"),
        (lambda: AsyncOmniQ(event_store=ANY), "event_store: expected AsyncEventStorage .*, got str"),
        (lambda: AsyncOmniQ(worker_config=ANY), "worker_config: expected mapping, got str"),
        (lambda: AsyncOmniQ(config=cast("Any", 7)), "config: expected a file's path, .*, got int"),
        (lambda: AsyncWorker(ANY), "queue: expected AsyncTaskQueue .*, got str"),
        (lambda: AsyncWorker(cast("Any", None)), "queue: expected AsyncTaskQueue .*, got NoneType"),
        (lambda: OmniQ.from_backend(ANY), r"backend: expected one such as SQLiteBackend\(\), got str"),
        (lambda: AsyncTaskQueue.from_backend(ANY), "backend: expected one .*, got str"),
        (lambda: AsyncResultStorage.from_backend(ANY), "backend: expected one .*, got str"),
        (lambda: AsyncEventStorage.from_backend(ANY), "backend: expected one .*, got str"),
    ],
)
def test_a_component_that_is_none_is_named(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make()
