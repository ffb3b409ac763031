"""How things stand: the stores and their breakers, the queues, the workers and schedules on them, and what is wrong."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from omniq import clock
from omniq.batching import Backoff, within
from omniq.config.loader import EventsConfig, OmniQConfig
from omniq.errors import ConfigError, PluginError, StoreError, WorkerError, WorkerNotFound
from omniq.events.storage import AsyncEventStorage
from omniq.models.config import DEFAULT_MAX_BODY
from omniq.plugins.registry import registry
from omniq.queue.engine import AsyncTaskQueue
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Guarantees, Store
from omniq.storage.breakers import breakers_of, unguarded
from omniq.storage.records import BreakerState, BreakerStatus, EventFilter, QueueStats, ScheduleRecord, WorkerRecord
from omniq.texts import did_you_mean, get_logger

log = get_logger("omniq.results")

PATIENCE: Final = 5.0
"""Seconds that a store has for each answer."""
UNSERVED_AFTER: Final = 10.0
"""Seconds for which a task may be due in a queue that no worker serves, before that is a problem."""

# ── what is told ────────────────────────────────────────────────────────────


class StoreStatus(Struct, frozen=True, kw_only=True):
    """A store, as it answers just now."""

    location: str
    keeps: tuple[str, ...]
    """What is kept there: "tasks", "results", "events"."""
    latency: float | None = None
    """Seconds that a small question took; None if it wasn't answered."""
    error: str | None = None
    """Why it wasn't."""
    guarantees: Guarantees | None = None
    """What it promises; None if it wasn't answered."""
    breaker: BreakerStatus | None = None
    """Its circuit breaker in this process."""

    @property
    def reachable(self) -> bool:
        """Whether it has answered."""
        return self.error is None


class ScheduleCounts(Struct, frozen=True, kw_only=True):
    """How many schedules there are."""

    active: int = 0
    due: int = 0
    """Of the active ones: their slot has come, and nobody has fired it yet."""
    paused: int = 0
    ended: int = 0
    """No slot is left."""
    damaged: int = 0


class Status(Struct, frozen=True, kw_only=True):
    """How things stand. What only the task queue's store knows is None if that can't be reached."""

    stores: list[StoreStatus]
    now: float
    """Seconds since the epoch on the task queue's store's clock, or else on this host's."""
    queues: list[QueueStats] | None = None
    workers: list[WorkerRecord] | None = None
    """Those that live."""
    gone: list[WorkerRecord] = field(default_factory=list)
    """Those that weren't seen for long and haven't said goodbye."""
    schedules: ScheduleCounts | None = None
    events_dropped: int | None = None
    """How many events this process has dropped; None if it keeps none."""

    @property
    def problems(self) -> list[str]:
        """What is wrong, each in a line; empty if all is well."""
        return [*_store_problems(self.stores), *_worker_problems(self.workers), *_queue_problems(self)]


def due_for(stats: QueueStats, now: float) -> float | None:
    """Seconds for which the oldest task of a queue has been due; None if none is."""
    return None if stats.oldest_due is None else max(0.0, now - stats.oldest_due)


def _store_problems(stores: Sequence[StoreStatus]) -> Iterator[str]:
    for store in stores:
        if not store.reachable:
            yield f"the store of {' and '.join(store.keeps)} can't be reached: {store.error}"


def _worker_problems(workers: Sequence[WorkerRecord] | None) -> Iterator[str]:
    for worker in workers or ():
        for breaker in worker.breakers:
            if breaker.state is not BreakerState.CLOSED:
                since = f"{clock.utc(breaker.since):%Y-%m-%d %H:%M:%S} UTC"
                yield f"worker {worker.name}: {breaker.location} has failed since {since}: {breaker.error}"


def _queue_problems(status: Status) -> Iterator[str]:
    served = {name for worker in status.workers or () for name in worker.queues}
    for queue in status.queues or ():
        age = due_for(queue, status.now)
        if age is not None and age > UNSERVED_AFTER and not queue.paused and queue.name not in served:
            yield f"queue {queue.name}: a task has been due for {age:.0f} s, and no living worker serves the queue"


