"""What is said about malformed configuration: the path, what was expected, and where."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq import AsyncOmniQ, OmniQ, TaskQueue
from omniq.config import ComponentChoice, ConfigProvider, OmniQConfig
from omniq.config.choices import resolve
from omniq.config.convert import convert
from omniq.config.files import MAX_BYTES
from omniq.errors import ConfigError, PluginError
from omniq.queue import SQLiteTaskQueue
from omniq.workers import ThreadPoolWorker

LEVELS = "expected one of 'CRITICAL', 'DEBUG', 'DISABLED', 'ERROR', 'INFO', 'WARNING'"
A_NAME = "expected a name: up to 64 letters, digits, '_', '-' and '.', which doesn't come first"

EMPTY = "it is empty; leave it out where nothing is meant"
WITH_ZONE = "expected datetime with a timezone component"

MALFORMED: list[tuple[Any, str]] = [
    ({"project_name": 5}, "project_name: expected str, got int"),
    ({"project_name": ""}, f"project_name: {A_NAME}"),
    ({"project_name": "../../etc"}, f"project_name: {A_NAME}"),
    ({"project_name": ".."}, f"project_name: {A_NAME}"),
    ({"project_name": "a\n"}, f"project_name: {A_NAME}"),
    ({"project_name": "x" * 65}, f"project_name: {A_NAME}"),
    ({"project": "x"}, "project: unknown name, did you mean 'project_name'?"),
    ({"task_queu": {}}, "task_queu: unknown name, did you mean 'task_queue'?"),
    ({"TASK_QUEUE": {}}, "TASK_QUEUE: unknown name, did you mean 'task_queue'?"),
    ({1: {}}, "keys must be text"),
    ({True: {}}, "keys must be text"),
    ({"task_queue": 5}, "task_queue: expected mapping, got int"),
    ({"task_queue": ["sqlite"]}, "task_queue: expected mapping, got list"),
    ({"task_queue": {"type": 5}}, "task_queue.type: expected str, got int"),
    ({"task_queue": {"type": ["sqlite"]}}, "task_queue.type: expected str, got list"),
    ({"task_queue": {"url": {"host": "x"}}}, "task_queue.url: expected str, got mapping"),
    ({"task_queue": {"config": "x"}}, "task_queue.config: expected mapping, got str"),
    ({"task_queue": {"config": None}}, "task_queue.config: expected mapping, got null"),
    ({"task_queue": {"config": [{"a": 1}]}}, "task_queue.config: expected mapping, got list"),
    ({"task_queue": {"config": {1: 2}}}, "task_queue.config: keys must be text"),
    ({"task_queue": {"typ": "sqlite"}}, "task_queue.typ: unknown name, did you mean 'type'?"),
    ({"task_queue": {"base_dir": "x"}}, "task_queue.base_dir: unknown name; known: config, type, url"),
    ({"result_store": {"confg": {}}}, "result_store.confg: unknown name, did you mean 'config'?"),
    ({"event_store": True}, "event_store: expected mapping, got bool"),
    ({"worker": {"type": 5}}, "worker.type: expected str, got int"),
    ({"worker": {"config": {"max_workers": "x"}}}, "worker.config.max_workers: expected int, got str"),
    ({"worker": {"config": {"max_workers": 0}}}, "worker.config.max_workers: expected int >= 1"),
    ({"worker": {"config": {"max_workers": 10**6}}}, "worker.config.max_workers: expected int <= 10000"),
    ({"worker": {"config": {"max_workers": 1.5}}}, "worker.config.max_workers: expected int, got float"),
    ({"worker": {"config": {"max_workers": True}}}, "worker.config.max_workers: expected int, got bool"),
    ({"worker": {"config": {"max_worker": 1}}}, "worker.config.max_worker: unknown name, did you mean 'max_workers'?"),
    ({"worker": {"config": {"lease": 0}}}, "worker.config.lease: expected float > 0.0"),
    ({"worker": {"config": {"lease": float("nan")}}}, "worker.config.lease: expected float > 0.0"),
    ({"worker": {"config": {"lease": float("inf")}}}, "worker.config.lease: expected float <= 315576000.0"),
    ({"worker": {"config": {"grace_period": -1}}}, "worker.config.grace_period: expected float >= 0.0"),
    (
        {"worker": {"config": {"policy": "fair"}}},
        "worker.config.policy: expected one of 'strict', 'weighted', got 'fair'",
    ),
    ({"worker": {"config": {"queues": "high"}}}, "worker.config.queues: expected list, got str"),
    ({"worker": {"config": {"queues": ["a", 2]}}}, "worker.config.queues[1]: expected str, got int"),
    ({"worker": {"config": {"queues": ["a b"]}}}, f"worker.config.queues[0]: {A_NAME}"),
    ({"worker": {"options": {"thread": 0}}}, "worker.options.thread: expected mapping, got int"),
    ({"defaults": {"ttl": "1h"}}, "defaults.ttl: expected float, got str"),
    ({"defaults": {"ttl": -5}}, "defaults.ttl: expected float >= 0.0"),
    ({"defaults": {"timeout": 0}}, "defaults.timeout: expected float > 0.0"),
    ({"defaults": {"max_retries": 1.5}}, "defaults.max_retries: expected int, got float"),
    ({"defaults": {"max_retries": None}}, "defaults.max_retries: expected int, got null"),
    ({"defaults": {"retries": 1}}, "defaults.retries: unknown name, did you mean 'max_retries'?"),
    ({"logging": {"level": "LOUD"}}, f"logging.level: {LEVELS}, got 'LOUD'"),
    ({"logging": {"components": {"worker": "LOUD"}}}, f"logging.components.worker: {LEVELS}, got 'LOUD'"),
    ({"logging": {"disable": "yes"}}, "logging.disable: expected bool, got str"),
    ({"signing_key": 5}, "signing_key: expected str, got int"),
    ({"allowed_modules": "app.tasks"}, "allowed_modules: expected list, got str"),
    ({"allowed_modules": []}, "allowed_modules: expected list of length >= 1"),
    ({"allowed_modules": [" "]}, f"allowed_modules[0]: {EMPTY}"),
    ({"allowed_modules": None}, f"allowed_modules: {EMPTY}"),
    ({"signing_key": ""}, f"signing_key: {EMPTY}"),
    ({"signing_key": " \t"}, f"signing_key: {EMPTY}"),
    ({"signing_key": None}, f"signing_key: {EMPTY}"),
    ({"accept_unsigned_until": dt.datetime(2030, 1, 1)}, f"accept_unsigned_until: {WITH_ZONE}"),
    ({"accept_unsigned_until": ""}, "accept_unsigned_until: Invalid RFC3339 encoded datetime"),
    ({"task_queue": ""}, f"task_queue.type: {EMPTY}"),
    ({"result_store": {"type": " "}}, f"result_store.type: {EMPTY}"),
    ({"logging": {"components": {"worker": "INFO", "queue": 5}}}, "logging.components.queue: expected str, got int"),
    ({"worker": {"options": {"async": {}, "thread": None}}}, "worker.options.thread: expected mapping, got null"),
    ({"defaults": {"timeout": 10**400}}, "defaults.timeout: expected a smaller number: it doesn't fit into 64 bits"),
    ({"base_dir": None, "fsspec_uri": 1}, "fsspec_uri: expected str, got int"),
]


@pytest.mark.parametrize(("source", "message"), MALFORMED, ids=[message[:50] for _, message in MALFORMED])
def test_a_malformed_source_is_named_by_its_path(source: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConfigProvider(source, environ={}).load()
    assert str(caught.value) == message


@pytest.mark.parametrize(("source", "message"), MALFORMED[:12])
def test_malformed_arguments_are_named_too(source: dict[Any, Any], message: str) -> None:
    if all(isinstance(key, str) for key in source):
        with pytest.raises(ConfigError) as caught:
            ConfigProvider(environ={}).load(**source)
        assert str(caught.value) == message
    else:
        with pytest.raises(TypeError):
            ConfigProvider(environ={}).load(**source)


# ── a store's own configuration ──────────────────────────────────────────────


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"config": {"base_dir": 5}}, "task_queue.config.base_dir: expected str, got int"),
        ({"config": {"base_dr": "x"}}, "task_queue.config.base_dr: unknown name, did you mean 'base_dir'?"),
        ({"config": {"queues": "high"}}, "task_queue.config.queues: expected list, got str"),
        ({"config": {"queues": [".."]}}, f"task_queue.config.queues[0]: {A_NAME}"),
        (
            {"config": {"serializer": "pickle"}},
            "task_queue.config.serializer: expected one of 'auto', 'msgspec', got 'pickle'",
        ),
        (
            {"config": {"synchronous": "OFF"}},
            "task_queue.config.synchronous: expected one of 'FULL', 'NORMAL', got 'OFF'",
        ),
        ({"config": {"busy_timeout": -1}}, "task_queue.config.busy_timeout: expected float >= 0.0"),
        ({"config": {"project_name": "a/b"}}, f"task_queue.config.project_name: {A_NAME}"),
        ({"config": {"path": ""}}, "task_queue.config.path: '' isn't the name of a file"),
        ({"url": "nonsense"}, "task_queue.url: expected a URL such as sqlite:///path/to/file.db, got 'nonsense'"),
        ({"url": "sqlite://host/x.db"}, "task_queue.url: expected sqlite:///"),
        ({"url": "sqlite:///x.db?mode=ro"}, "task_queue.url.mode: unknown name"),
        (
            {"type": "sqlite", "url": "redis://h/0"},
            "task_queue.url: redis:// doesn't fit type 'sqlite', which takes sqlite://",
        ),
    ],
)
def test_a_malformed_store_is_named_by_its_path(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("task_queue", ComponentChoice(**{"type": None, **choice}), None)
    assert str(caught.value).startswith(message)


def test_an_unknown_type_is_a_plugin_error_of_whoever_resolves_it() -> None:
    config = ConfigProvider({"task_queue": "sqlte"}, environ={}).load()
    with pytest.raises(PluginError, match="did you mean 'sqlite'"):
        resolve("task_queue", config.task_queue, None)


# ── files ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a: [1, 2", ":1:9", "expected ',' or ']'"),
        ("project_name: x\n\tworker: y", ":2:1", "found character '\\t'"),
        ("a: b: c", ":1:5", "mapping values are not allowed here"),
        ("project_name: x\nproject_name: y", ":2:1", "'project_name' is given twice"),
        ("task_queue:\n  type: file\n  type: redis", ":3:3", "'type' is given twice"),
        ("a: !!python/object/apply:os.system ['true']", ":1:4", "could not determine a constructor"),
        ("a: *nowhere", ":1:4", "found undefined alias"),
        ("a: 1\n---\nb: 2", ":2:1", "but found another document"),
        ("task_queue: &a\n  config: *a", ":1:13", "found unconstructable recursive node"),
        ("a: \x00", "", "not YAML text"),
        ("a: &b 1\nc: &b 2", ":2:4", "an anchor is given twice"),
        ("a: !!int x", ":1:4", "a value isn't of its type"),
        ("a: 2024-99-99", ":1:4", "a value isn't of its type"),
        ("a: &b {c: 1}\nd:\n  <<: *b", ":3:3", "merge keys (<<) aren't supported"),
        ("a: " + 3000 * "[", "", "it is nested too deeply"),
        ("- task_queue", "", "expected a mapping at the top, got list"),
        ("just text", "", "expected a mapping at the top, got str"),
    ],
)
def test_a_mistake_in_a_file_is_found_by_line_and_column(tmp_path: Path, text: str, place: str, reason: str) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ConfigProvider(path, environ={}).load()
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert reason in str(caught.value)


# ── nothing is shown, and nothing is left ─────────────────────────────────────


SECRET = "s3cr3ts3cr3ts3cr3t"
LATE: list[tuple[dict[str, Any], str]] = [
    ({"task_queue": "sqlte"}, "unknown backend 'sqlte', did you mean 'sqlite'?"),
    ({"task_queue": {"type": "sqlite", "config": {"base_dr": "x"}}}, "task_queue.config.base_dr: unknown name"),
    ({"task_queue": "sqlite:orders.db"}, "task_queue.url: expected a URL such as sqlite:///path/to/file.db"),
    ({"task_queue": "postgres:me@h/db"}, "task_queue.url: expected a URL such as "),
    ({"task_queue": "sqlite:///x.db?pth=1"}, "task_queue.url.pth: unknown name, did you mean 'path'?"),
    ({"task_queue": f"redis://me:{SECRET}@h/x"}, "task_queue.url.db: expected int, got str"),
    ({"task_queue": f"redis://me:{SECRET}@h:port"}, "task_queue.url: expected redis://"),
    ({"task_queue": f"postgresql://me:{SECRET}@h/a/b"}, "task_queue.url: '/' and '@' in a password"),
    ({"task_queue": f"postgresql://me:{SECRET}/@h/db"}, "task_queue.url"),
    (
        {"task_queue": {"type": "redis", "url": f"postgresql://me:{SECRET}@h/db"}},
        "task_queue.url: postgresql:// doesn't",
    ),
    (
        {"task_queue": {"type": "redis", "config": {"password": SECRET, "port": 0}}},
        "task_queue.config.port: expected int",
    ),
    (
        {"task_queue": {"type": "redis", "config": {"pasword": SECRET}}},
        "task_queue.config.pasword: unknown name, did you",
    ),
    ({"task_queue": {"type": "redis", "config": {"cluster": True, "db": 1}}}, "task_queue.config.db: a cluster has no"),
    ({"task_queue": {"type": "nats", "config": {"token": SECRET, "username": "u"}}}, "task_queue.config.token: give"),
    ({"task_queue": {"type": "file", "config": {"base_dir": "s3://"}}}, "task_queue.config.base_dir: expected a dir"),
    ({"task_queue": {"type": "memory", "config": {"path": "x"}}}, "task_queue.config.path: unknown name"),
    ({"result_store": {"type": "sqlite", "config": {"queues": ["a"]}}}, "result_store.config.queues: unknown name"),
    ({"result_store": "mongodb://h"}, "unknown backend 'mongodb'"),
    ({"event_store": "redis://h"}, "'redis' provides no event store"),
    ({"event_store": {"type": "sqlite", "config": {"synchronous": "OFF"}}}, "event_store.config.synchronous: expected"),
    ({"fsspec_uri": "redis://h"}, "fsspec_uri: redis:// is for 'redis'; expected file://"),
    ({"fsspec_uri": "x"}, "fsspec_uri: expected a URL such as"),
    ({"worker": "threads"}, "worker.type: unknown kind of worker, did you mean 'thread'?"),
    ({"worker": {"type": "fast"}}, "worker.type: unknown kind of worker; known: async, gevent, process, thread"),
    ({"worker": {"options": {"fast": {}}}}, "worker.options.fast: unknown kind of worker; known: async"),
    ({"worker": {"options": {"thread": {"max_workers": 0}}}}, "worker.options.thread.max_workers: expected int >= 1"),
    ({"worker": {"options": {"process": {"initializer": "x"}}}}, "worker.options.process.initializer: expected a ref"),
    (
        {"worker": {"config": {"max_abandoned": 3}}},
        "worker.config.max_abandoned: only async and thread workers have it",
    ),
    ({"base_dir": "a\0b"}, "task_queue.config.base_dir: no path can hold a NUL"),
    ({"base_dir": "\ud800"}, "task_queue.config.base_dir: no path can hold a NUL, or text that isn't Unicode"),
    ({"task_queue": "sqlite:///a%00b.db"}, "task_queue.url.path: no path can hold a NUL"),
    ({"task_queue": {"type": "file", "config": {"base_dir": "a\0b"}}}, "task_queue.config.base_dir: no path can hold"),
    ({"events": {"level": "\ud800"}}, "events.level: expected text, got half of a character"),
    ({"a\n\x1b[2Jb": 1}, "a \\x1b[2Jb: unknown name; known: "),
    ({"worker": {"config": {"queues": []}}}, "queues: none given; leave it out to serve all"),
    ({"worker": {"config": {"queues": ["hihg"]}}}, "queues: there is no queue 'hihg'; declared: default"),
    ({"signing_key": "short"}, "OMNIQ_SIGNING_KEY: "),
    ({"events": {"types": ["NOPE"]}}, "events.types[0]: expected one of"),
    ({"events": {"buffer": 0}}, "events.buffer: expected int >= 1"),
    ({"breaker": {"failures": -1}}, "breaker.failures: expected int >= 0"),
]
"""What is found by who makes the components."""


@pytest.fixture
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Checks that no thread, file or connection was made, and gives an empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = {*threading.enumerate()}, open_files()
    yield folder
    assert ({*threading.enumerate()}, open_files()) == before
    assert [*folder.iterdir()] == []


def open_files() -> set[str]:
    """What this process has open, sockets too."""
    process = psutil.Process()
    return {file.path for file in process.open_files()} | {str(it) for it in process.net_connections()}


ALL = [*MALFORMED, *LATE]


@pytest.mark.parametrize(("source", "message"), ALL, ids=[message[:50] for _, message in ALL])
@pytest.mark.parametrize("door", [OmniQ, AsyncOmniQ, ThreadPoolWorker])
def test_it_is_told_in_a_line_shows_no_secret_and_leaves_nothing(
    door: Any, source: dict[Any, Any], message: str, nothing_is_left: Path
) -> None:
    given = source if "signing_key" in source else {"signing_key": SECRET, **source}
    with pytest.raises((ConfigError, PluginError)) as caught:
        door.from_dict(given)
    told = str(caught.value)
    assert message in told
    assert "\n" not in told
    assert SECRET not in told
    assert SECRET not in repr(caught.value.__cause__)


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= 80


def test_a_file_that_isn_t_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file or directory"):
        ConfigProvider(tmp_path / "nowhere.yaml", environ={}).load()
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file or directory"):
        ConfigProvider(environ={"OMNIQ_CONFIG": str(tmp_path / "nowhere.yaml")}).load()


def test_a_directory_and_bytes_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        ConfigProvider(tmp_path, environ={}).load()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="binary: not UTF-8 text"):
        ConfigProvider(tmp_path / "binary", environ={}).load()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [MAX_BYTES + 1, None])
def test_a_file_without_an_end_is_refused(tmp_path: Path, size: int | None) -> None:
    path = Path("/dev/zero") if size is None else tmp_path / "vast.yaml"
    if size is not None:
        path.write_bytes(b"#" * size)
    with pytest.raises(ConfigError, match=f"^{path}: it has more than {MAX_BYTES} bytes"):
        ConfigProvider(path, environ={}).load()


@pytest.mark.parametrize("door", [OmniQ, AsyncOmniQ, ThreadPoolWorker, TaskQueue, SQLiteTaskQueue])
def test_an_empty_path_is_none(door: Any) -> None:
    with pytest.raises(ConfigError, match="^path: expected that of a file, and it is empty"):
        door.from_config_file("")
    with pytest.raises(ConfigError, match="^config: expected a file's path, and it is empty"):
        OmniQ(config="")


def test_a_wrong_value_in_a_file_names_the_path_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text("worker:\n  config:\n    max_workers: many")
    with pytest.raises(ConfigError) as caught:
        ConfigProvider(path, environ={}).load()
    assert str(caught.value) == f"worker.config.max_workers: expected int, got str (in {path})"


# ── what stands for more than it should ──────────────────────────────────────


def nested_aliases(levels: int) -> str:
    """A short text that stands for nine to the power of so many items."""
    names = [f"a{number}" for number in range(levels)]
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(names)]
    return "\n".join(lines)


def knot() -> dict[str, Any]:
    """A mapping with one that contains itself."""
    config: dict[str, Any] = {}
    config["again"] = config
    return {"task_queue": {"config": config}}


def doubled(times: int) -> list[Any]:
    """A list of one item, that many times doubled by sharing."""
    items: list[Any] = [1]
    for _ in range(times):
        items = [items, items]
    return items


@pytest.mark.timeout(20)
@pytest.mark.parametrize("levels", [8, 30])
def test_nested_aliases_are_refused_before_anybody_walks_them(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(nested_aliases(levels))
    with pytest.raises(ConfigError, match="more than 100000 items"):
        ConfigProvider(path, environ={}).load()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (knot(), "nested deeper than 64 levels, or contains itself"),
        ({"task_queue": {"config": {"x": doubled(60)}}}, "more than 100000 items"),
        ({"allowed_modules": doubled(60)}, "more than 100000 items"),
        ({"task_queue": {"config": {"x": doubled(70)}}}, "nested deeper than 64 levels"),
    ],
    ids=["knot", "shared", "list", "deep"],
)
def test_dicts_that_stand_for_too_much_are_refused(config: dict[str, Any], reason: str) -> None:
    loads: list[Callable[[], object]] = [
        lambda: ConfigProvider(config, environ={}).load(),
        lambda: ConfigProvider(environ={}).load(**config),
        lambda: convert(config, OmniQConfig),
    ]
    for load in loads:
        with pytest.raises(ConfigError, match=reason):
            load()


def test_an_alias_that_stands_for_little_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text("task_queue: &place sqlite:///x.db\nresult_store: *place\n")
    config = ConfigProvider(path, environ={}).load()
    assert config.task_queue == config.result_store


def test_json_that_is_nested_too_deeply_is_an_error_of_its_variable() -> None:
    with pytest.raises(ConfigError, match="^OMNIQ_COMPONENT_LOG_LEVELS: expected JSON"):
        ConfigProvider({}, environ={"OMNIQ_COMPONENT_LOG_LEVELS": "[" * 100_000}).load()
