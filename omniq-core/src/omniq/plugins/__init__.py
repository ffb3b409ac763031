"""Plugins: how a distribution tells OmniQ which stores, workers and commands it brings.

A plugin module needs `hookimpl` and the specs from here; whoever looks something up uses
`omniq.plugins.registry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.plugins.hookspecs import hookimpl as hookimpl
    from omniq.plugins.hookspecs import hookspec as hookspec
    from omniq.plugins.registry import Registry as Registry
    from omniq.plugins.registry import load_class as load_class
    from omniq.plugins.registry import load_object as load_object
    from omniq.plugins.specs import CommandSpec as CommandSpec
    from omniq.plugins.specs import EventStoreSpec as EventStoreSpec
    from omniq.plugins.specs import PluginRecord as PluginRecord
    from omniq.plugins.specs import ResultStoreSpec as ResultStoreSpec
    from omniq.plugins.specs import TaskQueueSpec as TaskQueueSpec
    from omniq.plugins.specs import WorkerSpec as WorkerSpec
    from omniq.plugins.stores import stores_of as stores_of
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "CommandSpec": "omniq.plugins.specs",
            "EventStoreSpec": "omniq.plugins.specs",
            "PluginRecord": "omniq.plugins.specs",
            "Registry": "omniq.plugins.registry",
            "ResultStoreSpec": "omniq.plugins.specs",
            "TaskQueueSpec": "omniq.plugins.specs",
            "WorkerSpec": "omniq.plugins.specs",
            "hookimpl": "omniq.plugins.hookspecs",
            "hookspec": "omniq.plugins.hookspecs",
            "load_class": "omniq.plugins.registry",
            "load_object": "omniq.plugins.registry",
            "stores_of": "omniq.plugins.stores",
        },
    )

__all__ = [
    "CommandSpec",
    "EventStoreSpec",
    "PluginRecord",
    "Registry",
    "ResultStoreSpec",
    "TaskQueueSpec",
    "WorkerSpec",
    "hookimpl",
    "hookspec",
    "load_class",
    "load_object",
    "stores_of",
]
