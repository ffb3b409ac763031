"""What the stores of a project have in common: what this process has of its stream, and what its server promises."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import ClassVar

import msgspec
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connections
from omniq.storage.places import PlaceConnection
from omniq.storage.stream_replica import StreamReplica
from omniq.storage.stream_store import StreamStore

from omniq_nats.config import NATSConfig
from omniq_nats.stream import NATSStream


def open_replica(settings: NATSConfig) -> PlaceConnection[StreamReplica]:
    """What this process has of a project, on an event loop of its own."""
    return PlaceConnection(StreamReplica(NATSStream(settings), settings.timeout), thread="omniq-nats")


class NATSStore(StreamStore):
    """A store in a project's stream."""

    connections: ClassVar[Connections[PlaceConnection[StreamReplica]]] = Connections(open_replica, of_process=True)

    def __init__(self, config: NATSConfig) -> None:
        super().__init__(config)
        self._config = config

    async def guarantees(self) -> Guarantees:
        await self.connect()
        connection = self._connection
        assert isinstance(connection.place.stream, NATSStream)
        return await connection.run(_guarantees(connection.place.stream, self._config))


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
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        return f"unknown: {error}"
    return "always" if told.get("sync_always") else f"{told.get('sync_interval', 0) / 1e9:g} s"
