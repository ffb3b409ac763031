"""Why a task hasn't run, in one line, for each reason there is; and its history."""

from __future__ import annotations

from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, StoreUnavailable, TaskNotFound
from omniq.models import TaskState
from omniq.storage.records import BreakerState, BreakerStatus, EventFilter, EventPage, WorkerRecord
from omniq.testing import ReferenceEventStore, VirtualClock
from omniq.testing.builders import claim

from tests.core import tasks
from tests.core.support import Place, blocking_door, front_door, reference_place, until_states, working


async def why(oq: AsyncOmniQ, task_id: str) -> str:
    return (await oq.explain(task_id)).why


async def alive(oq: AsyncOmniQ, name: str = "w", **fields: object) -> None:
    """Let a worker be seen."""
    await oq.task_queue.store.beat(WorkerRecord(name=name, queues=("default",), slots=2, **fields))  # type: ignore[arg-type]


class TestWhy:
    async def test_parents(self, oq: AsyncOmniQ) -> None:
        parents = [await oq.enqueue(tasks.nothing, task_id=f"p{n}", run_in=60 * (n == 0)) for n in range(5)]
        child = await oq.enqueue(tasks.nothing, depends_on=parents)
        assert await why(oq, child) == "waits for p0 (scheduled), p1 (pending), p2 (pending) and 2 more"
        held = await oq.enqueue(tasks.nothing, depends_on=["p0"], on_parent_failure="hold")
        await oq.cancel("p0")
        assert await why(oq, held) == "it is held, since what it depends on hasn't succeeded: p0 (cancelled)"

    async def test_a_paused_queue(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        await oq.pause_queue()
        assert await why(oq, task_id) == "its queue 'default' is paused"

    async def test_a_time(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing, run_in=60)
        assert (await why(oq, task_id)).startswith("is due at 20")

    async def test_a_lack_of_workers(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        assert await why(oq, task_id) == "no worker is alive that serves its queue 'default'"
        await alive(oq)
        assert "waits for a free slot: 1 worker serves its queue 'default', 0 tasks in 2 slots" in await why(
            oq, task_id
        )
        virtual_clock.advance(60)
        assert (await why(oq, task_id)).startswith(
            "no worker is alive that serves its queue 'default'; w was last seen"
        )
        await alive(oq, "other", running=2)
        assert (await why(oq, task_id)).endswith("1 worker serves its queue 'default', 2 tasks in 2 slots")

    async def test_a_store_that_its_workers_wait_for(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        breaker = BreakerStatus(location="shelf:/x", state=BreakerState.OPEN, since=1_700_000_000, error="no answer")
        await oq.task_queue.store.beat(WorkerRecord(name="w", queues=("default",), slots=2, breakers=(breaker,)))
        assert await why(oq, task_id) == (
            "the workers of its queue 'default' wait for a store whose circuit breaker is open: "
            "shelf:/x since 2023-11-14T22:13:20Z (no answer)"
        )

    async def test_a_worker_that_has_it(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        await alive(oq)
        await claim(oq.task_queue.store, "default", lease=30.0, worker="w")
        assert (await why(oq, task_id)).startswith("runs: leased by worker w (last seen at ")
        await oq.cancel(task_id)
        assert (await why(oq, task_id)).endswith("or longer; it was asked to stop")
        virtual_clock.advance(31)
        assert (await why(oq, task_id)).startswith("the lease of worker w ran out at ")

    async def test_a_ttl(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.nothing, ttl=1)
        virtual_clock.advance(2)
        assert (await why(oq, task_id)).startswith("its TTL ended at ")
        await oq.task_queue.ttl.expire()
        assert (await why(oq, task_id)).endswith(": it wasn't started in time")

    async def test_an_end(self, oq: AsyncOmniQ) -> None:
        bad, good = await oq.enqueue(tasks.fail), await oq.enqueue(tasks.nothing)
        gone = await oq.enqueue(tasks.nothing, run_in=9)
        child = await oq.enqueue(tasks.nothing, depends_on=bad)
        await oq.cancel(gone)
        async with working(oq, "async"):
            await until_states(oq, [bad, good, child], TaskState.ERROR, TaskState.SUCCESS, TaskState.CANCELLED)
        assert (await why(oq, bad)).endswith(": ValueError: no luck")
        assert (await why(oq, good)).startswith("succeeded at ")
        assert (await why(oq, gone)).startswith("was cancelled at ")
        assert (await why(oq, child)).endswith(": ParentFailed: a task that it depends on didn't succeed")

    async def test_what_cannot_be_explained_is_told(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(TaskNotFound, match="nobody"):
            await oq.explain("nobody")
        with pytest.raises(InvalidTask, match="task_id: "):
            await oq.explain(7)  # type: ignore[arg-type]


class TestStory:
    async def test_a_retry_is_told_with_its_error(self, place: Place) -> None:
        async with front_door(place, events=True) as oq:
            task_id = await oq.enqueue(tasks.fail, max_retries=2, retry_delay=600)
            async with working(oq, "async"):
                await until_states(oq, [task_id], TaskState.SCHEDULED)
            told = await oq.explain(task_id)
            assert told.why.startswith("is tried again at ")
            assert told.why.endswith(", after attempt 1 failed with ValueError")
            words = " / ".join(step.text for step in told.history)
            for word in ("added to queue 'default'", "event ENQUEUED", "event EXECUTING", "event RETRY (attempt 1"):
                assert word in words
            assert told.history == sorted(told.history, key=lambda step: step.time)

    async def test_an_event_store_that_is_away_is_missed_by_nobody(self) -> None:
        async with front_door(reference_place(events=Away), events=True) as oq:
            task_id = await oq.enqueue(tasks.nothing)
            assert [step.text for step in (await oq.explain(task_id)).history] == ["added to queue 'default'"]

    def test_blocking_doors_tell_it_too(self, place: Place, log: Path) -> None:
        with blocking_door(place) as oq:
            task_id = oq.enqueue(tasks.append, [str(log), "line"])
            oq.start_worker("thread")
            oq.get_result(task_id, timeout=30)
            told = oq.explain(task_id)
        assert told.state is TaskState.SUCCESS
        assert any(step.text.startswith("attempt 1 began on worker ") for step in told.history)


class Away(ReferenceEventStore):
    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        raise StoreUnavailable("nobody answers")
