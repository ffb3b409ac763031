"""Plugins that aren't installed, for tests of the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from omniq.plugins import EventStoreSpec, TaskQueueSpec, hookimpl
from omniq.plugins.registry import Registry
from omniq.plugins.specs import PluginRecord, Spec


@dataclass
class Dist:
    name: str
    version: str = "1.0"


@dataclass
class Entry:
    """An entry point that isn't installed: `plugin` is the module, or a function that stands for its import."""

    name: str
    plugin: Any
    dist: Dist = field(default_factory=lambda: Dist("acme-plugin"))
    value: str = "acme.plugin"

    def load(self) -> object:
        return self.plugin() if callable(self.plugin) else self.plugin


def queue(name: str, *, aliases: tuple[str, ...] = (), schemes: tuple[str, ...] = ()) -> TaskQueueSpec:
    return TaskQueueSpec(name, f"{name}.queue:Store", f"{name}.config:Config", aliases=aliases, url_schemes=schemes)


def events(name: str) -> EventStoreSpec:
    return EventStoreSpec(name, f"{name}.events:Store", f"{name}.config:Config")


def plugin(*specs: Spec, version: object = (1, 0), **hooks: Callable[..., Any]) -> SimpleNamespace:
    """A plugin module with these specs; `hooks` are further functions, or others under the same name."""

    @hookimpl
    def omniq_task_queues() -> list[Spec]:
        return [spec for spec in specs if isinstance(spec, TaskQueueSpec)]

    @hookimpl
    def omniq_event_stores() -> list[Spec]:
        return [spec for spec in specs if isinstance(spec, EventStoreSpec)]

    standard = {"omniq_task_queues": omniq_task_queues, "omniq_event_stores": omniq_event_stores}
    marked = {name: hookimpl(function) for name, function in hooks.items()}
    return SimpleNamespace(omniq_api_version=version, **{**standard, **marked})


def entry(name: str, *specs: Spec, dist: str = "", **hooks: Callable[..., Any]) -> Entry:
    return Entry(name, plugin(*specs, **hooks), Dist(dist or f"acme-{name}"))


def reg(*entries: Entry, **environ: str) -> Registry:
    return Registry(entries, environ=environ)


def record(of: Registry, name: str) -> PluginRecord:
    (found,) = (record for record in of.plugins() if record.name == name)
    return found


GOOD = entry("good", queue("good", aliases=("well",), schemes=("good",)))


def raises(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function
