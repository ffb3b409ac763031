"""What the stores of a project have in common: what this process has of its stream, and what its server promises."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from http.client import HTTPException
from typing import ClassVar, TypeVar

import msgspec
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connections
from omniq.storage.places import PlaceConnection, PlaceStore
from omniq.storage.stream import load_bodies, store_bodies
from omniq.storage.stream_replica import StreamReplica

from omniq_nats.config import NATSConfig
from omniq_nats.stream import NATSStream

K = TypeVar("K")
R = TypeVar("R")


def open_replica(settings: NATSConfig) -> PlaceConnection[StreamReplica]:
    """What this process has of a project, on an event loop of its own."""
    return PlaceConnection(StreamReplica(NATSStream(settings), settings.timeout), thread="omniq-nats")


class NATSStore(PlaceStore[StreamReplica]):
    """A store in a project's stream; large bodies are messages of their own."""

    connections: ClassVar[Connections[PlaceConnection[StreamReplica]]] = Connections(open_replica, of_process=True)

    def __init__(self, config: NATSConfig) -> None:
        super().__init__(config)
        self._config = config

    async def guarantees(self) -> Guarantees:
        await self.connect()
        connection = self._connection
        assert isinstance(connection.place.stream, NATSStream)
        return await connection.run(_guarantees(connection.place.stream, self._config))

    @property
    def max_item_bytes(self) -> int:
        return self._place.stream.max_message

    async def store_bodies(self, records: Sequence[K], write: Callable[[Sequence[K]], Awaitable[R]]) -> R:
        """As `TableStore.store_bodies`."""
        await self._place.open()
        return await write(await store_bodies(self._place.stream, records))

    async def load_bodies(self, rows: Sequence[K]) -> Sequence[K]:
        """As `TableStore.load_bodies`."""
        return await load_bodies(self._place.stream, rows)


async def _guarantees(stream: NATSStream, config: NATSConfig) -> Guarantees:
    """What the stream's servers promise."""
    found = (await stream.info())["config"]
    sync, replicas = await asyncio.to_thread(_sync_interval, config), int(found["num_replicas"])
    kept = found["storage"] == "file"
    return Guarantees(
        survives_process_kill=kept,
        survives_power_loss=kept and sync == "always",
        survives_failover=replicas >= 3,
        clock="server",
        push=True,
        atomic_results=True,
        evidence=(
            f"version={stream.version}",
            f"storage={found['storage']}",
            f"replicas={replicas}",
            f"sync_interval={sync}",
        ),
    )


def _sync_interval(config: NATSConfig) -> str:
    """How often the server syncs to disk, as it tells where it is monitored."""
    if config.monitor_url is None:
        return "unknown: give monitor_url"
    try:
        with urllib.request.urlopen(f"{config.monitor_url.rstrip('/')}/jsz?config=1", timeout=config.timeout) as answer:
            told = msgspec.json.decode(answer.read())["config"]
    except (OSError, HTTPException, KeyError, ValueError, msgspec.MsgspecError) as error:
        return f"unknown: {config.monitor_url} gives {type(error).__name__}"
    if told.get("sync_always"):
        return "always"
    interval = told.get("sync_interval")
    return "unknown: a server before 2.10 doesn't tell" if interval is None else f"{interval / 1e9:g} s"
