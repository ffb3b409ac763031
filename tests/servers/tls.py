"""TLS in front of servers that don't do it themselves: a proxy that ends it, and certificates that last for a test.

The proxy takes nothing but TLS, so whatever reaches the server through it came encrypted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest
from omniq.sync import Portal

if TYPE_CHECKING:
    import trustme

POSTGRES_REQUEST = bytes.fromhex("0000000804d2162f")
"""How a client of PostgreSQL asks for TLS: a length of 8, and a number that is no version."""
CHUNK = 65_536

Opening = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What the two say before TLS begins."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and is trusted by who is given `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._signs: trustme.CA = pytest.importorskip("trustme", reason="needs trustme, which isn't installed").CA()
        self.file = folder / "ca.pem"
        self._signs.cert_pem.write_to_path(self.file)

    def server(self, *names: str, until: datetime | None = None) -> ssl.SSLContext:
        """What a server of these names answers with, which is valid until that time."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._signs.issue_cert(*names, not_after=until).configure_cert(context)
        return context

    def demanding_server(self, *names: str) -> ssl.SSLContext:
        """The same, of a server that lets in only whom this authority has signed for."""
        context = self.server(*names)
        context.verify_mode = ssl.CERT_REQUIRED
        self._signs.configure_trust(context)
        return context

    def host(self, *names: str) -> Identity:
        """A certificate for a server of these names."""
        return self._written(names[0], self._signs.issue_cert(*names))

    def client(self, name: str) -> Identity:
        """A certificate for a client."""
        return self._written(name, self._signs.issue_cert(f"{name}@example.org"))

    def _written(self, name: str, issued: trustme.LeafCert) -> Identity:
        identity = Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(identity.certificate)
        issued.private_key_pem.write_to_path(identity.key)
        return identity


class TlsProxy:
    """Listens on a port of its own, in a thread of its own, and passes on to a server what came by TLS."""

    def __init__(self, server: tuple[str, int], context: ssl.SSLContext, opening: Opening | None = None) -> None:
        self.port = 0
        self.served = 0
        """Connections whose handshake was completed."""
        self._address = server
        self._context = context
        self._opening = opening
        self._portal = Portal("tls-proxy")
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._portal.call(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._portal.call(self._close())
        self._portal.stop()

    async def _start(self) -> None:
        at_once = self._context if self._opening is None else None
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=at_once)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Who gives up half-way, on either side, is what some of the tests are about.
        with suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                if self._opening is not None:
                    await self._opening(reader, writer)
                    await writer.start_tls(self._context)
                self.served += 1
                await self._join(reader, writer)
            finally:
                writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(*self._address)
        pumps = [asyncio.ensure_future(_pump(reader, forth)), asyncio.ensure_future(_pump(back, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forth.transport.abort()  # before anything at which this may be cancelled
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()


async def postgres_opening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Grant TLS to who asks as a client of PostgreSQL does, and hang up on others."""
    if await reader.readexactly(len(POSTGRES_REQUEST)) != POSTGRES_REQUEST:
        raise ConnectionAbortedError("this server is spoken to by TLS only")
    writer.write(b"S")
    await writer.drain()


def address_of(url: str) -> tuple[str, int]:
    """The host and port of a URL that names both."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom the tests' servers are signed by."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that signed nothing the tests' servers have."""
    return Authority(tmp_path / "stranger")