# ── asking ──────────────────────────────────────────────────────────────────


async def status_of(
    queue: AsyncTaskQueue[Any], events: BaseEventStorage | None, *, events_dropped: int | None
) -> Status:
    """How things stand with a queue and with what belongs to it.

    The stores are asked past their breakers, all at once. One that can't be reached is no error here.
    """
    stores = _by_location(tasks=queue.store, results=queue.stores.results, events=events)
    looks = await asyncio.gather(*(_look(store, keeps) for store, keeps in stores))
    partial = Status(stores=looks, now=clock.now(), events_dropped=events_dropped)
    if not looks[0].reachable:
        return partial
    try:
        return await within(PATIENCE, _ask(unguarded(queue.store), partial))
    except (StoreError, TimeoutError) as error:
        return replace(partial, stores=[replace(looks[0], error=str(error)), *looks[1:]])


def _by_location(**stores: Store | None) -> list[tuple[Store, tuple[str, ...]]]:
    """The stores, each once, with what they keep."""
    found: dict[str, tuple[Store, tuple[str, ...]]] = {}
    for what, store in stores.items():
        if store is not None:
            first, keeps = found.get(store.location, (store, ()))
            found[store.location] = (first, (*keeps, what))
    return list(found.values())


async def _look(store: Store, keeps: tuple[str, ...]) -> StoreStatus:
    breaker = next(iter(breakers_of(store)), None)
    look = StoreStatus(location=store.location, keeps=keeps, breaker=breaker)
    asked = unguarded(store)
    try:
        await within(PATIENCE, asked.connect())
        began = time.monotonic()
        await within(PATIENCE, _ping(asked))
        latency = time.monotonic() - began
        return replace(look, latency=latency, guarantees=await within(PATIENCE, asked.guarantees()))
    except (StoreError, TimeoutError) as error:
        return replace(look, error=str(error))


async def _ping(store: Store) -> None:
    """Ask a small question."""
    match store:
        case BaseTaskQueue():
            await store.get(["any"], bodies=False)
        case BaseResultStorage():
            await store.get(["any"])
        case BaseEventStorage():
            await store.query(EventFilter(task_id="any"), limit=1)


async def _ask(store: BaseTaskQueue, status: Status) -> Status:
    """The status with what the task queue's store knows."""
    stats, workers, schedules = await asyncio.gather(store.stats(), workers_of(store), store.schedules())
    return replace(
        status,
        now=workers.now,
        queues=stats,
        workers=workers.alive,
        gone=workers.gone,
        schedules=_count(schedules, workers.now),
    )


def _count(schedules: Sequence[ScheduleRecord], now: float) -> ScheduleCounts:
    damaged = [schedule for schedule in schedules if schedule.damage is not None]
    sound = [schedule for schedule in schedules if schedule.damage is None]
    slots = [schedule.next_run for schedule in sound if not schedule.paused and schedule.next_run is not None]
    return ScheduleCounts(
        active=len(slots),
        due=sum(slot <= now for slot in slots),
        paused=sum(schedule.paused and schedule.next_run is not None for schedule in sound),
        ended=sum(schedule.next_run is None for schedule in sound),
        damaged=len(damaged),
    )


# ── workers ─────────────────────────────────────────────────────────────────


FIRST_LOOK, MAX_LOOK = 0.1, 2.0
"""Seconds between two looks for a worker's answer: at first, and at most."""


class Workers(Struct, frozen=True):
    """The workers of a task queue, by name."""

    alive: list[WorkerRecord]
    gone: list[WorkerRecord]
    """Those that weren't seen for long and haven't said goodbye."""
    now: float
    """Seconds since the epoch on the store's clock."""


async def workers_of(store: BaseTaskQueue) -> Workers:
    """The workers that were seen and haven't left. Raises `StoreError`."""
    now, workers = await asyncio.gather(store.now(), store.workers())
    alive = [worker for worker in workers if worker.is_alive(now)]
    return Workers(alive, [worker for worker in workers if not worker.is_alive(now)], now)


