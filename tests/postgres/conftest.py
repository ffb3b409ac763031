"""Stores at an empty place of the shared server, and a connection beside them that looks at what they do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_postgres.queue import PostgresQueueStore

from tests.servers.postgres import shared_url

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection


@pytest.fixture
def config(postgres_url: str) -> PostgresTaskQueueConfig:
    return PostgresTaskQueueConfig.from_url(postgres_url)


@pytest.fixture
async def queue(config: PostgresTaskQueueConfig) -> AsyncIterator[PostgresQueueStore]:
    store = PostgresQueueStore(config)
    await store.connect()
    yield store
    await store.result_storage().close()
    await store.close()


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(shared_url())
    yield connection
    await connection.close()
