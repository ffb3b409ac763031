"""`omniq config` and `omniq check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import yaml
from omniq.config import ConfigProvider, Settings
from omniq.config.described import schema
from omniq.config.settings import SETTING_PLACES
from omniq.errors import ConfigError

from tests.core.cli.support import Cli, run
from tests.core.config.test_malformed import MALFORMED
from tests.core.config.test_sources import SPEC_EXAMPLE

KEY = "k3yk3yk3yk3yk3yk3y"


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path)


def shown(*arguments: str) -> dict[str, tuple[Any, str]]:
    """Each value that a command shows, and where it comes from."""
    result = run("config", "show", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return {value["path"]: (value["value"], value["from"]) for value in json.loads(result.stdout)["values"]}


# ── show ─────────────────────────────────────────────────────────────────────


def test_each_value_is_shown_with_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text(
        f"task_queue: postgresql://me:hunter2@h/db\nsigning_key: {KEY}\nbase_dir: /a\n"
        "worker: {config: {max_workers: 3, lease: 5}}\ndefaults: {timeout: null}\n"
    )
    monkeypatch.setenv("OMNIQ_MAX_WORKERS", "4")
    monkeypatch.setenv("OMNIQ_QUEUES", "high,low")
    monkeypatch.setenv("OMNIQ_WORKER_OPTIONS", '{"thread": {"max_abandoned": 3}}')
    values = shown("--config", str(file), "--project", "shop")
    assert values["project_name"] == ("shop", "argument")
    assert values["task_queue.url"] == ("postgresql://me:***@h/db", f"file: {file}")
    assert values["task_queue.config.queues"] == (["high", "low"], "environment: OMNIQ_QUEUES")
    assert values["signing_key"] == ("***", f"file: {file}")
    assert values["worker.config.max_workers"] == (4, "environment: OMNIQ_MAX_WORKERS")
    assert values["worker.options.thread.max_abandoned"] == (3, "environment: OMNIQ_WORKER_OPTIONS")
    assert values["worker.config.lease"] == (5.0, f"file: {file}")
    assert values["defaults.timeout"] == (None, f"file: {file}")
    assert values["worker.config.policy"] == ("strict", "default")
    assert values["result_store"] == (None, "default")


def test_an_option_replaces_what_the_file_says_of_a_store(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text("task_queue: {type: redis, config: {host: h, password: hunter2, queues: [high]}}")
    values = shown("--config", str(file), "--url", cli.url)
    assert values["task_queue.url"] == (cli.url, "argument")
    assert values["task_queue.config.queues"] == (["high"], f"file: {file}")
    assert "task_queue.config.host" not in values


@pytest.mark.parametrize("name", [name for name in Settings.__dataclass_fields__ if "KEY" not in name])
def test_a_variable_is_told_as_where_it_comes_from(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        **dict.fromkeys(Settings.__dataclass_fields__, "3"),
        **dict.fromkeys(("TASK_QUEUE_TYPE", "RESULT_STORAGE_TYPE", "EVENT_STORAGE_TYPE"), "sqlite"),
        **{name: f"sqlite:///{name}.db" for name in ("TASK_QUEUE_URL", "RESULT_STORAGE_URL", "EVENT_STORAGE_URL")},
        "FSSPEC_URI": "file:///x",
        "LOG_LEVEL": "INFO",
        "DISABLE_LOGGING": "1",
        "EVENT_LOGGING": "0",
        "COMPONENT_LOG_LEVELS": '{"worker": "INFO"}',
        "SERIALIZER": "msgspec",
        "EVENT_TYPES": "RETRY",
        "EVENT_LEVEL": "INFO",
        "DEFAULT_WORKER": "thread",
        "WORKER_OPTIONS": '{"thread": {"lease": 3}}',
        "RETRY_JITTER": "0.5",
        "ACCEPT_UNSIGNED_UNTIL": "2100-01-01T00:00:00Z",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"OMNIQ_{name}", texts[name])
    if name == "ACCEPT_UNSIGNED_UNTIL":
        monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)
    place = SETTING_PLACES[name]
    origins = {origin for path, (_, origin) in shown().items() if path == place or path.startswith(f"{place}.")}
    assert origins == {f"environment: OMNIQ_{name}"}


def test_the_table_shows_no_secret_and_where_the_stores_are(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)
    output = cli.output("config", "show")
    assert KEY not in output
    assert f"tasks    sqlite:{cli.url.partition(':///')[2].partition('?')[0]}" in output
    assert "***" in output
    assert run("config", "show", "--url", "sqlite:x.db").exit_code == 2


# ── schema ───────────────────────────────────────────────────────────────────


def validate(data: Any) -> None:
    """Raise `JsonSchemaException` for what an editor would mark."""
    fastjsonschema.validate(json.loads(run("config", "schema").stdout), data)


@pytest.mark.parametrize(
    "text",
    [
        SPEC_EXAMPLE,
        "",
        "{}",
        "task_queue: sqlite:///x.db\nworker: thread",
        "task_queue: {type: sqlite, config: {base_dir: x, synchronous: NORMAL, queues: [a]}}",
        "worker: {type: process, config: {max_workers: 4}, options: {process: {max_tasks_per_child: 3}}}",
        "worker: {config: {max_workers: '${N}', policy: '${P:-strict}'}}\nlogging: {disable: '${D}'}",
        "defaults: {timeout: null, result_ttl: null}\nevents: {types: [RETRY]}\nresult_store:",
        "accept_unsigned_until: 2030-01-01T00:00:00Z\nsigning_key: kkkkkkkkkkkkkkkk",
    ],
)
def test_what_is_right_fits_the_schema(text: str) -> None:
    data = yaml.load(text, yaml.BaseLoader) if "2030" in text else yaml.safe_load(text)
    validate(data or {})
    if data and "$" not in text and "2030" not in text:
        ConfigProvider(data, environ={}).load()


NOT_IN_SCHEMA = (
    "signing_key: it is empty",
    "allowed_modules: it is empty",
    "accept_unsigned_until",
    "keys must be text",
    "task_queue.config: keys",
    "worker.config.lease: expected float > 0.0",
)
"""What a schema of JSON can't say, or says otherwise: null is as good as not given, keys are text, there is no NaN."""
FITTING_NONE = [case for case in MALFORMED if not case[1].startswith(NOT_IN_SCHEMA)]


