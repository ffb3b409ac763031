"""One wait on the store for everybody in this loop who waits for results."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from omniq.errors import StoreError
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import ResultRecord
from omniq.sync import cancel_and_wait

log = logging.getLogger("omniq.results")

POLL = 1.0
"""Seconds after which the store is asked again though nothing was heard."""


class ResultWatcher:
    """Waits for many results at once, with one read per wake-up for all of them."""

    def __init__(self, store: BaseResultStorage) -> None:
        self._store = store
        self._waiting: dict[str, list[asyncio.Future[ResultRecord]]] = {}
        self._more = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None

    async def wait(self, task_id: str) -> ResultRecord:
        """The result of the task, once it is there."""
        future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(task_id, []).append(future)
        self._more.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await future
        finally:
            self._forget(task_id, future)

    async def close(self) -> None:
        """Stop watching; whoever still waits is cancelled."""
        if self._runner is not None:
            await cancel_and_wait(self._runner)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()

    def _forget(self, task_id: str, future: asyncio.Future[ResultRecord]) -> None:
        futures = self._waiting.get(task_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(task_id, None)

    async def _run(self) -> None:
        while self._waiting:
            self._more.clear()
            ids = list(self._waiting)
            # Listen first and look then, so that nothing slips through between the two.
            hint = asyncio.ensure_future(self._store.wait(ids, POLL))
            await asyncio.sleep(0)
            try:
                if not await self._look(ids):
                    await self._hear(hint)
            finally:
                hint.cancel()
            await asyncio.wait([hint])
            if not hint.cancelled() and (error := hint.exception()) is not None:
                log.warning("can't wait for results, polling: %s", error)
                await asyncio.sleep(POLL)

    async def _look(self, ids: list[str]) -> bool:
        try:
            records = await self._store.get(ids)
        except StoreError as error:
            log.warning("results can't be read, trying again: %s", error)
            await asyncio.sleep(POLL)
            return True
        found = [record for record in records if record is not None]
        for record in found:
            for future in self._waiting.pop(record.task_id, ()):
                if not future.done():
                    future.set_result(record)
        return bool(found)

    async def _hear(self, hint: asyncio.Future[None]) -> None:
        """Return when a result may have come, or when there are more to wait for."""
        more: asyncio.Future[Any] = asyncio.ensure_future(self._more.wait())
        try:
            await asyncio.wait([hint, more], return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()
