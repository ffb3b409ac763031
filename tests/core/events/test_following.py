"""Events are followed and handled: none is missed, whenever it is stored and whoever was away meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, clock
from omniq.errors import BlockingCallInLoop, Closed, ConfigError, InvalidTask, StoreUnavailable
from omniq.events import AsyncEventProcessor, AsyncEventStorage, AsyncEventStream, EventProcessor, EventStorage
from omniq.events.processing import GRACE
from omniq.models import EventType
from omniq.models.event import TaskEvent
from omniq.models.task import new_event_id
from omniq.storage.records import EventFilter, EventPage
from omniq.testing import ReferenceEventStore, ReferenceSpace, VirtualClock

from tests.core import tasks
from tests.core.support import SOON, Place, blocking_door, event_storage, front_door, reference_place, until

E = EventType
FAST: dict[str, Any] = {"poll_interval": 0.01}


@pytest.fixture
async def oq(place: Place) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ that keeps events."""
    async with front_door(place, events=True) as oq:
        yield oq


@pytest.fixture
async def storage(place: Place) -> AsyncIterator[AsyncEventStorage[Any]]:
    """The events, into which a test puts what it likes."""
    async with event_storage(place) as storage:
        yield storage


def event(seconds_ago: float, task_id: str, type_: EventType = E.COMPLETE) -> TaskEvent:
    """Something that happened so long ago."""
    return TaskEvent(id=new_event_id(), type=type_, time=clock.now() - seconds_ago, task_id=task_id)


async def take(stream: AsyncEventStream, count: int) -> list[str | None]:
    """The tasks of the next events."""
    async with asyncio.timeout(SOON):
        return [(await anext(stream)).task_id for _ in range(count)]


async def nothing_comes(stream: AsyncEventStream, storage: AsyncEventStorage[Any]) -> None:
    """Whatever was stored before, nothing is given before what is stored now."""
    await storage.store.append([event(0, "mark")])
    assert await take(stream, 1) == ["mark"]


