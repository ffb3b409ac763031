"""Redis: the tests' Valkey server, or an empty database that `OMNIQ_TEST_REDIS_URL` names; flushed in between.

The tests' server appends every command to its file and syncs that each second, as is its default.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contestants import Contestant
from goals import Ceiling, Ratio
from redis import Redis

from stores.base import LATENCY, OMNIQ, Place, Store, filesystem
from tests.servers.redis import URL_VARIABLE, shared_url

KIND = "valkey9"


def describe() -> str:
    with Redis.from_url(shared_url(KIND)) as client:
        info = client.info()
    name = info.get("server_name", "redis")
    appends = "append-only file" if info["aof_enabled"] else "no append-only file"
    where = "" if URL_VARIABLE in os.environ else f" on {filesystem(Path(tempfile.gettempdir()))}"
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}, {appends}{where}"


@contextmanager
def place() -> Iterator[Place]:
    """Raises `RuntimeError` where there is something already: it would be lost."""
    url = shared_url(KIND)
    with Redis.from_url(url) as client:
        if client.dbsize():
            raise RuntimeError("the database isn't empty: name another one, it will be flushed")
        try:
            yield {"BENCH_URL": url}
        finally:
            client.flushdb()
            tidy(url)


def corner(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}prefix={name}"


def tidy(url: str) -> None:
    """Rewrite the append-only file, which would else happen in the middle of somebody's measurement."""
    with Redis.from_url(url) as client:
        if client.info("persistence")["aof_enabled"]:
            _wait_for_rewrite(client)  # the server may be at one of its own
            client.bgrewriteaof()
            _wait_for_rewrite(client)


def _wait_for_rewrite(client: Redis) -> None:
    while client.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.01)


STORE = Store(
    packages=("omniq-core", "omniq-redis", "redis", "hiredis", "uvloop"),
    contestants=(
        OMNIQ,
        Contestant(
            "ardiq",
            (("peers.ardiq_redis", "enqueue"), ("peers.ardiq_redis", "work")),
            ("ardiq", "uvloop"),
            python=(3, 12),
        ),
        Contestant("probe", (("probes.redis",),)),
        LATENCY,
    ),
    goals=(
        Ratio(("omniq", "process_per_s"), ("ardiq", "process_per_s"), 3.0),
        Ratio(("omniq", "process_per_s"), ("probe", "process_per_s"), 0.5),
        Ratio(("omniq", "enqueue_per_s"), ("ardiq", "enqueue_per_s"), 1.0),
        Ceiling(("omniq-latency", "p50_ms"), 1.5),
    ),
    tasks=40_000,
    describe=describe,
    place=place,
    corner=corner,
    tidy=tidy,
)
