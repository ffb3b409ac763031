"""Circuit breakers: when they open, what they let through, and what tells them that a store works again."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from omniq.batching import repeated
from omniq.errors import BreakerOpen, PayloadTooLarge, StoreError, StoreFull, StoreUnavailable
from omniq.models.config import BreakerConfig
from omniq.storage import BaseEventStorage, BaseResultStorage, BaseTaskQueue
from omniq.storage.breakers import (
    UNGUARDED,
    Breaker,
    GuardedEvents,
    GuardedQueue,
    GuardedResults,
    GuardedStore,
    breaker_at,
    breakers_of,
    guarded,
    unguarded,
)
from omniq.storage.records import Lease, WorkerRecord
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore, ReferenceSpace, VirtualClock

CONFIG = BreakerConfig(failures=3, window=10.0, pause=1.0, max_pause=4.0)
AWAY = StoreUnavailable("it is away")


@pytest.fixture
def breaker(virtual_clock: VirtualClock) -> Breaker:
    return Breaker("shelf:/x", CONFIG)


def fail(breaker: Breaker, *, times: int = 1, every: float = 0.0, clock: VirtualClock | None = None) -> None:
    for number in range(times):
        if number and clock is not None:
            clock.advance(every)
        breaker.failed(breaker.enter(), AWAY)


def opened(breaker: Breaker, clock: VirtualClock) -> Breaker:
    fail(breaker, times=3, every=0.6, clock=clock)
    assert breaker.status.state == "open"
    return breaker


# ── opening ─────────────────────────────────────────────────────────────────


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    began = virtual_clock.now()
    fail(breaker, times=2, every=0.6, clock=virtual_clock)
    assert breaker.status.state == "closed"
    assert breaker.status.error is None
    virtual_clock.advance(0.6)
    fail(breaker)
    assert breaker.status.state == "open"
    assert breaker.status.error == "it is away"
    assert breaker.status.since == pytest.approx(began, abs=0.5)
    with pytest.raises(BreakerOpen, match=r"shelf:/x: it has been failing since .* UTC, .*: it is away") as refusal:
        breaker.enter()
    assert (refusal.value.location, refusal.value.last_error) == ("shelf:/x", "it is away")
    assert refusal.value.since == breaker.status.since


def test_an_outage_of_less_than_a_second_opens_nothing(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    fail(breaker, times=20, every=0.02, clock=virtual_clock)
    assert breaker.status.state == "closed"
    virtual_clock.advance(0.9)
    fail(breaker)
    assert breaker.status.state == "open"


def test_a_success_begins_a_new_row(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    for _ in range(5):
        fail(breaker, times=2, every=2.0, clock=virtual_clock)
        assert not breaker.quiet
        breaker.succeeded(breaker.enter())
        assert breaker.quiet
    assert breaker.status.state == "closed"


def test_failures_far_apart_are_no_row(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    fail(breaker, times=10, every=10.5, clock=virtual_clock)
    assert breaker.status.state == "closed"
    fail(breaker, times=3, every=9.5, clock=virtual_clock)
    assert breaker.status.state == "open"


def test_calls_that_fail_together_count_as_one(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    for _ in range(2):
        rounds = [breaker.enter() for _ in range(50)]
        for round_ in rounds:
            breaker.failed(round_, AWAY)
        virtual_clock.advance(2.0)
    assert breaker.status.state == "closed"
    fail(breaker)
    assert breaker.status.state == "open"


def test_a_late_answer_to_an_earlier_call_closes_nothing(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    early = breaker.enter()
    opened(breaker, virtual_clock)
    breaker.succeeded(early)
    breaker.failed(early, AWAY)
    assert breaker.status.state == "open"


def test_no_failures_means_never(virtual_clock: VirtualClock) -> None:
    breaker = Breaker("shelf:/x", BreakerConfig(failures=0))
    fail(breaker, times=100, every=1.0, clock=virtual_clock)
    assert breaker.status.state == "closed"


@pytest.mark.parametrize(
    "error",
    [StoreFull("no room"), PayloadTooLarge("too large"), StoreError("no right"), asyncio.CancelledError(), TypeError()],
)
def test_what_says_nothing_of_the_store_counts_as_no_failure(
    breaker: Breaker, virtual_clock: VirtualClock, error: BaseException
) -> None:
    for _ in range(10):
        breaker.ended(breaker.enter(), error)
        virtual_clock.advance(1.0)
    assert breaker.status.state == "closed"


# ── half-open ───────────────────────────────────────────────────────────────


def test_after_a_pause_one_call_is_let_through(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    probe = breaker.enter()
    assert breaker.status.state == "half-open"
    with pytest.raises(BreakerOpen):
        breaker.enter()
    breaker.succeeded(probe)
    assert (breaker.status.state, breaker.status.error) == ("closed", None)
    assert breaker.status.since == pytest.approx(virtual_clock.now(), abs=0.5)
    fail(breaker, times=2, every=2.0, clock=virtual_clock)
    assert breaker.status.state == "closed"


def test_the_pause_doubles_up_to_a_limit(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    since = opened(breaker, virtual_clock).status.since
    for pause in (1.0, 2.0, 4.0, 4.0):
        virtual_clock.advance(pause - 0.2)
        with pytest.raises(BreakerOpen):
            breaker.enter()
        virtual_clock.advance(0.25)
        fail(breaker)
        assert (breaker.status.state, breaker.status.since) == ("open", since)
    virtual_clock.advance(4.05)
    breaker.succeeded(breaker.enter())
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    breaker.enter()  # the pauses are short again


def test_no_pause_is_longer_than_the_longest(virtual_clock: VirtualClock) -> None:
    breaker = Breaker("shelf:/x", BreakerConfig(failures=3, pause=30.0, max_pause=1.0))
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    breaker.succeeded(breaker.enter())
    assert breaker.status.state == "closed"


def test_a_probe_without_an_answer_keeps_nobody_from_trying(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    breaker.enter()
    virtual_clock.advance(3.5)
    with pytest.raises(BreakerOpen):
        breaker.enter()
    virtual_clock.advance(0.6)
    breaker.succeeded(breaker.enter())
    assert breaker.status.state == "closed"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TypeError(), BreakerOpen("by another")])
def test_a_probe_that_was_given_up_lets_the_next_call_through(
    breaker: Breaker, virtual_clock: VirtualClock, error: BaseException
) -> None:
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    breaker.ended(breaker.enter(), error)
    assert breaker.status.state == "open"
    breaker.enter()
    assert breaker.status.state == "half-open"


@pytest.mark.parametrize("error", [StoreFull("no room"), PayloadTooLarge("too large"), StoreError("no right")])
def test_a_refusal_is_an_answer(breaker: Breaker, virtual_clock: VirtualClock, error: Exception) -> None:
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    breaker.ended(breaker.enter(), error)
    assert breaker.status.state == "closed"


def test_of_many_threads_one_is_let_through(breaker: Breaker, virtual_clock: VirtualClock) -> None:
    opened(breaker, virtual_clock)
    virtual_clock.advance(1.05)
    through: list[int] = []
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        with suppress(BreakerOpen):
            through.append(breaker.enter())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(through) == 1


def test_each_change_is_logged_once(
    breaker: Breaker, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    opened(breaker, virtual_clock)
    for _ in range(5):
        virtual_clock.advance(4.05)
        fail(breaker)
    virtual_clock.advance(4.05)
    breaker.succeeded(breaker.enter())
    assert [record.name for record in caplog.records] == ["omniq.storage"] * 2
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("shelf:/x: its circuit breaker is open")
    assert first.endswith("it is away")
    assert second.startswith("shelf:/x: it works again, after 2")


# ── stores behind them ──────────────────────────────────────────────────────


class Moody(ReferenceQueueStore):
    """Raises what it is told to."""

    error: BaseException | None = None
    calls = 0

    def _call(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    async def connect(self) -> None:
        self._call()

    async def get(self, ids: Any, *, bodies: bool = True) -> Any:
        self._call()
        return await super().get(ids, bodies=bodies)

    async def extend(self, leases: Any, *, lease: float) -> Any:
        self._call()
        return await super().extend(leases, lease=lease)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        self._call()
        return False

    async def now(self) -> float:
        self._call()
        return 0.0

    async def wait(self, queues: Any, timeout: float) -> None:
        self._call()


@pytest.fixture
def moody() -> Moody:
    return Moody(ReferenceSpace())


@pytest.fixture
def store(moody: Moody) -> BaseTaskQueue:
    return guarded(moody, CONFIG)


Call = Callable[[BaseTaskQueue], Awaitable[Any]]

READ: Call = lambda store: store.get(["t"])  # noqa: E731
EXTEND: Call = lambda store: store.extend([Lease("t", 1, "w")], lease=1.0)  # noqa: E731


async def trip(store: BaseTaskQueue, moody: Moody, clock: VirtualClock) -> None:
    """Let its breaker open."""
    moody.error = AWAY
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await READ(store)
        clock.advance(0.6)
    assert state(store) == "open"
    moody.calls = 0


def state(store: BaseTaskQueue) -> str:
    (breaker,) = breakers_of(store)
    return breaker.state.value


async def test_an_open_breaker_asks_nobody(store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock) -> None:
    await trip(store, moody, virtual_clock)
    for _ in range(10):
        with pytest.raises(BreakerOpen):
            await READ(store)
    assert moody.calls == 0
    virtual_clock.advance(1.05)
    moody.error = None
    assert await READ(store) == [None]
    assert (moody.calls, state(store)) == (1, "closed")


@pytest.mark.parametrize(
    "call",
    [EXTEND, lambda store: store.beat(WorkerRecord(name="w")), lambda store: store.connect()],
    ids=["extend", "beat", "connect"],
)
async def test_what_is_urgent_is_never_refused(
    store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock, call: Call
) -> None:
    await trip(store, moody, virtual_clock)
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"\Ait is away\Z"):
            await call(store)
    assert (moody.calls, state(store)) == (3, "open")


async def test_a_renewal_that_works_closes_it(store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock) -> None:
    await trip(store, moody, virtual_clock)
    moody.error = None
    await EXTEND(store)
    assert state(store) == "closed"


async def test_what_may_work_without_the_store_closes_nothing(
    store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock
) -> None:
    await trip(store, moody, virtual_clock)
    moody.error = None
    virtual_clock.advance(1.05)
    await store.connect()
    await store.beat(WorkerRecord(name="w"))
    await store.now()
    assert state(store) == "open"
    await READ(store)
    assert state(store) == "closed"


async def test_waiting_and_closing_pass(store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock) -> None:
    await trip(store, moody, virtual_clock)
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match=r"\Ait is away\Z"):
            await store.wait(["default"], 0.1)
    await store.close()
    assert state(store) == "open"


async def test_a_cancelled_probe_keeps_nobody_out(
    store: BaseTaskQueue, moody: Moody, virtual_clock: VirtualClock
) -> None:
    await trip(store, moody, virtual_clock)
    virtual_clock.advance(1.05)
    moody.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await READ(store)
    moody.error = None
    assert await READ(store) == [None]


async def test_whoever_repeats_a_call_meets_a_store_that_is_back(moody: Moody, virtual_clock: VirtualClock) -> None:
    """With the thresholds by default: `enqueue`'s own repeats aren't in vain."""
    store = guarded(moody, BreakerConfig())
    moody.error = AWAY
    for _ in range(50):
        with pytest.raises(StoreUnavailable):
            await READ(store)
        virtual_clock.advance(0.6)
    assert state(store) == "open"
    with pytest.raises(StoreUnavailable):
        await READ(store)  # a probe, after which the pause is the longest
    moody.error = None
    assert await repeated(lambda _: READ(store)) == [None]


@pytest.mark.parametrize(
    ("guard", "contract"),
    [(GuardedQueue, BaseTaskQueue), (GuardedResults, BaseResultStorage), (GuardedEvents, BaseEventStorage)],
)
def test_the_whole_contract_goes_through(guard: type[GuardedStore], contract: type) -> None:
    """A verb that is new is guarded as well; one that isn't async, or a new trait, has to be thought of."""
    public = {name for name in dir(contract) if not name.startswith("_")}
    verbs = {name for name in public if inspect.iscoroutinefunction(getattr(contract, name))}
    assert verbs > UNGUARDED - {"hear", "wait"}
    assert all(name in vars(guard) for name in verbs)
    traits = {"capabilities", "max_bytes", "max_items", "networked"}
    assert public - verbs - traits <= {*vars(GuardedStore), *vars(guard)}


