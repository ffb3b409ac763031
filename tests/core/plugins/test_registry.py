"""Plugins: found by metadata, loaded once and lazily; what isn't there says what to do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import pytest
from msgspec import Struct
from omniq.config.convert import url_scheme
from omniq.errors import ConfigError, PluginError, UnknownBackend
from omniq.models.config import TaskQueueConfig
from omniq.plugins import CommandSpec, EventStoreSpec, ResultStoreSpec, TaskQueueSpec, WorkerSpec, hookimpl
from omniq.plugins.registry import Registry, load_class, load_object, registry
from omniq.plugins.specs import PluginRecord, Spec

from tests.core.plugins.fakes import GOOD, Dist, Entry, entry, events, plugin, queue, raises, record, reg

# ── what works ───────────────────────────────────────────────────────────────


def test_builtin_workers_are_found_by_name_and_alias() -> None:
    plugins = reg()
    assert plugins.names("worker") == ["async", "process", "thread"]
    assert plugins.worker("thread_pool") is plugins.worker("thread")
    assert plugins.worker("process_pool").worker_class == "omniq.workers.process:ProcessPoolWorker"
    assert plugins.worker("async").worker_class == "omniq.workers.async_:AsyncWorker"
    assert record(plugins, "builtin").distribution == "omniq-core"


def test_a_plugin_is_found_by_name_alias_and_url() -> None:
    plugins = reg(GOOD)
    spec = plugins.task_queue("good")
    assert spec is plugins.task_queue("well")
    assert spec is plugins.by_scheme("task_queue", url_scheme("GOOD://host/path"))
    assert plugins.names("task_queue") == ["good"]
    assert record(plugins, "good") == PluginRecord(
        name="good", distribution="acme-good", version="1.0", value="acme.plugin", specs=(spec,)
    )


def test_a_plugin_may_bring_several_things() -> None:
    @hookimpl
    def omniq_commands() -> Iterator[CommandSpec]:
        yield CommandSpec("zap", "acme.cli:zap")
        yield CommandSpec("dash", "acme.cli:dash", help="A dashboard.")

    plugins = reg(entry("multi", queue("file"), queue("memory"), omniq_commands=omniq_commands))
    assert plugins.names("task_queue") == ["file", "memory"]
    assert [command.name for command in plugins.commands()] == ["dash", "zap"]


def test_the_installed_sqlite_plugin_is_active() -> None:
    found = record(registry(), "sqlite")
    assert (found.status, found.distribution) == ("active", "omniq-sqlite")
    assert registry().by_scheme("event_store", url_scheme("sqlite:///x.db")).name == "sqlite"


def test_looking_up_imports_no_store() -> None:
    script = """
        import sys
        from omniq.plugins.registry import registry
        registry().task_queue("sqlite")
        print([name for name in ("sqlite3", "omniq_sqlite.queue", "omniq_sqlite.config") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_plugins_are_loaded_once_whichever_thread_comes_first() -> None:
    loads: list[str] = []
    barrier = threading.Barrier(8)

    def load() -> object:
        loads.append(threading.current_thread().name)
        return plugin(queue("good"))

    plugins = reg(Entry("good", load))
    found: list[Spec] = []

    def look_up() -> None:
        barrier.wait(timeout=10)
        found.append(plugins.task_queue("good"))

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len(loads) == 1
    assert len(found) == 8
    assert all(spec is found[0] for spec in found)


# ── what isn't there ─────────────────────────────────────────────────────────


def _sqlite(*entries: Entry) -> Registry:
    specs = (queue("sqlite", schemes=("sqlite",)), events("sqlite"))
    return reg(entry("sqlite", *specs, dist="omniq-sqlite"), *entries)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.task_queue("sqlte"), "unknown backend 'sqlte', did you mean 'sqlite'? installed: sqlite"),
        (lambda p: p.task_queue("SQLite"), "unknown backend 'SQLite', did you mean 'sqlite'? installed: sqlite"),
        (lambda p: p.task_queue("xyzzy"), "unknown backend 'xyzzy', installed: sqlite"),
        (lambda p: p.task_queue(""), "unknown backend '', installed: sqlite"),
        (lambda p: p.event_store("sqlte"), "unknown backend 'sqlte', did you mean 'sqlite'? installed: sqlite"),
        (lambda p: p.result_store("sqlite"), "'sqlite' provides no result store; installed: none"),
        (
            lambda p: p.worker("thred"),
            "unknown worker 'thred', did you mean 'thread'? installed: async, process, thread",
        ),
        (
            lambda p: p.task_queue("redis"),
            "unknown backend 'redis', installed: sqlite; omniq-redis provides it: pip install \"omniq-core[redis]\"",
        ),
        (
            lambda p: p.by_scheme("task_queue", url_scheme("postgresql://me:hunter2@db/x")),
            "unknown backend 'postgresql', installed: sqlite; omniq-postgres provides it: "
            'pip install "omniq-core[postgres]"',
        ),
        (
            lambda p: p.by_scheme("event_store", url_scheme("s3://bucket/prefix")),
            "unknown backend 's3', installed: sqlite; omniq-fsspec provides it: pip install \"omniq-core[fsspec]\"",
        ),
        (
            lambda p: p.worker("gevent_pool"),
            "unknown worker 'gevent_pool', installed: async, process, thread; omniq-gevent provides it: "
            'pip install "omniq-core[gevent]"',
        ),
    ],
)
def test_what_is_unknown_says_what_was_meant_what_is_installed_and_what_to_install(
    ask: Callable[[Registry], object], message: str
) -> None:
    with pytest.raises(UnknownBackend) as caught:
        ask(_sqlite())
    assert str(caught.value) == message


