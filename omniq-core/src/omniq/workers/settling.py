"""From what came of a run to what the store is told, in batches."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from omniq.batching import Backoff, level_of, within
from omniq.errors import LeaseLost, StoreError, StoreUnavailable, ValueRefused, WorkerCrashed
from omniq.events.logger import EventFields
from omniq.loops import spawn
from omniq.models.config import WorkerConfig
from omniq.models.event import EventType
from omniq.models.result import Outcome
from omniq.models.task import TaskState
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.policies import DependencyResolver, RetryManager
from omniq.queue.stores import Stores, kept_for
from omniq.storage.base import ALWAYS_TAKEN, carry_out
from omniq.storage.records import Change, Changed, ChangeStatus, ResultRecord, change_bytes
from omniq.sync import cancel_and_wait
from omniq.texts import MAX_MESSAGE, cut, get_logger, qualified_name
from omniq.workers.jobs import SUCCEEDED, InFlight, Job, RunResult, RunStatus
from omniq.workers.progress import update

log = get_logger("omniq.worker")

FIRST_PAUSE, MAX_PAUSE = 0.1, 0.5
"""Seconds between two attempts to reach a store that is away: no slot is free again before it is told."""
MAX_SETTLED = 500
"""Tasks that are settled in one call: a longer one keeps the next claim waiting where a store does one at a time."""
REFUSALS = 10
"""Times that a store may refuse a batch, for no fault of a value, before its outcomes are told one by one."""
SILENCE, LAST_CHANCE = 0.8, 0.2
"""Seconds after which a store that doesn't answer is taken as away by a stopping worker, and for which it may answer
all the same."""

FINAL_STATES = {
    RunStatus.SUCCESS: TaskState.SUCCESS,
    RunStatus.FATAL: TaskState.ERROR,
    RunStatus.ERROR: TaskState.ERROR,
    RunStatus.CRASHED: TaskState.ERROR,
    RunStatus.CANCELLED: TaskState.CANCELLED,
    RunStatus.EXPIRED: TaskState.EXPIRED,
}

LOST = RunStatus.LOST
STORED = frozenset({ChangeStatus.APPLIED, ChangeStatus.REPEATED})
"""What becomes of a change whose outcome the store has."""

EVENTS = {
    TaskState.SUCCESS: EventType.COMPLETE,
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
}
"""A task that goes back to be tried again is a RETRY; one that is merely handed back is no event."""


class CompletionPolicy:
    """Decides, without a store, which change a run deserves."""

    def __init__(self, queue: AsyncTaskQueue[Any], retries: RetryManager, *, worker: str, config: WorkerConfig) -> None:
        self._dead_letters = config.dead_letter_retention
        self._serialization = queue.serialization
        self._retries = retries
        self._worker = worker
        self._max_crashes = config.max_crashes

    def change(self, job: Job, ran: RunResult) -> Change:
        """The change for a job that is done."""
        if ran.end is SUCCEEDED:
            return self._final(job, ran)
        if ran.end is RunStatus.RELEASED:
            return self._back(job, delay=ran.delay)
        if ran.end is RunStatus.CRASHED and ran.error_type is None:  # else it was given up before it could run
            return self._crashed(job)
        if ran.end is RunStatus.ERROR and not self._retries.exhausted(job.attempt, job.call.max_retries):
            delay = ran.delay
            if delay is None:
                delay = self._retries.delay(job.call, job.attempt)
            if not job.may_start_in(delay):
                return self._final(job, ran, to=TaskState.EXPIRED)
            return self._back(job, delay=delay, attempted=True)
        return self._final(job, ran)

    def _back(self, job: Job, *, delay: float | None = None, attempted: bool = False, crashed: bool = False) -> Change:
        return Change(
            task_id=job.record.id,
            to=TaskState.PENDING,
            from_states=RUNNING,
            epoch=job.record.epoch,
            worker=self._worker,
            delay=delay,
            attempted=attempted,
            crashed=crashed,
        )

    def _crashed(self, job: Job) -> Change:
        if job.record.crashes + 1 < self._max_crashes:
            return self._back(job, crashed=True)
        return self._final(job, poisoned(job.record.crashes + 1), crashed=True)

    def _final(self, job: Job, ran: RunResult, *, crashed: bool = False, to: TaskState | None = None) -> Change:
        record = job.record
        to = to or FINAL_STATES[ran.end]
        outcome = Outcome(
            value=ran.value,
            value_format=ran.value_format,
            error_type=ran.error_type,
            error_message=ran.error_message,
            traceback=ran.traceback,
            attempts=record.attempts + (ran.started_at is not None),
            started_at=ran.started_at,
            worker=self._worker,
        )
        return Change(
            task_id=record.id,
            to=to,
            from_states=RUNNING,
            epoch=record.epoch,
            worker=self._worker,
            attempted=ran.end in CHARGED,
            crashed=crashed,
            result=ResultRecord(
                task_id=record.id,
                epoch=record.epoch,
                status=to,
                body=self._serialization.pack_outcome(
                    outcome, task_id=record.id, epoch=record.epoch, status=to, schedule_id=record.schedule_id
                ),
                ttl=kept_for(job.call, to, self._dead_letters) if to is TaskState.ERROR else job.call.result_ttl,
                schedule_id=record.schedule_id,
            ),
        )


RUNNING = (TaskState.RUNNING,)
CHARGED = frozenset({RunStatus.ERROR, RunStatus.FATAL})
"""The ends that cost an attempt."""


def poisoned(crashes: int) -> RunResult:
    """What is said of a task whose process died too often."""
    return RunResult(
        end=RunStatus.CRASHED,
        error_type=qualified_name(WorkerCrashed),
        error_message=f"the process that ran it died {crashes} times",
    )


def unstorable(ran: RunResult, error: StoreError) -> RunResult:
    """What is said of a task whose outcome the store refuses."""
    return RunResult(
        end=RunStatus.FATAL,
        error_type=qualified_name(type(error)),
        error_message=cut(f"its outcome ({ran.end}) can't be stored: {error}", MAX_MESSAGE),
        started_at=ran.started_at,
    )


def dependencies_of(
    stores: Stores, config: WorkerConfig, on_ended: Callable[[Job, Change], None]
) -> DependencyResolver:
    """A worker's own: it calls what tasks asked for that it ends without a run."""
    return DependencyResolver(
        stores,
        on_ended=lambda ended: on_ended(Job(ended.record, ended.call), ended.change),
        dead_letters=config.dead_letter_retention,
    )


