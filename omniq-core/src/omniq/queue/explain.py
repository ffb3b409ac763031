"""Why a task hasn't run, or how it came to its end: in one line, and as a history."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct, field

from omniq.batching import repeated
from omniq.clock import utc
from omniq.errors import KeyMissing, SerializationError, StoreError
from omniq.models.event import TaskEvent
from omniq.models.result import TaskResult
from omniq.models.task import TaskState
from omniq.queue.many import ManyTasks
from omniq.queue.request import verified_call
from omniq.queue.stores import Stores
from omniq.storage.base import look_up
from omniq.storage.records import EventFilter, TaskRecord, WorkerRecord

MAX_EVENTS: Final = 1000
MAX_NAMED: Final = 3
"""Parents or workers that a line names."""


class HistoryEntry(Struct, frozen=True):
    """Something that has happened to a task, or is known of it."""

    time: dt.datetime
    text: str


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task is in the state that it is in."""

    task_id: str
    state: TaskState
    why: str
    """In one line."""
    history: list[HistoryEntry] = field(default_factory=list)
    """What is known of it in the order of time: from its row, its result and its events, where those are kept."""


class Explainer:
    """Explains tasks by what the stores of a queue hold. It changes nothing."""

    def __init__(self, stores: Stores, many: ManyTasks) -> None:
        self._stores = stores
        self._store = stores.queue
        self._many = many

    async def explain(self, record: TaskRecord) -> Explanation:
        """The task as it is now. Raises `StoreError`."""
        now = await repeated(lambda _: self._store.now())
        events = await self._events(record.id)
        (result,) = await self._many.ends([record])
        why = await self._why(record, result, events, now)
        history = sorted(
            [*_of_record(record), *_of_result(result), *map(_of_event, events)], key=lambda step: step.time
        )
        return Explanation(task_id=record.id, state=record.state, why=why, history=history)

    async def _events(self, task_id: str) -> list[TaskEvent]:
        """The task's newest events, the oldest first; none where they aren't kept, or can't be read just now."""
        events = self._stores.events
        if events is None:
            return []
        try:
            await events.flush()
            return (await events.store.query(EventFilter(task_id=task_id), limit=MAX_EVENTS)).events[::-1]
        except StoreError:
            return []

    # ── why ──────────────────────────────────────────────────────────────────

    async def _why(self, record: TaskRecord, result: TaskResult | None, events: Sequence[TaskEvent], now: float) -> str:
        if record.damage is not None and not record.state.is_terminal:
            return f"its stored row is damaged ({record.damage}): whoever claims it dead-letters it"
        if record.state.is_terminal:
            return _how_it_ended(record, result)
        if record.state is TaskState.RUNNING:
            return await self._who_runs_it(record, now)
        if record.expires_at is not None and record.expires_at <= now:
            return f"its TTL ended at {_at(record.expires_at)}: it is never started, and a worker ends it soon"
        if record.state is TaskState.WAITING:
            return await self._what_it_waits_for(record)
        if record.run_at > now:
            return _until_when(record, events)
        return await self._who_could_run_it(record, now)

    async def _what_it_waits_for(self, record: TaskRecord) -> str:
        get = partial(self._store.get, bodies=False)
        parents = await look_up(self._store, get, record.depends_on)
        pairs = list(zip(record.depends_on, parents, strict=True))
        failed = [
            f"{id_} ({parent.state})"
            for id_, parent in pairs
            if parent is not None and parent.state.is_terminal and parent.state is not TaskState.SUCCESS
        ]
        if failed and await self._is_held(record):
            return f"it is held, since what it depends on hasn't succeeded: {_some(failed)}"
        left = [f"{id_} ({p.state})" for id_, p in pairs if p is not None and not p.state.is_terminal]
        if left:
            return f"waits for {_some(left)}"
        return "all that it depends on has ended: a worker releases or ends it soon"

    async def _is_held(self, record: TaskRecord) -> bool:
        (with_body,) = await self._store.get([record.id])
        try:
            call = None if with_body is None else verified_call(with_body, self._stores.serialization)
        except KeyMissing:
            return True
        except SerializationError:
            return False
        return call is not None and call.on_parent_failure == "hold"

    async def _who_could_run_it(self, record: TaskRecord, now: float) -> str:
        queue = record.queue_name
        if any(stats.name == queue and stats.paused for stats in await self._store.stats()):
            return f"its queue {queue!r} is paused"
        serving = [worker for worker in await self._store.workers() if queue in worker.queues]
        alive = [worker for worker in serving if worker.is_alive(now)]
        if not alive:
            return f"no worker is alive that serves its queue {queue!r}{_last_seen(serving)}"
        away = {each.location: each for worker in alive for each in worker.breakers if each.state != "closed"}
        if away:
            told = _some([f"{each.location} since {_at(each.since)} ({each.error})" for each in away.values()])
            return f"the workers of its queue {queue!r} wait for a store whose circuit breaker is open: {told}"
        taken, slots = sum(worker.running for worker in alive), sum(worker.slots for worker in alive)
        workers = f"{len(alive)} worker{'s' * (len(alive) > 1)} serve{'s' * (len(alive) == 1)} its queue {queue!r}"
        return f"due since {_at(record.run_at)}, waits for a free slot: {workers}, {taken} tasks in {slots} slots"

    async def _who_runs_it(self, record: TaskRecord, now: float) -> str:
        seen = next((w.last_seen for w in await self._store.workers() if w.name == record.worker), None)
        when = "never seen" if seen is None else f"last seen at {_at(seen)}"
        asked = "; it was asked to stop" if record.cancel_requested else ""
        until = record.lease_until or 0.0
        if until <= now:
            lapsed = f"the lease of worker {record.worker} ran out at {_at(until)} without being renewed ({when})"
            return f"{lapsed}: a worker puts it back soon{asked}"
        since = _at(record.claimed_at or 0.0)
        return f"runs: leased by worker {record.worker} ({when}) since {since}, until {_at(until)} or longer{asked}"