class TestFollowing:
    async def test_events_are_given_as_they_happen(self, oq: AsyncOmniQ) -> None:
        await oq.enqueue(tasks.nothing, task_id="before")
        await oq.events.flush()
        following = oq.events(follow=True, type=["ENQUEUED", E.CANCELLED], **FAST)
        for n in range(3):
            await oq.enqueue(tasks.nothing, task_id=f"t{n}")
            await oq.cancel(f"t{n}")
        assert await take(following, 6) == ["t0", "t0", "t1", "t1", "t2", "t2"]

    async def test_late_ones_are_given_late_and_none_twice(self, storage: AsyncEventStorage[Any]) -> None:
        stream = storage.follow(since=clock.utc(clock.now() - 60), **FAST)
        await storage.store.append([event(1, "new"), event(2, "old")])
        assert await take(stream, 2) == ["old", "new"]
        await storage.store.append([event(20, "late")])
        assert await take(stream, 1) == ["late"]
        await nothing_comes(stream, storage)

    async def test_the_overlap_is_as_long_as_one_likes(self, storage: AsyncEventStorage[Any]) -> None:
        stream = storage.follow(since=clock.utc(clock.now() - 60), **FAST, overlap=5)
        await storage.store.append([event(0.5, "new")])
        assert await take(stream, 1) == ["new"]
        await storage.store.append([event(20, "too late"), event(4, "late")])
        assert await take(stream, 1) == ["late"]

    async def test_a_host_whose_clock_is_ahead_hides_no_others(self, storage: AsyncEventStorage[Any]) -> None:
        stream = storage.follow(**FAST)
        await storage.store.append([event(-3600, "ahead")])
        assert await take(stream, 1) == ["ahead"]
        await nothing_comes(stream, storage)

    async def test_who_follows_what_is_rare_looks_back_no_further(self) -> None:
        store = AwayStore(ReferenceSpace())
        storage = event_storage(reference_place(events=lambda _: store))
        stream = storage.follow(since=clock.utc(clock.now() - 1000), type=E.ERROR, **FAST)
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: len(store.asked) > 3)
        assert clock.now() - 90 < store.asked[-1] < clock.now() - 30
        waiting.cancel()

    async def test_a_cursor_goes_on_where_another_stopped(self, storage: AsyncEventStorage[Any]) -> None:
        stream = storage.follow(**FAST)
        given = [event(-n / 1000, f"t{n}") for n in range(6)]
        await storage.store.append(given)
        assert await take(stream, 3) == ["t0", "t1", "t2"]
        cursor = stream.cursor
        await storage.store.append([event(1, "late")])
        again = storage.follow(after=cursor, **FAST)
        assert await take(again, 4) == ["late", "t3", "t4", "t5"]
        by_event = storage.follow(after=given[4].cursor, **FAST)
        assert "t5" in await take(by_event, 6)  # all but that event, since nothing tells what else was given

    async def test_beyond_what_a_cursor_names_some_come_again(self, storage: AsyncEventStorage[Any]) -> None:
        await storage.store.append([event(1 + n / 100, f"t{n}") for n in range(300)])
        stream = storage.follow(since=clock.utc(clock.now() - 60), **FAST)
        assert len(set(await take(stream, 300))) == 300
        assert stream.cursor is not None
        assert len(stream.cursor) < 5000
        await storage.store.append([event(0, "next")])
        assert await take(storage.follow(after=stream.cursor, **FAST), 201) == [
            *(f"t{n}" for n in range(299, 99, -1)),
            "next",
        ]

    async def test_many_pages_are_given_in_order(self, storage: AsyncEventStorage[Any]) -> None:
        await storage.store.append([event(10 - n / 1000, f"t{n}") for n in range(1000)])
        await storage.store.append([event(9 - n / 1000, f"t{1000 + n}") for n in range(500)])
        stream = storage.follow(since=clock.utc(clock.now() - 60), **FAST)
        assert await take(stream, 1500) == [f"t{n}" for n in range(1500)]

    async def test_closing_ends_it(self, oq: AsyncOmniQ) -> None:
        waiting = asyncio.ensure_future(anext(oq.events(follow=True)))
        await asyncio.sleep(0.05)
        await oq.close()
        with pytest.raises(Closed):
            await waiting

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ({"until": clock.utc(0)}, "until: leave it out"),
            ({"oldest_first": False}, "oldest_first: "),
            ({"poll_interval": 0}, "poll_interval: expected more than 0"),
            ({"overlap": "long"}, "overlap: expected seconds"),
            ({"type": "NOBODYS"}, "type: 'NOBODYS'"),
            ({"type": []}, "type: expected one type of events, or several"),
            ({"wroker": "w"}, "wroker: no such condition, did you mean 'worker'"),
            ({"name": 1}, "name: expected text"),
            ({"after": "x"}, "after: expected a cursor"),
        ],
    )
    async def test_what_cannot_be_is_said_at_once(self, oq: AsyncOmniQ, arguments: Any, complaint: str) -> None:
        with pytest.raises(InvalidTask, match=f"^{complaint}"):
            oq.events(follow=True, **arguments)

    def test_blocking_code_follows_too(self, place: Place) -> None:
        with blocking_door(place, events=True) as oq:
            following = oq.events(follow=True, **FAST)
            ids = [oq.enqueue(tasks.nothing) for _ in range(3)]
            assert [event.task_id for event in islice(following, 3)] == ids
            assert [event.task_id for event in oq.events(after=following.cursor)] == []
            assert [event.task_id for event in oq.events()] == ids
            following.close()
            assert list(following) == []

    async def test_blocking_iterators_are_not_for_loops(self, place: Place) -> None:
        with pytest.raises(BlockingCallInLoop):
            next(EventStorage(event_storage(place)).iterate())


class AwayStore(ReferenceEventStore):
    """Can't be reached while it is told so."""

    def __init__(self, space: ReferenceSpace) -> None:
        super().__init__(space)
        self.is_away = False
        self.asked: list[float] = []

    async def query(self, where: EventFilter, **how: Any) -> EventPage:
        self.asked.append(where.since or 0.0)
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().query(where, **how)

    async def append(self, events: Sequence[TaskEvent]) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        await super().append(events)

    async def connect(self) -> None:
        self.asked.append(0.0)
        if self.is_away:
            raise StoreUnavailable("away")


