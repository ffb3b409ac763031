"""Empty places on real servers, and OmniQ with its parts in several of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.models.task import new_id

from tests.mixes.support import MIXES, Mix, MixedPlace, Url
from tests.servers import nats, postgres, redis


@pytest.fixture(scope="session", autouse=True)
def shared_servers() -> None:
    """Start the servers before a test does, which would have to leave them behind; a test skips what is missing."""
    for shared_url in (postgres.shared_url, nats.shared_url):
        with suppress(pytest.skip.Exception):
            shared_url()
    for kind in redis.kinds():
        with suppress(pytest.skip.Exception):
            redis.shared_url(kind)


@pytest.fixture(autouse=True)
def nothing_left(nothing_left_behind: None) -> None:
    """Every test here cleans up after itself."""


@pytest.fixture
def urls(postgres_url: Url, redis_url: Url, nats_url: Url, tmp_path: Path) -> dict[str, Url]:
    """An empty place in each store. A test doesn't need its commits to survive a power loss."""
    sqlite_url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
    ours = {"file": f"file://{tmp_path}/files", "memory": f"memory://{new_id()}"}
    return {"postgres": postgres_url, "redis": redis_url, "nats": nats_url, "sqlite": sqlite_url, **ours}


@pytest.fixture
def places(urls: dict[str, Url], tmp_path: Path) -> dict[str, Url]:
    """Empty places: those of all stores, and another file of SQLite."""
    return {**urls, "sqlite-2": f"sqlite:///{tmp_path}/second.db?synchronous=NORMAL"}


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Url]:
    """Those that need no server."""
    return {"sqlite": f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL", "file": f"file://{tmp_path}/files"}


@pytest.fixture(params=MIXES, ids=str)
def place(request: pytest.FixtureRequest, urls: dict[str, Url]) -> MixedPlace:
    """An empty place of each mix."""
    mix: Mix = request.param
    return MixedPlace(mix, urls)


@pytest.fixture
async def oq(place: MixedPlace) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ with the queues "high", "default" and "low", without retries and without a worker."""
    async with place.front_door() as oq:
        yield oq
