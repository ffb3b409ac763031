"""A network that misbehaves: a TCP proxy before a server, on a thread and an event loop of its own.

It delays, throttles, holds back, refuses and resets; and it cuts replies: the server has got a request and carried it
out, and the client hears of it no more than the first bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

from tests.reliability.requests import Requests

T = TypeVar("T")

CHUNK = 65536
HELD = 0.01
"""Seconds between two looks whether data that is held back may go on."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing sends RST instead of FIN."""


@dataclass
class Cut:
    """An order to cut replies."""

    matches: Callable[[bytes], bool]
    """Whether it is about this request."""
    times: int
    """How many more replies are to be cut."""
    after: int
    """Bytes of a reply that still get through."""
    done: int = 0


@dataclass(eq=False)
class _Link:
    """A client's connection, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    requests: Requests
    cut: Cut | None = None
    """The order that the reply which comes next falls under."""
    passed: int = 0
    """Bytes of that reply that got through."""

    def reset(self) -> None:
        """End both connections by RST."""
        for writer in (self.client, self.server):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


def _close(connection: socket.socket, _: object) -> None:
    connection.close()


class FaultProxy:
    """Stands at `port` of 127.0.0.1 before the server at `target`, as a context manager.

    What it does is set from any thread; it holds for what comes from then on. `requests` reads the client's side of
    the protocol, to find the requests whose replies are to be cut.
    """

    def __init__(self, target: tuple[str, int], requests: Callable[[], Requests]) -> None:
        self.port = 0
        self.latency = (0.0, 0.0)
        """Seconds, mean and standard deviation, by which data is late in each direction. Its order stays."""
        self.bandwidth: float | None = None
        """Bytes a second, of each connection in each direction."""
        self.silent = False
        """Connections stay open, and nothing gets through until this is over."""
        self.connections = 0
        """How many were accepted so far."""
        self._target = target
        self._requests = requests
        self._links: set[_Link] = set()
        self._resets = 0
        self._cuts: list[Cut] = []
        self._listening: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ── what goes wrong ──────────────────────────────────────────────────────

    def reset_all(self) -> int:
        """Reset every connection, the idle ones too; returns how many there were."""
        return self._do(self._reset_all())

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset all connections and refuse new ones, until the end of the block."""
        self._do(self._stop_listening())
        self.reset_all()
        try:
            yield
        finally:
            self._do(self._listen())

    def cut_replies(self, matches: Callable[[bytes], bool], *, times: int = 1, after: int = 0) -> Cut:
        """Reset the connection after `after` bytes of the next `times` replies to requests that match."""
        cut = Cut(matches, times, after)
        self._do(self._order(cut))
        return cut

    def stop_cutting(self) -> None:
        """Forget all orders to cut replies."""
        self._do(self._order(None))

    # ── on the proxy's own loop ──────────────────────────────────────────────

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listening = asyncio.create_task(self._accept(listener))

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            self._listening = None

    async def _close(self) -> None:
        await self._stop_listening()
        await self._reset_all()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _reset_all(self) -> int:
        self._resets += 1
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def _order(self, cut: Cut | None) -> None:
        self._cuts = [] if cut is None else [*self._cuts, cut]

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    connection, _ = await self._loop.sock_accept(listener)
                except OSError:  # this process has no descriptors left for a moment
                    await asyncio.sleep(HELD)
                    continue
                self.connections += 1
                task = asyncio.create_task(self._serve(connection, self._resets))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
                # It may be cancelled before it begins.
                task.add_done_callback(partial(_close, connection))

    async def _serve(self, connection: socket.socket, resets: int) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except BaseException as error:  # it may be cancelled, too
            writer.transport.abort()
            if isinstance(error, OSError):
                return
            raise
        link = _Link(writer, server_writer, self._requests())
        self._links.add(link)
        if resets != self._resets:  # all were reset in the meantime
            link.reset()
        try:
            await asyncio.gather(
                self._pump(link, reader, server_writer, self._note_request),
                self._pump(link, server_reader, writer, self._reply),
                return_exceptions=True,
            )
        finally:
            if link.cut is not None:  # the client was gone before the reply came
                link.cut.times += 1
            link.reset()
            self._links.discard(link)

    async def _pump(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        passes: Callable[[_Link, bytes], bytes],
    ) -> None:
        """Pass on what comes from the source, late, until either side is gone."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deliver(link, line, sink, passes))
                while data := await source.read(CHUNK):
                    line.put_nowait((self._loop.time() + self._delay(), data))
                line.put_nowait((0.0, b""))
        finally:
            sink.close()

    async def _deliver(
        self,
        link: _Link,
        line: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        passes: Callable[[_Link, bytes], bytes],
    ) -> None:
        while (piece := await line.get())[1]:
            due, data = piece
            await asyncio.sleep(due - self._loop.time())
            while self.silent:
                await asyncio.sleep(HELD)
            if self.bandwidth is not None:
                await asyncio.sleep(len(data) / self.bandwidth)
            sink.write(passes(link, data))
            await sink.drain()

    def _delay(self) -> float:
        mean, deviation = self.latency
        return max(0.0, random.gauss(mean, deviation))

    # ── cutting replies ──────────────────────────────────────────────────────

    def _note_request(self, link: _Link, data: bytes) -> bytes:
        for request in link.requests.feed(data):
            for cut in self._cuts:
                if link.cut is None and cut.times > 0 and cut.matches(request):
                    link.cut, link.passed = cut, 0
                    cut.times -= 1
        return data

    def _reply(self, link: _Link, data: bytes) -> bytes:
        """What gets through of this part of a reply; the connection is reset where it ends."""
        cut = link.cut
        if cut is None:
            return data
        through = data[: cut.after - link.passed]
        link.passed += len(through)
        if link.passed == cut.after and len(through) < len(data):
            cut.done += 1
            link.cut = None
            link.client.write(through)
            self._loop.call_soon(link.reset)
            return b""
        return through
