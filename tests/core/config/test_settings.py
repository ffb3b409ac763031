"""Settings and environment variables, and the library's own logging."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omniq import OmniQ
from omniq.config import ConfigProvider, EnvConfig, LoggingConfig, Settings, configure_logging
from omniq.config import settings as env_module
from omniq.config.choices import resolve
from omniq.config.loader import Security
from omniq.config.settings import COMPONENTS, OFF, apply, from_settings
from omniq.errors import ConfigError
from omniq.exports import FIRST_PARTY
from omniq.queue import SQLiteTaskQueue
from omniq.storage import SQLiteResultStorage

ROOT_FOLDER = Path(__file__).parents[3]
LEVELS = "expected one of 'CRITICAL', 'DEBUG', 'DISABLED', 'ERROR', 'INFO', 'WARNING'"
A_NAME = "expected a name: up to 64 letters, digits, '_', '-' and '.', which doesn't come first"


# ── variables ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MAX_WORKERS", "abc", "OMNIQ_MAX_WORKERS: expected int, got 'abc'"),
        ("MAX_WORKERS", "0", "OMNIQ_MAX_WORKERS: expected int >= 1, got '0'"),
        ("MAX_WORKERS", "1.5", "OMNIQ_MAX_WORKERS: expected int, got '1.5'"),
        ("THREAD_WORKERS", "-1", "OMNIQ_THREAD_WORKERS: expected int >= 1, got '-1'"),
        ("RETRY_ATTEMPTS", "three", "OMNIQ_RETRY_ATTEMPTS: expected int, got 'three'"),
        ("RETRY_DELAY", "1s", "OMNIQ_RETRY_DELAY: expected float, got '1s'"),
        ("TASK_TTL", "nan", "OMNIQ_TASK_TTL: expected float >= 0.0, got 'nan'"),
        ("RESULT_TTL", "inf", "OMNIQ_RESULT_TTL: expected float <= 315576000.0, got 'inf'"),
        ("TASK_TIMEOUT", "0", "OMNIQ_TASK_TIMEOUT: expected float > 0.0, got '0'"),
        ("LOG_LEVEL", "loud", f"OMNIQ_LOG_LEVEL: {LEVELS}, got 'loud'"),
        ("DISABLE_LOGGING", "maybe", "OMNIQ_DISABLE_LOGGING: expected bool, got 'maybe'"),
        (
            "COMPONENT_LOG_LEVELS",
            "{",
            'OMNIQ_COMPONENT_LOG_LEVELS: expected JSON, such as {"worker": "DEBUG"}, got \'{\'',
        ),
        ("COMPONENT_LOG_LEVELS", "[]", "OMNIQ_COMPONENT_LOG_LEVELS: expected mapping, got '[]'"),
        ("QUEUES", "a,b c", f"OMNIQ_QUEUES[1]: {A_NAME}, got 'a,b c'"),
        ("PROJECT_NAME", "a/b", f"OMNIQ_PROJECT_NAME: {A_NAME}, got 'a/b'"),
        ("SERIALIZER", "pickle", "OMNIQ_SERIALIZER: expected one of 'auto', 'msgspec', got 'pickle'"),
    ],
)
def test_a_malformed_variable_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConfigProvider({}, environ={f"OMNIQ_{name}": text}).load()
    assert str(caught.value) == message


def test_variables_are_converted() -> None:
    environ = {
        "OMNIQ_QUEUES": " high, low ,",
        "OMNIQ_MAX_WORKERS": " 7 ",
        "OMNIQ_LOG_LEVEL": "debug",
        "OMNIQ_COMPONENT_LOG_LEVELS": '{"worker": "DEBUG"}',
        "OMNIQ_TASK_TTL": "1e3",
        "OMNIQ_ALLOWED_MODULES": "app.tasks,app.mail",
        "OMNIQ_TASK_QUEUE_URL": "redis://host",
    }
    assert EnvConfig(environ).given() == {
        "QUEUES": ("high", "low"),
        "MAX_WORKERS": 7,
        "LOG_LEVEL": "DEBUG",
        "COMPONENT_LOG_LEVELS": {"worker": "DEBUG"},
        "TASK_TTL": 1000.0,
        "ALLOWED_MODULES": ("app.tasks", "app.mail"),
        "TASK_QUEUE_URL": "redis://host",
    }


@pytest.mark.parametrize("text", ["", " \t"])
@pytest.mark.parametrize(
    "name",
    [
        "ALLOWED_MODULES",
        "CONFIG",
        "EVENT_STORAGE_URL",
        "RESULT_STORAGE_URL",
        "SERIALIZER",
        "SIGNING_KEY",
        "TASK_QUEUE_URL",
    ],
)
def test_an_empty_variable_turns_no_protection_off_and_leads_to_no_other_store(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^OMNIQ_{name}: it is empty; unset it where nothing is meant"):
        ConfigProvider(environ={f"OMNIQ_{name}": text}).load()


@pytest.mark.parametrize(
    ("source", "environ"),
    [
        ({"task_queue": {"type": "sqlite", "config": {"serializer": "msgspec"}}}, {"OMNIQ_SERIALIZER": "auto"}),
        ({"task_queue": "sqlite:///a.db?serializer=msgspec"}, {"OMNIQ_SERIALIZER": "auto"}),
        ({"task_queue": "sqlite:///a.db?serializer=msgspec"}, {"OMNIQ_TASK_QUEUE_URL": "sqlite:///b.db"}),
        ({"task_queue": {"url": "sqlite:///a.db?serializer=msgspec", "config": {"serializer": "auto"}}}, {}),
        ({"task_queue": {"config": {"serializer": "auto"}}}, {"OMNIQ_SERIALIZER": "msgspec"}),
    ],
)
def test_who_turns_dill_off_is_overruled_by_nobody(source: dict[str, Any], environ: dict[str, str]) -> None:
    config = ConfigProvider(source, environ=environ).load()
    assert Security.of(config).serializer == "msgspec"
    _, queue = resolve("task_queue", config.task_queue, None)
    assert queue.serializer == "msgspec"


@pytest.mark.parametrize("name", ["signing_keys", "allowed_module"])
def test_a_misspelt_protection_is_refused_though_it_is_empty(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: unknown name, did you mean"):
        ConfigProvider({name: None}, environ={}).load()


@pytest.mark.parametrize(
    "text",
    [
        'signing_key:"SECRETSECRETSECRETSECRET"',
        "{signing_key:SECRETSECRETSECRETSECRET}",
        "task_queue: {type: sqlite, password:SECRETSECRET}",
        "logging:\n  password:SECRETSECRET :\n",
    ],
)
def test_a_value_that_became_part_of_its_name_is_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ConfigProvider(path, environ={}).load()
    assert "SECRET" not in str(caught.value)


def test_a_key_that_is_no_text_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="^OMNIQ_SIGNING_KEY: it isn't UTF-8") as caught:
        Security(signing_key="SECRETSECRETSECRET\udcff").manager()
    assert "SECRET" not in repr(caught.value)


def test_a_list_of_modules_without_a_name_is_refused() -> None:
    for text in (",", " , ,"):
        with pytest.raises(ConfigError, match="^OMNIQ_ALLOWED_MODULES: expected list of length >= 1"):
            EnvConfig({"OMNIQ_ALLOWED_MODULES": text}).given()


def test_other_empty_variables_are_as_good_as_unset() -> None:
    never_empty = {*env_module.NEVER_EMPTY}
    environ = {f"OMNIQ_{name}": " " for name in Settings.__dataclass_fields__ if name not in never_empty}
    assert EnvConfig(environ).given() == {}


@pytest.mark.parametrize("key", ["id:", "id: ", "short", "id:short", f"id:{' ' * 20}"])
def test_a_key_that_is_none_is_refused_where_components_are_made(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", key)
    for make in (OmniQ, SQLiteTaskQueue, SQLiteResultStorage):
        with pytest.raises(ConfigError, match="^OMNIQ_SIGNING_KEY: "):
            make()


def test_a_time_until_which_unsigned_payloads_are_accepted_has_a_zone() -> None:
    text = "2030-12-31T08:30:00+01:00"
    given = EnvConfig({"OMNIQ_ACCEPT_UNSIGNED_UNTIL": text}).given()
    assert given == {"ACCEPT_UNSIGNED_UNTIL": dt.datetime.fromisoformat(text)}
    with pytest.raises(ConfigError, match="expected datetime with a timezone component"):
        EnvConfig({"OMNIQ_ACCEPT_UNSIGNED_UNTIL": "2030-12-31T08:30:00"}).given()


@pytest.mark.parametrize("word", ["1", "true", "YES", "On"])
def test_words_for_yes(word: str) -> None:
    assert EnvConfig({"OMNIQ_DISABLE_LOGGING": word}).settings().DISABLE_LOGGING is True


@pytest.mark.parametrize("word", ["0", "False", "no", "OFF"])
def test_words_for_no(word: str) -> None:
    assert EnvConfig({"OMNIQ_DISABLE_LOGGING": word}).settings().DISABLE_LOGGING is False


def test_settings_are_constants_and_one_process_s_values() -> None:
    assert (Settings.BASE_DIR, Settings.PROJECT_NAME, Settings.DEFAULT_WORKER) == (".omniq", "default", "async")
    assert EnvConfig({}).settings() == Settings()
    assert EnvConfig({"OMNIQ_BASE_DIR": "/x"}).settings().BASE_DIR == "/x"
    assert Settings.BASE_DIR == ".omniq"
    with pytest.raises(AttributeError):
        Settings().BASE_DIR = "/y"  # type: ignore[misc]


def test_every_setting_has_a_place_in_the_configuration() -> None:
    for name in Settings.__dataclass_fields__:
        assert from_settings({name: None}), name


def test_an_unknown_variable_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_module, "_warned", set())
    environ = {
        "OMNIQ_MAX_WORKER": "hunter2",
        "OMNIQ_TEST_POSTGRES_URL": "x",
        "OMNIQ_CONFIG": "",
        "OMNIQ_PLUGINS_STRICT": "1",
        "OMNIQ_DISABLE_PLUGINS": "x",
        "OMNIQUEUE": "x",
    }
    with caplog.at_level(logging.WARNING, "omniq.config"):
        EnvConfig(environ).given()
        EnvConfig(environ).given()
    assert caplog.messages == ["unknown environment variable OMNIQ_MAX_WORKER, did you mean 'OMNIQ_MAX_WORKERS'?"]


# ── logging ──────────────────────────────────────────────────────────────────


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The library's levels are as they were afterwards; gives a way to set variables."""
    before = logging.getLogger("omniq").level
    monkeypatch.setattr(env_module._levels, "in_code", False)
    monkeypatch.setattr(env_module._levels, "adopted", None)
    yield monkeypatch
    apply(LoggingConfig())
    logging.getLogger("omniq").setLevel(before)


