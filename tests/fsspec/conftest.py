"""What the tests of files share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from omniq.storage import log
from omniq_fsspec.filesystems import LocalFiles

from tests.fsspec.support import lone_stores


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
