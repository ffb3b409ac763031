"""Bodies that aren't worth a place in every process's tables: each is a message of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from omniq_nats.stream import Stream

SMALL: Final = 1024
"""Bytes up to which a body stays in its row."""
MARK: Final = b"\0body."
"""What references begin with."""
LENGTH: Final = len(MARK) + 26 + 10
"""Bytes of a reference: the mark, the name of a message, and the size of the body."""


def is_reference(body: bytes) -> bool:
    """Whether a row refers to a body; else it holds it."""
    return len(body) == LENGTH and body.startswith(MARK)


def size_of(body: bytes) -> int:
    """Bytes of the body that a row holds or refers to."""
    return int(body[-10:]) if is_reference(body) else len(body)


def name_of(reference: bytes) -> str:
    """The subject of the message that has the body."""
    return f"body.{reference[len(MARK) : -10].decode()}"


async def store(stream: Stream, records: Sequence[Any]) -> list[Any]:
    """Store the bodies that are large; returns the records with references instead."""
    return list(await asyncio.gather(*(_stored(stream, record) for record in records)))


async def _stored(stream: Stream, record: Any) -> Any:
    if len(record.body) <= SMALL and not is_reference(record.body):
        return record
    reference = MARK + secrets.token_hex(13).encode() + b"%010d" % len(record.body)
    await stream.put(name_of(reference), record.body)
    return replace(record, body=reference)


async def load(stream: Stream, records: Sequence[Any]) -> list[Any]:
    """The records with their bodies."""
    return list(await asyncio.gather(*(_loaded(stream, record) for record in records)))


async def _loaded(stream: Stream, record: Any) -> Any:
    if not is_reference(record.body):
        return record
    body = await stream.read(name_of(record.body))
    if body is None:
        return replace(record, body=b"", damage=f"body: there is no message {name_of(record.body)}")
    return replace(record, body=body)
