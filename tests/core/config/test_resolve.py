"""From a choice (type, URL, dict, or nothing) to the store that is meant and its configuration."""

from __future__ import annotations

import datetime as dt
import traceback
from pathlib import Path
from typing import Any

import pytest
from omniq.config import ComponentChoice, Settings
from omniq.config.choices import Fallbacks, default_type, resolve
from omniq.errors import ConfigError, PluginError, UnknownBackend
from omniq.events import AsyncEventStorage
from omniq.models import TaskQueueConfig
from omniq.plugins import TaskQueueSpec, hookimpl
from omniq.plugins.registry import Registry
from omniq.storage.base import Capability
from omniq.testing import ReferenceQueueStore
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig


def test_a_dict_s_entries_win_over_its_url() -> None:
    choice = ComponentChoice(url="sqlite:///x.db?synchronous=NORMAL&busy_timeout=2", config={"busy_timeout": 5})
    _, config = resolve("task_queue", choice, None)
    assert config == SQLiteTaskQueueConfig(path="x.db", synchronous="NORMAL", busy_timeout=5)


def test_nothing_configured_is_sqlite_in_the_base_dir() -> None:
    spec, config = resolve("task_queue", None, "shop")
    assert spec.name == "sqlite"
    assert config == SQLiteTaskQueueConfig(project_name="shop", base_dir=Settings.BASE_DIR)


def test_base_dir_comes_from_the_fallbacks_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ComponentChoice(type="sqlite")
    monkeypatch.setenv("OMNIQ_BASE_DIR", "/env")
    store: AsyncEventStorage[Any] = AsyncEventStorage.from_dict({"type": "sqlite"})
    assert store.config == SQLiteEventStorageConfig(base_dir="/env", project_name="default")
    assert resolve("event_store", choice, None, base_dir="/file")[1] == SQLiteEventStorageConfig(base_dir="/file")
    mine = ComponentChoice(type="sqlite", config={"base_dir": Path("/mine")})
    assert resolve("event_store", mine, None, base_dir="/file")[1] == SQLiteEventStorageConfig(base_dir="/mine")


def test_a_project_of_its_own_is_kept() -> None:
    _, config = resolve("result_store", ComponentChoice(type="sqlite", config={"project_name": "own"}), "shop")
    assert config == SQLiteResultStorageConfig(project_name="own", base_dir=Settings.BASE_DIR)


class PaperConfig(TaskQueueConfig, frozen=True, kw_only=True):
    """Of a third party's queue, which takes fsspec's URLs."""

    base_dir: str | None = None
    port: int = 1
    password: str | None = None

    @classmethod
    def from_url(cls, url: str) -> PaperConfig:
        if "@" in url:
            raise ValueError(f"Port could not be cast to integer value as {url[-12:]!r}")
        if "refused" in url:
            raise ConfigError(f"url: {url} is refused")
        return cls(base_dir=url)


class MemoryStore(ReferenceQueueStore):
    """Its tasks go with the process."""


class PaperStore(ReferenceQueueStore):
    """Its tasks stay."""

    capabilities = MemoryStore.capabilities | {Capability.PERSISTENT}


def third_party(*names: str, persistent: bool = True) -> Registry:
    class Entry:
        name, value, dist = "paper", "paper.plugin", None
        omniq_api_version = (1, 0)

        def load(self) -> object:
            return self

        @hookimpl
        def omniq_task_queues(self) -> list[TaskQueueSpec]:
            home = f"{__name__}:PaperConfig"
            store = f"{__name__}:{'PaperStore' if persistent else 'MemoryStore'}"
            return [TaskQueueSpec(name, store, home, url_schemes=(name,)) for name in names]

    return Registry([Entry()], environ={})


def test_fsspec_uri_is_for_the_stores_that_take_it_and_yields_to_their_own_place() -> None:
    plugins, uri = third_party("paper"), "paper://stack"
    fallbacks: Fallbacks = {"fsspec_uri": uri, "base_dir": "/base", "plugins": plugins}
    assert resolve("task_queue", ComponentChoice(type="paper"), None, **fallbacks)[1] == PaperConfig(base_dir=uri)
    own = ComponentChoice(type="paper", config={"base_dir": "own"})
    assert resolve("task_queue", own, None, **fallbacks)[1] == PaperConfig(base_dir="own")
    url = ComponentChoice(url="paper://url")
    assert resolve("task_queue", url, None, **fallbacks)[1] == PaperConfig(base_dir="paper://url")
    _, sqlite = resolve("task_queue", ComponentChoice(type="sqlite"), None, fsspec_uri=uri, base_dir="/base")
    assert sqlite == SQLiteTaskQueueConfig(base_dir="/base")


def test_the_default_is_the_only_store_that_is_there() -> None:
    assert default_type("task_queue", third_party("paper")) == "paper"
    assert default_type("task_queue", third_party("paper", "sqlite")) == "sqlite"
    assert default_type("task_queue", third_party("memory", persistent=False)) == "memory"
    with pytest.raises(ConfigError, match=r"^task_queue.type: not given, and several are installed: paper, stone$"):
        default_type("task_queue", third_party("paper", "stone"))
    with pytest.raises(UnknownBackend, match=r'^no task queue is installed: pip install "omniq-core\[sqlite\]"$'):
        default_type("task_queue", third_party())


def test_a_broken_default_is_no_reason_to_take_another_store() -> None:
    class Broken:
        name, value, dist = "sqlite", "omniq_sqlite.plugin", None

        def load(self) -> object:
            raise ImportError("no sqlite3 in this Python")

    with pytest.raises(PluginError, match="no sqlite3 in this Python"):
        default_type("task_queue", Registry([Broken()], environ={}))


def test_arguments_may_be_paths_and_timedeltas() -> None:
    choice = ComponentChoice(type="sqlite", config={"path": Path("x.db"), "busy_timeout": dt.timedelta(minutes=1)})
    _, config = resolve("task_queue", choice, None)
    assert config == SQLiteTaskQueueConfig(base_dir=Settings.BASE_DIR, path="x.db", busy_timeout=60)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("paper://me:hunter2@stack", "task_queue.url: not a URL that PaperConfig understands: paper://me:***@stack"),
        ("paper://refused?token=hunter2", "task_queue.url: paper://refused?token=*** is refused"),
    ],
)
def test_a_store_s_complaint_about_its_url_is_masked(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("task_queue", ComponentChoice(url=url), None, plugins=third_party("paper"))
    assert str(caught.value) == message
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