def level(name: str) -> int:
    return logging.getLogger(name).getEffectiveLevel()


def test_levels_are_set_by_component_and_never_on_the_root_logger(levels: pytest.MonkeyPatch) -> None:
    root, handlers = logging.getLogger().level, list(logging.getLogger("omniq").handlers)
    assert not handlers  # so that warnings reach stderr until the application says otherwise
    configure_logging("ERROR", {"worker": "DEBUG", "queue": "DISABLED"})
    assert (level("omniq"), level("omniq.worker"), level("omniq.worker.x")) == (40, 10, 10)
    assert (level("omniq.queue"), level("omniq.storage")) == (OFF, 40)
    assert logging.getLogger().level == root


def test_a_component_that_is_named_no_longer_follows_the_library_again(levels: pytest.MonkeyPatch) -> None:
    configure_logging("ERROR", {"worker": "DEBUG"})
    configure_logging("INFO", {})
    assert level("omniq.worker") == level("omniq") == logging.INFO


def test_disabled_is_disabled_whatever_the_levels(levels: pytest.MonkeyPatch) -> None:
    configure_logging("DEBUG", {"worker": "DEBUG"}, disable=True)
    assert level("omniq") == level("omniq.worker") == OFF
    configure_logging("DISABLED")
    assert level("omniq") == OFF


