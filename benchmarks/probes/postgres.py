"""The bare loop on PostgreSQL, in the database that BENCH_URL names: `python -m probes.postgres`.

A pool of four connections, one statement for each batch, two in a transaction to settle one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg
import uvloop
from measure import TASKS

from probes.loop import Probe, encode

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]

CONNECTIONS = 4
SCHEMA = """
create table task (id uuid primary key, queue text not null, priority int not null default 0,
    run_at timestamptz not null default now(), state text not null default 'pending', body bytea,
    attempt int default 0, token uuid, until timestamptz)
    with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
create index on task (queue, priority desc, run_at, id) where state = 'pending';
create index on task (until) where state = 'running';
create table result (id uuid primary key, body bytea, expires timestamptz);
"""
ADD_SQL = "insert into task (id, queue, body) select * from unnest($1::uuid[], $2::text[], $3::bytea[])"
CLAIM_SQL = """
update task set state = 'running', token = $2, until = now() + interval '30s', attempt = attempt + 1
where id in (select id from task where state = 'pending' and queue = 'default' and run_at <= now()
    order by queue, priority desc, run_at, id limit $1 for update skip locked)
returning id, body
"""
RESULTS_SQL = (
    "insert into result select id, body, now() + interval '1h' from unnest($1::uuid[], $2::bytea[]) r (id, body)"
)
SETTLE_SQL = """
update task set state = 'success' where id = any($1::uuid[]) and token = $2 and state = 'running' returning id
"""


class PostgresProbe(Probe):
    """A pool, and a loop that keeps two of its connections busy."""

    pool: Pool

    def __init__(self, url: str) -> None:
        super().__init__(TASKS)
        self.url = url
        self.token = uuid.uuid4()

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.url, min_size=CONNECTIONS, max_size=CONNECTIONS)
        await self.pool.execute(SCHEMA)

    async def add(self, ids: Sequence[str]) -> None:
        bodies = [encode({"f": "m:noop", "a": {"x": 1}}) for _ in ids]
        await self.pool.execute(ADD_SQL, ids, ["default"] * len(ids), bodies)

    async def claim(self, limit: int) -> list[str]:
        return [row["id"] for row in await self.pool.fetch(CLAIM_SQL, limit, self.token)]

    async def settle(self, batch: Sequence[tuple[str, bytes]]) -> int:
        ids, bodies = zip(*batch, strict=True)
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(RESULTS_SQL, ids, bodies)
            return len(await connection.fetch(SETTLE_SQL, ids, self.token))


if __name__ == "__main__":
    uvloop.run(PostgresProbe(os.environ["BENCH_URL"]).measure())
