"""The blocking result storage."""

from __future__ import annotations

from typing import Any

from omniq.results.engine import AsyncResultStorage
from omniq.sync import Blocking, blocking


class ResultStorage(Blocking[AsyncResultStorage[Any]]):
    """A result storage whose methods block; `aio` is its async core."""

    get = blocking(AsyncResultStorage.get)
    wait = blocking(AsyncResultStorage.wait)
    find = blocking(AsyncResultStorage.find)
    purge = blocking(AsyncResultStorage.purge)
