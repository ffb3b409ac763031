"""Secrets appear in no error, no repr and no log."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from omniq.config import ConfigProvider, EnvConfig, mask_url, redact
from omniq.config.resolve import resolve
from omniq.errors import ConfigError, OmniQError

SECRET = "hunter2"


def load_and_resolve(source: dict[str, Any], environ: dict[str, str]) -> None:
    config = ConfigProvider(source, environ=environ).load()
    resolve("task_queue", config.task_queue, None)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"postgresql://me:{SECRET}@host/db", "postgresql://me:***@host/db"),
        (f"nats://{SECRET}@host:4222", "nats://***@host:4222"),
        (f"redis://me:a/{SECRET}#b@host", "redis://me:***@host"),
        (f"redis://me:a@{SECRET}@host", "redis://me:***@host"),
        (f"postgresql://host/db?user=me&password={SECRET}&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        (f"s3://bucket?secret_key={SECRET}", "s3://bucket?secret_key=***"),
        (f"nats://a:{SECRET}@h1,nats://b:{SECRET}@h2", "nats://a:***@h2"),
        (f"can't reach 'redis://me:{SECRET}@host': refused", "can't reach 'redis://me:***@host': refused"),
        (f"me:{SECRET}@host/db", "me:***@host/db"),
        (f"can't read 'me:{SECRET}@host'", "can't read 'me:***@host'"),
        (f"{SECRET}@host", "***@host"),
        ("sqlite:///some/file.db", "sqlite:///some/file.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("no url at all", "no url at all"),
    ],
)
def test_urls_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_masking_a_long_text_takes_no_time_that_grows_with_its_square() -> None:
    assert mask_url("a" * 200_000) == "a" * 200_000
    assert mask_url("?" * 200_000) == "?" * 200_000
    assert mask_url("a:" * 100_000) == "a:" * 100_000
    assert mask_url(" a" * 100_000) == " a" * 100_000


def test_data_is_redacted_by_the_names_of_its_keys() -> None:
    data = {
        "host": "h",
        "password": SECRET,
        "storage_options": {"key": SECRET, "secret": SECRET, "account_name": "me", "connection_string": SECRET},
        "urls": [f"redis://:{SECRET}@h", 5],
        "token": None,
        5: "x",
    }
    assert redact(data) == {
        "host": "h",
        "password": "***",
        "storage_options": {"key": "***", "secret": "***", "account_name": "me", "connection_string": "***"},
        "urls": ["redis://:***@h", 5],
        "token": None,
        5: "x",
    }


def test_no_repr_shows_a_secret() -> None:
    choice = {"url": f"redis://:{SECRET}@h", "config": {"password": SECRET, "nested": {"token": SECRET}}}
    config = ConfigProvider({"task_queue": choice, "signing_key": SECRET * 3}, environ={}).load()
    settings = EnvConfig({"OMNIQ_SIGNING_KEY": SECRET * 3, "OMNIQ_TASK_QUEUE_URL": f"redis://:{SECRET}@h"}).settings()
    for shown in (repr(config), repr(config.task_queue), f"{config}", repr(settings)):
        assert SECRET not in shown
        assert "***" in shown
    assert config.task_queue is not None
    assert config.task_queue.config["password"] == SECRET


@pytest.mark.parametrize(
    ("source", "environ"),
    [
        ({"task_queue": {"type": "sqlite", "url": f"redis://:{SECRET}@h"}}, {}),
        ({"task_queue": {"url": f"nats://me:{SECRET}@h"}}, {}),
        ({"task_queue": {"url": f"redis://me:{SECRET}@h:port"}}, {}),
        ({"task_queue": {"url": f"postgresql://me:{SECRET}@h:port/d"}}, {}),
        ({"task_queue": {"url": f"sqlite://me:{SECRET}@h/x.db"}}, {}),
        ({"task_queue": {"url": f"sqlite:///x.db?password={SECRET}"}}, {}),
        ({"task_queue": {"type": "sqlite", "config": {"password": SECRET}}}, {}),
        ({"task_queue": {"type": "sqlite", "config": {"base_dir": {"password": SECRET}}}}, {}),
        ({}, {"OMNIQ_TASK_QUEUE_URL": f"nats://:{SECRET}@h"}),
        ({"signing_key": [SECRET]}, {}),
    ],
)
def test_no_error_shows_a_secret(source: dict[str, Any], environ: dict[str, str]) -> None:
    with pytest.raises(OmniQError) as caught:
        load_and_resolve(source, environ)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_syntax_error_quotes_no_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(f"task_queue:\n  config:\n    password: {SECRET}: x")
    with pytest.raises(ConfigError, match=":3:") as caught:
        ConfigProvider(path, environ={}).load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
