"""Variables in files: `${NAME}` and `${NAME:-default}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.config import ConfigProvider, OmniQConfig, redact
from omniq.errors import ConfigError

ENVIRON = {
    "NAME": "shop",
    "SIZE": "4",
    "LEASE": "2.5",
    "YES": "true",
    "EMPTY": "",
    "DIGITS": "12345678",
    "NOTHING": "null",
    "DB_PASSWORD": "hunter2hunter2",
    "API_TOKEN": "tok-en-tok-en",
    "ODD": "${NAME}",
}


def load(folder: Path, text: str) -> OmniQConfig:
    """What holds, with that file and those variables."""
    path = folder / "omniq.yaml"
    path.write_text(text)
    return ConfigProvider(path, environ=ENVIRON).load()


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("project_name: ${NAME}", "project_name", "shop"),
        ("project_name: '${NAME}'", "project_name", "shop"),
        ("project_name: pre-${NAME}-${SIZE}", "project_name", "pre-shop-4"),
        ("project_name: ${OTHER:-fallback}", "project_name", "fallback"),
        ("project_name: ${EMPTY:-fallback}", "project_name", "fallback"),
        ("project_name: ${NAME:-fallback}", "project_name", "shop"),
        ("base_dir: $${NAME}/${NAME}", "base_dir", "${NAME}/shop"),
        ("base_dir: $NAME", "base_dir", "$NAME"),
        ("base_dir: ${ODD}", "base_dir", "${NAME}"),
        ("base_dir: ${OTHER:-}", "base_dir", ""),
        ("base_dir: ${OTHER:-a:-b}", "base_dir", "a:-b"),
        ("signing_key: ${DIGITS}${DIGITS}", "signing_key", "1234567812345678"),
        ("worker: {config: {max_workers: '${SIZE}'}}", "worker.config.max_workers", 4),
        ("worker: {config: {max_workers: '${OTHER:-8}'}}", "worker.config.max_workers", 8),
        ("worker: {config: {lease: '${LEASE}'}}", "worker.config.lease", 2.5),
        ("worker: {config: {dead_letter_retention: '${NOTHING}'}}", "worker.config.dead_letter_retention", None),
        ("worker: {config: {queues: ['${NAME}', low]}}", "worker.config.queues", ["shop", "low"]),
        ("logging: {disable: '${YES}'}", "logging.disable", True),
        ("logging: {level: '${OTHER:-INFO}'}", "logging.level", "INFO"),
        ("events: {types: ['${OTHER:-RETRY}']}", "events.types", ("RETRY",)),
        ("defaults: {timeout: '${OTHER:-null}'}", "defaults.timeout", None),
    ],
)
def test_a_variable_is_filled_in(tmp_path: Path, text: str, path: str, value: Any) -> None:
    found: Any = load(tmp_path, text)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_what_a_store_and_a_kind_of_worker_are_told_may_be_variables_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ENVIRON, "FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "omniq.yaml"
    path.write_text(
        "task_queue:\n  type: ${STORE:-sqlite}\n  config:\n"
        "    base_dir: ${FOLDER}\n    busy_timeout: ${LEASE}\n    trust_owner: ${YES}\n"
        "result_store:\n  type: file\n  config:\n    base_dir: ${FOLDER}\n    storage_options: {user: '${NAME}'}\n"
        "worker: {type: thread, options: {thread: {max_abandoned: '${SIZE}'}}}\n"
    )
    oq = AsyncOmniQ.from_config_file(path)
    config: Any = oq.task_queue.config
    assert (config.base_dir, config.busy_timeout, config.trust_owner) == (str(tmp_path), 2.5, True)
    results: Any = oq.result_store.config
    assert results.storage_options == {"user": "shop"}
    assert oq.worker_pool().config.max_abandoned == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("project_name: ${NONE}", "project_name: the variable NONE isn't set; set it, or write ${NONE:-default}"),
        ("task_queue: {config: {queues: [a, '${NONE}']}}", "task_queue.config.queues[1]: the variable NONE isn't set"),
        ("task_queue: redis://:${NONE}@h", "task_queue: the variable NONE isn't set"),
        ("project_name: ${}", "project_name: expected ${NAME} or ${NAME:-default}"),
        ("project_name: ${NAME", "project_name: expected ${NAME} or ${NAME:-default}"),
        ("project_name: ${NA ME}", "project_name: expected ${NAME} or ${NAME:-default}"),
        ("project_name: ${NAME-x}", "project_name: expected ${NAME} or ${NAME:-default}"),
        ("worker: {config: {max_workers: '${NAME}'}}", "worker.config.max_workers: expected int, got str"),
        ("signing_key: ${EMPTY}", "signing_key: it is empty; leave it out where nothing is meant"),
        ("logging: {level: '${NAME}'}", "logging.level: expected one of "),
    ],
)
def test_one_that_can_t_be_filled_in_is_named_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(f"(in {tmp_path}/omniq.yaml)")


@pytest.mark.parametrize(
    "text",
    [
        "logging: {level: '${API_TOKEN}'}",
        "worker: {config: {policy: '${API_TOKEN}'}}",
        "task_queue: '${API_TOKEN}://x'",
        "task_queue: {type: sqlite, config: {synchronous: '${DB_PASSWORD}'}}",
        "task_queue: {url: 'nope:${DB_PASSWORD}'}",
    ],
)
def test_what_a_secret_variable_holds_is_not_shown(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "omniq.yaml"
    path.write_text(text)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (of whatever kind)
        AsyncOmniQ.from_config_file(path)
    assert not [secret for name in ("API_TOKEN", "DB_PASSWORD") if (secret := ENVIRON[name]) in str(caught.value)]


def test_nor_in_reprs(tmp_path: Path) -> None:
    config = load(tmp_path, "base_dir: /data/${API_TOKEN}\ntask_queue: postgresql://me:${DB_PASSWORD}@h/db")
    assert config.base_dir == f"/data/{ENVIRON['API_TOKEN']}"
    assert not [secret for secret in (ENVIRON["API_TOKEN"], ENVIRON["DB_PASSWORD"]) if secret in repr(config)]
    assert redact({"x": config.base_dir}) == {"x": "/data/***"}


def test_a_dict_in_code_is_taken_as_it_is() -> None:
    assert ConfigProvider({"base_dir": "${NAME}"}, environ=ENVIRON).load().base_dir == "${NAME}"