class TestOutages:
    async def test_what_happened_meanwhile_is_given_later(
        self, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = AwayStore(ReferenceSpace())
        stream = event_storage(reference_place(events=lambda _: store)).follow(**FAST)
        await store.append([event(0, "before")])
        assert await take(stream, 1) == ["before"]
        store.is_away = True
        waiting = asyncio.ensure_future(take(stream, 1))
        await until(lambda: "can't be followed" in caplog.text)
        virtual_clock.advance(1000)  # far longer than the overlap
        store.is_away = False
        await store.append([event(0, "other")])
        assert await waiting == ["other"]
        await store.append([event(990, "late")])  # its process comes a moment later
        assert await take(stream, 1) == ["late"]
        assert caplog.text.count("can't be followed") == 1

    async def test_one_that_is_away_from_the_start_is_an_error(self) -> None:
        store = AwayStore(ReferenceSpace())
        store.is_away = True
        async with front_door(reference_place(events=lambda _: store), events=True) as oq:
            with pytest.raises(StoreUnavailable):
                await anext(oq.events(follow=True))
            with pytest.raises(StoreUnavailable):
                await oq.list_events()


HANGING = """
import threading
from omniq import OmniQ
from omniq.events import EventProcessor

begun = threading.Event()
with OmniQ(config={"task_queue": "sqlite:///queue.db", "event_store": "sqlite:///events.db"}) as oq:
    processor = EventProcessor(oq.events, poll_interval=0.01)

    @processor.on()
    def hang(event):
        begun.set()
        threading.Event().wait()

    processor.start()
    oq.pause_queue()
    begun.wait()
    processor.stop(0.01)
"""


class TestHandling:
    async def test_each_event_goes_to_its_handlers(self, oq: AsyncOmniQ) -> None:
        processor = AsyncEventProcessor(oq.events, **FAST)
        seen: list[tuple[str, str | None]] = []
        threads: set[str] = set()

        @processor.on(E.CANCELLED, "enqueued")
        async def some(event: TaskEvent) -> None:
            seen.append((f"some {event.type}", event.task_id))

        @processor.on()
        def every(event: TaskEvent) -> None:
            threads.add(threading.current_thread().name)
            seen.append((f"every {event.type}", event.task_id))

        async with processor:
            await oq.enqueue(tasks.nothing, task_id="t")
            await oq.cancel("t")
            await oq.task_queue.pause_queue()
            await until(lambda: len(seen) == 5)
        assert seen == [
            ("some ENQUEUED", "t"),
            ("every ENQUEUED", "t"),
            ("some CANCELLED", "t"),
            ("every CANCELLED", "t"),
            ("every QUEUE_PAUSED", None),
        ]
        assert threading.current_thread().name not in threads
        assert not processor.running

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
    async def test_a_handler_that_fails_hurts_nobody(
        self, oq: AsyncOmniQ, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        processor = AsyncEventProcessor(oq.events, **FAST)
        seen: list[str | None] = []

        @processor.on()
        async def bad(event: TaskEvent) -> None:
            raise ValueError("no")

        @processor.on()
        def worse(event: TaskEvent) -> None:
            raise error

        @processor.on()
        async def worst(event: TaskEvent) -> None:
            raise error

        processor.on()(lambda event: seen.append(event.task_id))
        async with processor:
            for n in range(3):
                await oq.enqueue(tasks.nothing, task_id=f"t{n}")
            await until(lambda: len(seen) == 3)
        assert seen == ["t0", "t1", "t2"]
        assert [caplog.text.count(f"{name} failed at event") for name in ("bad", "worse", "worst")] == [3, 3, 3]

    async def test_a_handler_may_stop_it(self, oq: AsyncOmniQ) -> None:
        processor = AsyncEventProcessor(oq.events, **FAST)
        seen: list[str | None] = []

        @processor.on()
        async def end(event: TaskEvent) -> None:
            await processor.stop()
            seen.append(event.task_id)

        await processor.start()
        for n in range(3):
            await oq.enqueue(tasks.nothing, task_id=f"t{n}")
        async with asyncio.timeout(GRACE / 2):
            await until(lambda: not processor.running)
        assert seen == ["t0"]
        await processor.start()
        await until(lambda: not processor.running)
        assert seen == ["t0", "t1"]

    async def test_it_goes_on_at_its_cursor(self, storage: AsyncEventStorage[Any]) -> None:
        seen: list[str | None] = []
        first = AsyncEventProcessor(storage, **FAST)
        first.on()(lambda event: seen.append(event.task_id))
        async with first:
            await storage.store.append([event(0, "a"), event(0, "b")])
            await until(lambda: len(seen) == 2)
        await storage.store.append([event(0, "c")])
        async with first:  # the same one goes on
            await until(lambda: len(seen) == 3)
        await storage.store.append([event(0, "d")])
        second = AsyncEventProcessor(storage, after=first.cursor, **FAST)
        second.on()(lambda event: seen.append(event.task_id))
        async with second:
            await until(lambda: len(seen) == 4)
        assert seen == ["a", "b", "c", "d"]

    async def test_what_is_not_done_with_comes_again(self, storage: AsyncEventStorage[Any]) -> None:
        processor = AsyncEventProcessor(storage, **FAST)
        begun, done = asyncio.Event(), list[str | None]()

        @processor.on()
        async def slow(event: TaskEvent) -> None:
            begun.set()
            if event.task_id == "b" and not done[1:]:
                done.append("cut")
                await asyncio.Event().wait()
            done.append(event.task_id)

        await processor.start()
        await storage.store.append([event(0, "a"), event(0, "b")])
        await until(lambda: done == ["a", "cut"])
        await processor.stop(0.01)
        cursor = processor.cursor
        async with processor:
            await until(lambda: done == ["a", "cut", "b"])
        again = AsyncEventProcessor(storage, after=cursor, **FAST)
        again.on()(lambda event: done.append(event.task_id))
        async with again:
            await until(lambda: done == ["a", "cut", "b", "b"])
        assert cursor != processor.cursor

    async def test_it_begins_before_its_store_can_be_reached(self) -> None:
        store = AwayStore(ReferenceSpace())
        store.is_away = True
        seen: list[str | None] = []
        processor = AsyncEventProcessor(event_storage(reference_place(events=lambda _: store)), **FAST)
        processor.on()(lambda event: seen.append(event.task_id))
        async with processor:
            await until(lambda: len(store.asked) > 0)
            store.is_away = False
            await store.append([event(0, "a")])
            await until(lambda: seen == ["a"])

    async def test_it_ends_with_its_storage(self, storage: AsyncEventStorage[Any]) -> None:
        processor = AsyncEventProcessor(storage, **FAST)
        await processor.start()
        await asyncio.sleep(0.05)
        await storage.close()
        await until(lambda: not processor.running)
        await processor.stop()
        assert not processor.running

    def test_blocking_code_handles_events_too(self, place: Place) -> None:
        seen: list[str | None] = []
        with blocking_door(place, events=True) as oq:
            processor = EventProcessor(oq.events, type=E.ENQUEUED, **FAST)
            processor.on("ENQUEUED")(lambda event: seen.append(event.task_id))
            with processor:
                assert processor.running
                ids = [oq.enqueue(tasks.nothing) for _ in range(3)]
                wait_for(lambda: seen == ids)
            assert not processor.running
            oq.enqueue(tasks.nothing, task_id="more")
            other = EventProcessor(oq.events, after=processor.cursor, **FAST)
            other.on()(lambda event: seen.append(event.task_id))
            with other:
                wait_for(lambda: seen == [*ids, "more"])

    def test_blocking_handlers_may_stop_it_too(self, place: Place) -> None:
        seen: list[str | None] = []
        with blocking_door(place, events=True) as oq:
            processor = EventProcessor(oq.events, **FAST)

            @processor.on()
            def end(event: TaskEvent) -> None:
                processor.stop()
                seen.append(event.task_id)

            processor.start()
            ids = [oq.enqueue(tasks.nothing) for _ in range(3)]
            wait_for(lambda: not processor.running, GRACE / 2)
            processor.stop()
        assert seen == ids[:1]

    def test_nobody_waits_at_the_end_for_a_handler_that_hangs(self, tmp_path: Path) -> None:
        program = tmp_path / "program.py"
        program.write_text(HANGING)
        subprocess.run([sys.executable, program], cwd=tmp_path, timeout=SOON, check=True)

    @pytest.mark.parametrize("source", [None, "oq", 1])
    def test_a_source_that_is_none(self, source: Any) -> None:
        with pytest.raises(ConfigError, match="^source: expected oq.events or an event storage"):
            AsyncEventProcessor(source)

    def test_a_handler_that_is_none(self, place: Place) -> None:
        processor = AsyncEventProcessor(event_storage(place))
        with pytest.raises(InvalidTask, match="^type: .* is no type of events"):
            processor.on(lambda event: None)  # type: ignore[arg-type]  # the parentheses were forgotten
        with pytest.raises(InvalidTask, match="^on: expected a function"):
            processor.on()(3)  # type: ignore[type-var]


def wait_for(condition: Any, timeout: float = SOON) -> None:
    """Wait, in blocking code."""
    asyncio.run(until(condition, timeout))
