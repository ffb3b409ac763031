"""Changes at run time: what takes effect, also in workers that run, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.config import LoggingConfig, Settings
from omniq.config import settings as settings_module
from omniq.config.described import CHANGEABLE, Changes, may_change
from omniq.config.settings import SETTING_PLACES, apply
from omniq.errors import ConfigError
from omniq.models import EventType

from tests.core import tasks
from tests.core.support import lines


@pytest.fixture(autouse=True)
def levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's levels are as they were afterwards."""
    before = logging.getLogger("omniq").level
    monkeypatch.setattr(settings_module._levels, "in_code", False)
    monkeypatch.setattr(settings_module._levels, "adopted", None)
    yield
    apply(LoggingConfig())
    logging.getLogger("omniq").setLevel(before)


@pytest.fixture
def oq(tmp_path: Path) -> Iterator[OmniQ]:
    """A blocking front door with events."""
    url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
    with OmniQ(task_queue=url, event_store=url) as oq:
        yield oq


def until(condition: Callable[[], bool], oq: OmniQ) -> None:
    """Wait, with something to do meanwhile; the test's own time limit ends it."""
    while not condition():
        oq.stats()


class Busy:
    """Tasks that run until they are let go."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.log, self._gate = folder / "log", folder / "gate"
        self.func = tasks.wait_for_async if kind == "async" else tasks.wait_for

    def enqueue(self, oq: OmniQ, count: int) -> list[str]:
        """Enqueue so many."""
        return [oq.enqueue(self.func, [str(self._gate), str(self.log)]) for _ in range(count)]

    @property
    def begun(self) -> int:
        """How many have begun."""
        return len(lines(self.log))

    def let_go(self) -> None:
        """Let all of them end."""
        self._gate.touch()


@pytest.mark.parametrize("kind", ["async", "thread", "process", "gevent"])
@pytest.mark.parametrize("word", ["max_workers", "own"])
def test_a_running_worker_gets_more_slots_and_fewer(oq: OmniQ, tmp_path: Path, kind: str, word: str) -> None:
    name = {"own": f"{kind}_workers"}.get(word, word) if kind != "async" else "max_workers"
    oq.start_worker(kind, max_workers=1)
    busy = Busy(tmp_path, kind)
    ids = busy.enqueue(oq, 3)
    until(lambda: busy.begun == 1, oq)
    oq.configure(**{name: 3})  # type: ignore[arg-type]
    until(lambda: busy.begun == 3, oq)
    oq.configure(**{name: 1})  # type: ignore[arg-type]
    busy.let_go()
    assert [oq.get_result(id_, timeout=30) for id_ in ids] == ["done"] * 3
    assert [worker.slots for worker in oq.workers()] in ([1], [3])  # as it was seen last
    (tmp_path / "again").mkdir()
    again = Busy(tmp_path / "again", kind)
    later = again.enqueue(oq, 2)
    until(lambda: again.begun == 1, oq)
    assert again.begun == 1
    again.let_go()
    assert [oq.get_result(id_, timeout=30) for id_ in later] == ["done"] * 2


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_sync_tasks_find_the_slots_as_they_were_changed(oq: OmniQ, tmp_path: Path, kind: str) -> None:
    oq.start_worker(kind, max_workers=4)
    assert [oq.get_result(oq.enqueue(tasks.add, [n, 1]), timeout=30) for n in range(8)] == list(range(1, 9))
    for size in (1, 6, 2):
        oq.configure(max_workers=size)
        busy = Busy(tmp_path / str(size), "thread")
        (tmp_path / str(size)).mkdir()
        ids = busy.enqueue(oq, size + 1)
        until(lambda: busy.begun == size, oq)  # noqa: B023 (it is asked at once)
        busy.let_go()
        assert [oq.get_result(id_, timeout=30) for id_ in ids] == ["done"] * (size + 1)


def test_slots_of_another_kind_follow_too(oq: OmniQ, tmp_path: Path) -> None:
    oq.configure(thread_workers=1)
    oq.start_worker("async")
    busy = Busy(tmp_path, "thread")
    args = [str(tmp_path / "gate"), str(busy.log)]
    ids = [oq.enqueue(tasks.wait_for, args, worker="thread") for _ in range(2)]
    until(lambda: busy.begun == 1, oq)
    oq.configure(thread_workers=2)
    until(lambda: busy.begun == 2, oq)
    busy.let_go()
    assert [oq.get_result(id_, timeout=30) for id_ in ids] == ["done"] * 2


async def test_on_a_loop_of_one_s_own(tmp_path: Path) -> None:
    async with AsyncOmniQ(task_queue=f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL") as oq:
        await oq.start_worker(max_workers=1)
        gate, log = str(tmp_path / "gate"), str(tmp_path / "log")
        ids = [await oq.enqueue(tasks.wait_for_async, [gate, log]) for _ in range(2)]
        while len(lines(Path(log))) < 1:
            await asyncio.sleep(0)
        await oq.configure(max_workers=2)
        while len(lines(Path(log))) < 2:
            await asyncio.sleep(0)
        Path(gate).touch()
        assert [await oq.get_result(id_, timeout=30) for id_ in ids] == ["done"] * 2


def test_levels_hold_at_once(oq: OmniQ) -> None:
    oq.configure(log_level="debug", component_log_levels={"worker": "ERROR"})  # type: ignore[arg-type]
    assert logging.getLogger("omniq").level == logging.DEBUG
    assert logging.getLogger("omniq.worker").level == logging.ERROR
    oq.configure(log_level=None, component_log_levels=None)
    assert logging.getLogger("omniq").level == logging.getLogger("omniq.worker").level == logging.NOTSET
    oq.configure(disable_logging=True)
    assert not logging.getLogger("omniq").isEnabledFor(logging.CRITICAL)


def test_events_are_kept_as_it_says(oq: OmniQ) -> None:
    oq.configure(event_types=["enqueued"])
    oq.enqueue(tasks.nothing)
    oq.cancel(oq.enqueue(tasks.nothing))
    assert {event.type for event in oq.list_events()} == {EventType.ENQUEUED}
    oq.events.configure(level="INFO")
    oq.configure(event_retention=5, event_types=None)
    assert (oq.aio.events.logger.config.retention, oq.aio.events.logger.config.types) == (5.0, None)
    assert oq.aio.events.logger.config.level == "INFO"
    oq.configure(event_logging=False)
    before = len(oq.list_events())
    oq.enqueue(tasks.nothing)
    assert len(oq.list_events()) == before


def test_tasks_get_the_new_defaults(oq: OmniQ) -> None:
    oq.configure(task_timeout=5, task_ttl=60, retry_attempts=1, retry_delay=2, result_ttl=None)
    task = oq.get_task(oq.enqueue(tasks.nothing))
    assert (task.timeout, task.max_retries, task.retry_delay, task.result_ttl) == (5.0, 1, 2.0, None)
    assert task.expires_at is not None
    oq.configure(task_timeout=None, task_ttl=None)
    task = oq.get_task(oq.enqueue(tasks.nothing))
    assert (task.timeout, task.expires_at, task.max_retries) == (None, None, 1)


def test_the_configuration_tells_what_holds(oq: OmniQ) -> None:
    oq.configure(max_workers=7, grace_period=1.5)
    assert (oq.config.worker.config.max_workers, oq.config.worker.config.grace_period) == (7, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_workers": 0}, "max_workers: expected int >= 1"),
        ({"max_workers": "4"}, "max_workers: expected int, got str"),
        ({"log_level": "LOUD"}, "log_level: expected one of "),
        ({"event_types": ["NOPE"]}, "event_types[0]: expected one of "),
        ({"event_types": []}, "event_types: expected list of length >= 1"),
        ({"task_timeout": -1}, "task_timeout: expected float > 0.0"),
        ({"grace_period": float("nan")}, "grace_period: expected float >= 0.0"),
        ({"max_worker": 1}, "max_worker: unknown name, did you mean 'max_workers'?"),
        ({"whatever": 1}, "whatever: unknown name; known: log_level, "),
        (
            {"task_queue_url": "redis://h"},
            "task_queue_url: it can't change at run time: restart with OMNIQ_TASK_QUEUE_URL",
        ),
        ({"queues": ["a"]}, "queues: it can't change at run time: restart with OMNIQ_QUEUES"),
        ({"lease": 5}, "lease: it can't change at run time: restart with another configuration"),
        ({"signing_key": "hunter2"}, "signing_key: it can't change at run time: restart with OMNIQ_SIGNING_KEY"),
        ({"task_queue": "sqlite"}, "task_queue: it can't change at run time: restart with another configuration"),
    ],
)
def test_what_can_t_be_is_refused_and_nothing_changes(oq: OmniQ, changes: dict[str, Any], message: str) -> None:
    before = oq.config
    with pytest.raises(ConfigError) as caught:
        oq.configure(**{"retry_attempts": 9, **changes})
    assert str(caught.value).startswith(message)
    assert "hunter2" not in str(caught.value)
    assert oq.config == before


def test_events_that_nobody_keeps_can_t_be_chosen(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match="^event_level: no event store is configured")
    with OmniQ(task_queue=f"sqlite:///{tmp_path}/omniq.db") as oq, refused:
        oq.configure(event_level="INFO")


def test_all_that_may_change_is_taken_and_nothing_else() -> None:
    assert set(CHANGEABLE) == set(Changes.__annotations__)
    changeable = {name.lower() for name, place in SETTING_PLACES.items() if may_change(place)}
    assert changeable | {"grace_period"} == set(CHANGEABLE)
    assert set(SETTING_PLACES) == set(Settings.__dataclass_fields__)


# ── the file, read again ──────────────────────────────────────────────────────


def test_a_file_that_has_changed_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "omniq.yaml"
    text = f"base_dir: {tmp_path}\nsigning_key: {{key}}\ndefaults: {{{{timeout: {{timeout}}}}}}\n"
    file.write_text(text.format(key="a" * 16, timeout=5))
    with OmniQ.from_config_file(file) as oq:
        oq.configure(retry_attempts=7)
        file.write_text(text.format(key="b" * 16, timeout=6) + "project_name: shop\n")
        told = oq.reload()
        assert told.changed == ["defaults.timeout: 5.0 → 6.0"]
        assert told.restart == ["project_name: 'default' → 'shop'", "signing_key: '***' → '***'"]
        task = oq.get_task(oq.enqueue(tasks.nothing))
        assert (task.timeout, task.max_retries) == (6.0, 7)
        assert oq.config.project_name == "default"


def test_a_file_is_found_again_after_a_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("omniq.yaml").write_text("defaults: {timeout: 5}")
    monkeypatch.setenv("OMNIQ_CONFIG", "omniq.yaml")
    oq = OmniQ(task_queue=f"sqlite:///{tmp_path}/omniq.db")
    os.chdir("/")
    Path(tmp_path, "omniq.yaml").write_text("defaults: {timeout: 6}")
    assert oq.reload().changed == ["defaults.timeout: 5.0 → 6.0"]
    oq.close()


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text(f"task_queue: sqlite:///{tmp_path}/omniq.db\ndefaults: {{timeout: 5}}")
    with OmniQ.from_config_file(file) as oq:
        before = oq.config
        file.write_text("defaults: {timeout: soon}")
        with pytest.raises(ConfigError, match=r"^defaults\.timeout: expected float, got str \(in "):
            oq.reload()
        assert oq.config == before
    with pytest.raises(ConfigError, match="no file was read"):
        OmniQ(task_queue=f"sqlite:///{tmp_path}/omniq.db").reload()
