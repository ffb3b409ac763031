"""PostgreSQL passes the suite."""

from __future__ import annotations

from functools import partial

import asyncpg
import pytest
from omniq.testing.conformance import BackendConformance
from omniq.testing.conformance.places import Footprint

from tests.servers.postgres import shared_url

TABLES = "select schemaname, tablename from pg_tables where schemaname like 'omniq%' order by 1, 2"


async def rows_at(url: str) -> dict[str, int]:
    """The tables of all projects, by how many rows they have."""
    connection = await asyncpg.connect(url)
    names = [f'"{schema}"."{table}"' for schema, table in await connection.fetch(TABLES)]
    found = {name: await connection.fetchval(f"select count(*) from {name}") for name in names}
    await connection.close()
    return found


class TestPostgres(BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return shared_url()

    @pytest.fixture
    def footprint(self, url: str) -> Footprint:
        return partial(rows_at, url)

    @pytest.fixture
    def entries(self, url: str) -> Footprint:
        return partial(rows_at, url)
