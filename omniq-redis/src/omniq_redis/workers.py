"""The workers that were seen, in the hash `worker`: when, and what they said of themselves."""

from __future__ import annotations

from struct import Struct

import msgspec
from msgspec.structs import replace
from omniq.storage.records import WorkerRecord

from omniq_redis.connection import Connection

_TIME = Struct(">d")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(WorkerRecord).decode
_decode_values = msgspec.msgpack.Decoder(list[bytes]).decode


async def beat(connection: Connection, worker: WorkerRecord, leaving: bool) -> None:
    """Note that the worker was seen now, or has left."""
    await connection.call("beat", (worker.name, leaving), _encode(worker))


async def fetch_workers(connection: Connection) -> list[WorkerRecord]:
    """All of them by name."""
    values = _decode_values(await connection.call("workers", [None]))
    found = [replace(_decode(value[_TIME.size :]), last_seen=_TIME.unpack_from(value)[0]) for value in values]
    return sorted(found, key=lambda worker: worker.name)


async def forget_workers(connection: Connection, older_than: float) -> None:
    """Delete those that weren't seen for so many seconds."""
    await connection.call("workers", [older_than])


async def server_now(connection: Connection) -> float:
    """The server's clock."""
    (now,) = _TIME.unpack(await connection.call("now", None))
    return float(now)
