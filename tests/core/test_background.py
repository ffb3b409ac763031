"""OmniQ's own work on shared loops: in nobody's context, ended by nobody's task, and on loops that go on."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
from omniq.loops import Background, drive, in_empty_context, inside, spawn
from omniq.models import TaskEvent
from omniq.storage.records import (
    Added,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewTask,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.sync import Portal, cancel_and_wait
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.threads import start_thread

from tests.core import tasks
from tests.core.support import SOON, front_door, reference_place, results_of, until, working
from tests.core.workers import rude

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
seen: dict[str, set[str]] = {}


def look(part: str) -> None:
    """Note what a part of OmniQ sees of the caller's context."""
    seen.setdefault(part, set()).add(variable.get())


class LookingQueue(ReferenceQueueStore):
    """Notes in which context the background calls it."""

    async def add(self, batch: Sequence[NewTask]) -> list[Added]:
        look("batcher")
        return await super().add(batch)

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        look("fetcher")
        return await super().claim(queues, limit=limit, lease=lease, worker=worker)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        look("listener")
        await super().wait(queues, timeout)

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        look("lease keeper")
        return await super().extend(leases, lease=lease)

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        look("reaper")
        return await super().lapsed(limit=limit, after=after)

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        look("upkeep")
        return await super().find(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=bodies)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        look("heart")
        return await super().beat(worker, leaving=leaving)


class LookingResults(ReferenceResultStore):
    """Notes in which context the watcher waits."""

    async def hear(self, timeout: float) -> None:
        look("watcher")
        await super().hear(timeout)


class LookingEvents(ReferenceEventStore):
    """Notes in which context events are written."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        look("event logger")
        await super().append(events)


async def test_nothing_that_starts_lazily_runs_in_the_first_callers_context() -> None:
    seen.clear()
    place = reference_place(queue=LookingQueue, results=LookingResults, events=LookingEvents)
    variable.set("the first caller's")
    async with front_door(place, events=True) as oq, working(oq, "async", lease=0.3):
        assert await results_of(oq, [await oq.enqueue(tasks.add, [1, 2])]) == [3]
        slow = await oq.enqueue(tasks.sleep, [0.3])
        assert await results_of(oq, [slow]) == [None]
        await until(lambda: len(seen) == 9)
    assert seen == {part: {"clean"} for part in seen}


async def test_a_thread_begins_in_an_empty_context() -> None:
    variable.set("the first caller's")
    found: list[str] = []
    start_thread(lambda: found.append(variable.get()), "omniq-test").join()
    assert found == ["clean"]


async def test_only_a_workers_tasks_cannot_cancel_what_runs_in_the_background() -> None:
    task = spawn(asyncio.sleep(SOON))
    await asyncio.sleep(0)
    asking = contextvars.copy_context()
    asking.run(inside.set, object())
    assert asking.run(task.cancel) is False
    await asyncio.sleep(0)
    assert not task.done()
    await asking.run(asyncio.create_task, cancel_and_wait(task))
    assert task.cancelled()
    other = spawn(asyncio.sleep(SOON))
    assert other.cancel()
    await asyncio.wait([other])
    assert isinstance(other, Background)


def test_what_runs_in_the_background_of_an_own_loop_can_time_out() -> None:
    portal = Portal("omniq-test")

    async def time_out() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    async def wait_for(coroutine: Coroutine[Any, Any, None]) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.shield(spawn(coroutine))

    try:
        for _ in range(2):
            portal.submit(wait_for(time_out())).result(SOON)
            with pytest.raises(TimeoutError):
                portal.submit(time_out()).result(SOON)
    finally:
        portal.stop()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_portal_goes_on_after_what_ends_its_loop(error: type[BaseException]) -> None:
    portal = Portal("omniq-test")

    async def answer() -> int:
        await asyncio.sleep(0.01)
        return 42

    def leave() -> None:
        raise error

    try:
        for end in (leave, portal.loop.stop, leave):
            waiting = portal.submit(answer())
            portal.loop.call_soon_threadsafe(end)
            assert waiting.result(SOON) == 42
        with pytest.raises(SystemExit):
            portal.call(rude.exits())
        assert portal.call(answer()) == 42
    finally:
        portal.stop()
    assert not portal.alive
    with pytest.raises(RuntimeError):
        portal.submit(answer())


def test_nobody_waits_for_ever_for_a_portal_that_ends() -> None:
    portal = Portal("omniq-test")
    waiting = portal.submit(asyncio.sleep(SOON))
    portal.end()
    with pytest.raises(CancelledError):
        waiting.result(SOON)
    portal.thread.join(SOON)
    with pytest.raises(RuntimeError):
        portal.call(tasks.nothing_async())


def test_a_coroutine_is_driven_to_its_end_whatever_stops_its_loop() -> None:
    loop = asyncio.new_event_loop()

    async def work() -> str:
        loop.call_soon(loop.stop)
        loop.call_soon(sys.exit)
        await asyncio.sleep(0.01)
        return "done"

    try:
        assert drive(loop, work()) == "done"
        with pytest.raises(ValueError, match="no luck"):
            drive(loop, tasks.fail_async())
    finally:
        loop.close()


@pytest.mark.parametrize("turns", range(6))
async def test_what_a_cancelled_caller_does_not_get_is_dropped(turns: int) -> None:
    made, dropped, got = list[str](), list[str](), list[str]()

    async def make() -> str:
        await asyncio.sleep(0)
        made.append("a connection")
        return made[-1]

    async def call() -> None:
        got.append(await in_empty_context(make(), drop=dropped.append))

    calling = asyncio.create_task(call())
    for _ in range(turns):
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    assert got + dropped == made
