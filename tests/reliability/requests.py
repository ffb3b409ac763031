"""The client's side of a protocol, as far as it takes to tell what a server has been asked to do."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol


class Requests(Protocol):
    """Reads what one client sends."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The requests that these bytes complete, as text in which to look for what they ask."""
        ...


class RedisRequests:
    """Of Redis: each piece of what is sent, with the end of the one before, in case a word was cut in two."""

    OVERLAP = 64

    def __init__(self) -> None:
        self._end = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._end + data
        self._end = data[-self.OVERLAP :]


class PostgresRequests:
    """Of PostgreSQL: the SQL of each statement that is executed, and of each COPY whose last row has been sent."""

    HEAD = 5

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False
        self._prepared: dict[bytes, bytes] = {}
        self._copy = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        if not self._started:
            self._pass_greeting()
        while self._started and len(self._buffer) >= self.HEAD:
            (length,) = struct.unpack_from(">i", self._buffer, 1)
            if len(self._buffer) < length + 1:
                return
            message = bytes(self._buffer[self.HEAD : length + 1])
            kind = chr(self._buffer[0])
            del self._buffer[: length + 1]
            yield from self._read(kind, message)

    def _pass_greeting(self) -> None:
        """Pass over the messages before the first one that says its kind."""
        while len(self._buffer) >= 8:
            length, code = struct.unpack_from(">ii", self._buffer)
            if len(self._buffer) < length:
                return
            del self._buffer[:length]
            if code >> 16 == 3:  # the protocol's version, not a wish for encryption
                self._started = True
                return

    def _read(self, kind: str, message: bytes) -> Iterator[bytes]:
        if kind == "P":
            name, sql, _ = message.split(b"\0", 2)
            self._prepared[name] = sql
        elif kind == "B":
            _, name, _ = message.split(b"\0", 2)
            yield self._prepared.get(name, b"")
        elif kind == "Q":
            self._copy = message if message[:4].lower() == b"copy" else b""
            if not self._copy:
                yield message
        elif kind == "c":
            yield self._copy
