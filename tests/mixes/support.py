"""Tasks, results and events in different stores, behind one front door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.events import AsyncEventStorage
from omniq.models import EventStorageConfig, EventType, ResultStorageConfig
from omniq.queue import AsyncTaskQueue
from omniq.results import AsyncResultStorage
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore, ReferenceSpace

from tests.core.support import FAST, NO_RETRIES, QUEUES, QueueConfig
from tests.servers.redis import kinds

MEMORY = "memory"

on_one_redis = pytest.mark.parametrize("redis_url", kinds()[:1], indirect=True)
"""For modules that test what is the same on every kind of Redis server."""

Url: TypeAlias = str


@dataclass(frozen=True)
class Mix:
    """The names of the stores that keep tasks, results and events."""

    queue: str
    results: str
    events: str

    def __str__(self) -> str:
        return f"{self.queue}+{self.results}+{self.events}"


SPREAD = Mix("redis", "postgres", "sqlite")
MIXES = (
    SPREAD,
    Mix("postgres", "redis", "sqlite"),
    Mix("sqlite", "postgres", "postgres"),
    Mix("sqlite", "sqlite", "postgres"),
    Mix("redis", "redis", "postgres"),
    Mix("postgres", "postgres", "sqlite"),
    Mix("sqlite", "redis", MEMORY),
    Mix(MEMORY, "redis", "postgres"),
    Mix("nats", "nats", "file"),
    Mix("nats", "redis", "postgres"),
    Mix("sqlite", "nats", "sqlite"),
)


class MixedPlace:
    """Where a mix keeps what; each front door to it has stores of its own."""

    def __init__(self, mix: Mix, urls: Mapping[str, Url]) -> None:
        self.mix = mix
        self._urls = urls
        self._space = ReferenceSpace()

    def front_door(self) -> AsyncOmniQ:
        """OmniQ at this place, whose tasks aren't tried again unless they say so."""
        return AsyncOmniQ(**self._arguments())

    def blocking_door(self, kind: str) -> OmniQ:
        """OmniQ with methods that block, whose worker is a fast one of that kind."""
        return OmniQ(**self._arguments(), worker_type=kind, worker_config=FAST)

    def _arguments(self) -> dict[str, Any]:
        """URLs for the stores that have one, components for those in memory."""
        parts = {"task_queue": self.mix.queue, "result_store": self.mix.results, "event_store": self.mix.events}
        config: dict[str, Any] = {kind: {"url": self._urls[name]} for kind, name in parts.items() if name != MEMORY}
        if "task_queue" in config:
            config["task_queue"]["config"] = {"queues": list(QUEUES)}
        in_memory = {kind: self._in_memory(kind) for kind, name in parts.items() if name == MEMORY}
        return {**in_memory, "config": {**config, "defaults": {"max_retries": 0}}}

    def _in_memory(self, kind: str) -> object:
        space = self._space
        match kind:
            case "task_queue":
                config = QueueConfig(queues=list(QUEUES))
                return AsyncTaskQueue(lambda _: ReferenceQueueStore(space), config, defaults=NO_RETRIES)
            case "result_store":
                return AsyncResultStorage(lambda _: ReferenceResultStore(space), ResultStorageConfig())
            case _:
                return AsyncEventStorage(lambda _: ReferenceEventStore(space), EventStorageConfig())


async def event_types(oq: AsyncOmniQ, task_id: str) -> Sequence[EventType]:
    """What happened to the task."""
    return [event.type for event in await oq.list_events(task_id=task_id, oldest_first=True)]
