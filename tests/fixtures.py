"""Fixtures for tests of every folder: files in which tasks and tests meet, and a look at what a test leaves behind."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.core.support import SOON

SERVERS = ("postgres", "redis-server", "valkey-server", "nats-server", "weed")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where tasks note what they do."""
    return tmp_path / "log"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that doesn't exist yet, for which tasks can wait."""
    return tmp_path / "gate"


@pytest.fixture
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After the test, no thread of ours, no child process, and no error that only the event loop saw."""
    threads, children = _threads(), _children()
    yield
    _soon(lambda: _threads() <= threads, lambda: f"threads are left: {_threads() - threads}")
    _soon(lambda: _children() <= children, lambda: f"child processes are left: {_children() - children}")
    records = [record for phase in ("setup", "call", "teardown") for record in caplog.get_records(phase)]
    unseen = [record.getMessage() for record in records if _is_unseen(record)]
    assert not unseen, unseen


def _threads() -> set[threading.Thread]:
    """Our threads, except for the loop that all facades of the process share."""
    running = threading.enumerate()
    return {thread for thread in running if thread.name.startswith("omniq") and thread.name != "omniq-portal"}


def _children() -> set[psutil.Process]:
    """Our processes, except for what stays: servers of tests, with what these start and end at any time, and the
    process by which `multiprocessing` tidies up in the end."""
    found = set[psutil.Process]()
    left = _begun_by(os.getpid())
    while left:
        process = left.pop()
        if not _stays(process):
            found.add(process)
            left += _begun_by(process.pid)
    return found


def _begun_by(pid: int) -> list[psutil.Process]:
    """The children of a process. Before and after each test, psutil would look at all processes of the machine."""
    found = list[psutil.Process]()
    with suppress(OSError, psutil.NoSuchProcess):  # it, or one of them, has just ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            pids = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            found += map(psutil.Process, map(int, pids))
        return found
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


def _stays(process: psutil.Process) -> bool:
    if process.pid in _staying:
        return True
    try:
        stays = process.name() in SERVERS or any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True
    if stays:
        _staying.add(process.pid)
    return stays


_staying: set[int] = set()
"""The processes that stay."""


def _is_unseen(record: logging.LogRecord) -> bool:
    return record.name == "asyncio" and record.levelno >= logging.ERROR


def _soon(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.01)