def test_a_broken_plugin_speaks_for_every_name_and_scheme_of_its_distribution() -> None:
    broken = Entry("fsspec", raises(ImportError("no fsspec")), Dist("omniq-fsspec"))
    asks: list[Callable[[Registry], object]] = [
        lambda p: p.task_queue("memory"),
        lambda p: p.by_scheme("task_queue", url_scheme("s3://bucket")),
        lambda p: p.task_queue("fsspec"),
    ]
    for ask in asks:
        with pytest.raises(
            PluginError, match=r"plugin 'fsspec' \(omniq-fsspec 1.0\) is broken: ImportError: no fsspec"
        ):
            ask(_sqlite(broken))


@pytest.mark.parametrize("text", ["", "sqlite", "C:\\queue.db", "://x", "/var/queue.db", "sqlite:queue.db"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: expected a URL such as sqlite:///"):
        url_scheme(text)


# ── specs and import strings ─────────────────────────────────────────────────


@pytest.mark.parametrize(
    "make",
    [
        lambda: TaskQueueSpec("Redis", "a:B", "a:C"),
        lambda: TaskQueueSpec("", "a:B", "a:C"),
        lambda: TaskQueueSpec("redis", "a.B", "a:C"),
        lambda: TaskQueueSpec("redis", "a:B", "a:"),
        lambda: TaskQueueSpec("redis", TaskQueueConfig, "a:C"),  # type: ignore[arg-type]
        lambda: TaskQueueSpec("redis", "a:B", "a:C", url_schemes=("redis://",)),
        lambda: TaskQueueSpec("redis", "a:B", "a:C", aliases=(None,)),  # type: ignore[arg-type]
        lambda: ResultStoreSpec("redis", "a:B", "Class"),
        lambda: EventStoreSpec("redis", "a/b:C", "a:C"),
        lambda: WorkerSpec("fiber", "fiber"),
        lambda: CommandSpec("a b", "a:b"),
    ],
)
def test_a_malformed_spec_is_refused_where_it_is_made(make: Callable[[], Spec]) -> None:
    with pytest.raises(ValueError, match=r"Spec: expected (a lower-case name|an import string)"):
        make()


class Unrelated(Struct):
    pass


def test_load_object_gives_what_the_string_names() -> None:
    assert load_object("omniq.models.config:TaskQueueConfig") is TaskQueueConfig
    assert load_class("omniq.models.config:TaskQueueConfig", Struct) is TaskQueueConfig


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("omniq_sqlite.nothing:X", "omniq-sqlite can't load omniq_sqlite.nothing:X: ModuleNotFoundError: "),
        ("omniq_sqlite.config:Nothing", "omniq-sqlite can't load omniq_sqlite.config:Nothing: AttributeError: "),
        ("nonexistent_package:X", "nonexistent_package can't load nonexistent_package:X: ModuleNotFoundError: "),
    ],
)
def test_load_object_names_the_distribution_and_the_cause(path: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_object(path)
    assert str(caught.value).startswith(message)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("path", ["omniq.clock:now", "omniq.models.task:Task"])
def test_load_class_wants_a_subclass(path: str) -> None:
    with pytest.raises(PluginError, match=f"omniq-core: {path} isn't a subclass of Unrelated"):
        load_class(path, Unrelated)
