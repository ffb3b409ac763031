"""From a configuration to the components that it describes."""

from __future__ import annotations

from typing import Any, TypedDict, TypeVar

from omniq.config.choices import OmniQConfig
from omniq.config.resolve import resolve
from omniq.config.security import Security
from omniq.events.store import AsyncEventStorage
from omniq.plugins.registry import load_class
from omniq.queue.engine import AsyncTaskQueue
from omniq.results.engine import AsyncResultStorage
from omniq.storage.events import BaseEventStorage
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.results import BaseResultStorage
from omniq.sync import AsyncResource, Blocking

A = TypeVar("A", bound=AsyncResource)


def core_of(component: A | Blocking[A] | None) -> A | None:
    """The async core of a component that may be a blocking facade."""
    return component.aio if isinstance(component, Blocking) else component


def task_queue(config: OmniQConfig) -> AsyncTaskQueue[Any]:
    """The configured task queue, else the default one. Raises `ConfigError` or `PluginError`."""
    spec, settings = resolve("task_queue", config.task_queue, config.project_name, **_around(config))
    store = load_class(spec.store, BaseTaskQueue)  # type: ignore[type-abstract]
    return AsyncTaskQueue(store, settings, defaults=config.defaults, security=Security.of(config))


def result_store(config: OmniQConfig) -> AsyncResultStorage[Any] | None:
    """The configured result storage; None where nothing was said: results go where the queue is."""
    if config.result_store is None:
        return None
    spec, settings = resolve("result_store", config.result_store, config.project_name, **_around(config))
    store = load_class(spec.store, BaseResultStorage)  # type: ignore[type-abstract]
    return AsyncResultStorage(store, settings)


def event_store(config: OmniQConfig) -> AsyncEventStorage[Any] | None:
    """The configured event storage; None where nothing was said: there are no events."""
    if config.event_store is None:
        return None
    spec, settings = resolve("event_store", config.event_store, config.project_name, **_around(config))
    return AsyncEventStorage(load_class(spec.store, BaseEventStorage), settings)  # type: ignore[type-abstract]


class _Around(TypedDict):
    base_dir: str
    fsspec_uri: str | None


def _around(config: OmniQConfig) -> _Around:
    """Where stores are that don't say it themselves."""
    return {"base_dir": config.base_dir, "fsspec_uri": config.fsspec_uri}
