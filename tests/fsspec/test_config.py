"""Where files are, by whatever says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.config import ConfigProvider
from omniq.errors import ConfigError
from omniq.models import FileResultStorageConfig, FileTaskQueueConfig, MemoryTaskQueueConfig

from tests.core import tasks

PRECEDENCE = ("TASK_QUEUE_URL", "base_dir", "FSSPEC_URI", "BASE_DIR")
"""What says where a queue keeps its files, and wins over what comes later."""


@pytest.mark.parametrize("winner", PRECEDENCE)
async def test_the_first_of_what_is_said_holds(winner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = PRECEDENCE[PRECEDENCE.index(winner) :]
    config = {"base_dir": f"{tmp_path}/base_dir"} if "base_dir" in said else {}
    for name in said:
        if name != "base_dir":
            monkeypatch.setenv(
                f"OMNIQ_{name}", f"{tmp_path}/{name}" if name == "BASE_DIR" else f"file://{tmp_path}/{name}"
            )
    file = tmp_path / "omniq.yaml"
    file.write_text(json.dumps({"task_queue": {"type": "file", "config": config}}))
    async with AsyncOmniQ.from_config_file(file) as oq:
        await oq.enqueue(tasks.add, [1, 2])
    file.unlink()
    assert [path.name for path in tmp_path.iterdir()] == [winner]


def test_one_uri_is_for_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", f"file://{tmp_path}")
    oq = AsyncOmniQ.from_dict({"task_queue": "file", "result_store": "file", "event_store": "file"})
    assert oq.event_store is not None
    assert oq.result_store is not None
    stores = (oq.task_queue.store, oq.result_store.store, oq.event_store.store)
    assert {store.location for store in stores} == {f"file:{tmp_path}/default"}


@pytest.mark.parametrize("type_", ["file", "memory"])
def test_a_uri_that_a_store_does_not_take_is_not_for_it(type_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", {"file": "memory://x", "memory": "s3://bucket"}[type_])
    config = AsyncOmniQ.from_dict({"task_queue": type_}).task_queue.config
    assert isinstance(config, FileTaskQueueConfig | MemoryTaskQueueConfig)
    assert config.base_dir == {"file": os.path.abspath(".omniq"), "memory": ".omniq"}[type_]


def test_storage_options_are_the_rest_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://bucket/prefix?endpoint_url=http://localhost:8333&fsync=false"
    given = {"endpoint_url": "http://localhost:8333"}
    assert FileResultStorageConfig.from_url(url) == FileResultStorageConfig(
        base_dir="s3://bucket/prefix", storage_options=given, fsync=False
    )
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", url)
    assert ConfigProvider().load().task_queue is not None
    assert AsyncOmniQ().task_queue.config.storage_options == given


def test_a_yaml_file_says_where_and_how(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    options = "{type: file, config: {base_dir: s3://bucket/omniq, storage_options: {key: k, secret: s}}}"
    path.write_text(f"task_queue: {options}")
    config = AsyncOmniQ.from_config_file(path).task_queue.config
    assert isinstance(config, FileTaskQueueConfig)
    assert (config.base_dir, config.storage_options) == ("s3://bucket/omniq", {"key": "k", "secret": "s"})


def test_a_uri_alone_says_that_it_is_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", "s3://bucket/prefix")
    oq = AsyncOmniQ()
    assert oq.task_queue.store.location == "s3://bucket/prefix/default"
    assert AsyncOmniQ.from_dict({"task_queue": "memory"}).task_queue.store.location.startswith("memory:")


def test_a_uri_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", "some/path")
    with pytest.raises(ConfigError, match="^fsspec_uri: expected a URL"):
        AsyncOmniQ()


@pytest.mark.parametrize(("name", "value"), [("SERIALIZER", "msgspec"), ("QUEUES", "high,low"), ("MAX_BODY", "1000")])
def test_a_uri_alone_says_so_beside_settings_that_name_no_place(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", "memory://x")
    monkeypatch.setenv(f"OMNIQ_{name}", value)
    assert AsyncOmniQ().task_queue.store.location == "memory://x/default"


def test_a_uri_of_another_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_FSSPEC_URI", "sqlite:///x.db")
    with pytest.raises(ConfigError, match="^fsspec_uri: sqlite:// is for 'sqlite'"):
        AsyncOmniQ()


def test_a_url_wins_over_a_base_dir_beside_it(tmp_path: Path) -> None:
    choice = {"url": f"file://{tmp_path}/url", "config": {"base_dir": f"{tmp_path}/base_dir"}}
    assert AsyncOmniQ.from_dict({"task_queue": choice}).task_queue.store.location == f"file:{tmp_path}/url/default"


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "abfs:///x"])
def test_a_url_needs_a_bucket(url: str) -> None:
    with pytest.raises(ConfigError, match="base_dir: expected a directory or s3://bucket/prefix"):
        FileTaskQueueConfig(base_dir=url)
