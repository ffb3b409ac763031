"""The blocking event storage."""

from __future__ import annotations

import functools
from typing import Any, Unpack

from omniq.backend.base import BaseBackend
from omniq.events.logger import AsyncEventLogger, EventFields
from omniq.events.store import AsyncEventStorage
from omniq.models.state import EventType
from omniq.sync import Blocking, blocking, portal


class EventStorage(Blocking[AsyncEventStorage[Any]]):
    """An event storage whose methods block; `aio` is its async core."""

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> EventStorage:
        """A backend's event storage. Raises `ConfigError` if it keeps no events."""
        return EventStorage(AsyncEventStorage.from_backend(backend, **overrides))

    list = blocking(AsyncEventStorage.list)
    purge = blocking(AsyncEventStorage.purge)


class EventLogger(Blocking[AsyncEventLogger]):
    """Logs events from blocking code: `log` returns at once, `flush` when all is written."""

    def __init__(self, storage: EventStorage) -> None:
        super().__init__(AsyncEventLogger(storage.aio.store))

    flush = blocking(AsyncEventLogger.flush)

    def log(self, type: EventType, **fields: Unpack[EventFields]) -> None:
        """Take an event; returns at once."""
        self.connect()
        portal().loop.call_soon_threadsafe(functools.partial(self.aio.log, type, **fields))
