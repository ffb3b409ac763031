"""Loading one plugin, so that whatever goes wrong stays with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import pluggy
from msgspec.structs import replace

from omniq.plugins import hookspecs
from omniq.plugins.discovery import Candidate
from omniq.plugins.hookspecs import API_VERSION, HOOKS, PROJECT
from omniq.plugins.records import PluginRecord
from omniq.plugins.specs import Spec


class _Incompatible(Exception):
    """The plugin was written for another version of the hooks."""


def load(candidate: Candidate) -> PluginRecord:
    """The record of the plugin, active with its specs, or with what is wrong with it. Never raises an error.

    A plugin that calls `sys.exit` is broken too, and doesn't end the process.
    """
    entry, record = candidate
    if record.status != "active":
        return record
    try:
        plugin = entry.load()
        _check_version(plugin)
        return replace(record, specs=tuple(_specs(plugin, record.name)))
    except _Incompatible as error:
        return replace(record, status="incompatible", error=str(error))
    except (Exception, SystemExit) as error:
        return replace(record, status="broken", error=f"{type(error).__name__}: {error}")


def _check_version(plugin: object) -> None:
    version = getattr(plugin, "omniq_api_version", None)
    ours = f"this omniq-core has version {_dotted(API_VERSION)} of the plugin API"
    if version is None:
        raise _Incompatible(f"it declares no omniq_api_version; {ours}")
    if not isinstance(version, tuple) or not version or not all(isinstance(part, int) for part in version):
        raise _Incompatible(f"its omniq_api_version isn't a tuple such as (1, 0); {ours}")
    if version[0] != API_VERSION[0]:
        raise _Incompatible(f"it was written for version {_dotted(version)}; {ours}")


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


def _specs(plugin: object, name: str) -> Iterable[Spec]:
    """What its hooks yield. A manager of its own keeps it from disturbing, or hiding, any other plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    manager.check_pending()  # only this finds misspelt hooks
    if not manager.get_hookcallers(plugin):
        raise TypeError("it implements no hook; is @hookimpl missing?")
    for hook in HOOKS:
        for answer in getattr(manager.hook, hook)():
            yield from _checked(hook, answer)


def _checked(hook: str, answer: object) -> Iterable[Spec]:
    if inspect.iscoroutine(answer):
        answer.close()  # else Python warns, much later, that it was never awaited
        raise TypeError(f"hook {hook} is async; hooks are plain functions")
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise TypeError(f"hook {hook} gave {type(answer).__name__}; expected {HOOKS[hook].__name__}s")
    for spec in answer:
        if not isinstance(spec, HOOKS[hook]):
            raise TypeError(f"hook {hook} yielded {type(spec).__name__}; expected {HOOKS[hook].__name__}")
        yield spec
