"""The blocking result storage."""

from __future__ import annotations

from typing import Any

from omniq.backend.base import BaseBackend
from omniq.results.engine import AsyncResultStorage
from omniq.sync import Blocking, blocking


class ResultStorage(Blocking[AsyncResultStorage[Any]]):
    """A result storage whose methods block; `aio` is its async core."""

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> ResultStorage:
        """A backend's result storage; `overrides` are fields of its config."""
        return ResultStorage(AsyncResultStorage.from_backend(backend, **overrides))

    get = blocking(AsyncResultStorage.get)
    wait = blocking(AsyncResultStorage.wait)
    find = blocking(AsyncResultStorage.find)
    purge = blocking(AsyncResultStorage.purge)
