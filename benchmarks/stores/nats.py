"""NATS: the tests' server with JetStream in files, or one that `OMNIQ_TEST_NATS_URL` names; streams go in between."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
from contestants import Contestant
from goals import Ceiling, Ratio

from stores.base import LATENCY, OMNIQ, Place, Store, filesystem, nothing_to_tidy
from tests.servers.nats import URL_VARIABLE, shared_url


def describe() -> str:
    where = "" if URL_VARIABLE in os.environ else f" on {filesystem(Path(tempfile.gettempdir()))}"
    return f"nats-server {asyncio.run(_version())}, JetStream{where}"


async def _version() -> str:
    client = await nats.connect(shared_url())
    try:
        return str(client.connected_server_version).removeprefix("<nats server v").removesuffix(">")
    finally:
        await client.close()


@contextmanager
def place() -> Iterator[Place]:
    """Raises `RuntimeError` where there is something already: it would be lost."""
    url = shared_url()
    if asyncio.run(_streams(url)):
        raise RuntimeError("the server has streams: name another one, they will be deleted")
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield {"BENCH_URL": url, "BENCH_FILE": f"{folder}/peer"}
        finally:
            asyncio.run(_streams(url, delete=True))


def corner(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}prefix={name}"


async def _streams(url: str, *, delete: bool = False) -> list[str]:
    client = await nats.connect(url)
    try:
        names = [str(stream.config.name) for stream in await client.jetstream().streams_info()]
        for name in names if delete else ():
            await client.jetstream().delete_stream(name)
        return names
    finally:
        await client.close()


STORE = Store(
    packages=("omniq-core", "omniq-nats", "nats-py", "uvloop"),
    contestants=(
        OMNIQ,
        Contestant(
            "taskiq-nats",
            (("peers.taskiq_nats", "enqueue"), ("watched", "taskiq", "worker", "-w", "1", "peers.taskiq_nats:broker")),
            ("taskiq-nats", "uvloop"),
        ),
        Contestant("probe", (("probes.nats",),)),
        LATENCY,
    ),
    goals=(
        Ratio(("omniq", "process_per_s"), ("taskiq-nats", "process_per_s"), 1.0),
        Ratio(("omniq", "process_per_s"), ("probe", "process_per_s"), 0.5),
        Ratio(("omniq", "enqueue_per_s"), ("taskiq-nats", "enqueue_per_s"), 1.5),
        Ceiling(("omniq-latency", "p50_ms"), 2.0),
    ),
    tasks=20_000,
    describe=describe,
    place=place,
    corner=corner,
    tidy=nothing_to_tidy,
)
