"""The workers that were seen, in the hash `worker`: when, and what they said of themselves."""

from __future__ import annotations

from struct import Struct

import msgspec
from omniq.storage.damage import worker_of
from omniq.storage.records import WorkerRecord

from omniq_redis.connection import Connection
from omniq_redis.rows import to_text

_TIME = Struct(">d")

_encode = msgspec.json.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode


async def beat(connection: Connection, worker: WorkerRecord, leaving: bool) -> None:
    """Note that the worker was seen now, or has left."""
    await connection.call("beat", (worker.name, leaving), _encode(worker))


async def fetch_workers(connection: Connection) -> list[WorkerRecord]:
    """All of them by name."""
    rows = _decode_rows(await connection.call("workers", [None]))
    found = [worker_of(to_text(name), value[_TIME.size :], _seen(value)) for name, value in rows]
    return sorted(found, key=lambda worker: worker.name)


def _seen(value: bytes) -> float:
    return float(_TIME.unpack_from(value)[0]) if len(value) >= _TIME.size else 0.0


async def forget_workers(connection: Connection, older_than: float) -> None:
    """Delete those that weren't seen for so many seconds."""
    await connection.call("workers", [older_than])


async def server_now(connection: Connection) -> float:
    """The server's clock."""
    (now,) = _TIME.unpack(await connection.call("now", None))
    return float(now)
