"""An event store that is slow, silent or away costs events, which are counted, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.config import EventsConfig
from omniq.config.loader import OmniQConfig
from omniq.errors import StoreError, StoreUnavailable
from omniq.events import AsyncEventLogger, logger
from omniq.models import EventType, TaskState
from omniq.models.event import TaskEvent
from omniq.queue.options import TaskCall
from omniq.storage.records import EventFilter
from omniq.testing import ReferenceEventStore, ReferenceSpace, VirtualClock

from tests.core import tasks
from tests.core.support import (
    SOON,
    Place,
    event_storage,
    front_door,
    reference_place,
    result_storage,
    results_of,
    sqlite_place,
    task_queue,
    until,
    working,
)

E = EventType


class TroubledStore(ReferenceEventStore):
    """Away or silent while it is told so; `lost` answers don't come back from what it has done."""

    def __init__(self, space: ReferenceSpace | None = None) -> None:
        super().__init__(space)
        self.is_away = False
        self.lost = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.purges: list[int] = []

    async def connect(self) -> None:
        await self._answer()

    async def append(self, events: Sequence[TaskEvent]) -> None:
        await self._answer()
        await super().append(events)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailable("the answer was lost")

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        self.purges.append(limit)
        return await super().purge(before=before, limit=limit)

    async def _answer(self) -> None:
        await self.answers.wait()
        if self.is_away:
            raise StoreUnavailable("away")


def door(place: Place, store: TroubledStore, **events: Any) -> AsyncOmniQ:
    """OmniQ whose events go there."""
    return AsyncOmniQ(
        task_queue=task_queue(place),
        result_store=result_storage(place),
        event_store=event_storage(reference_place(events=lambda _: store)),
        config=OmniQConfig(events=EventsConfig(**events)),
    )


def kinds(store: TroubledStore) -> list[EventType]:
    """What it has, in order."""
    return [event.type for *_, event in store.space.events]


