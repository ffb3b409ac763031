"""What the suite can see of a server beside the store: that nothing is left in it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from omniq.testing.conformance.places import Facts, Footprint
from redis.asyncio import Redis


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


async def settings_at(url: str, store: Any) -> set[str]:
    """What the server itself says of how it keeps what it is given."""
    client: Redis = Redis.from_url(url.partition("?")[0], protocol=2, decode_responses=True)
    info, settings = await client.info("server"), await client.config_get("*")
    await client.aclose()
    names = ("appendonly", "appendfsync", "maxmemory-policy")
    version = info.get("valkey_version", info["redis_version"])
    return {f"version={version}", *(f"{name}={settings[name]}" for name in names)}


class Looks:
    """Lets the suite look at the keys."""

    @pytest.fixture
    def footprint(self, url: str) -> Footprint:
        return partial(keys_at, url)

    @pytest.fixture
    def entries(self, url: str) -> Footprint:
        return partial(keys_at, url)

    @pytest.fixture
    def facts(self, url: str) -> Facts:
        return partial(settings_at, url)
