"""Leases: renewed from a thread of their own, and taken back; what is done from time to time."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from msgspec.structs import replace

from omniq import clock
from omniq.batching import level_of
from omniq.errors import LeaseLost, StoreError, StoreUnavailable, WorkerError
from omniq.models.config import WorkerConfig
from omniq.models.event import EventType
from omniq.models.result import Outcome
from omniq.models.task import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.policies import DependencyResolver, TTLManager
from omniq.queue.stores import Stores
from omniq.storage.base import BaseTaskQueue, carry_out
from omniq.storage.records import Change, LapsedLease, LeaseStatus, TaskFilter, TaskRecord, WorkerRecord
from omniq.sync import Portal
from omniq.texts import get_logger, qualified_name
from omniq.workers.jobs import InFlight, Job, RunStatus
from omniq.workers.settling import poisoned

T = TypeVar("T")

# ── renewing ────────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")

LEAST_TOLD = 30.0
"""Seconds for which it is told at least what a worker was doing when somebody asked."""
STALLED_LEASES = 10
"""Leases for which a worker's loop may stand still at least."""
LEAVING = 0.2
"""Seconds that a stop waits at most until the store knows that the worker has gone."""


class LeaseKeeper:
    """Renews the leases of a worker's jobs, in one call for all, before a third of them has passed; and says, as
    often, that the worker is alive.

    It runs on its own thread, event loop and connections, so that neither a task that computes nor a loop
    that is stuck lets a lease run out. Tasks shorter than a third of the lease are never renewed. When the
    worker's loop has ended without the worker being stopped, it hands back what wasn't begun, and ends; so it does
    when that loop has stood still for `stall_timeout`, and no task that runs has time left.
    """

    def __init__(
        self,
        store: BaseTaskQueue,
        in_flight: InFlight,
        *,
        lease: float,
        stop_job: Callable[[Job, RunStatus], None],
        call_off: Callable[[], list[Job]],
        back: Callable[[Job], Change],
        report: Callable[[], WorkerRecord],
        stacks: Callable[[], Awaitable[str]],
        stall_timeout: float | None = None,
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._lease = lease
        self._stop_job = stop_job
        self._call_off = call_off
        self._back = back
        self._report = report
        self._stacks = stacks
        self._told, self._told_at = "", 0.0
        """What it was doing when somebody asked last, as long as that is told, and when that was."""
        self._looking = asyncio.Lock()
        """Held while it looks: its children can be asked once at a time."""
        self._stall_timeout = math.inf if stall_timeout is None else max(stall_timeout, STALLED_LEASES * lease)
        self._on_stall = on_stall
        self._unanswered = 0.0
        """Seconds for which this thread has turned, and the worker's loop hasn't."""
        self._beat_at = -math.inf
        self._loop = asyncio.get_running_loop()
        self._thread = threading.current_thread()
        self._portal: Portal | None = None

    def start(self) -> None:
        """Begin to renew."""
        portal = self._portal = Portal("omniq-leases")
        self._keeping = Context().run(portal.submit, self._live(portal))

    def cease(self) -> None:
        """Renew no longer, from now on; from any thread."""
        if self._portal is not None:
            self._keeping.cancel()

    def take_over(self) -> None:
        """Renew no longer, hand back what wasn't begun, and end: the worker can't do that itself. From any thread."""
        self.cease()
        if self._portal is not None:
            with suppress(RuntimeError):  # it has ended by itself
                Context().run(self._portal.submit, self._bequeath(self._portal))

    async def stop(self) -> None:
        """Renew no longer, and give back the connections."""
        self.cease()
        portal, self._portal = self._portal, None
        if portal is not None:
            with suppress(RuntimeError):  # it has ended by itself
                leaving = Context().run(portal.submit, self._leave())
                await asyncio.wait([asyncio.wrap_future(leaving)])
            portal.stop()  # it has nothing left to do

    async def _leave(self) -> None:
        await self._guarded(lambda: self._in_time(self._store.beat(self._report(), leaving=True), LEAVING))
        await self._guarded(self._store.close)

    async def _live(self, portal: Portal) -> None:
        await self._keep()
        await self._bequeath(portal)

    async def _bequeath(self, portal: Portal) -> None:
        await self._guarded(self._hand_back)
        await self._guarded(self._store.close)
        portal.end()

    async def _keep(self) -> None:
        """Say that this worker is there, and renew until its loop is gone."""
        while not self._is_orphan:
            if self._loop.is_running():
                await self._guarded(self._look_after)
            self._in_flight.call_soon(self._turned)
            await asyncio.sleep(self._lease / 6)
            self._unanswered += self._lease / 6  # not by a clock: the whole process may have been stopped meanwhile
            if self._is_stalled:
                self._on_stall()

    def _turned(self) -> None:
        self._unanswered = 0.0

    @property
    def _is_stalled(self) -> bool:
        """Whether the worker's loop has stood still for too long, though no task has a right to that."""
        held = list(self._in_flight.held.values())
        if self._unanswered <= self._stall_timeout or not held:
            return False
        now = time.monotonic()
        return all(job.deadline is None or job.deadline <= now for job in held)

    async def _look_after(self) -> None:
        """Renew what is due, and from time to time say that this worker is alive."""
        await self._in_time(self._store.connect())
        await self._in_time(self._renew())
        if time.monotonic() - self._beat_at >= self._lease / 3 and await self._beat():
            self._told = await self._look()
            self._told_at = max(clock.now(), math.nextafter(self._told_at, math.inf))
            await self._beat()

    async def _beat(self) -> bool:
        """Say that this worker is alive, and for a lease what somebody has asked; returns whether somebody has."""
        began = time.monotonic()
        if clock.now() - self._told_at > max(self._lease, LEAST_TOLD):
            self._told = ""
        report = replace(self._report(), stacks=self._told, stacks_at=self._told_at)
        asked = await self._in_time(self._store.beat(report))
        self._beat_at = began
        return asked

    def look(self) -> Future[str]:
        """What this worker is doing, as text; from any thread. Raises `WorkerError` unless it runs."""
        if self._portal is None:
            raise WorkerError("the worker isn't running")
        return Context().run(self._portal.submit, self._look())

    async def _look(self) -> str:
        async with self._looking:
            try:
                return await self._stacks()
            except Exception as error:  # whatever it is: leases are more important
                log.exception("what the worker is doing can't be told")
                return f"what the worker is doing can't be told: {qualified_name(type(error))}"

    async def _in_time(self, call: Awaitable[T], most: float = math.inf) -> T:
        """Give the store a third of the lease, and no more than so many seconds.

        After that it gets a new connection, as this one may be half-open.
        """
        limit = min(most, self._lease / 3)
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError:
            await self._store.close()
            raise StoreUnavailable(f"{self._store.location}: no answer within {limit:g} s") from None

    @property
    def _is_orphan(self) -> bool:
        """Whether the worker's loop will never run again. One that is stuck, or computes, still runs."""
        return self._loop.is_closed() or not self._thread.is_alive()

    async def _guarded(self, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except StoreError as error:
            log.log(level_of(error), "leases can't be renewed, trying again: %s", error)
        except Exception:  # whatever it is: nothing may end this loop as long as tasks run
            log.exception("leases can't be renewed, trying again")

    async def _hand_back(self) -> None:
        """Hand back what wasn't begun, for a worker whose loop is gone."""
        jobs = [*self._in_flight.withdraw(), *self._call_off()]
        log.error("the worker's event loop has ended, or stands still: %d tasks go back, its leases end", len(jobs))
        await self._store.connect()
        backs = [self._back(job) for job in jobs]
        await carry_out(self._store, self._store.transition, backs, id_of=attrgetter("task_id"))

    async def _renew(self) -> None:
        now = time.monotonic()
        due = [job for job in list(self._in_flight.held.values()) if now - job.renewed_at >= self._lease / 6]
        if not due:
            return
        extend = partial(self._store.extend, lease=self._lease)
        statuses = await carry_out(self._store, extend, [job.lease for job in due], id_of=attrgetter("task_id"))
        stops = [(job, end) for job, status in zip(due, statuses, strict=True) if (end := self._note(job, status, now))]
        # In one go, and first those that haven't begun: one that is stopped lets its slot take the next.
        stops.sort(key=lambda stop: stop[0].started_at is not None)
        if stops:
            self._in_flight.call_soon(self._stop_all, stops)

    def _note(self, job: Job, status: LeaseStatus, asked_at: float) -> RunStatus | None:
        """Take note of what the store said of a lease, and tell why its job must be stopped, if it must."""
        if status.held:
            # Counted from before the request: the store may have acted on it at any time since.
            job.renewed_at = asked_at
        if job.done:
            return None  # settling it is under way, or over: that tells what came of the lease
        if status.held:
            return RunStatus.CANCELLED if status.cancel_requested else None
        if job.ended_by is not RunStatus.LOST:
            log.warning("%s", LeaseLost(f"task {job.record.id}: the lease of epoch {job.record.epoch} has passed on"))
        return RunStatus.LOST

    def _stop_all(self, stops: list[tuple[Job, RunStatus]]) -> None:
        for job, why in stops:
            self._stop_job(job, why)


# ── taking back ─────────────────────────────────────────────────────────────


PAGE = 500
CALLS = 6
"""Calls as long as the last one for which an interval leaves time: a busy store may be busier yet."""


class Reaper:
    """Takes back the tasks whose leases have run out, once a second look confirms that nobody renews them.

    While a store can't be reached, all leases run out and nobody is to blame. So a lease is taken only if this
    reaper saw it run out at least a third of a lease ago, by its own monotonic clock, and the store still shows it
    unrenewed: time enough for every living worker to renew what it holds. Recovery from a death takes at most
    4/3 lease + reap interval.
    """

    def __init__(
        self,
        queue: AsyncTaskQueue[Any],
        dependencies: DependencyResolver,
        config: WorkerConfig,
        on_reaped: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._dependencies = dependencies
        self._config = config
        self._on_reaped = on_reaped
        self._confirm_after = config.lease / 3
        self._seen: dict[LapsedLease, float] = {}
        """When each lease was first seen to have run out, on `time.monotonic()`'s clock."""
        self._took = 0.0
        """Seconds that the last look took."""

    async def run(self) -> None:
        """Look within each `reap_interval`, and when what was seen can be confirmed, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except StoreError as error:
                log.log(level_of(error), "lapsed leases can't be looked for, trying again: %s", error)
            self._took = time.monotonic() - began
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        interval = self._config.reap_interval
        spread = interval * random.uniform(0.75, 0.95)  # so that workers don't all look at once
        spread = max(interval / 2, spread - CALLS * self._took)
        if not self._seen:
            return spread
        confirmed_in = min(self._seen.values()) + self._confirm_after - time.monotonic()
        return min(spread, max(0.0, confirmed_in) + 0.001)

    async def look(self) -> None:
        """Take back what has been confirmed, and take note of what is new."""
        lapsed = await self._lapsed()
        now = time.monotonic()
        self._seen = {lease: self._seen.get(lease, now) for lease in lapsed}
        confirmed = [lease for lease, since in self._seen.items() if now - since >= self._confirm_after]
        page = min(PAGE, self._queue.store.max_items)
        for start in range(0, len(confirmed), page):
            await self._reap(confirmed[start : start + page])

    async def _lapsed(self) -> list[LapsedLease]:
        store = self._queue.store
        found = page = await store.lapsed(limit=PAGE)
        while len(page) == PAGE:
            page = await store.lapsed(limit=PAGE, after=page[-1])
            found = [*found, *page]
        return found

    async def _reap(self, leases: Sequence[LapsedLease]) -> None:
        crashes = {lease.task_id: lease for lease in leases}
        back = await self._queue.store.reap(leases)
        for record in back:
            log.warning(
                "task %s: the lease of worker %s ran out, it goes back (crashes: %d)",
                record.id,
                crashes[record.id].worker,
                record.crashes,
            )
            worker, data = crashes[record.id].worker, {"crashes": record.crashes}
            self._queue.stores.log_task(EventType.LEASE_EXPIRED, record, worker=worker, data=data)
        await self._bury([record for record in back if record.crashes >= self._config.max_crashes])
        if back:
            self._on_reaped()

    async def _bury(self, records: Sequence[TaskRecord]) -> None:
        """Dead-letter tasks whose process died too often."""
        for record in records:
            ran = poisoned(record.crashes)
            outcome = Outcome(error_type=ran.error_type, error_message=ran.error_message, attempts=record.attempts + 1)
            await self._dependencies.end([record], TaskState.ERROR, outcome)


# ── upkeep ──────────────────────────────────────────────────────────────────


SWEEP_INTERVAL = 30.0
PURGE_INTERVAL = 60.0


class Upkeep:
    """Ends what is overdue, releases children that somebody has left waiting, and forgets what is old."""

    def __init__(self, stores: Stores, dependencies: DependencyResolver, config: WorkerConfig) -> None:
        self._dependencies = dependencies
        self._ttl = TTLManager(stores, dependencies)
        self._config = config
        self._stores = stores
        self._swept = time.monotonic() - random.uniform(0, SWEEP_INTERVAL)  # some do, though none may live for long
        self._met = -math.inf
        self._dead: frozenset[str] = frozenset()
        """The workers that were dead when it last looked."""

    async def run(self) -> None:
        """Look every `reap_interval`, spread so that workers don't all look at once, until cancelled."""
        while True:
            await self._guarded(self._look)
            await asyncio.sleep(self._config.reap_interval * random.uniform(0.9, 1.1))

    async def purge(self) -> None:
        """Delete what is old every `PURGE_INTERVAL`, until cancelled: however long that takes, `run` goes on."""
        while True:
            await asyncio.sleep(PURGE_INTERVAL * random.uniform(0.9, 1.1))
            await self._guarded(self._purge)

    def sweep_soon(self) -> None:
        """Look for children at the next turn: who died may have ended a task and not have come to release them."""
        self._swept = -math.inf

    async def _guarded(self, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        except StoreError as error:
            log.log(level_of(error), "upkeep failed, trying again: %s", error)

    async def _look(self) -> None:
        await self._ttl.expire()
        now = time.monotonic()
        if now - self._met > self._config.lease / 6:
            self._met = now
            await self._meet()
        if now - self._swept > SWEEP_INTERVAL:
            self._swept = now
            await self._dependencies.sweep()

    async def _purge(self) -> None:
        config, least = self._config, 10 * self._config.lease
        dead = None if config.dead_letter_retention is None else max(config.dead_letter_retention, least)
        await self._ttl.purge(retention=max(config.retention, least), dead_letter_retention=dead)

    async def _meet(self) -> None:
        """Sweep soon if a worker seems to have died: it may have left children of tasks that it had ended.

        Workers are seen every third of a lease. One that is taken for dead and isn't costs a sweep. To ask who lives
        may cost requests that are paid for, so nobody does while nothing waits.
        """
        waiting = TaskFilter(states=(TaskState.WAITING,), may_lag=True)
        if not (await self._stores.queue.find(waiting, limit=1)).tasks:
            return
        now = await self._stores.clock.now()
        workers = await self._stores.queue.workers()
        dead = frozenset(worker.name for worker in workers if now - worker.last_seen > worker.lease / 2)
        if dead - self._dead:
            self.sweep_soon()
        self._dead = dead
