"""One wait on the store for everybody in this loop who waits for results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from functools import partial

from omniq.background import spawn
from omniq.batching import apart
from omniq.errors import Closed, StoreUnavailable
from omniq.logs import get_logger
from omniq.storage.calls import look_up
from omniq.storage.records import ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.sync import cancel_and_wait

log = get_logger("omniq.results")

LOOK, MAX_LOOK, SHARE = 10.0, 60.0, 100
"""Seconds after which all are looked at though nothing was heard, at least and at most; in between, so many times as
long as the last look at all of them took."""
PAUSE = 1.0
"""Seconds until a store is asked again that has failed."""


class ResultWatcher:
    """Waits for many results at once, with one read for all that may have come meanwhile."""

    def __init__(self, store: BaseResultStorage) -> None:
        self._store = store
        self._waiting: dict[str, list[asyncio.Future[ResultRecord]]] = {}
        self._news = store.wakeups.subscribe()
        self._runner: asyncio.Task[None] | None = None
        self._took = 0.0
        """Seconds that the last look at all has taken."""

    async def wait(self, task_id: str) -> ResultRecord:
        """The result of the task, once it is there."""
        future: asyncio.Future[ResultRecord] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(task_id, []).append(future)
        self._news.follow(task_id)
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
            self._news.leave(task_id)

    async def _run(self) -> None:
        hearing = spawn(self._hear())
        try:
            while self._waiting:
                await self._look(await self._news.told())
        finally:
            hearing.end()

    async def _hear(self) -> None:
        """Let others be heard, and have all looked at from time to time: nothing depends on what is heard."""
        while True:
            try:
                await self._store.hear(max(LOOK, min(SHARE * self._took, MAX_LOOK)))
            except Exception as error:  # whatever it is: those who wait would else wait for ever
                log.warning("can't hear of results, polling: %s", error)
                await asyncio.sleep(PAUSE)
            self._news.tell(list(self._waiting))

    async def _look(self, told: Collection[str]) -> None:
        """Tell those who wait what is there of what may be."""
        ids = [task_id for task_id in told if task_id in self._waiting]
        if not ids:
            return
        began = time.monotonic()
        answers = await apart(partial(look_up, self._store, self._store.get), ids)
        if len(ids) >= len(self._waiting):
            self._took = time.monotonic() - began
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
            self._news.tell(ids)
            await asyncio.sleep(PAUSE)

    def _tell(self, task_id: str, answer: ResultRecord | Exception) -> None:
        for future in self._waiting.pop(task_id, ()):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
