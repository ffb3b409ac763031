"""What the tests of files share; and of the suite on object stores, a part: all of it takes minutes for each."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from zlib import crc32

import pytest
from omniq.storage import log
from omniq_fsspec.filesystems import LocalFiles

from tests.fsspec.support import lone_stores

VARIABLE = "OMNIQ_TEST_OBJECTS"
PARTS = {"TestS3": 12, "TestAzure": 8, "TestGoogle": 8}
"""One test in so many is run, always the same ones, unless the variable is set to "all"; and no walk of minutes."""


def pytest_report_header() -> str:
    return f"object stores: {'all' if runs_all() else f'a part of the suite; {VARIABLE}=all runs all of it'}"


def runs_all() -> bool:
    return os.environ.get(VARIABLE) == "all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if runs_all() else [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _is_left_out(item: pytest.Item) -> bool:
    number = next((number for name, number in PARTS.items() if f"::{name}::" in item.nodeid), 1)
    if number > 1 and "::TestRandomWalks::" in item.nodeid:
        return True
    return crc32(item.nodeid.rpartition("tests/")[2].encode()) % number != 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory that isn't there yet."""
    return tmp_path / "omniq"


@pytest.fixture
async def stores_closed() -> AsyncIterator[None]:
    """Close what a test that has failed left open, lest threads are left behind."""
    yield
    while lone_stores:
        await lone_stores.pop().close()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other segment is followed by a snapshot, and what that makes needless is deleted at once."""
    monkeypatch.setattr(log, "LIGHT", 1)
    monkeypatch.setattr(log, "PER_ROW", 0)
    monkeypatch.setattr(LocalFiles, "grace", 0.0)
