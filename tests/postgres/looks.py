"""What the suite can see of a server beside the store: that nothing is left in it."""

from __future__ import annotations

from functools import partial
from typing import Any

import asyncpg
import pytest
from omniq.testing.conformance.places import Facts, Footprint

TABLES = "select schemaname, tablename from pg_tables where schemaname like 'omniq%' order by 1, 2"


async def rows_at(url: str) -> dict[str, int]:
    """The tables of all projects, by how many rows they have."""
    connection = await asyncpg.connect(url)
    names = [f'"{schema}"."{table}"' for schema, table in await connection.fetch(TABLES)]
    found = {name: await connection.fetchval(f"select count(*) from {name}") for name in names}
    await connection.close()
    return found


async def settings_at(url: str, store: Any) -> set[str]:
    """What the server itself says of how it keeps what it is given."""
    connection = await asyncpg.connect(url)
    names = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    facts = {f"{name}={await connection.fetchval(f'show {name}')}" for name in names}
    await connection.close()
    return facts


class Looks:
    """Lets the suite look at the tables."""

    @pytest.fixture
    def footprint(self, url: str) -> Footprint:
        return partial(rows_at, url)

    @pytest.fixture
    def entries(self, url: str) -> Footprint:
        return partial(rows_at, url)

    @pytest.fixture
    def facts(self, url: str) -> Facts:
        return partial(settings_at, url)
