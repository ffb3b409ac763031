"""The two ends: a store of its own, and the side that adds tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from omniq import AsyncOmniQ

from tests.idle.places import Place, place


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The store that the test names."""
    with place(request.param) as found:
        yield found


@pytest.fixture
async def here(at: Place) -> AsyncIterator[AsyncOmniQ]:
    """The side that adds tasks."""
    async with AsyncOmniQ(config={"task_queue": {"url": at.url}}) as oq:
        yield oq
