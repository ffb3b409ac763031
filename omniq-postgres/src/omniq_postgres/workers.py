"""The workers that were seen."""

from __future__ import annotations

import msgspec
from omniq import clock
from omniq.storage.damage import worker_of
from omniq.storage.records import WorkerRecord

from omniq_postgres.connection import Session
from omniq_postgres.wire import NOW

_BEAT = f"""
    insert into omniq.worker (name, last_seen, report) values ($2, {NOW}, $3::text::jsonb)
    on conflict (name) do update set last_seen = excluded.last_seen, report = excluded.report
"""
_LEAVE = "delete from omniq.worker where name = $1"
_FORGET = f"delete from omniq.worker where last_seen <= {NOW} - $2::float8"
_SEEN = "select name, report::text, last_seen from omniq.worker order by name"
_NOW = f"select {NOW}"

_encode = msgspec.json.Encoder().encode


async def beat(session: Session, worker: WorkerRecord, leaving: bool) -> None:
    """Note that the worker was seen now, or has left."""
    if leaving:
        await session.fetch(_LEAVE, worker.name)
    else:
        await session.fetch(_BEAT, clock.offset(), worker.name, _encode(worker).decode())


async def fetch_workers(session: Session) -> list[WorkerRecord]:
    """All of them by name."""
    return [worker_of(*row) for row in await session.fetch(_SEEN)]


async def forget_workers(session: Session, older_than: float) -> None:
    """Delete those that weren't seen for so many seconds."""
    await session.fetch(_FORGET, clock.offset(), older_than)


async def server_now(session: Session) -> float:
    """The server's clock."""
    return float((await session.fetch(_NOW, clock.offset()))[0][0])
