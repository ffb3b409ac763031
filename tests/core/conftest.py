"""Places to test at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from omniq import AsyncOmniQ

from tests.core.support import Place, front_door, reference_place, sqlite_place


@pytest.fixture(autouse=True)
def nothing_left(nothing_left_behind: None) -> None:
    """Every test here cleans up after itself."""


@pytest.fixture(params=["reference", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind of store that needs no server."""
    return reference_place() if request.param == "reference" else sqlite_place(tmp_path)


@pytest.fixture
async def oq(place: Place) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ with the queues "high", "default" and "low", without retries and without a worker."""
    async with front_door(place) as oq:
        yield oq
