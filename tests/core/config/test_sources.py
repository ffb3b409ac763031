"""Configuration: where it comes from, what wins, and what is said about the malformed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from omniq import AsyncOmniQ
from omniq.config import ComponentChoice, ConfigProvider, OmniQConfig, Settings, TaskDefaults, WorkerChoice
from omniq.config.loader import Security
from omniq.models import WorkerConfig

SPEC_EXAMPLE = """
project_name: my_project
task_queue:
  type: file
  config:
    base_dir: some/path
    queues:
      - high
      - medium
      - low

result_store:
  type: sqlite
  config:
    base_dir: some/path

event_store:
  type: postgres
  config:
    host: localhost
    port: 5432
    username: postgres
    password: secret

worker:
  type: thread_pool
  config:
    max_workers: 10
"""


def load(source: Any = None, /, environ: dict[str, str] | None = None, **arguments: Any) -> OmniQConfig:
    """What holds; a dict that meets an environment is that of a file."""
    if isinstance(source, dict) and environ and "OMNIQ_CONFIG" not in environ:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "omniq.yaml")
            path.write_text(yaml.safe_dump(source))
            return ConfigProvider(path, environ=environ).load(**arguments)
    return ConfigProvider(source, environ=environ or {}).load(**arguments)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    path = tmp_path / "omniq.yaml"
    path.write_text(SPEC_EXAMPLE)
    return path


# ── sources ──────────────────────────────────────────────────────────────────


def test_the_example_of_the_specification(yaml_file: Path) -> None:
    config = load(yaml_file)
    assert config.project_name == "my_project"
    assert config.task_queue == ComponentChoice(
        type="file", config={"base_dir": "some/path", "queues": ["high", "medium", "low"]}
    )
    assert config.result_store == ComponentChoice(type="sqlite", config={"base_dir": "some/path"})
    assert config.event_store is not None
    assert config.event_store.config["password"] == "secret"
    assert config.worker == WorkerChoice(type="thread_pool", config=WorkerConfig(max_workers=10))


def test_nothing_configured_gives_the_settings() -> None:
    config = load()
    assert config == OmniQConfig()
    assert (config.project_name, config.base_dir) == (Settings.PROJECT_NAME, Settings.BASE_DIR)
    assert config.defaults.max_retries == Settings.RETRY_ATTEMPTS == 3
    assert config.defaults.result_ttl == Settings.RESULT_TTL == 86_400
    assert config.task_queue is config.result_store is config.event_store is None


def test_dict_struct_and_file_mean_the_same(yaml_file: Path) -> None:
    from_file = load(yaml_file)
    assert load(from_file) == from_file
    assert load(str(yaml_file)) == from_file
    assert load({"task_queue": from_file.task_queue}).task_queue == from_file.task_queue


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_is_fine(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    assert load(path) == OmniQConfig()


def test_sections_that_are_left_empty_are_not_given(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("task_queue:\nworker:\ndefaults:\nproject_name: x\n")
    assert load(path) == OmniQConfig(project_name="x")


def test_omniq_config_names_the_file_if_none_is_given(yaml_file: Path) -> None:
    environ = {"OMNIQ_CONFIG": str(yaml_file)}
    assert load(environ=environ).project_name == "my_project"
    assert load({}, environ=environ).project_name == "default"


def test_short_forms() -> None:
    config = load({"task_queue": "redis://host/0", "result_store": "sqlite", "worker": "thread"})
    assert config.task_queue == ComponentChoice(url="redis://host/0")
    assert config.result_store == ComponentChoice(type="sqlite")
    assert config.worker.type == "thread"


def test_a_changed_file_is_seen_by_the_next_load(yaml_file: Path) -> None:
    provider = ConfigProvider(yaml_file, environ={})
    assert provider.load().project_name == "my_project"
    yaml_file.write_text("project_name: other")
    assert provider.load().project_name == "other"


# ── precedence ───────────────────────────────────────────────────────────────


def test_argument_over_environment_over_file_over_default() -> None:
    source, environ = {"project_name": "file"}, {"OMNIQ_PROJECT_NAME": "env"}
    assert load().project_name == "default"
    assert load(source).project_name == "file"
    assert load(source, environ=environ).project_name == "env"
    assert load(source, environ=environ, project_name="argument").project_name == "argument"
    assert load(source, environ=environ, project_name=None).project_name == "env"


def test_what_is_given_in_code_wins_over_the_environment() -> None:
    environ = {
        "OMNIQ_PROJECT_NAME": "env",
        "OMNIQ_TASK_QUEUE_URL": "redis://me:secret@env",
        "OMNIQ_RETRY_ATTEMPTS": "7",
        "OMNIQ_RESULT_TTL": "5",
        "OMNIQ_QUEUES": "env",
    }
    given = {
        "project_name": "code",
        "task_queue": {"type": "sqlite", "config": {"base_dir": "x"}},
        "defaults": {"result_ttl": None},
    }
    config = ConfigProvider(given, environ=environ).load()
    assert config.project_name == "code"
    assert config.task_queue == ComponentChoice(type="sqlite", config={"base_dir": "x", "queues": ("env",)})
    assert (config.defaults.max_retries, config.defaults.result_ttl) == (7, None)
    assert ConfigProvider(given, environ=environ).load(project_name="argument").project_name == "argument"


@pytest.mark.parametrize("place", ["base_dir", "path"])
def test_who_says_where_in_code_leaves_the_url_of_the_environment(place: str) -> None:
    environ = {"OMNIQ_TASK_QUEUE_URL": "sqlite:///env.db?queues=x"}
    config = ConfigProvider({"task_queue": {"config": {place: "here"}}}, environ=environ).load()
    assert config.task_queue == ComponentChoice(type="sqlite", config={place: "here"})


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_overrides_nothing(value: str) -> None:
    assert load({"project_name": "file"}, environ={"OMNIQ_PROJECT_NAME": value}).project_name == "file"


def test_an_unset_variable_never_overrides_a_file_with_its_default() -> None:
    source = {"defaults": {"max_retries": 9, "ttl": 60}, "logging": {"level": "ERROR"}, "base_dir": "here"}
    config = load(source, environ={"OMNIQ_TASK_TTL": "30"})
    assert (config.defaults.max_retries, config.defaults.ttl) == (9, 30)
    assert (config.logging.level, config.base_dir) == ("ERROR", "here")


FILE = {"type": "sqlite", "config": {"base_dir": "some/path", "queues": ["a"], "busy_timeout": 3}}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, FILE),
        ({"OMNIQ_TASK_QUEUE_TYPE": "sqlite"}, FILE),
        ({"OMNIQ_TASK_QUEUE_TYPE": "redis"}, {"type": "redis", "config": {"queues": ["a"]}}),
        ({"OMNIQ_TASK_QUEUE_URL": "sqlite:///x.db"}, {"url": "sqlite:///x.db", "config": {"queues": ["a"]}}),
        ({"OMNIQ_TASK_QUEUE_URL": "redis://host"}, {"url": "redis://host", "config": {"queues": ["a"]}}),
        (
            {"OMNIQ_QUEUES": "b, c"},
            {**FILE, "config": {"base_dir": "some/path", "queues": ["b", "c"], "busy_timeout": 3}},
        ),
    ],
)
def test_the_environment_replaces_a_store_but_keeps_what_all_stores_have(
    environ: dict[str, str], expected: dict[str, Any]
) -> None:
    config = load({"task_queue": FILE}, environ=environ)
    assert config.task_queue is not None
    queues = list(config.task_queue.config.pop("queues"))
    wanted = dict(expected["config"])
    assert queues == wanted.pop("queues")
    assert config.task_queue == ComponentChoice(**{**expected, "config": wanted})


def test_another_type_replaces_a_url() -> None:
    config = load({"task_queue": {"url": "sqlite:///x.db"}}, environ={"OMNIQ_TASK_QUEUE_TYPE": "memory"})
    assert config.task_queue == ComponentChoice(type="memory")


def test_the_same_type_keeps_the_url() -> None:
    config = load({"task_queue": {"url": "sqlite:///x.db"}}, environ={"OMNIQ_TASK_QUEUE_TYPE": "sqlite"})
    assert config.task_queue == ComponentChoice(type="sqlite", url="sqlite:///x.db")


@pytest.mark.parametrize(
    ("source", "environ", "arguments", "size"),
    [
        ({}, {}, {}, None),
        ({"config": {"max_workers": 2}}, {}, {}, 2),
        ({"config": {"max_workers": 2}}, {"OMNIQ_MAX_WORKERS": "3"}, {}, 3),
        ({"config": {"max_workers": 2}}, {"OMNIQ_THREAD_WORKERS": "4"}, {}, 4),
        ({"config": {"max_workers": 2}}, {"OMNIQ_PROCESS_WORKERS": "4"}, {}, 2),
        ({}, {"OMNIQ_MAX_WORKERS": "3", "OMNIQ_THREAD_WORKERS": "4"}, {}, 4),
        ({"options": {"thread": {"max_workers": 6}}}, {"OMNIQ_MAX_WORKERS": "3"}, {}, 3),
        ({"options": {"thread": {"max_workers": 6}}, "config": {"max_workers": 2}}, {}, {}, 6),
        ({}, {"OMNIQ_THREAD_WORKERS": "4"}, {"worker": {"config": {"max_workers": 5}}}, 5),
    ],
)
def test_a_kind_s_own_size_wins_over_max_workers_of_the_same_source(
    source: dict[str, Any], environ: dict[str, str], arguments: dict[str, Any], size: int | None
) -> None:
    config = load({"worker": source}, environ=environ, **arguments)
    assert config.worker.settings_for("thread").max_workers == size


# ── a complete configuration ─────────────────────────────────────────────────


def test_a_struct_is_taken_at_its_word() -> None:
    given = OmniQConfig(task_queue=ComponentChoice(url="sqlite:///mine.db"), defaults=TaskDefaults(max_retries=3))
    environ = {"OMNIQ_TASK_QUEUE_URL": "sqlite:///env.db", "OMNIQ_PROJECT_NAME": "env", "OMNIQ_RETRY_ATTEMPTS": "7"}
    assert ConfigProvider(given, environ=environ).load() == given
    assert ConfigProvider(given, environ=environ).load(project_name="argument").project_name == "argument"


def test_a_struct_keeps_the_environment_s_protections() -> None:
    environ = {"OMNIQ_SIGNING_KEY": "k" * 32, "OMNIQ_ALLOWED_MODULES": "shop", "OMNIQ_SERIALIZER": "msgspec"}
    loaded = ConfigProvider(OmniQConfig(), environ=environ).load()
    assert (loaded.signing_key, loaded.allowed_modules) == ("k" * 32, ["shop"])
    assert Security.of(loaded).serializer == "msgspec"
    own = OmniQConfig(signing_key="o" * 32, allowed_modules=["mine"])
    loaded = ConfigProvider(own, environ=environ).load()
    assert (loaded.signing_key, loaded.allowed_modules) == ("o" * 32, ["mine"])


def test_what_is_loaded_can_be_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", "sqlite:///env.db")
    loaded = ConfigProvider().load(project_name="default", task_queue={"url": "sqlite:///argument.db"})
    assert ConfigProvider(loaded).load() == AsyncOmniQ.from_config(loaded).config == loaded
