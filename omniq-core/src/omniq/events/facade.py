"""The blocking event storage."""

from __future__ import annotations

from typing import Any

from omniq.events.store import AsyncEventStorage
from omniq.sync import Blocking, blocking


class EventStorage(Blocking[AsyncEventStorage[Any]]):
    """An event storage whose methods block; `aio` is its async core."""

    list = blocking(AsyncEventStorage.list)
    purge = blocking(AsyncEventStorage.purge)
