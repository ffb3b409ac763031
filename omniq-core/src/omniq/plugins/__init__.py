"""Plugins: how a distribution tells OmniQ which stores, workers and commands it brings.

A plugin module needs `hookimpl` and the specs from here; whoever looks something up uses `registry()`, which also takes
plugins in that no distribution declares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy
from omniq.plugins.registry import Registry, load_class, load_object, registry
from omniq.plugins.specs import (
    CommandSpec,
    EventStoreSpec,
    PluginRecord,
    ResultStoreSpec,
    Spec,
    StoreSpec,
    TaskQueueSpec,
    WorkerSpec,
)

if TYPE_CHECKING:
    from omniq.plugins.hookspecs import hookimpl, hookspec, stores_of
else:  # pluggy is imported only by who needs it
    names = ("hookimpl", "hookspec", "stores_of")
    _, __getattr__, __dir__ = lazy(__name__, dict.fromkeys(names, "omniq.plugins.hookspecs"))

__all__ = ["CommandSpec", "EventStoreSpec", "PluginRecord", "ResultStoreSpec", "Spec", "StoreSpec", "TaskQueueSpec"]
__all__ += ["Registry", "WorkerSpec", "hookimpl", "hookspec", "load_class", "load_object", "registry", "stores_of"]