class Completer:
    """Tells the store what came of the jobs that are done; while one batch is written, the next gathers.

    A store that is away makes it wait and try again: the task isn't run again for that, and its lease is kept.
    """

    def __init__(
        self,
        queue: AsyncTaskQueue[Any],
        dependencies: DependencyResolver,
        in_flight: InFlight,
        policy: CompletionPolicy,
        *,
        worker: str,
        on_ended: Callable[[Job, Change], None],
    ) -> None:
        self._dependencies = dependencies
        self._in_flight = in_flight
        self._policy = policy
        self._worker = worker
        self._on_ended = on_ended
        self._stores = queue.stores
        self._batch = min(MAX_SETTLED, queue.store.max_items)
        self._max_bytes = queue.stores.max_bytes
        self.ended: Counter[RunStatus] = Counter()
        """How many runs have ended in which way since the worker started."""
        self._parents: dict[str, bool] = {}
        """Tasks that have ended and whose children are still to be seen to; for each, whether it has succeeded."""
        self._releasing: asyncio.Task[None] | None = None
        self._put_off: set[Job] = set()
        """Jobs whose outcomes the store refuses for now."""
        self._asking_since: float | None = None
        self._writing = asyncio.Lock()

    @property
    def blocked_for(self) -> float:
        """Seconds for which the store hasn't taken what it is told."""
        return 0.0 if self._asking_since is None else time.monotonic() - self._asking_since

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._in_flight.has_done.wait()
            async with self._writing:
                await self.settle(self._collect())

    def _collect(self) -> list[tuple[Job, RunResult]]:
        return self._in_flight.collect(self._batch, self._max_bytes)

    async def settle(self, batch: Sequence[tuple[Job, RunResult]]) -> None:
        """Settle one batch, however long the store takes."""
        mine = [done for done in batch if done[1].end is not LOST]
        if mine:
            await self._settle(mine)
        settled = self._without_put_off(mine)
        self.ended.update(ran.end for _, ran in settled)
        self._in_flight.settled(job for job, _ in self._without_put_off(batch))

    def _without_put_off(self, batch: Sequence[tuple[Job, RunResult]]) -> Sequence[tuple[Job, RunResult]]:
        return [(job, ran) for job, ran in batch if job not in self._put_off] if self._put_off else batch

    async def _settle(self, batch: Sequence[tuple[Job, RunResult]], *, refusals: float = REFUSALS) -> None:
        changes = [self._policy.change(job, ran) for job, ran in batch]
        try:
            outcomes = await self._write(changes, refusals)
        except StoreError as error:
            await self._settle_refused(batch, error)
        else:
            self._note(batch, changes, outcomes)

    async def _settle_refused(self, batch: Sequence[tuple[Job, RunResult]], error: StoreError) -> None:
        """Find the outcome that the store won't take: let its task fail if the value is at fault, else try later."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                await self._settle(half, refusals=1)
            return
        ((job, ran),) = batch
        log.error("task %s: the store refuses its outcome (%s): %s", job.record.id, ran.end, error)
        if isinstance(error, ValueRefused):
            await self._settle([(job, unstorable(ran, error))], refusals=math.inf)
        else:
            self._put_off.add(job)
            asyncio.get_running_loop().call_later(MAX_PAUSE, self._take_up, job, ran)

    def _take_up(self, job: Job, ran: RunResult) -> None:
        """Settle what was put off with what is done by now: it has kept its lease, and kept nobody waiting."""
        self._put_off.discard(job)
        self._in_flight.done(job, ran)

    async def _write(self, changes: Sequence[Change], refusals: float) -> list[Changed]:
        """Apply the changes. Raises `ValueRefused` at once, and `StoreError` when the store can be reached and refuses
        them that often: for a password, a right or a command that was taken away it waits."""
        backoff, self._asking_since = Backoff(FIRST_PAUSE, MAX_PAUSE), time.monotonic()
        while True:
            try:
                answer = await self._stores.settle(changes)
                self._asking_since = None
                return answer
            except StoreError as error:
                refusals -= not isinstance(error, StoreUnavailable) or await self._may_be_too_many(changes)
                if refusals <= 0 or (isinstance(error, ValueRefused) and refusals < math.inf):
                    raise
                text = "%d tasks can't be settled, trying again in %.1f s: %s"
                log.log(level_of(error), text, len(changes), backoff.next, error)
                await backoff.pause()

    async def _may_be_too_many(self, changes: Sequence[Change]) -> bool:
        """Whether the store seems to be away for this batch only, which is large, and not for a small question."""
        return len(changes) > 1 and sum(map(change_bytes, changes)) > ALWAYS_TAKEN and await self._stores.answers()

    def _note(
        self, batch: Sequence[tuple[Job, RunResult]], changes: Sequence[Change], outcomes: Sequence[Changed]
    ) -> None:
        parents: dict[str, bool] = {}
        quiet = not self._stores.keeps(EventType.COMPLETE) and not self._stores.callbacks.ended
        for (job, ran), change, outcome in zip(batch, changes, outcomes, strict=True):
            if outcome.status not in STORED:
                self._lost(job, ran)
                continue
            if outcome.has_children and change.to.is_terminal:
                parents[job.record.id] = change.to is TaskState.SUCCESS
            if not (quiet and ran.end is SUCCEEDED and job.call.on_success is None):  # the common case is quiet
                self._ended(job, ran, change)
        if parents:
            self._release_children(parents)

    @staticmethod
    def _lost(job: Job, ran: RunResult) -> None:
        lost = f"the lease of epoch {job.record.epoch} has passed on; its outcome ({ran.end}) is dropped"
        log.warning("%s", LeaseLost(f"task {job.record.id}: {lost}"))

    def _ended(self, job: Job, ran: RunResult, change: Change) -> None:
        if ran.error_type is not None:
            log.warning("task %s: attempt %d: %s; now %s", job.record.id, job.attempt, ran.error_type, change.to)
        if self._stores.events is not None:
            self._log(job, ran, change)
        self._call_back(job, ran, change)
        if change.to.is_terminal:
            self._on_ended(job, change)

    def _call_back(self, job: Job, ran: RunResult, change: Change) -> None:
        """Tell those who want to hear of every task."""
        callbacks = self._stores.callbacks
        if change.to.is_terminal and callbacks.ended:
            result = self._stores.result_of(change)
            callbacks.tell(callbacks.ended, update(job, "ended", self._worker, ran=ran, result=result))
        elif (change.attempted or change.crashed) and callbacks.retried:
            delay = change.delay or 0.0
            callbacks.tell(callbacks.retried, update(job, "retried", self._worker, ran=ran, retry_in=delay))

    def _log(self, job: Job, ran: RunResult, change: Change) -> None:
        data: dict[str, Any] = {"error_type": ran.error_type} if ran.error_type else {}
        if change.delay is not None:
            data["delay"] = change.delay
        fields: EventFields = {"worker": self._worker, "attempt": job.attempt, "data": data}
        if change.to is TaskState.ERROR:
            self._stores.log_failed(job.record, **fields)
        elif event := EVENTS.get(change.to, EventType.RETRY if change.attempted or change.crashed else None):
            self._stores.log_task(event, job.record, **fields)

    def _release_children(self, parents: dict[str, bool]) -> None:
        """See to the children of tasks that have ended; for each, whether it has succeeded."""
        self._parents |= parents
        if self._releasing is None or self._releasing.done():
            self._releasing = spawn(self._release())

    async def _release(self) -> None:
        """While some are seen to, the next gather: what waits for many of them is looked at once."""
        while self._parents:
            parents, self._parents = self._parents, {}
            await self._resolve(parents)

    async def _resolve(self, parents: dict[str, bool]) -> None:
        succeeded = frozenset(id_ for id_, success in parents.items() if success)
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while True:
            try:
                await self._dependencies.parents_ended(list(parents), succeeded)
                return
            except ValueRefused as error:
                log.error("the children of %d tasks aren't released, the sweep will try: %s", len(parents), error)
                return
            except StoreError as error:
                text = "the children of %d tasks can't be released, trying again: %s"
                log.log(level_of(error), text, len(parents), error)
                await backoff.pause()

    async def finish(self, patience: float) -> bool:
        """Settle what is done by now, and see to the children, within so many seconds; returns whether that worked.

        A store that hasn't answered for long isn't waited for. What is left then is other workers' to do: at once where
        only results can't be stored, else when the leases have run out.
        """
        finishing = asyncio.ensure_future(self._finish())
        ends_at, silence = time.monotonic() + patience, max(SILENCE, self.blocked_for + LAST_CHANCE)
        try:
            while not finishing.done() and time.monotonic() < ends_at and self.blocked_for < silence:
                await asyncio.wait([finishing], timeout=LAST_CHANCE / 4)
        finally:
            finishing.cancel()
        if finishing.done() and not finishing.cancelled() and finishing.exception() is None:
            return True
        await cancel_and_wait(finishing, *([] if self._releasing is None else [self._releasing]))
        if self._stores.apart:
            await self._hand_back()
        return False

    async def _hand_back(self) -> None:
        """Hand back, uncharged, what has been run and can't be settled."""
        jobs = [job for job in self._in_flight.held.values() if job.done]
        backs = [self._policy.change(job, RunResult(end=RunStatus.RELEASED)) for job in jobs]
        store = self._stores.queue
        try:
            await within(1.0, carry_out(store, store.transition, backs, id_of=attrgetter("task_id")))
        except (StoreError, TimeoutError) as error:
            log.warning("%d tasks that were run can't be handed back: %s", len(jobs), error)
            return
        log.error("the results of %d tasks can't be stored: they go back, and will run again", len(jobs))
        self._in_flight.settled(jobs)

    async def _finish(self) -> None:
        async with self._writing:
            while (batch := self._collect()) or self._put_off:
                await self.settle(batch) if batch else await asyncio.sleep(FIRST_PAUSE)
        await self.children_released()

    async def children_released(self) -> None:
        """Wait until the children of what has been settled may run."""
        if self._releasing is not None:
            await asyncio.wait([self._releasing])