async def inspect(store: BaseTaskQueue, name: str, timeout: float | None) -> WorkerRecord:
    """Ask a worker what it is doing, and wait for its answer. Raises as `AsyncOmniQ.inspect_worker`."""
    before = await _alive(store, name)
    if not await store.inspect(name):
        raise WorkerError(f"worker {name} has just stopped")
    limit = math.inf if timeout is None else timeout
    deadline, pauses = time.monotonic() + limit, Backoff(FIRST_LOOK, MAX_LOOK)
    while (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left, pauses.step()))
        now = next((worker for worker in await store.workers() if worker.name == name), None)
        if now is None:
            raise WorkerError(f"worker {name} has stopped without an answer")
        if now.stacks_at > before.stacks_at:
            return now
    raise WorkerError(f"worker {name} hasn't answered within {limit:g} s; it does so every {before.lease / 3:g} s")


async def _alive(store: BaseTaskQueue, name: str) -> WorkerRecord:
    """The living worker of that name."""
    workers = await workers_of(store)
    for worker in workers.alive:
        if worker.name == name:
            return worker
    for worker in workers.gone:
        if worker.name == name:
            seen = f"{clock.utc(worker.last_seen):%Y-%m-%d %H:%M:%S} UTC"
            raise WorkerError(f"worker {name} doesn't live any more: it was last seen at {seen}")
    guess = did_you_mean(name, [worker.name for worker in workers.alive])
    raise WorkerNotFound(f"there is no worker {name!r} in {store.location}{guess}")


# ── queues that nobody serves ───────────────────────────────────────────────


ASK_AGAIN: Final = 10.0
"""Seconds for which it is known which queues are served."""
WARN_AGAIN: Final = 60.0
"""Seconds between two warnings of one queue."""


class Attendance:
    """Which queues no living worker serves, as far as anybody in this process has asked of late.

    Shared by all who wait for results: their questions are few, however many they are.
    """

    def __init__(self) -> None:
        self._served: dict[str, tuple[float, frozenset[str] | None]] = {}
        """By the stores' locations, when it was asked, and the queues that are served; None if that isn't known."""
        self._warned: dict[tuple[str, str], float] = {}

    async def look(self, store: BaseTaskQueue, queue: str) -> None:
        """Warn if no living worker serves a queue in which a task is due."""
        location, now = store.location, time.monotonic()
        if now - self._served.get(location, (-math.inf, None))[0] > ASK_AGAIN:
            self._served[location] = (now, None)
            try:
                workers = (await workers_of(store)).alive
            except StoreError as error:  # whoever waits gets one of his own
                log.debug("it isn't known which queues are served: %s", error)
                return
            self._served[location] = (now, frozenset(name for worker in workers for name in worker.queues))
        if self.hint(store, queue) and now - self._warned.get((location, queue), -math.inf) > WARN_AGAIN:
            self._warned[location, queue] = now
            log.warning("no living worker serves queue %r: start one with `omniq worker --queues %s`", queue, queue)

    def hint(self, store: BaseTaskQueue, queue: str) -> str:
        """What an error says of a queue that was found to be served by nobody; nothing of any other."""
        asked_at, served = self._served.get(store.location, (-math.inf, None))
        if served is None or queue in served or time.monotonic() - asked_at > ASK_AGAIN:
            return ""
        return f": no living worker serves queue {queue!r}"


attendance: Final = Attendance()


# ── what the configuration asks for, and what the stores guarantee ────────────


class Finding(Struct, frozen=True, kw_only=True):
    """Something that was asked for, or is worth knowing, and what has come out."""

    answer: Literal["yes", "no", "note"]
    about: str
    reason: str

    @property
    def is_problem(self) -> bool:
        """Whether what was asked for doesn't hold."""
        return self.answer == "no"


