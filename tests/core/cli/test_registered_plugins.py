"""A plugin that an application hands over itself: it is found and checked as an installed one is."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from omniq import OmniQ
from omniq.errors import PluginError, UnknownBackend
from omniq.models.config import TaskQueueConfig
from omniq.plugins import PluginRecord, Registry, TaskQueueSpec, hookimpl, registry
from omniq.storage.breakers import unguarded
from omniq.testing import ReferenceQueueStore

from tests.core.cli.support import run


class Config(TaskQueueConfig, frozen=True, kw_only=True):
    """Where tasks are kept."""


class Store(ReferenceQueueStore):
    """Keeps tasks in memory."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.project)


class Plugin:
    """No module, and not importable under its name."""

    @hookimpl
    def omniq_task_queues(self) -> list[TaskQueueSpec]:
        return [TaskQueueSpec("kept", f"{__name__}:Store", f"{__name__}:Config")]


@pytest.fixture
def record() -> Iterator[PluginRecord]:
    record = registry().register(Plugin(), "kept")
    yield record
    registry().unregister(record)


def test_its_store_can_be_used(record: PluginRecord) -> None:
    with OmniQ(config={"task_queue": {"type": "kept"}}) as oq:
        assert isinstance(unguarded(oq.aio.task_queue.store), Store)
        oq.enqueue(abs, [-1])
        assert len(oq.list_tasks()) == 1


def test_it_is_listed_and_shown(record: PluginRecord) -> None:
    assert ["kept", "the", "application", "-", "active"] in [
        line.split()[:5] for line in run("plugins", "list").stdout.splitlines()
    ]
    shown = run("plugins", "show", "kept")
    assert shown.exit_code == 0
    assert f"  store       {__name__}:Store\n" in shown.stdout


def test_it_is_found_sound(record: PluginRecord) -> None:
    checked = run("plugins", "doctor", "kept")
    assert (checked.exit_code, checked.output) == (0, "ok        kept (the application -)\n")


def test_its_defects_are_found() -> None:
    class Misspelt:
        @hookimpl
        def omniq_task_queues(self) -> list[TaskQueueSpec]:
            return [TaskQueueSpec("kept", f"{__name__}:Stoer", f"{__name__}:Config")]

    record = registry().register(Misspelt(), "kept")
    try:
        checked = run("plugins", "doctor", "kept")
    finally:
        registry().unregister(record)
    assert checked.exit_code == 1
    assert f"the application: task queue 'kept', store {__name__}:Stoer: it can't be loaded" in checked.output


def test_it_goes_by_its_own_name_until_it_is_forgotten() -> None:
    plugins = Registry([])
    record = plugins.register(Plugin())
    assert record.name == "Plugin"
    assert plugins.task_queue("kept").store == f"{__name__}:Store"
    plugins.unregister(record)
    with pytest.raises(UnknownBackend):
        plugins.task_queue("kept")
    plugins.register(Plugin())


@pytest.mark.parametrize(
    ("plugin", "complaint"),
    [
        (SimpleNamespace(), "is broken: TypeError: it implements no hook"),
        (SimpleNamespace(omniq_api_version=(9, 0)), "is incompatible: it was written for version 9.0"),
        (Plugin(), "is in conflict: plugin 'Plugin' (the application -) provides the task queue name 'kept' already"),
    ],
)
def test_one_that_cannot_be_used_is_refused_and_leaves_nothing(plugin: object, complaint: str) -> None:
    plugins = Registry([])
    plugins.register(Plugin())
    before = plugins.plugins()
    with pytest.raises(PluginError) as refused:
        plugins.register(plugin, "another")
    assert complaint in str(refused.value)
    assert plugins.plugins() == before
    assert plugins.names("task_queue") == ["kept"]