def _until_when(record: TaskRecord, events: Sequence[TaskEvent]) -> str:
    if not record.attempts:
        return f"is due at {_at(record.run_at)}"
    errors = [event.data.get("error_type") for event in events if event.attempt == record.attempts]
    after = next((f" with {error}" for error in errors if error), "")
    return f"is tried again at {_at(record.run_at)}, after attempt {record.attempts} failed{after}"


def _how_it_ended(record: TaskRecord, result: TaskResult | None) -> str:
    at = _at(record.finished_at or 0.0)
    error = f": {result.error_type}: {result.error_message}" if result is not None and result.error_type else ""
    match record.state:
        case TaskState.SUCCESS:
            return f"succeeded at {at}"
        case TaskState.CANCELLED:
            return f"was cancelled at {at}{error}"
        case TaskState.EXPIRED if error:
            return f"expired at {at}, before it could be tried again{error}"
        case TaskState.EXPIRED:
            return f"expired at {at}: it wasn't started in time"
    return f"failed for good at {at}{error or ', and its error is no longer kept'}"


def _last_seen(workers: Sequence[WorkerRecord]) -> str:
    if not workers:
        return ""
    last = max(workers, key=lambda worker: worker.last_seen)
    return f"; {last.name} was last seen at {_at(last.last_seen)}"


def _some(items: Sequence[str]) -> str:
    rest = len(items) - MAX_NAMED
    return ", ".join(items[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _at(time: float) -> str:
    return f"{utc(time):%Y-%m-%dT%H:%M:%SZ}"


# ── the history ───────────────────────────────────────────────────────────────


def _of_record(record: TaskRecord) -> Iterable[HistoryEntry]:
    """What the task's row tells."""
    yield HistoryEntry(utc(record.created_at), f"added to queue {record.queue_name!r}{_parents(record)}")
    if record.run_at != record.created_at:
        yield HistoryEntry(utc(record.run_at), "due")
    if record.expires_at is not None:
        yield HistoryEntry(utc(record.expires_at), "its TTL ends")
    if record.claimed_at is not None:
        yield HistoryEntry(
            utc(record.claimed_at), f"claimed by worker {record.worker or '(given back)'}, claim {record.epoch}"
        )
    if record.finished_at is not None:
        counts = f"failed attempts: {record.attempts}, crashes: {record.crashes}"
        yield HistoryEntry(utc(record.finished_at), f"ended: {record.state} ({counts})")
    elif record.state is TaskState.RUNNING and record.lease_until is not None:
        yield HistoryEntry(utc(record.lease_until), "its lease ends, unless it is renewed")


def _parents(record: TaskRecord) -> str:
    return f", depends on {_some(record.depends_on)}" if record.depends_on else ""


def _of_result(result: TaskResult | None) -> Iterable[HistoryEntry]:
    """What its result tells."""
    if result is None:
        return
    if result.started_at is not None:
        yield HistoryEntry(result.started_at, f"attempt {result.attempts} began on worker {result.worker}")
    if result.expires_at is not None:
        yield HistoryEntry(result.expires_at, "its result is no longer kept")


def _of_event(event: TaskEvent) -> HistoryEntry:
    """What an event tells."""
    details = {"attempt": event.attempt, "worker": event.worker, **event.data}
    said = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
    return HistoryEntry(utc(event.time), f"event {event.type}{f' ({said})' if said else ''}")
