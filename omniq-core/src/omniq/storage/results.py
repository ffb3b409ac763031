"""The contract of a result storage."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

from omniq.errors import UnsupportedCapability
from omniq.storage.base import Store
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.wakeups import DEAF_WAIT


class BaseResultStorage(Store):
    """How tasks ended, and how far those have come that tell."""

    @abstractmethod
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        """Store each record if the stored one gives way; returns whether it was stored.

        `rules.gives_way` decides: neither does a record of an older epoch replace a newer one, nor does one that is
        RUNNING replace a final one of its epoch. The store sets `finished_at` to now and `expires_at` to `ttl`
        seconds from now.
        """

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        """Replace the bodies of results that have the old one; returns whether each was replaced.

        Nothing else of a result changes, neither its times nor its place among those of its schedule. As for tasks, a
        store without it raises `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't replace the bodies of results")

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        """The results, or None for those that aren't there or have expired."""

    @abstractmethod
    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        """The results of a schedule's tasks in the order of `finished_at`."""

    @abstractmethod
    async def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired results; returns how many."""

    async def hear(self, timeout: float) -> None:
        """Let `wakeups` be told of the results that other processes store.

        It returns when whoever waits had better look for all that he waits for: after `timeout` seconds at the latest.
        This default can't hear others, and returns within a second. Override it where the store can push.
        """
        await asyncio.sleep(min(timeout, DEAF_WAIT))
