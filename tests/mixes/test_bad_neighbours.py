"""One caller's bad item, and those who call at the same time: on every store only the one pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, OmniQError, ResultTimeout, StoreError, TaskNotFound
from omniq.models import EventType, TaskEvent
from omniq.queue.request import RequestBuilder
from omniq.storage.records import NewTask
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import SOON, working
from tests.mixes.places import CLASSES, WITH_EVENTS
from tests.mixes.support import Url, on_one_redis

pytestmark = on_one_redis

BAD = ["\ud83d", "a\x00b", "", "x" * 256]
UNSTORABLE = "a\x00\ud83d"
"""What no store keeps, as an id that gets past the checks."""


def door(url: Url, *, events: bool = False) -> AsyncOmniQ:
    parts = ["task_queue", "result_store", *(["event_store"] if events else [])]
    return AsyncOmniQ(config={part: {"url": url} for part in parts})


@pytest.fixture(params=list(CLASSES))
async def oq(request: pytest.FixtureRequest, urls: dict[str, Url]) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ with all parts in one store."""
    async with door(urls[request.param]) as oq:
        yield oq


async def test_a_bad_id_is_refused_and_the_others_get_their_results(oq: AsyncOmniQ) -> None:
    async with working(oq, "async"):
        good = await oq.enqueue(tasks.add, [1, 2])
        calls = [oq.get_result(id_, timeout=SOON) for id_ in (good, *BAD, good, "nobody")]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answer if answer == 3 else type(answer) for answer in answers] == [3, *[InvalidTask] * 4, 3, TaskNotFound]


@pytest.mark.parametrize("oq", ["sqlite", "postgres", "redis"], indirect=True)  # others can be asked for anything
async def test_a_result_that_cannot_be_asked_for_keeps_nobody_waiting(oq: AsyncOmniQ) -> None:
    results = oq.result_store
    async with working(oq, "async"):
        good = await oq.enqueue(tasks.add, [1, 2])
        await results.wait(good, SOON)
        gets, watcher = results._gets.get(), results._watchers.get()
        async with asyncio.timeout(SOON):
            answers = await asyncio.gather(
                gets.submit(good), gets.submit(UNSTORABLE), gets.submit("nobody"), return_exceptions=True
            )
            found, refused = await asyncio.gather(watcher.wait(good), watcher.wait(UNSTORABLE), return_exceptions=True)
    assert isinstance(answers[1], Exception)
    assert isinstance(refused, Exception)
    assert (getattr(answers[0], "task_id", None), answers[2]) == (good, None)
    assert getattr(found, "task_id", None) == good


async def test_a_task_that_cannot_be_stored_keeps_no_other_from_it(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = RequestBuilder.build

    def unchecked(self: RequestBuilder, *args: Any) -> NewTask:
        task = build(self, *args)
        return replace(task, run_at="soon", id="bad") if task.priority == 13 else task

    monkeypatch.setattr(RequestBuilder, "build", unchecked)
    calls = [oq.enqueue(tasks.add, [n, 1], priority=n) for n in range(40)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if not isinstance(answer, str)] == [13]
    assert {task.id for task in await oq.list_tasks()} == {answer for answer in answers if isinstance(answer, str)}


@pytest.mark.parametrize("store", WITH_EVENTS)
async def test_an_event_that_cannot_be_stored_keeps_no_other_from_it(urls: dict[str, Url], store: str) -> None:
    async with door(urls[store], events=True) as oq:
        for n in range(40):
            oq.events.log(EventType.RETRY, task_id=f"t{n}", worker="a\x00\ud83d" if n == 13 else "w")
        kept: list[TaskEvent] = await oq.list_events(type="RETRY", oldest_first=True)
        assert [event.task_id for event in kept] == [f"t{n}" for n in range(40) if n != 13]
        assert oq.events.dropped == 1


async def test_rows_with_odd_times_spoil_no_list(oq: AsyncOmniQ) -> None:
    store = oq.task_queue.store
    odd = {f"odd{n}": at for n, at in enumerate((1e12, 253_402_300_800.0, -1e12))}
    await store.add([NewTask(id=id_, queue_name="default", body=b"", run_at=at, ttl=1e9) for id_, at in odd.items()])
    good = await oq.enqueue(tasks.nothing)
    assert {task.id for task in await oq.list_tasks()} == {good, *odd}
    assert [(await oq.get_task(id_)).run_at.year for id_ in odd] == [9999, 9999, 1]


async def test_a_schedule_that_is_declared_at_each_start_fires(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    fired = 0
    for _ in range(8):
        await oq.schedule(tasks.nothing, interval=60, schedule_id="r")
        virtual_clock.advance(30)
        fired += await oq.task_queue.scheduler.fire_due()
    assert fired == 4
    await oq.pause_schedule("r")
    await asyncio.gather(*(oq.schedule(tasks.nothing, interval=60 + n, schedule_id="r") for n in range(5)))
    assert (await oq.get_schedule("r")).paused
    found = await oq.list_tasks()
    assert [task.run_at for task in found] == sorted(task.run_at for task in found)


async def test_closing_while_others_wait_is_told_to_them(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.nothing)
    with pytest.raises(ResultTimeout):
        await oq.get_result(task_id, timeout=0.1)
    calls = [
        asyncio.create_task(oq.get_result(task_id)),
        asyncio.create_task(oq.result_store.wait(task_id)),
        *(asyncio.create_task(oq.enqueue(tasks.nothing)) for _ in range(20)),
        *(asyncio.create_task(oq.get_task(task_id)) for _ in range(20)),
        *(asyncio.create_task(oq.list_tasks()) for _ in range(20)),
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(SOON):
        await oq.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(error, OmniQError) for error in errors), errors
    assert not any(isinstance(answer, BaseException) for answer in answers[2:22])
    assert isinstance(answers[0], OmniQError)
    assert not isinstance(answers[0], StoreError)
