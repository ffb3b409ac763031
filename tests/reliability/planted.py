"""Bugs that the suite must catch, planted into a worker process by the name in OMNIQ_TEST_PLANT.

Product code knows nothing of them: each replaces a part of it at run time, as a careless change would.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from omniq.errors import StoreError
from omniq.queue.stores import Stores
from omniq.storage import rules
from omniq.storage.records import Change, Changed, ChangeStatus, TaskRecord
from omniq.storage.sql import claiming
from omniq.workers.fetching import Admission, Fetcher
from omniq.workers.leases import LeaseKeeper
from omniq_sqlite.connection import ConnectionThread, _Call

PLANT_VARIABLE = "OMNIQ_TEST_PLANT"
WINDOW = 0.3
"""Seconds between acknowledgement and result where they come in the wrong order: as behind a slow network."""

SULKING = 8.0
"""Seconds for which a worker claims nothing that couldn't reach its store."""


def plant_from_environment() -> None:
    """Plant what the environment names, if anything. Raises `KeyError` for a bug that isn't known."""
    name = os.environ.get(PLANT_VARIABLE)
    if name:
        PLANTS[name]()


def drop_epoch_check() -> None:
    """A change applies whatever the claim it was made under."""

    def decide(record: TaskRecord | None, change: Change, now: float) -> tuple[ChangeStatus, TaskRecord | None]:
        return rules.decide(record, replace(change, epoch=None, worker=None), now)

    vars(claiming)["decide"] = decide


def acknowledge_first() -> None:
    """A task is marked as ended before its result is stored."""

    async def settle(self: Stores, changes: Sequence[Change]) -> list[Changed]:
        results = [change.result for change in changes if change.result is not None]
        outcomes = await self.queue.transition([replace(change, result=None) for change in changes])
        await asyncio.sleep(WINDOW)
        if self.results is not None:
            await self.results.put(results)
        return outcomes

    Stores.settle = settle  # type: ignore[method-assign]


def read_then_write() -> None:
    """A transaction begins by reading and asks for the write lock only when it writes."""
    work = ConnectionThread._work

    def deferred(self: ConnectionThread, connection: sqlite3.Connection, calls: Sequence[_Call]) -> list[Any]:
        return work(self, _Deferred(connection), calls)  # type: ignore[arg-type]

    ConnectionThread._work = deferred  # type: ignore[method-assign]


class _Deferred:
    """A connection whose transactions begin without a lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._connection.execute("begin" if sql == "begin immediate" else sql, parameters)


def beat_on_the_loop() -> None:
    """Leases are renewed on the loop that runs the tasks."""

    def start(self: LeaseKeeper) -> None:
        self._beating = asyncio.ensure_future(self._keep())  # type: ignore[attr-defined]

    async def stop(self: LeaseKeeper) -> None:
        self._beating.cancel()  # type: ignore[attr-defined]

    LeaseKeeper.start = start  # type: ignore[method-assign]
    LeaseKeeper.stop = stop  # type: ignore[method-assign]


def no_quarantine() -> None:
    """A task that may be poison runs beside others."""
    Admission.is_quarantined = lambda self, record: False  # type: ignore[method-assign]


def sulk() -> None:
    """A worker that couldn't reach its store claims nothing for a while, though the store is back."""
    until = 0.0
    settle, claim = Stores.settle, Fetcher._claim

    async def settle_or_sulk(self: Stores, changes: Sequence[Change]) -> list[Changed]:
        nonlocal until
        try:
            return await settle(self, changes)
        except StoreError:
            until = time.monotonic() + SULKING
            raise

    async def claim_later(self: Fetcher, queues: Sequence[str], limit: int) -> list[TaskRecord] | None:
        await asyncio.sleep(until - time.monotonic())
        return await claim(self, queues, limit)

    Stores.settle = settle_or_sulk  # type: ignore[method-assign]
    Fetcher._claim = claim_later  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "drop-epoch-check": drop_epoch_check,
    "acknowledge-first": acknowledge_first,
    "read-then-write": read_then_write,
    "beat-on-the-loop": beat_on_the_loop,
    "no-quarantine": no_quarantine,
    "sulk": sulk,
}
