"""Redis and Valkey pass the suite."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from omniq.testing.conformance import BackendConformance
from omniq.testing.conformance.places import Footprint
from redis.asyncio import Redis

from tests.servers.redis import redis_url

__all__ = ["redis_url"]


async def keys_at(url: str) -> Counter[bytes]:
    """The keys of the URL's prefix, by how many members they have."""
    client: Redis = Redis.from_url(url.partition("?")[0], protocol=2)
    script = """
        local sizes = {string = 'STRLEN', hash = 'HLEN', zset = 'ZCARD', set = 'SCARD', list = 'LLEN'}
        return redis.call(sizes[redis.call('TYPE', KEYS[1]).ok], KEYS[1])"""
    found = [key async for key in client.scan_iter(match=f"{{{url.rpartition('=')[2]}:*")]
    sizes = Counter({key: await client.eval(script, 1, key) for key in found})
    await client.aclose()
    return sizes


class TestRedis(BackendConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def footprint(self, url: str) -> Footprint:
        return partial(keys_at, url)

    @pytest.fixture
    def entries(self, url: str) -> Footprint:
        return partial(keys_at, url)
