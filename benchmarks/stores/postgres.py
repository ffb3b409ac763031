"""PostgreSQL: a fresh database on the tests' server, or on the one that `OMNIQ_TEST_POSTGRES_URL` names.

The server's settings are its own defaults, so every commit waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from contestants import Contestant
from goals import Ratio

from stores.base import LATENCY, OMNIQ, Place, Store, filesystem
from tests.servers.postgres import URL_VARIABLE, shared_url, with_options


async def fetch(url: str, *statements: str) -> str | None:
    """The first value that the last of the statements returns."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        value: str | None = await connection.fetchval(statements[-1])
        return value
    finally:
        await connection.close()


def describe() -> str:
    settings = "concat('fsync ', current_setting('fsync'), ', commit ', current_setting('synchronous_commit'))"
    words = asyncio.run(fetch(shared_url(), f"select concat(current_setting('server_version'), ', ', {settings})"))
    where = "" if URL_VARIABLE in os.environ else f", data on {filesystem(Path(tempfile.gettempdir()))}"
    return f"PostgreSQL {words}{where}"


@contextmanager
def place() -> Iterator[Place]:
    name = f"bench_{secrets.token_hex(4)}"
    # Copying files begins and ends with a checkpoint: nobody pays for what another has written.
    asyncio.run(fetch(shared_url(), f"create database {name} strategy file_copy"))
    try:
        yield {"BENCH_URL": urlsplit(shared_url())._replace(path=f"/{name}").geturl()}
    finally:
        asyncio.run(fetch(shared_url(), f"drop database {name} with (force)"))


def corner(url: str, name: str) -> str:
    return with_options(url, schema=name, notify="false")  # nobody listens


def tidy(url: str) -> None:
    """What autovacuum and the checkpointer would do a minute later; both go on by themselves."""
    asyncio.run(fetch(url, "vacuum (analyze)", "checkpoint"))


STORE = Store(
    packages=("omniq-core", "omniq-postgres", "asyncpg", "uvloop"),
    contestants=(
        OMNIQ,
        Contestant(
            "pgqueuer",
            (("peers.pgqueuer_postgres", "enqueue"), ("peers.pgqueuer_postgres", "work")),
            ("pgqueuer", "asyncpg", "uvloop"),
        ),
        Contestant(
            "awa",
            (("peers.awa_postgres", "enqueue"), ("peers.awa_postgres", "work")),
            ("awa-pg", "uvloop"),
        ),
        Contestant("probe", (("probes.postgres",),)),
        LATENCY,
    ),
    goals=(
        Ratio(("omniq", "process_per_s"), ("pgqueuer", "process_per_s"), 1.2),
        Ratio(("omniq", "process_per_s"), ("probe", "process_per_s"), 0.5),
        Ratio(("omniq", "enqueue_per_s"), ("pgqueuer", "enqueue_per_s"), 1.0),
        Ratio(("omniq", "enqueue_per_s"), ("awa", "enqueue_per_s"), 1.0),
    ),
    tasks=20_000,
    describe=describe,
    place=place,
    corner=corner,
    tidy=tidy,
)
