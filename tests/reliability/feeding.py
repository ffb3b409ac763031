"""Enqueueing the tasks of a run, whatever happens to the store meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from omniq import AsyncOmniQ
from omniq.errors import StoreError, StoreUnavailable

from tests.reliability.history import History
from tests.reliability.scenario import Planned

BATCH = 25
"""Tasks that are enqueued in a row."""
AGAIN = 0.05
"""Seconds until a task is enqueued again of which the store didn't say that it has it."""


class Feeder:
    """Enqueues tasks one by one, each as often as it takes until the store has acknowledged it.

    An `enqueue` that raised may have taken effect. Since it is idempotent by the task's id, it is merely repeated.
    """

    def __init__(
        self, oq: AsyncOmniQ, history: History, tasks: Iterable[Planned], *, rate: float, may_go_on: Callable[[], bool]
    ) -> None:
        self._oq = oq
        self._history = history
        self._left = iter(tasks)
        self._interval = BATCH / rate
        self._may_go_on = may_go_on
        self.hurry = asyncio.Event()
        """Enqueue without pauses as long as it is set."""
        self.unavailable: dict[str, str] = {}
        """What the store said, by task, when it couldn't be reached."""
        self.refused: dict[str, str] = {}
        """What it said of tasks that it wouldn't have."""

    async def feed(self) -> bool:
        """Enqueue a batch; returns whether there was one."""
        batch = list(islice(self._left, BATCH))
        for task in batch:
            while not await self._enqueue(task) and self._may_go_on():
                await asyncio.sleep(AGAIN)
        return bool(batch)

    async def feed_all(self) -> None:
        """Enqueue what is left, at the rate."""
        while await self.feed():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self.hurry.wait()

    async def _enqueue(self, task: Planned) -> bool:
        """Enqueue it once; returns whether it was acknowledged."""
        try:
            await self._oq.enqueue(task.func, task.args, task_id=task.id, depends_on=task.parents, **task.options)
        except StoreError as error:
            self._history.enqueued(task.id, task.parents, known=False)
            excuses = self.unavailable if isinstance(error, StoreUnavailable) else self.refused
            excuses[task.id] = f"{task.id} couldn't be enqueued: {error}"
            return False
        self._history.enqueued(task.id, task.parents)
        return True