@pytest.mark.parametrize(("source", "message"), FITTING_NONE, ids=[message[:50] for _, message in FITTING_NONE])
def test_what_is_refused_does_not_fit_it(source: dict[str, Any], message: str) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(source)


@pytest.mark.parametrize(
    "data",
    [
        {"task_queue": {"type": "sqlite", "config": {"synchronous": "OFF"}}},
        {"task_queue": {"type": "postgres", "config": {"pth": "x"}}},
        {"event_store": {"type": "redis"}},
        {"worker": {"options": {"thread": {"max_tasks_per_child": 3}}}},
    ],
)
def test_stores_and_workers_have_their_own(data: Any) -> None:
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(data)


def test_the_schema_names_what_is_installed() -> None:
    types = json.dumps(schema()["$defs"]["task_queue_place"])
    assert all(f'"{name}"' in types for name in ("sqlite", "postgres", "redis", "nats", "file", "memory"))


# ── check ────────────────────────────────────────────────────────────────────


def findings(*arguments: str, code: int) -> dict[str, Any]:
    """What is found, by a command that ends with that code."""
    result = run("check", *arguments, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["ok"] is (code == 0)
    return found


def reasons(found: dict[str, Any], answer: str = "no") -> list[str]:
    """The reasons for an answer."""
    return [f"{finding['about']}: {finding['reason']}" for finding in found["findings"] if finding["answer"] == answer]


def test_what_is_asked_for_and_guaranteed_is_fine(tmp_path: Path) -> None:
    found = findings("--url", f"sqlite:///{tmp_path}/omniq.db", code=0)
    assert not reasons(found)
    assert any("a loss of power: yes (journal_mode=wal, synchronous=full)" in line for line in reasons(found, "yes"))


def test_what_is_not_asked_for_need_not_be_guaranteed(cli: Cli) -> None:
    findings("--url", cli.url, code=0)
    found = findings("--url", cli.url, "--require", "power-loss", "--require", "failover", code=1)
    assert [line.partition(": ")[2].partition(":")[0] for line in reasons(found)] == [
        "what is acknowledged survives a loss of power",
        "what is acknowledged survives the failure of the server it was written to",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task_queue: redis://127.0.0.1:1", "tasks and results: the store can't be reached: "),
        ("task_queue: memory", "tasks: memory:"),
        ("events: {level: INFO}", "events: they are configured, but no event_store is"),
        ("task_queue: {type: sqlite, config: {max_body: 2000000000}}", "tasks: max_body is 2000000000 bytes, but"),
    ],
)
def test_what_does_not_hold_is_told_with_its_reason(cli: Cli, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text(text)
    found = findings("--config", str(file), code=1)
    assert [line for line in reasons(found) if line.startswith(reason)], found


def test_queues_that_are_not_declared_are_a_wrong_configuration(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "omniq.yaml").write_text("worker: {config: {queues: [nope]}}")
    result = run("check", "--config", "omniq.yaml")
    assert result.exit_code == 2
    assert "worker.config.queues: there is no queue 'nope'; declared: default" in result.stderr


def test_a_wrong_configuration_exits_with_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "omniq.yaml").write_text("worker: {config: {lease: soon}}")
    result = run("check", "--config", "omniq.yaml")
    assert result.exit_code == 2
    assert "worker.config.lease: expected float, got str" in result.stderr
    with pytest.raises(ConfigError):
        ConfigProvider(tmp_path / "omniq.yaml").load()


def test_words_for_people(cli: Cli) -> None:
    result = cli("check")
    assert result.exit_code == 0
    assert result.stderr.strip() == "yes: the stores keep what the configuration asks for"
    assert "workers of kind 'async' can be started" in result.stdout
