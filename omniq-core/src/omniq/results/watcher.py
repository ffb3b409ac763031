"""One wait on the store for everybody in this loop who waits for results."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from omniq.background import Background, end_task, spawn
from omniq.batching import apart
from omniq.errors import Closed, StoreUnavailable
from omniq.logs import get_logger
from omniq.storage.calls import look_up
from omniq.storage.records import ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.sync import cancel_and_wait

log = get_logger("omniq.results")

LOOK = 10.0
"""Seconds after which all are looked at though nothing was heard."""
PAUSE = 1.0
"""Seconds until a store is asked again that has failed."""


class ResultWatcher:
    """Waits for many results at once, with one read per wake-up for all of them."""

    def __init__(self, store: BaseResultStorage) -> None:
        self._store = store
        self._waiting: dict[str, list[asyncio.Future[ResultRecord]]] = {}
        self._unseen: set[str] = set()
        """Those that may be there."""
        self._more = asyncio.Event()
        """Set when there are others to wait for."""
        self._hints: list[Background[list[str]]] = []
        """The store's wait for all of them; while a new one begins, the one before, too."""
        self._runner: asyncio.Task[None] | None = None

    async def wait(self, task_id: str) -> ResultRecord:
        """The result of the task, once it is there."""
        future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        if task_id not in self._waiting:
            self._more.set()
        self._waiting.setdefault(task_id, []).append(future)
        self._unseen.add(task_id)
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
        try:
            while self._waiting:
                await self._listen()
                await self._look()
                if not self._unseen:
                    await self._hear()
        finally:
            for hint in self._hints:
                hint.end()
            self._hints.clear()

    async def _listen(self) -> None:
        """Listen for all that is waited for: before anything is looked at, and before the last wait is let go of, so
        that nothing slips through in between."""
        if self._hints and not self._hints[0].done() and not self._more.is_set():
            return
        self._more.clear()
        self._hints.append(spawn(self._store.wait(list(self._waiting), LOOK)))
        await asyncio.sleep(0)
        if len(self._hints) > 1:
            await self._take(self._hints[0])
            del self._hints[0]

    async def _take(self, hint: Background[list[str]]) -> None:
        """What was heard by then is to be looked at; all, if that can't be told."""
        if not hint.done():
            hint.end()
            await asyncio.wait([hint])
        if hint.cancelled():  # it may just have been told
            self._unseen.update(self._waiting)
            return
        if (error := hint.exception()) is not None:
            log.warning("can't wait for results, polling: %s", error)
            await asyncio.sleep(PAUSE)
        told = [] if error is not None else hint.result()
        self._unseen.update(told or self._waiting)

    async def _look(self) -> None:
        """Tell those who wait what is there of what may be."""
        ids = [id_ for id_ in self._unseen if id_ in self._waiting]
        self._unseen.clear()
        if not ids:
            return
        answers = await apart(partial(look_up, self._store, self._store.get), ids)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        is_away = len(errors) == len(ids) or any(isinstance(error, StoreUnavailable) for error in errors)
        for task_id, answer in zip(ids, answers, strict=True):
            if isinstance(answer, Exception):
                if not is_away:  # else it's the store's
                    self._tell(task_id, answer)
            elif answer is not None and answer.is_final:
                self._tell(task_id, answer)
        if is_away:
            log.warning("results can't be read, trying again: %s", errors[-1])
            self._unseen.update(ids)
            await asyncio.sleep(PAUSE)

    def _tell(self, task_id: str, answer: ResultRecord | Exception) -> None:
        for future in self._waiting.pop(task_id, ()):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _hear(self) -> None:
        """Return when a result may have come, or when there are others to wait for."""
        more: asyncio.Task[Any] = spawn(self._more.wait())
        try:
            await asyncio.wait([*self._hints, more], return_when=asyncio.FIRST_COMPLETED)
        finally:
            end_task(more)
