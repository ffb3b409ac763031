"""Claiming as many tasks as keep the slots busy, and deciding what needs no run."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

from omniq.batching import level_of
from omniq.errors import CorruptPayload, KeyMissing, PayloadTooLarge, SerializationError, StoreError
from omniq.loops import Background, spawn
from omniq.models.config import WorkerConfig
from omniq.models.task import TaskState
from omniq.outcomes import parent_results
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.request import UNREADABLE, verified_call
from omniq.serialization.codec import VARIABLE
from omniq.serialization.parents import ParentResult
from omniq.storage.base import BaseTaskQueue, carry_out
from omniq.storage.records import Change, Lease, TaskRecord
from omniq.storage.wakeups import News
from omniq.texts import get_logger
from omniq.workers.execution import failure
from omniq.workers.jobs import InFlight, Job, RunResult, RunStatus
from omniq.workers.kinds import IN_VAIN, ClaimLimits, Runners
from omniq.workers.settling import poisoned

# ── admission ───────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")

FIRST_WAIT: Final = 1.0
MAX_WAIT: Final = 30.0
"""Seconds until a task is handed out again that this worker lacks the key for; they double from claim to claim."""
MAX_TOLD: Final = 100
"""Key ids of which the log is told."""
MAX_SUPPLIED: Final = 2**30
"""Bytes of a call together with the results among its arguments."""


class Admission:
    """Turns claimed records into jobs, or into outcomes that need no run."""

    def __init__(self, queue: AsyncTaskQueue[Any], *, max_crashes: int) -> None:
        self._queue = queue
        self._serialization = queue.serialization
        self._max_crashes = max_crashes
        self._told: set[str] = set()
        """The missing keys that the log was told of."""

    def admit(self, records: Iterable[TaskRecord], claimed_at: float) -> tuple[list[Job], list[tuple[Job, RunResult]]]:
        """The jobs to run, and those that mustn't be, each with what has come of it already.

        `claimed_at` is when their claim was asked for, on `time.monotonic()`'s clock: no lease began before, and by
        the time that the answer is here, a process that was stopped meanwhile may hold none of them any more.
        """
        jobs: list[Job] = []
        ended: list[tuple[Job, RunResult]] = []
        for record in records:
            job, ran = self._admit(record, claimed_at)
            if ran is None:
                jobs.append(job)
            else:
                ended.append((job, ran))
        return jobs, ended

    def _admit(self, record: TaskRecord, claimed_at: float) -> tuple[Job, RunResult | None]:
        """The job, and what has come of it already if it mustn't run.

        A task that makes no sense, in its columns or its bytes, or whose bytes aren't signed by us is dead-lettered;
        the bytes stay as they are. One that is signed with a key which this process lacks goes back, uncharged, to a
        worker that has it.
        """
        try:
            if record.damage is not None:
                raise CorruptPayload(f"the stored task is damaged: {record.damage}")
            call = verified_call(record, self._serialization)
        except KeyMissing as error:
            self._tell(error)
            return Job(record, UNREADABLE, claimed_at), RunResult(end=RunStatus.RELEASED, delay=until_next_try(record))
        except SerializationError as error:
            job = Job(record, UNREADABLE, claimed_at)
            return job, failure(job, error, fatal=True)
        job = Job(record, call, claimed_at, quarantined=record.crashes > 0 and self.is_quarantined(record))
        if record.crashes >= self._max_crashes:
            return job, poisoned(record.crashes)
        if record.cancel_requested:
            return job, RunResult(end=RunStatus.CANCELLED)
        if record.expires_at is not None and self._is_expired(record, record.expires_at):
            return job, RunResult(end=RunStatus.EXPIRED)
        return job, None

    async def supply(self, jobs: Sequence[Job]) -> list[tuple[Job, RunResult]]:
        """Give jobs the results that are among their arguments, read for all of them at once.

        Returns those for which they can't be had, each with what has come of it. Where that is for want of a key, or
        of the store, it goes back to be tried again.
        """
        try:
            results = await parent_results(self._queue, list({id_ for job in jobs for id_ in job.call.results_of}))
        except StoreError as error:
            text = "the results that %d tasks take can't be read, they go back: %s"
            log.log(level_of(error), text, len(jobs), error)
            return [(job, RunResult(end=RunStatus.RELEASED, delay=until_next_try(job.record))) for job in jobs]
        supplied = ((job, self._supply(job, [results[id_] for id_ in job.call.results_of])) for job in jobs)
        return [(job, ran) for job, ran in supplied if ran is not None]

    def _supply(self, job: Job, results: Sequence[ParentResult | SerializationError]) -> RunResult | None:
        """What has come of a job already, if it can't have these."""
        for result in results:
            if isinstance(result, KeyMissing):
                self._tell(result)
                return RunResult(end=RunStatus.RELEASED, delay=until_next_try(job.record))
            if isinstance(result, SerializationError):
                return failure(job, result, fatal=True)
        job.take_parents(result for result in results if isinstance(result, ParentResult))
        if job.size > MAX_SUPPLIED:
            too_large = f"the results among its arguments have {job.size:,} bytes; {MAX_SUPPLIED:,} are allowed"
            job.parents = ()
            return failure(job, PayloadTooLarge(too_large), fatal=True)
        return None

    def is_quarantined(self, record: TaskRecord) -> bool:
        """Whether its next crash would be its last: it runs with nothing beside it that it could drag along."""
        return 0 < record.crashes >= self._max_crashes - 1

    def _tell(self, error: KeyMissing) -> None:
        if error.key_id in self._told or len(self._told) == MAX_TOLD:
            return
        self._told.add(error.key_id)
        log.error(
            "tasks signed with key id %r can't be run here and go back for other workers: add that key to %s of this "
            "process (%s)",
            error.key_id,
            VARIABLE,
            error,
        )

    @staticmethod
    def _is_expired(record: TaskRecord, at: float) -> bool:
        return record.claimed_at is not None and at <= record.claimed_at


