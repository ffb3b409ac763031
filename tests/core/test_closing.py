"""Closing what others wait on: they are told by an error of OmniQ's, and only who is cancelled is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import Closed, OmniQError, WorkerError
from omniq.models import EventType
from omniq.sync import Portal

from tests.core import tasks
from tests.core.support import SOON, Place, blocking_door, front_door, lines, until, working

WAITS: dict[str, Any] = {
    "get_result": lambda oq, task_id: oq.get_result(task_id),
    "get_result of a schedule": lambda oq, task_id: oq.get_result(schedule_id="s"),
    "result_store.wait": lambda oq, task_id: oq.result_store.wait(task_id),
}
CLOSES: dict[str, Any] = {
    "all": lambda oq: oq.close(),
    "results": lambda oq: oq.result_store.close(),
    "queue": lambda oq: oq.task_queue.close(),
}


@pytest.mark.parametrize("closed", CLOSES)
@pytest.mark.parametrize("wait", WAITS)
async def test_who_waits_hears_that_it_was_closed(oq: AsyncOmniQ, wait: str, closed: str) -> None:
    if (wait, closed) == ("result_store.wait", "queue"):
        closed = "results"  # the queue has no part in it
    await oq.schedule(tasks.nothing, interval=3600, schedule_id="s")
    task_id = await oq.enqueue(tasks.nothing, run_in=3600)
    waiting = [asyncio.create_task(WAITS[wait](oq, task_id)) for _ in range(3)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(SOON):
        await CLOSES[closed](oq)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Closed] * 3
    assert isinstance(answers[0], OmniQError)
    assert (await oq.get_task(task_id)).id == task_id


async def test_a_task_group_does_not_swallow_it(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.nothing, run_in=3600)
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with asyncio.timeout(SOON), asyncio.TaskGroup() as group:
            group.create_task(oq.get_result(task_id))
            await asyncio.sleep(0.02)
            await oq.close()
    assert [type(error) for error in raised.value.exceptions] == [Closed]


async def test_a_real_cancellation_stays_one(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.nothing, run_in=3600)
    waiting = [asyncio.create_task(oq.get_result(task_id)) for _ in range(2)]
    await asyncio.sleep(0.02)
    waiting[0].cancel()
    closing = asyncio.create_task(oq.close())
    waiting[1].cancel()
    await asyncio.wait([closing, *waiting])
    assert [task.cancelled() for task in waiting] == [True, True]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await oq.get_result(task_id)


async def test_what_is_being_enqueued_is_enqueued(oq: AsyncOmniQ) -> None:
    calls = [asyncio.create_task(oq.enqueue(tasks.nothing)) for _ in range(50)]
    await asyncio.sleep(0)
    await oq.close()
    ids = await asyncio.gather(*calls)
    assert {task.id for task in await oq.list_tasks()} == set(ids)


async def test_who_waits_for_events_to_be_written_waits_no_longer(place: Place) -> None:
    async with front_door(place, events=True) as oq:
        for _ in range(2000):
            oq.events.log(EventType.RETRY, task_id="t")
        flushes = [asyncio.create_task(oq.events.flush()) for _ in range(3)]
        await asyncio.sleep(0)
        async with asyncio.timeout(SOON):
            await oq.close()
            await asyncio.gather(*flushes)
        assert len(await oq.list_events(limit=5000)) == 2000


async def test_a_worker_that_stops_is_not_waited_for(oq: AsyncOmniQ, log: Path, gate: Path) -> None:
    async with working(oq, "async") as pool:
        await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        await until(lambda: len(lines(log)) == 1)
        drains = [asyncio.create_task(pool.drain()) for _ in range(2)]
        await asyncio.sleep(0.02)
        stopping = asyncio.create_task(pool.stop())
        async with asyncio.timeout(SOON):
            answers = await asyncio.gather(*drains, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Closed, Closed]
        gate.touch()
        await stopping
        with pytest.raises(WorkerError):
            await pool.drain()


def test_a_thread_that_waits_hears_that_another_has_closed(place: Place) -> None:
    oq = blocking_door(place)
    task_id = oq.enqueue(tasks.nothing, run_in=3600)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(oq.get_result, task_id) for _ in range(3)]
        asyncio.run(_until_waiting(oq.aio, 3))
        oq.close()
        assert [type(wait.exception(SOON)) for wait in waiting] == [Closed] * 3
    oq.close()


async def _until_waiting(oq: AsyncOmniQ, count: int) -> None:
    await until(lambda: sum(len(waits.open) for waits in list(oq.task_queue._waits._values.values())) == count)


def test_a_thread_that_waits_for_a_worker_hears_that_another_has_stopped_it(
    place: Place, log: Path, gate: Path
) -> None:
    oq = blocking_door(place)
    oq.enqueue(tasks.wait_for, [str(gate), str(log)])
    oq.start_worker("thread")
    pool = oq._worker
    assert pool is not None
    with ThreadPoolExecutor(1) as threads:
        asyncio.run(until(lambda: len(lines(log)) == 1))
        drain = threads.submit(pool.drain)
        asyncio.run(until(lambda: bool(pool.aio._drains.open)))
        opener = threading.Timer(0.1, gate.touch)
        opener.start()
        oq.stop_worker()
        assert type(drain.exception(SOON)) is Closed
        opener.join()
    oq.close()


def test_nobody_waits_for_a_portal_that_is_stopped() -> None:
    portal, begun = Portal("omniq-test"), threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(portal.call, wait())
        begun.wait(SOON)
        portal.stop()
        assert type(call.exception(SOON)) is Closed
