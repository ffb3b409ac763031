"""The ways to say where a store is: each makes the same OmniQ of a store's name and the fields of its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import omniq.backend
import omniq.models
import omniq.queue
import omniq.storage
import pytest
import yaml
from omniq import AsyncOmniQ

from tests.mixes.support import Url

Fields: TypeAlias = dict[str, Any]

CLASSES = {
    "sqlite": "SQLite",
    "postgres": "Postgres",
    "redis": "Redis",
    "nats": "NATS",
    "file": "File",
    "memory": "Memory",
}
"""How the names of a store's classes begin."""
WITH_EVENTS = ("sqlite", "postgres", "file", "memory")
VARIABLES = {
    "task_queue": "OMNIQ_TASK_QUEUE",
    "result_store": "OMNIQ_RESULT_STORAGE",
    "event_store": "OMNIQ_EVENT_STORAGE",
}


@dataclass(frozen=True)
class Store:
    """A store by its name, and its place in both forms."""

    name: str
    url: Url
    fields: Fields
    folder: Path
    """For the files that a way needs."""

    @property
    def kinds(self) -> list[str]:
        """What it keeps, as in configurations."""
        return [kind for kind in VARIABLES if kind != "event_store" or self.name in WITH_EVENTS]

    def component(self, kind: str, *, blocking: bool = False) -> Any:
        """Its class of that kind."""
        module = omniq.queue if kind == "task_queue" else omniq.storage
        return getattr(module, ("" if blocking else "Async") + self._class(kind))

    def config(self, kind: str) -> Any:
        """Its configuration of that kind."""
        return getattr(omniq.models, f"{self._class(kind)}Config")

    @property
    def backend(self) -> Any:
        return getattr(omniq.backend, f"{CLASSES[self.name]}Backend")

    def _class(self, kind: str) -> str:
        suffix = {"task_queue": "TaskQueue", "result_store": "ResultStorage", "event_store": "EventStorage"}[kind]
        return CLASSES[self.name] + suffix


def fields_of(name: str, url: Url) -> Fields:
    """The fields that a URL of the tests' servers stands for."""
    parts = urlsplit(url)
    options: Fields = dict(parse_qsl(parts.query))
    if name == "sqlite":
        return {"path": parts.path[1:], **options}
    if name in ("file", "memory"):
        return {"base_dir": parts.netloc + parts.path, **options}
    given = {"host": parts.hostname, "port": parts.port, "username": parts.username, "password": parts.password}
    where = {"database" if name == "postgres" else "db": parts.path[1:]}
    found = {**options, **given, **where}
    return {key: int(value) if key == "db" else value for key, value in found.items() if value}


Way: TypeAlias = Callable[[Store, pytest.MonkeyPatch], AsyncOmniQ]


def arguments(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`AsyncRedisTaskQueue(host=…, port=…)`"""
    return AsyncOmniQ(**{kind: store.component(kind)(**store.fields) for kind in store.kinds})


def blocking_arguments(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisTaskQueue(host=…, port=…)`"""
    return AsyncOmniQ(**{kind: store.component(kind, blocking=True)(**store.fields) for kind in store.kinds})


def config_structs(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`AsyncRedisTaskQueue.from_config(RedisTaskQueueConfig(host=…, port=…))`"""
    return AsyncOmniQ(
        **{kind: store.component(kind).from_config(store.config(kind)(**store.fields)) for kind in store.kinds}
    )


def component_urls(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisTaskQueue.from_url("redis://…")`"""
    return AsyncOmniQ(**{kind: store.component(kind, blocking=True).from_url(store.url) for kind in store.kinds})


def component_files(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`AsyncRedisTaskQueue.from_config_file("redis.yaml")`"""
    path = _write(store, store.fields)
    return AsyncOmniQ(**{kind: store.component(kind).from_config_file(path) for kind in store.kinds})


def dictionary(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`type` and `config` in a dict"""
    return AsyncOmniQ.from_dict(_types(store))


def yaml_file(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`type` and `config` in YAML"""
    return AsyncOmniQ.from_config_file(_write(store, _types(store)))


def yaml_urls(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`url` in YAML"""
    return AsyncOmniQ.from_config_file(_write(store, {kind: {"url": store.url} for kind in store.kinds}))


def variables(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`OMNIQ_TASK_QUEUE_URL`"""
    for kind in store.kinds:
        monkeypatch.setenv(f"{VARIABLES[kind]}_URL", store.url)
    return AsyncOmniQ()


def typed_variables(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`OMNIQ_TASK_QUEUE_TYPE` and `OMNIQ_TASK_QUEUE_URL`"""
    for kind in store.kinds:
        monkeypatch.setenv(f"{VARIABLES[kind]}_TYPE", store.name)
    return variables(store, monkeypatch)


def backend(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisBackend(host=…, port=…)`"""
    return AsyncOmniQ.from_backend(store.backend(**store.fields))


def backend_config(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisBackend.from_config(RedisTaskQueueConfig(host=…, port=…))`"""
    return AsyncOmniQ.from_backend(store.backend.from_config(store.config("task_queue")(**store.fields)))


def backend_file(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisBackend.from_config_file("redis.yaml")`"""
    return AsyncOmniQ.from_backend(store.backend.from_config_file(_write(store, store.fields)))


def backend_url(store: Store, _: pytest.MonkeyPatch) -> AsyncOmniQ:
    """`RedisBackend.from_url("redis://…")`"""
    return AsyncOmniQ.from_backend(store.backend.from_url(store.url))


WAYS: tuple[Way, ...] = (
    arguments,
    blocking_arguments,
    config_structs,
    component_urls,
    component_files,
    dictionary,
    yaml_file,
    yaml_urls,
    variables,
    typed_variables,
    backend,
    backend_config,
    backend_file,
    backend_url,
)


def way_name(way: Way) -> str:
    """What a test calls it."""
    return getattr(way, "__name__", "way").replace("_", "-")


def _types(store: Store) -> Mapping[str, Any]:
    return {kind: {"type": store.name, "config": store.fields} for kind in store.kinds}


def _write(store: Store, data: Mapping[str, Any]) -> Path:
    path = store.folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(data)))
    return path