def test_what_isn_t_given_comes_from_the_environment(levels: pytest.MonkeyPatch) -> None:
    levels.setenv("OMNIQ_LOG_LEVEL", "error")
    levels.setenv("OMNIQ_COMPONENT_LOG_LEVELS", '{"worker": "INFO"}')
    configure_logging()
    assert (level("omniq"), level("omniq.worker")) == (logging.ERROR, logging.INFO)
    configure_logging("DEBUG")
    assert (level("omniq"), level("omniq.worker")) == (logging.DEBUG, logging.INFO)
    levels.setenv("OMNIQ_DISABLE_LOGGING", "true")
    configure_logging("DEBUG")
    assert level("omniq.worker") == OFF


def test_an_unknown_level_is_refused_and_changes_nothing(levels: pytest.MonkeyPatch) -> None:
    configure_logging("ERROR")
    with pytest.raises(ConfigError, match=r"^logging\.level: expected one of 'CRITICAL'"):
        configure_logging("LOUD")  # type: ignore[arg-type]
    assert level("omniq") == logging.ERROR


def test_the_level_of_what_logs_nothing_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    told = LoggingConfig(components={"wroker": "DEBUG", "omniq.worker": "ERROR", "storage.log": "ERROR"})
    try:
        with caplog.at_level(logging.WARNING, "omniq.config"):
            for _ in range(2):
                apply(told)
            assert logging.getLogger("omniq.worker").level == logging.ERROR
        assert caplog.messages == ["logging.components.wroker: nothing logs under that name, did you mean 'worker'?"]
    finally:
        apply(LoggingConfig())


def test_all_our_loggers_are_known() -> None:
    sources = [path for path in ROOT_FOLDER.glob("omniq-*/src/**/*.py") if "template" not in path.parts]
    found = {name for path in sources for name in re.findall(r'get_logger\("omniq\.(\w+)', path.read_text("utf-8"))}
    assert found - FIRST_PARTY.keys() == COMPONENTS - FIRST_PARTY.keys()
    assert found < COMPONENTS


def test_levels_of_components_are_written_as_those_of_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_COMPONENT_LOG_LEVELS", '{"worker": "debug"}')
    assert EnvConfig().given() == {"COMPONENT_LOG_LEVELS": {"worker": "DEBUG"}}


@pytest.mark.parametrize("name", ["WORKER_OPTIONS", "COMPONENT_LOG_LEVELS"])
def test_what_is_no_json_is_told_an_example_that_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OMNIQ_{name}", "{")
    with pytest.raises(ConfigError, match=f"^OMNIQ_{name}: expected JSON, such as (.*), got '{{'$") as caught:
        EnvConfig().given()
    monkeypatch.setenv(f"OMNIQ_{name}", str(caught.value).partition("such as ")[2].removesuffix(", got '{'"))
    assert OmniQ(task_queue="memory").config is not None
