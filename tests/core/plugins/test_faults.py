"""Whatever a plugin does wrong stays with it, and is said to whoever asks for it."""

from __future__ import annotations

import gc
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omniq.errors import PluginError, UnknownBackend
from omniq.plugins import TaskQueueSpec, WorkerSpec, hookimpl
from omniq.plugins.registry import Registry
from omniq.plugins.specs import Spec

from tests.core.plugins.fakes import GOOD, Dist, Entry, entry, events, plugin, queue, raises, record, reg

# ── what a plugin can do wrong ───────────────────────────────────────────────


async def _async_hook() -> list[Spec]:
    return [queue("bad")]


async def _async_generator_hook() -> Any:
    yield queue("bad")


def _half() -> Iterator[Spec]:
    yield queue("bad")
    raise KeyError("half-way")


def _with_argument(settings: object) -> list[Spec]:
    return [queue(str(settings))]


def _unmarked() -> SimpleNamespace:
    return SimpleNamespace(omniq_api_version=(1, 0), omniq_task_queues=lambda: [queue("bad")])


BROKEN: dict[str, tuple[Any, str]] = {
    "raises at import": (raises(RuntimeError("no luck")), "RuntimeError: no luck"),
    "imports what isn't there": (lambda: importlib.import_module("nonexistent_driver"), "No module named"),
    "exits at import": (raises(SystemExit(3)), "SystemExit: 3"),
    "has a hook that raises": (plugin(omniq_task_queues=raises(ZeroDivisionError("zero"))), "ZeroDivisionError: zero"),
    "has a hook that exits": (plugin(omniq_task_queues=raises(SystemExit("bye"))), "SystemExit: bye"),
    "has a generator that raises": (plugin(omniq_task_queues=_half), "KeyError: 'half-way'"),
    "has a misspelt hook": (plugin(omniq_task_queuez=lambda: [queue("bad")]), "unknown hook 'omniq_task_queuez'"),
    "has an async hook": (plugin(omniq_task_queues=_async_hook), "hook omniq_task_queues is async"),
    "has an async generator": (plugin(omniq_task_queues=_async_generator_hook), "gave async_generator"),
    "wants an argument": (plugin(omniq_task_queues=_with_argument), "settings"),
    "gives a spec, not a list": (plugin(omniq_task_queues=lambda: queue("bad")), "gave TaskQueueSpec"),
    "gives a string": (plugin(omniq_task_queues=lambda: "redis"), "gave str"),
    "yields a dict": (plugin(omniq_task_queues=lambda: [{"name": "bad"}]), "yielded dict"),
    "yields another kind of spec": (plugin(omniq_task_queues=lambda: [events("bad")]), "yielded EventStoreSpec"),
    "forgot @hookimpl": (_unmarked(), "is @hookimpl missing?"),
    "is a class of something else": (SimpleNamespace(omniq_api_version=(1, 0)), "it implements no hook"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_disturbs_nobody_and_says_why_to_whoever_asks(case: str) -> None:
    bad, reason = BROKEN[case]
    plugins = reg(Entry("bad", bad, Dist("acme-bad", "2.1")), GOOD)
    assert plugins.task_queue("good").name == "good"
    assert plugins.worker("thread").name == "thread"
    assert plugins.names("task_queue") == ["good"]
    with pytest.raises(PluginError) as caught:
        plugins.task_queue("bad")
    assert str(caught.value).startswith("plugin 'bad' (acme-bad 2.1) is broken: ")
    assert reason in str(caught.value)
    assert not isinstance(caught.value, UnknownBackend)
    with pytest.raises(UnknownBackend) as other:
        plugins.task_queue("xyzzy")
    assert reason not in str(other.value)
    gc.collect()  # a coroutine that nobody closed would warn here, and warnings are errors


VERSIONS: dict[str, tuple[object, str]] = {
    "none": (None, "isn't a tuple such as (1, 0)"),
    "an older major": ((0, 9), "it was written for version 0.9"),
    "a newer major": ((2, 0), "it was written for version 2.0"),
    "text": ("1.0", "isn't a tuple such as (1, 0)"),
    "a float": (1.0, "isn't a tuple such as (1, 0)"),
    "an empty tuple": ((), "isn't a tuple such as (1, 0)"),
    "a tuple of text": (("1", "0"), "isn't a tuple such as (1, 0)"),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_another_api_version_is_incompatible(case: str) -> None:
    version, reason = VERSIONS[case]
    plugins = reg(Entry("old", plugin(queue("old"), version=version)), GOOD)
    assert record(plugins, "old").status == "incompatible"
    with pytest.raises(PluginError, match="is incompatible: ") as caught:
        plugins.task_queue("old")
    assert reason in str(caught.value)
    assert "this omniq-core has version 1.0 of the plugin API" in str(caught.value)
    assert plugins.task_queue("good").name == "good"


def test_an_incompatible_plugin_is_never_asked_for_its_specs() -> None:
    module = plugin(version=(9, 0), omniq_task_queues=raises(AssertionError("it was asked")))
    assert record(reg(Entry("old", module)), "old").status == "incompatible"


def test_a_plugin_may_say_nothing_of_versions() -> None:
    silent = plugin(queue("silent"))
    del silent.omniq_api_version
    assert reg(Entry("silent", silent)).task_queue("silent").name == "silent"


def test_a_newer_minor_version_is_fine() -> None:
    assert reg(Entry("new", plugin(queue("new"), version=(1, 7)))).task_queue("new").name == "new"


def test_a_plugin_that_looks_up_while_it_is_loaded_is_broken_and_no_deadlock() -> None:
    plugins: Registry = reg(Entry("eager", lambda: plugins.task_queue("good")), GOOD)
    assert plugins.task_queue("good").name == "good"
    assert "while plugins are being loaded" in str(record(plugins, "eager").error)


def test_control_c_while_loading_is_no_plugin_error_and_loading_starts_afresh() -> None:
    outcomes: list[Callable[[], Any]] = [raises(KeyboardInterrupt()), lambda: plugin(queue("good"))]
    plugins = reg(Entry("good", lambda: outcomes.pop(0)()))
    with pytest.raises(KeyboardInterrupt):
        plugins.task_queue("good")
    assert plugins.task_queue("good").name == "good"


# ── conflicts ────────────────────────────────────────────────────────────────


def test_two_distributions_with_one_entry_point_are_both_in_conflict() -> None:
    plugins = reg(entry("acme", queue("a"), dist="acme-one"), entry("acme", queue("b"), dist="acme-two"), GOOD)
    states = {found.distribution: (found.status, found.error) for found in plugins.plugins()}
    assert states["acme-one"] == ("conflict", "acme-two has a plugin of that name too: uninstall one")
    assert states["acme-two"] == ("conflict", "acme-one has a plugin of that name too: uninstall one")
    assert plugins.names("task_queue") == ["good"]
    with pytest.raises(PluginError, match=r"plugin 'acme' \(acme-one 1.0\) is in conflict: acme-two"):
        plugins.task_queue("acme")


def test_one_distribution_that_is_seen_twice_is_no_conflict() -> None:
    assert reg(GOOD, GOOD).task_queue("good").name == "good"


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (queue("good"), "the task queue name 'good'"),
        (queue("other", aliases=("good",)), "the task queue name 'good'"),
        (queue("other", aliases=("well",)), "the task queue name 'well'"),
        (queue("other", schemes=("good",)), "the task queue URL scheme 'good'"),
    ],
)
def test_what_is_provided_already_makes_the_later_plugin_a_conflict(theirs: TaskQueueSpec, what: str) -> None:
    plugins = reg(entry("later", theirs, queue("unrelated")), GOOD)
    assert plugins.task_queue("good").store == "good.queue:Store"
    assert record(plugins, "later").error == f"plugin 'good' (acme-good 1.0) provides {what} already"
    with pytest.raises(PluginError, match="is in conflict"):
        plugins.task_queue("unrelated")


def test_kinds_have_names_of_their_own() -> None:
    plugins = reg(entry("a", queue("same")), entry("b", events("same")))
    assert plugins.task_queue("same").kind == "task_queue"
    assert plugins.event_store("same").kind == "event_store"


def test_a_plugin_that_provides_a_name_twice_is_in_conflict_with_itself() -> None:
    plugins = reg(entry("twice", queue("twice"), queue("twice")))
    assert record(plugins, "twice").error == "it provides the task queue name 'twice' twice"


def test_one_module_under_two_names_is_a_conflict_of_the_second() -> None:
    module = plugin(queue("one"))
    plugins = reg(Entry("one", module), Entry("two", module))
    assert plugins.task_queue("one").name == "one"
    assert record(plugins, "two").status == "conflict"


def test_the_alphabet_lets_nobody_take_the_name_of_one_of_ours() -> None:
    thief = entry("aaa", queue("redis"), dist="omniq-aaa")
    ours = Entry("redis", plugin(TaskQueueSpec("redis", "ours:Store", "ours:Config")), Dist("omniq-redis"))
    assert reg(thief, ours).task_queue("redis").store == "ours:Store"


def test_nobody_takes_the_name_of_a_builtin_worker() -> None:
    @hookimpl
    def omniq_workers() -> list[WorkerSpec]:
        return [WorkerSpec("thread", "acme:Worker")]

    plugins = reg(entry("builtin", omniq_workers=omniq_workers))
    assert plugins.worker("thread").worker_class == "omniq.workers.thread:ThreadPoolWorker"


# ── switches ─────────────────────────────────────────────────────────────────


def test_a_disabled_plugin_is_not_even_imported() -> None:
    imports: list[str] = []
    off = Entry("off", lambda: imports.append("off"))
    plugins = reg(off, GOOD, OMNIQ_DISABLE_PLUGINS="other, off")
    assert plugins.names("task_queue") == ["good"]
    assert imports == []
    with pytest.raises(PluginError, match="is disabled: it is named in OMNIQ_DISABLE_PLUGINS"):
        plugins.task_queue("off")


def test_disabling_one_of_two_rivals_ends_no_conflict_by_itself() -> None:
    plugins = reg(entry("acme", dist="acme-one"), entry("acme", dist="acme-two"), GOOD, OMNIQ_DISABLE_PLUGINS="acme")
    assert {found.status for found in plugins.plugins() if found.name == "acme"} == {"disabled"}


@pytest.mark.parametrize("value", ["1", "true"])
def test_strict_makes_any_trouble_fatal_at_the_first_look_up(value: str) -> None:
    bad = Entry("bad", raises(RuntimeError("no luck")))
    old = Entry("old", plugin(queue("old"), version=(0, 1)))
    plugins = reg(bad, old, GOOD, OMNIQ_PLUGINS_STRICT=value)
    for look_up in (lambda: plugins.task_queue("good"), lambda: plugins.worker("thread"), plugins.commands):
        with pytest.raises(PluginError, match=r"'bad' .* is broken: RuntimeError: no luck; .*'old' .* is incompatible"):
            look_up()
    assert len(plugins.plugins()) == 4


def test_strict_minds_neither_a_disabled_plugin_nor_a_healthy_one() -> None:
    bad = Entry("bad", raises(RuntimeError("no luck")))
    plugins = reg(bad, GOOD, OMNIQ_PLUGINS_STRICT="1", OMNIQ_DISABLE_PLUGINS="bad")
    assert plugins.task_queue("good").name == "good"


@pytest.mark.parametrize("value", ["", "0", "False"])
def test_strict_can_be_off(value: str) -> None:
    plugins = reg(Entry("bad", raises(RuntimeError("no luck"))), GOOD, OMNIQ_PLUGINS_STRICT=value)
    assert plugins.task_queue("good").name == "good"


# ── real metadata ────────────────────────────────────────────────────────────

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one plugin module on the path: `install(distribution, entry point, source)`."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def put(distribution: str, name: str, source: str) -> None:
        module = distribution.replace("-", "_") + "_plugin"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{distribution.replace('-', '_')}-3.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 3.0\n")
        (info / "entry_points.txt").write_text(f"[omniq.plugins]\n{name} = {module}\n")
        importlib.invalidate_caches()

    yield put
    for module in modules:
        sys.modules.pop(module, None)


GOOD_SOURCE = """
    from omniq.plugins import TaskQueueSpec, hookimpl

    omniq_api_version = (1, 0)

    @hookimpl
    def omniq_task_queues():
        return [TaskQueueSpec("papyrus", store="papyrus:Store", config="papyrus:Config", url_schemes=("papyrus",))]
"""


def test_installed_distributions_are_found(install: Install) -> None:
    install("papyrus-queue", "papyrus", GOOD_SOURCE)
    install("acme-broken", "broken", "raise RuntimeError('at import')")
    plugins = Registry()
    assert plugins.task_queue("papyrus").url_schemes == ("papyrus",)
    assert plugins.task_queue("sqlite").name == "sqlite"
    found = record(plugins, "papyrus")
    assert (found.distribution, found.version, found.value) == ("papyrus-queue", "3.0", "papyrus_queue_plugin")
    assert record(plugins, "broken").error == "RuntimeError: at import"


def test_installed_distributions_with_one_entry_point_don_t_shadow_each_other(install: Install) -> None:
    install("papyrus-queue", "papyrus", GOOD_SOURCE)
    install("papyrus-fork", "papyrus", GOOD_SOURCE)
    with pytest.raises(PluginError, match="papyrus-queue has a plugin of that name too"):
        Registry().task_queue("papyrus")