class TestAtStart:
    @pytest.mark.parametrize("kind", ["async", "thread"])
    async def test_everything_works_and_events_flow_once_it_is_back(
        self, place: Place, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = TroubledStore()
        store.is_away = True
        async with door(place, store) as oq, working(oq, kind):
            ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(10)]
            assert await results_of(oq, ids) == [n + 1 for n in range(10)]
            with pytest.raises(StoreUnavailable):
                await oq.list_events()
            assert caplog.text.count("events can't be written") == 1
            store.is_away = False
            await until(lambda: kinds(store).count(E.COMPLETE) == 10)
            assert (kinds(store)[0], oq.events.dropped) == (E.WORKER_STARTED, 0)
            await until(lambda: caplog.text.count("events are written again") == 1)

    async def test_one_that_is_silent_keeps_nobody_waiting(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logger, "SILENCE", 0.1)
        monkeypatch.setattr(logger, "CONNECTING", 0.1)
        store = TroubledStore()
        store.answers.clear()
        async with asyncio.timeout(SOON), door(place, store) as oq, working(oq, "async"):
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2])) == 3
            assert await oq.enqueue_many([TaskCall(func=tasks.nothing)] * 100)

    async def test_one_that_is_to_keep_nothing_is_not_asked(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = TroubledStore()
        store.answers.clear()
        async with asyncio.timeout(logger.CONNECTING / 2), door(place, store, enabled=False) as oq:
            await oq.enqueue(tasks.nothing)
            store.answers.set()
            oq.events.configure(enabled=True)
            await oq.enqueue(tasks.nothing, task_id="t")
            assert [event.task_id for event in await oq.list_events()] == ["t"]
        assert "events can't be written" not in caplog.text

    async def test_one_that_cannot_be_used_is_an_error(self, place: Place) -> None:
        class Foreign(TroubledStore):
            async def connect(self) -> None:
                raise StoreError("of another version")

        with pytest.raises(StoreError, match="of another version"):
            async with door(place, Foreign()):
                pass


class TestUnderLoad:
    @pytest.mark.slow
    @pytest.mark.starvable
    async def test_tasks_run_as_fast_without_it(self, tmp_path: Any) -> None:
        store = TroubledStore()
        rates: dict[bool, list[float]] = {False: [], True: []}
        async with door(sqlite_place(tmp_path), store, buffer=500) as oq, working(oq, "async", max_workers=100) as pool:
            feeding = asyncio.ensure_future(feed(oq))
            for is_away in (False, True) * 3:
                store.is_away = is_away
                await asyncio.sleep(0.2)
                began, ended = time.monotonic(), sum(pool.ended.values())
                await asyncio.sleep(0.8)
                rates[is_away].append((sum(pool.ended.values()) - ended) / (time.monotonic() - began))
            assert not feeding.done()
            feeding.cancel()
            assert sum(rates[True]) >= 0.9 * sum(rates[False]) > 0
            assert oq.events.dropped > 0
            store.is_away = False
            count = len(store.space.events)
            await until(lambda: len(store.space.events) > count)

    async def test_bulk_enqueueing_drops_none(self, place: Place) -> None:
        store = TroubledStore()
        async with door(place, store, buffer=1000) as oq:
            ids = await oq.enqueue_many([TaskCall(func=tasks.nothing)] * 10_000)
            await oq.events.flush()
            assert oq.events.dropped == 0
            assert [event.task_id for *_, event in store.space.events if event.type is E.ENQUEUED] == ids

    async def test_bulk_enqueueing_waits_for_none_that_is_away(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logger, "SILENCE", 0.2)
        monkeypatch.setattr(logger, "CONNECTING", 0.2)
        store = TroubledStore()
        for trouble in ("away", "silent"):
            async with asyncio.timeout(SOON), door(place, store, buffer=100) as oq:
                store.is_away = trouble == "away"
                store.answers.clear() if trouble == "silent" else None
                assert len(await oq.enqueue_many([TaskCall(func=tasks.nothing)] * 3000)) == 3000
                assert oq.events.dropped >= 2000

    async def test_a_lost_answer_doubles_no_event(self) -> None:
        store = TroubledStore()
        store.lost = 2
        log = AsyncEventLogger(store)
        for n in range(10):
            log.log(E.RETRY, task_id=f"t{n}")
        await until(lambda: store.lost == 0)
        await log.close()
        assert [event.task_id for *_, event in store.space.events] == [f"t{n}" for n in range(10)]


class TestRetention:
    async def test_what_is_old_goes_in_bounded_batches(self, virtual_clock: VirtualClock) -> None:
        store = TroubledStore()
        log = AsyncEventLogger(store, EventsConfig(retention=3600))
        for _ in range(2500):
            log.log(E.RETRY)
        await log.flush()
        virtual_clock.advance(3601)
        log.log(E.COMPLETE)
        await log.flush()
        assert await log.purge() == 2500
        assert (kinds(store), store.purges) == ([E.COMPLETE], [1000, 1000, 1000])
        await log.close()

    async def test_what_is_kept_for_ever_stays(self, virtual_clock: VirtualClock) -> None:
        store = TroubledStore()
        log = AsyncEventLogger(store, EventsConfig(retention=None))
        log.log(E.RETRY)
        virtual_clock.advance(1e9)
        assert (await log.purge(), store.purges) == (0, [])
        await log.close()

    async def test_one_that_cannot_be_purged_ends_no_worker(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Buggy(TroubledStore):
            async def purge(self, *, before: float, limit: int = 1000) -> int:
                raise RuntimeError("a bug")

        monkeypatch.setattr(logger, "PURGE_INTERVAL", 0.02)
        place = reference_place()
        async with door(place, Buggy()) as oq, working(oq, "async"):
            await until(lambda: caplog.text.count("old events can't be deleted") > 1)
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3

    async def test_workers_see_to_it(
        self, place: Place, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logger, "PURGE_INTERVAL", 0.02)
        async with front_door(place, events=True) as oq:
            oq.events.log(E.RETRY, task_id="old")
            await oq.events.flush()
            virtual_clock.advance(8 * 86_400)
            async with working(oq, "async"):
                assert oq.event_store is not None
                while (await oq.event_store.store.query(EventFilter(types=(E.RETRY,)))).events:
                    await asyncio.sleep(0.01)
                assert await oq.list_events(type=E.WORKER_STARTED)


async def feed(oq: AsyncOmniQ) -> None:
    """Keep enough tasks in the queue."""
    while True:
        await oq.enqueue_many([TaskCall(func=tasks.nothing)] * 500)
        while sum(stats.counts.get(TaskState.PENDING, 0) for stats in await oq.task_queue.stats()) > 2000:
            await asyncio.sleep(0.01)
