"""The server that a run works on: killed, and started again while everything else goes on."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Protocol

from tests.reliability.history import History


class Server(Protocol):
    """A server that runs, and keeps what it has acknowledged when it is killed."""

    @property
    def url(self) -> str:
        """Where it is, before and after."""
        ...

    def kill(self) -> None:
        """`kill -9` all of it; returns when it is gone."""
        ...

    def start(self) -> None:
        """Start it again; returns when it answers."""
        ...

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open, and nobody answers."""
        ...

    def thaw(self) -> None:
        """Let it go on."""
        ...


class Outages:
    """Kills a server and lets it come back after a seeded random time, `down` seconds at least and at most."""

    def __init__(self, server: Server, history: History, *, down: tuple[float, float], seed: int) -> None:
        self._server = server
        self._history = history
        self._down = down
        self._random = Random(seed)
        self._return: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Kill the server, once it is back from the last time."""
        await self.over()
        await asyncio.to_thread(self._server.kill)
        self._history.server_down()
        self._return = asyncio.create_task(self._come_back(self._random.uniform(*self._down)))

    async def over(self) -> None:
        """Wait until the server is back, if it is away."""
        if self._return is not None:
            await self._return

    async def _come_back(self, after: float) -> None:
        await asyncio.sleep(after)
        await asyncio.to_thread(self._server.start)
        self._history.server_up()