def until_next_try(record: TaskRecord) -> float:
    """Seconds until a task that couldn't be read is worth another claim: more with every one it has had."""
    return min(MAX_WAIT, FIRST_WAIT * 2.0 ** min(record.epoch - 1, 16))


# ── fetching ────────────────────────────────────────────────────────────────


REST = 0.02
"""Seconds until the next claim after one that has most likely emptied the queues, unless something is told before: what
it has brought runs and is settled first."""
RETRY_PAUSE = 1.0
"""Seconds at most until a store is asked again that has failed."""
STALE_AFTER_S = 1.0
"""Seconds after which work that was claimed ahead and isn't begun goes back for others to take."""


class Fetcher:
    """The loop that claims. It never ends by an error of the store: it waits and tries again."""

    def __init__(
        self,
        store: BaseTaskQueue,
        in_flight: InFlight,
        runners: Runners,
        admission: Admission,
        *,
        queues: Sequence[str],
        config: WorkerConfig,
        worker: str,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._runners = runners
        self._limits = ClaimLimits(in_flight, runners, config.prefetch)
        self._admission = admission
        self._queues = tuple(queues)
        self._config = config
        self._worker = worker
        self._hint: Background[None] | None = None
        self._emptied_at = -math.inf
        """When a claim began that found nothing."""
        self._emptied = asyncio.Event()
        self._unanswered = False
        """Whether a claim has failed that the store may have carried out."""
        self._found = 0
        self._in_vain = False
        """Whether tasks have gone back for which there was no room, and which are due again a little later."""
        self._swept: set[str] = set()
        """Tasks this worker lacks the key for, as far as they were claimed and went back since it last paused."""
        self.last_fetch = time.monotonic()
        """When a claim last came back, on `time.monotonic()`'s clock: for health checks."""
        self._turn_at = self.last_fetch
        """When the loop is to take its next step, on the same clock."""

    async def run(self) -> None:
        """Claim until cancelled."""
        try:
            while True:
                await self._until_room()
                self._listen()
                await asyncio.sleep(0)  # so that it does listen before the claim looks
                await self._idle(await self._fetch())
        finally:
            self._stop_listening()

    @property
    def overdue(self) -> float:
        """Seconds by which the next step is late. From any thread."""
        return max(0.0, time.monotonic() - self._turn_at)

    def _turns_within(self, seconds: float) -> None:
        """Note that it takes its next step so soon, if all is well."""
        self._turn_at = time.monotonic() + seconds

    async def _fetch(self) -> float | None:
        """Claim, and hand out; returns how many seconds to wait for news before the next claim, None for any time."""
        self._turns_within(0.0)
        began, pauses = time.monotonic(), [math.inf]
        for queues, limit in self._limits.claims(self._ordered()):
            pauses.append(await self._fetch_from(queues, limit))
        if min(pauses) < math.inf:
            return min(pauses)
        if not self._limits.closed(self._queues):
            self._note_empty(began)
        return None

    async def _fetch_from(self, queues: Sequence[str], limit: int) -> float:
        """The same for some queues; infinite where there was nothing."""
        began = time.monotonic()
        records = await self._claim(queues, limit)
        if records is None:
            return 0.0
        if not records:
            return math.inf
        self._found += len(records)
        may_be_more = self._may_be_more(records, limit)
        await self._hand_out(records, began, full=may_be_more)
        return 0.0 if may_be_more else REST

    async def until_nothing_due(self) -> bool:
        """Wait for a claim that begins after now and finds nothing; returns whether none found anything meanwhile, and
        nothing that went back for want of room is due again soon."""
        if self._in_vain:
            self._in_vain = False
            await asyncio.sleep(1.1 * IN_VAIN)  # clocks are rounded
        now, found = time.monotonic(), self._found
        self._store.wakeups.tell(News(due=None))  # so that it is made at once
        while self._emptied_at < now:
            self._emptied.clear()
            await self._emptied.wait()
        return self._found == found and not self._in_vain

    # ── how many ─────────────────────────────────────────────────────────────

    async def _until_room(self) -> None:
        """Wait until a claim is worth its round trip."""
        while not self._limits.are_worth_a_claim():
            await self._changed()

    async def _changed(self) -> None:
        await self._changed_or_stale()
        self._hand_back(self._limits.stale(STALE_AFTER_S))

    async def _changed_or_stale(self) -> None:
        self._turns_within(STALE_AFTER_S)
        self._in_flight.changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(STALE_AFTER_S):
                await self._in_flight.changed.wait()

    async def _until_held_at_most(self, count: int) -> None:
        while len(self._in_flight.held) > count:
            await self._changed_or_stale()

    # ── claiming ─────────────────────────────────────────────────────────────

    async def _return_unanswered(self) -> None:
        """Hand back, uncharged, what a claim has brought to this worker's name whose answer was lost."""
        in_hand = {(job.record.id, job.record.epoch) for job in self._in_flight.held.values()}
        held = await self._store.held(self._worker)
        unknown = [lease for lease in held if (lease.task_id, lease.epoch) not in in_hand]
        if unknown:
            log.warning("%d tasks go back that were claimed without an answer", len(unknown))
            releases = [_release(lease) for lease in unknown]
            await carry_out(self._store, self._store.transition, releases, id_of=attrgetter("task_id"))
        self._unanswered = False

    async def _claim(self, queues: Sequence[str], limit: int) -> list[TaskRecord] | None:
        """The tasks; None when the store failed."""
        claim = spawn(self._claim_now(queues, limit))
        try:
            records = await asyncio.shield(claim)
        except asyncio.CancelledError:
            await self._return(claim)
            raise
        except StoreError as error:
            self._unanswered = True
            log.log(level_of(error), "tasks can't be claimed, trying again: %s", error)
            await asyncio.sleep(min(self._config.poll_interval, RETRY_PAUSE))
            return None
        self.last_fetch = time.monotonic()
        return records

    async def _claim_now(self, queues: Sequence[str], limit: int) -> list[TaskRecord]:
        if self._unanswered:
            await self._return_unanswered()
        return await self._store.claim(queues, limit=limit, lease=self._config.lease, worker=self._worker)

    async def _return(self, claim: asyncio.Future[list[TaskRecord]]) -> None:
        """Hand back what a claim brings in whose answer this worker doesn't want any more."""
        with suppress(StoreError):
            jobs, ended = self._admission.admit(await claim, time.monotonic())
            self._hand_back([*jobs, *(job for job, _ in ended)])

    def _ordered(self) -> Sequence[str]:
        """The queues in the order of this claim: as configured, or drawn so that earlier ones come first more often."""
        if self._config.policy == "strict":
            return self._queues
        count = len(self._queues)
        # Efraimidis & Spirakis (2006): a weighted shuffle by sorting on u ** (1 / weight).
        keys = {name: random.random() ** (1 / (count - place)) for place, name in enumerate(self._queues)}
        return sorted(self._queues, key=keys.__getitem__, reverse=True)

    def _may_be_more(self, records: Sequence[TaskRecord], limit: int) -> bool:
        """Whether the claim was as large as it may be, so that it is likely to have left some."""
        if len(records) >= min(limit, self._store.max_items):
            return True
        return sum(len(record.body) for record in records) > self._store.max_bytes // 16  # the next may be large

    async def _hand_out(self, records: Sequence[TaskRecord], claimed_at: float, *, full: bool) -> None:
        jobs, ended = self._admission.admit(records, claimed_at)
        for job, ran in ended:
            self._in_flight.accept_done(job, ran)
        if not jobs and all(ran.end is RunStatus.RELEASED for _, ran in ended):
            await self._leave_to_others(ended, full=full)
            return
        self._swept.clear()
        if self._limits.demand or any(job.call.worker is not None for job in jobs):
            jobs = await self._with_slots(jobs)
        suspect = next((job for job in jobs if job.quarantined and not self._runners.of(job).isolates), None)
        if suspect is None:
            ready = [job for job in jobs if not job.call.results_of]
            self._run(ready)
            if len(ready) < len(jobs):
                self._run(await self._with_parents([job for job in jobs if job.call.results_of]))
        else:
            await self._run_alone(suspect, [job for job in jobs if job is not suspect])

    def _run(self, jobs: Iterable[Job]) -> None:
        self._in_flight.accept(jobs)
        if self._limits.demand and (excess := self._limits.excess()):
            self._in_vain = True
            self._hand_back(excess, IN_VAIN)
        self._runners.wake()

    async def _with_slots(self, jobs: Sequence[Job]) -> list[Job]:
        """Open slots for jobs that ask for another kind, keeping their leases; returns those that can be run here."""
        for job in jobs:
            self._in_flight.hold(job)
        try:
            refused = await self._runners.open_for(jobs)
        except asyncio.CancelledError:
            self._hand_back(jobs)
            raise
        for job in refused:
            self._in_flight.done(job, RunResult(end=RunStatus.RELEASED, delay=until_next_try(job.record)))
        jobs = [job for job in jobs if not job.done]
        self._limits.demand.note(self._in_flight, jobs)
        return jobs

    async def _with_parents(self, jobs: Sequence[Job]) -> list[Job]:
        """Give jobs the results that are among their arguments, keeping their leases; returns those that can be run."""
        for job in jobs:
            self._in_flight.hold(job)
        try:
            ended = await self._admission.supply(jobs)
        except asyncio.CancelledError:
            self._hand_back(jobs)
            raise
        for job, ran in ended:
            self._in_flight.done(job, ran)
        return [job for job in jobs if not job.done]

    async def _leave_to_others(self, released: Sequence[tuple[Job, RunResult]], *, full: bool) -> None:
        """Go on to what may be behind tasks that this worker lacks the key for; pause, when it has seen them all.

        The pause is longer than these tasks wait, so that others get them.
        """
        ids = {job.record.id for job, _ in released}
        if full and self._swept.isdisjoint(ids):
            self._swept |= ids
            return
        self._swept.clear()
        pause = min(2 * max(ran.delay or 0.0 for _, ran in released), MAX_WAIT)
        self._turns_within(pause)
        await asyncio.sleep(pause)

    async def _run_alone(self, suspect: Job, others: list[Job]) -> None:
        """Run a task that may kill the process when nothing else is in this worker's hands."""
        log.info("task %s has crashed %d times: it runs alone", suspect.record.id, suspect.record.crashes)
        self._hand_back([*others, *self._in_flight.withdraw()])
        self._in_flight.hold(suspect)
        try:
            await self._until_held_at_most(1)
        except asyncio.CancelledError:
            self._hand_back([suspect])
            raise
        self._run(await self._with_parents([suspect]) if suspect.call.results_of else [suspect])
        await self._until_held_at_most(0)

    def _hand_back(self, jobs: Sequence[Job], delay: float | None = None) -> None:
        for job in jobs:
            self._in_flight.accept_done(job, RunResult(end=RunStatus.RELEASED, delay=delay))

    # ── waiting ──────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        if self._hint is None or self._hint.done():
            pause = self._config.poll_interval * random.uniform(0.9, 1.1)  # so that workers don't all look at once
            self._hint = spawn(self._hear(pause))

    async def _hear(self, pause: float) -> None:
        try:
            if queues := [name for name in self._queues if not self._limits.closed([name])]:
                await self._store.wait(queues, pause)
            else:
                await asyncio.sleep(pause)
        except StoreError as error:
            log.log(level_of(error), "can't wait for tasks, polling: %s", error)
            await asyncio.sleep(pause)

    async def _idle(self, seconds: float | None) -> None:
        assert self._hint is not None
        if seconds == 0:
            return
        self._turns_within(2.2 * self._config.poll_interval)  # twice, where the store fails meanwhile
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._limits.closed(self._queues):
                    await self._hint_or_change(self._hint)
                else:
                    await asyncio.shield(self._hint)

    async def _hint_or_change(self, hint: asyncio.Future[None]) -> None:
        """Wait for news of the queues that are claimed from, or for room that lets others be claimed from, too."""
        self._in_flight.changed.clear()
        change: asyncio.Future[Any] = asyncio.ensure_future(self._in_flight.changed.wait())
        try:
            await asyncio.wait([hint, change], return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    def _note_empty(self, began: float) -> None:
        self._emptied_at = began
        self._emptied.set()

    def _stop_listening(self) -> None:
        if self._hint is not None:
            self._hint.end()


def _release(lease: Lease) -> Change:
    return Change(
        task_id=lease.task_id,
        to=TaskState.PENDING,
        from_states=(TaskState.RUNNING,),
        epoch=lease.epoch,
        worker=lease.worker,
    )
