"""The result store is away while the queue isn't: claiming stops at a bound, nothing runs again, all is seen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import BreakerOpen, StoreUnavailable
from omniq.models import TaskState
from omniq.models.config import BreakerConfig
from omniq.storage.records import BreakerState
from omniq.testing import ReferenceSpace

from tests.core import tasks
from tests.core.support import SOON, lines, reference_place, results_of, task_queue, until, working
from tests.core.support import front_door as door
from tests.core.workers.test_outages import FlakyQueueStore, FlakyResultStore, Switch

pytestmark = pytest.mark.starvable

COUNT = 60
LEASE = 2.0


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def elsewhere() -> ReferenceSpace:
    return ReferenceSpace()


@pytest.fixture
def oq(switch: Switch, elsewhere: ReferenceSpace) -> AsyncOmniQ:
    return door(reference_place(results=lambda _: FlakyResultStore(elsewhere, switch)))


def state(oq: AsyncOmniQ, space: ReferenceSpace) -> BreakerState:
    (found,) = [each.state for each in oq.breakers() if each.location == space.location]
    return found


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_claiming_stops_at_a_bound_and_all_is_settled_soon_after(
    oq: AsyncOmniQ, switch: Switch, elsewhere: ReferenceSpace, log: Path, kind: str
) -> None:
    async with oq, working(oq, kind, lease=LEASE, prefetch=3) as pool:
        switch.away = True
        ids = await asyncio.gather(*(oq.enqueue(tasks.append, [str(log), str(n)]) for n in range(COUNT)))
        bound = pool.max_workers + 3
        await until(lambda: sum(job.done for job in pool.in_flight.held.values()) == bound)
        await until(lambda: state(oq, elsewhere) is not BreakerState.CLOSED)
        await _until_seen(oq, pool.name, elsewhere)
        await asyncio.sleep(LEASE)  # every lease would be over
        assert len(lines(log)) == bound
        assert len(pool.in_flight.held) == bound
        switch.away = False
        began = time.monotonic()
        assert sorted(map(int, await results_of(oq, ids))) == list(range(COUNT))
        assert time.monotonic() - began < 5.0
        assert state(oq, elsewhere) is BreakerState.CLOSED
    assert sorted(map(int, lines(log))) == list(range(COUNT))
    assert {(await oq.get_task(id_)).epoch for id_ in ids} == {1}


async def _until_seen(oq: AsyncOmniQ, name: str, space: ReferenceSpace) -> None:
    """Wait until the worker's record tells of an open breaker."""
    async with asyncio.timeout(SOON):
        while True:
            (worker,) = await oq.task_queue.store.workers()
            found = {each.location: each for each in worker.breakers}
            assert worker.name == name
            if found and found[space.location].state is not BreakerState.CLOSED:
                break
            await asyncio.sleep(0.05)
    assert found[space.location].error == "the store is away"
    assert found[oq.task_queue.store.location].state is BreakerState.CLOSED


async def test_the_log_tells_of_an_outage_and_not_of_every_call(
    oq: AsyncOmniQ, switch: Switch, elsewhere: ReferenceSpace, caplog: pytest.LogCaptureFixture
) -> None:
    async with oq, working(oq, "async", lease=LEASE):
        waiting = await oq.enqueue(tasks.nothing, run_in=SOON)
        watching = asyncio.ensure_future(_watch(oq, waiting))
        await asyncio.sleep(0.1)  # it has looked once
        switch.away = True
        task_id = await oq.enqueue(tasks.add, [1, 2])
        await until(lambda: state(oq, elsewhere) is BreakerState.OPEN)
        caplog.clear()
        await until(lambda: switch.refusals > 12)
        switch.away = False
        assert await oq.get_result(task_id, timeout=SOON) == 3
        watching.cancel()
    assert [r.getMessage() for r in caplog.records if "can't be " in r.getMessage()] == []


async def _watch(oq: AsyncOmniQ, task_id: str) -> None:
    async for _ in oq.watch(task_id):
        pass


async def test_what_was_run_and_cannot_be_settled_goes_back_when_the_worker_stops(
    oq: AsyncOmniQ, switch: Switch, log: Path
) -> None:
    async with oq:
        async with working(oq, "async", grace_period=0.3, lease=60.0):
            switch.away = True
            task_id = await oq.enqueue(tasks.append, [str(log), "ran"])
            await until(lambda: switch.refusals > 1)
        task = await oq.get_task(task_id)
        assert (task.state, task.attempts, task.crashes) == (TaskState.PENDING, 0, 0)
        switch.away = False
        async with working(oq, "async"):  # at once, though the lease would hold for a minute
            assert await oq.get_result(task_id, timeout=SOON) == "ran"
    assert lines(log) == ["ran", "ran"]


async def test_a_stopping_worker_waits_for_its_results_to_be_stored(oq: AsyncOmniQ, switch: Switch, log: Path) -> None:
    async with oq:
        async with working(oq, "async", grace_period=SOON):
            switch.away = True
            task_id = await oq.enqueue(tasks.append, [str(log), "ran"])
            await until(lambda: switch.refusals > 1)
            asyncio.get_running_loop().call_later(1.0, setattr, switch, "away", False)
        assert await oq.get_result(task_id, timeout=SOON) == "ran"
    assert lines(log) == ["ran"]


async def test_results_are_read_while_the_queue_is_away(switch: Switch, elsewhere: ReferenceSpace) -> None:
    place = reference_place(queue=lambda space: FlakyQueueStore(space, switch))
    results = reference_place(elsewhere).results
    oq = AsyncOmniQ(
        task_queue=task_queue(place),
        result_store=door(reference_place(results=lambda _: results())).result_store,
        config={"breaker": {"failures": 2, "pause": 30, "max_pause": 60}},
    )
    async with oq:
        async with working(oq, "async"):
            task_id = await oq.enqueue(tasks.add, [1, 2])
            assert await oq.get_result(task_id, timeout=SOON) == 3
        switch.away = True
        with pytest.raises(StoreUnavailable):
            await oq.enqueue(tasks.nothing)
        await asyncio.sleep(0.5)
        with pytest.raises(StoreUnavailable):
            await oq.enqueue(tasks.nothing)
        assert state(oq, elsewhere) is BreakerState.CLOSED
        refusals = switch.refusals
        with pytest.raises(BreakerOpen, match="isn't asked just now: the store is away"):
            await oq.enqueue(tasks.nothing)
        assert switch.refusals == refusals
        stored = await oq.result_store.get(task_id)
        assert stored is not None
        assert stored.value == 3


async def test_thresholds_come_from_the_configuration_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_BREAKER_FAILURES", "7")
    for oq in (
        AsyncOmniQ(config={"breaker": {"pause": 0.3}}),
        AsyncOmniQ(config={"breaker": {"pause": 0.3}}, task_queue=task_queue(reference_place())),
    ):
        stores = oq.task_queue.stores
        for store in (stores.queue, stores.results, oq.result_store.store):
            assert store.breaker.config == BreakerConfig(failures=7, pause=0.3)  # type: ignore[union-attr]
    assert task_queue(reference_place()).store.breaker.config == BreakerConfig(failures=7)  # type: ignore[attr-defined]