async def test_what_is_not_of_the_contract_is_the_stores(moody: Moody) -> None:
    store = guarded(moody, CONFIG)
    assert store.space is moody.space
    assert (store.location, store.capabilities, store.networked) == (
        moody.location,
        moody.capabilities,
        moody.networked,
    )
    assert store.wakeups is moody.wakeups
    with pytest.raises(AttributeError, match="'Moody' object has no attribute 'nothing'"):
        store.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_stores_of_one_place_share_one_breaker() -> None:
    space = ReferenceSpace()
    queue = guarded(ReferenceQueueStore(space), CONFIG)
    results = guarded(ReferenceResultStore(space), CONFIG)
    events = guarded(ReferenceEventStore(ReferenceSpace()), CONFIG)
    assert [each.location for each in breakers_of(queue, results, None, events)] == [queue.location, events.location]
    own = queue.result_storage()
    assert breakers_of(queue, own) == breakers_of(queue)
    assert guarded(queue, CONFIG) is queue
    assert guarded(queue, None) is queue
    other = guarded(queue, BreakerConfig())
    assert unguarded(other) is unguarded(queue)
    assert len(breakers_of(queue, other)) == 2
    assert breaker_at("shelf:/y", CONFIG) is not breaker_at("shelf:/z", CONFIG)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_begins_anew(virtual_clock: VirtualClock) -> None:
    breaker = breaker_at("shelf:/fork", CONFIG)
    opened(breaker, virtual_clock)
    with breaker._lock:  # as another thread of the parent's may hold it
        child = os.fork()
        if child == 0:
            breaker.failed(breaker.enter(), AWAY)
            os._exit(0 if breaker.status.state == "closed" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert breaker.status.state == "open"