PROMISES: Final[Mapping[str, str]] = {
    "survives_process_kill": "what is acknowledged survives the death of any process",
    "survives_power_loss": "what is acknowledged survives a loss of power",
    "survives_failover": "what is acknowledged survives the failure of the server it was written to",
    "push": "idle workers are woken at once",
    "atomic_results": "a result is stored in the step that ends its task",
}
"""The guarantees that may be asked for, in words."""


async def check_of(
    config: OmniQConfig,
    queue: AsyncTaskQueue[Any],
    events: AsyncEventStorage[Any] | None,
    required: Sequence[str] = (),
) -> list[Finding]:
    """Whether the stores keep what a configuration asks for, and what is `required` besides (fields of `Guarantees`).

    What can't be found out since a store is away is a problem, too.
    """
    status = await status_of(queue, None if events is None else events.store, events_dropped=None)
    asked = {queue.store.location: {*queue.config.asks_for, *required}}
    if Capability.PERSISTENT in queue.store.capabilities:
        asked[queue.store.location].add("survives_process_kill")
    found = [finding for store in status.stores for finding in _check_store(store, asked.get(store.location, set()))]
    found += _check_sharing(queue)
    found += _check_worker(config, queue)
    if config.events != EventsConfig() and events is None:
        found.append(_no("events", "they are configured, but no event_store is: give one, or leave events out"))
    return [*found, *_check_sizes(queue, status)]


def _check_store(store: StoreStatus, asked: Set[str]) -> Iterator[Finding]:
    about = " and ".join(store.keeps)
    if store.guarantees is None:
        yield _no(about, f"the store can't be reached: {store.error}")
        return
    yield Finding(answer="yes", about=about, reason=f"{store.location} answers in {1000 * (store.latency or 0):.1f} ms")
    evidence = ", ".join(store.guarantees.evidence) or store.location
    for name, words in PROMISES.items():
        holds = getattr(store.guarantees, name)
        if name in asked:
            answer: Literal["yes", "no"] = "yes" if holds else "no"
            yield Finding(answer=answer, about=about, reason=f"{words}: {'yes' if holds else 'no'} ({evidence})")


def _check_sharing(queue: AsyncTaskQueue[Any]) -> Iterator[Finding]:
    if Capability.CROSS_PROCESS not in queue.store.capabilities:
        yield _no("tasks", f"{queue.store.location} lives in one process: no other can enqueue there, or work")
    if queue.stores.apart:
        reason = "they aren't where the tasks are: a result is stored first, and its task ends then"
        yield Finding(answer="note", about="results", reason=reason)
    if queue.store.networked and queue.serialization.runs_dill_of_anybody:
        reason = "whoever can write to the store runs code on workers: set signing_key, or serializer: msgspec"
        yield Finding(answer="note", about="security", reason=reason)


def _check_worker(config: OmniQConfig, queue: AsyncTaskQueue[Any]) -> Iterator[Finding]:
    try:
        spec = registry().worker(config.worker.type)
        settings = config.worker.settings_for(spec.name)
    except (ConfigError, PluginError) as error:
        yield _no("worker", str(error))
        return
    yield Finding(answer="yes", about="worker", reason=f"workers of kind {spec.name!r} can be started")
    for name in settings.queues or ():
        if name not in queue.queues:
            yield _no("worker", f"queues: there is no queue {name!r}; declared: {', '.join(queue.queues)}")
    if settings.retention < 10 * settings.lease:
        reason = f"retention: finished tasks are kept for ten leases, {10 * settings.lease:g} s"
        yield Finding(answer="note", about="worker", reason=reason)


def _check_sizes(queue: AsyncTaskQueue[Any], status: Status) -> Iterator[Finding]:
    most, wanted = queue.store.max_item_bytes, queue.config.max_body
    if status.stores[0].reachable and wanted > most:
        answer: Literal["no", "note"] = "note" if wanted == DEFAULT_MAX_BODY else "no"
        yield Finding(answer=answer, about="tasks", reason=f"max_body is {wanted} bytes, but the store takes {most}")


def _no(about: str, reason: str) -> Finding:
    return Finding(answer="no", about=about, reason=reason)
