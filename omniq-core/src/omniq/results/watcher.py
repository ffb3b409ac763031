"""One wait on the store for everybody in this loop who waits for results."""

from __future__ import annotations

import asyncio

from omniq.background import Background, spawn
from omniq.batching import apart
from omniq.errors import Closed, StoreUnavailable
from omniq.logs import get_logger
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import ResultRecord
from omniq.sync import cancel_and_wait

log = get_logger("omniq.results")

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
            self._runner = spawn(self._run())
        try:
            return await future
        finally:
            self._forget(task_id, future)

    async def close(self) -> None:
        """Stop watching; whoever still waits gets `Closed`."""
        if self._runner is not None:
            await cancel_and_wait(self._runner)
        for task_id in list(self._waiting):
            self._tell(task_id, Closed(f"nobody waits for the result of task {task_id} any more"))

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
            hint = spawn(self._store.wait(ids, POLL))
            await asyncio.sleep(0)
            try:
                if not await self._look(ids):
                    await self._hear(hint)
            finally:
                hint.end()
            await asyncio.wait([hint])
            if not hint.cancelled() and (error := hint.exception()) is not None:
                log.warning("can't wait for results, polling: %s", error)
                await asyncio.sleep(POLL)

    async def _look(self, ids: list[str]) -> bool:
        """Tell those who wait what is there; returns whether to look again at once."""
        answers = await apart(self._store.get, ids)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        is_away = len(errors) == len(ids) or any(isinstance(error, StoreUnavailable) for error in errors)
        found = [(id_, answer) for id_, answer in zip(ids, answers, strict=True) if answer is not None]
        for task_id, answer in found:
            if not (is_away and isinstance(answer, Exception)):  # else it's the store's, not that of the id
                self._tell(task_id, answer)
        if is_away:
            log.warning("results can't be read, trying again: %s", errors[-1])
            await asyncio.sleep(POLL)
        return bool(found)

    def _tell(self, task_id: str, answer: ResultRecord | Exception) -> None:
        for future in self._waiting.pop(task_id, ()):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _hear(self, hint: Background[None]) -> None:
        """Return when a result may have come, or when there are more to wait for."""
        more = spawn(self._more.wait())
        try:
            await asyncio.wait((hint, more), return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.end()
