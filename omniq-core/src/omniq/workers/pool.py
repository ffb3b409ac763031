"""`AsyncWorkerPool`: the parts of a worker and their life together; and `WorkerPool`, which runs it on a thread."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Self

from omniq import clock
from omniq.errors import Closed, ConfigError, WorkerError
from omniq.loops import Background, Wait, Waits, forks, persist, spawn
from omniq.models.config import WorkerConfig
from omniq.models.event import EventType
from omniq.models.task import TaskState
from omniq.outcomes import results_of
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.policies import RetryManager
from omniq.storage.base import BESIDE_A_VALUE, SizeLimit
from omniq.storage.records import WorkerRecord
from omniq.sync import cancel_and_wait
from omniq.texts import did_you_mean, get_logger, qualified_name
from omniq.workers.callbacks import TaskCallbacks
from omniq.workers.execution import Execution, Runner
from omniq.workers.fetching import Admission, Fetcher
from omniq.workers.jobs import InFlight, Line, RunResult, RunStatus
from omniq.workers.kinds import Runners
from omniq.workers.leases import LeaseKeeper, Reaper, Upkeep
from omniq.workers.progress import HeartbeatWatch, ProgressWriter, Starts
from omniq.workers.settling import Completer, CompletionPolicy, FailedRun, dependencies_of
from omniq.workers.stacks import text_of

# ── time limits ─────────────────────────────────────────────────────────────


class GracePeriod:
    """How long a stopping worker still waits; it can only get shorter."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long it is from the beginning."""
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + seconds
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, seconds: float | None) -> None:
        """End in so many seconds, if that is sooner; None changes nothing."""
        if seconds is not None:
            self.seconds = min(self.seconds, seconds)
            self._ends_at = min(self._ends_at, self._loop.time() + seconds)
            if self._timeout is not None:
                self._timeout.reschedule(self._ends_at)

    async def wait_for(self, event: Awaitable[object]) -> None:
        """Wait for the event, or until it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._ends_at) as self._timeout:
                await event
        self._timeout = None


# ── the engine ──────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")

CHANGE_PATIENCE = 5.0
"""Seconds that a worker's loop has to take a change, until nobody waits for that any more."""


class AsyncWorkerPool:
    """Takes tasks from a queue and runs them, on the loop that starts it.

    `runner` decides how a task runs; everything else is the same for every kind of worker. One pool is
    started and stopped once.
    """

    def __init__(
        self,
        queue: AsyncTaskQueue[Any],
        runner: type[Runner],
        config: WorkerConfig,
        *,
        kind: str,
        max_workers: int,
        other_kind: Callable[[str], tuple[type[Runner], int, WorkerConfig]],
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"
        """Names this worker in tasks, results and events; never used twice."""
        self.kind = kind
        self.config = config
        self.max_workers = max_workers
        self._queue = queue
        self._runner_class = runner
        self._other_kind = other_kind
        self._queues = queue.queues if config.queues is None else declared_queues(config.queues, queue.queues)
        self._stores = queue.stores
        self._parts: list[Background[None]] = []
        self._grace: GracePeriod | None = None
        self._drains = Waits("the worker")
        self._ending: Background[None] | None = None
        self._forks = forks()
        self._started_at = 0.0
        self.failure: BaseException | None = None
        """The error for which the worker can't go on, if there is one: it stops by itself then."""
        self.finished = asyncio.Event()
        """Set when the pool has stopped, by `stop` or by itself."""
        self.on_death: Callable[[BaseException], None] = lambda error: None
        """Told, on any thread, when the worker can't go on, nor its loop."""

    # ── life ─────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Connect and begin to work; returns at once. Raises `StoreError` when a store can't be reached."""
        if self._parts:
            raise WorkerError("the worker is running already")
        self._forks = forks()
        queue = self._queue
        self._stores.serialization.preload()
        await self._queue.connect()
        if self._stores.results is not None:
            await results_of(self._queue).connect()
        self._assemble()
        self._started_at = clock.now()
        await self.runners.open()
        self._leases.start()
        self._parts = [
            self._spawn(self._fetcher.run, "fetch"),
            self._spawn(self._completer.run, "settle"),
            self._spawn(self._reaper.run, "reap"),
            self._spawn(self._upkeep.run, "upkeep"),
            self._spawn(self._upkeep.purge, "purge"),
            self._spawn(partial(queue.scheduler.run, 4 * self.config.poll_interval), "schedule"),
            self._spawn(self._progress.run, "progress"),
        ]
        if self._stores.events is not None:
            self._parts.append(self._spawn(self._stores.events.keep_retention, "events"))
        said = {"kind": self.kind, "slots": self.max_workers, "queues": list(self._queues)}
        self._stores.log(EventType.WORKER_STARTED, worker=self.name, data=said)
        log.info("worker %s serves %s with %d slots", self.name, ", ".join(self._queues), self.max_workers)

    async def stop(self, grace_period: clock.Duration | None = None) -> None:
        """Stop: claim no more, hand back what isn't begun, wait for what runs, then hand that back too.

        `grace_period` (seconds) overrides the configured one; a second call while the first still waits may
        give a shorter one.
        """
        grace = clock.seconds("grace_period", grace_period)
        if self._forks != forks():
            return  # it is the parent's
        if not self._parts:
            if self._grace is not None:
                self._grace.shorten(grace)
                await self.finished.wait()
            return
        parts, self._parts = self._parts, []
        self._grace = GracePeriod(self.config.grace_period if grace is None else grace)
        try:
            await self._wind_up(*parts)
        finally:
            self.finished.set()
        log.info("worker %s has stopped", self.name)

    async def _wind_up(self, fetch: Background[None], settle: Background[None], *others: Background[None]) -> None:
        assert self._grace is not None
        await cancel_and_wait(fetch, *others)
        self._drains.close()
        for runner in self.runners.all():
            runner.take_back()
        self._hand_back()
        await self._grace.wait_for(self.in_flight.until_held_at_most(0))
        settled = False
        try:
            await self.runners.close()
            self._hand_back()  # what came back from a process that died meanwhile
            settled = await self._settle_rest()
        finally:
            await cancel_and_wait(settle)
            await self._leases.stop()
        self._watch.close()
        patience = max(1.0, self.config.grace_period)
        await asyncio.gather(self._callbacks.close(patience), self._stores.callbacks.close(patience))
        if self._stores.events is not None:
            said: dict[str, Any] = {"events_dropped": self._stores.events.dropped}
            if self.failure is not None:
                said["error_type"] = qualified_name(type(self.failure))
            self._stores.log(EventType.WORKER_STOPPED, worker=self.name, data=said)
            if settled:
                await self._stores.events.flush()

    async def change(self, config: WorkerConfig, max_workers: int) -> None:
        """Let it do as this configuration says, as far as that can change while it works: how many tasks run at once,
        here and in slots of other kinds, and how long stopping waits. From any event loop."""
        self.config, self.max_workers = config, max_workers
        if not self._parts:
            return
        done: Future[None] = Future()
        self.in_flight.call_soon(self._resize, done)
        with suppress(TimeoutError):  # its loop stands still: it will when that goes on
            await asyncio.wait_for(asyncio.wrap_future(done), CHANGE_PATIENCE)

    def _resize(self, done: Future[None]) -> None:
        try:
            self.runners.main.resize(self.max_workers)
            for kind, runner in self.runners.others.items():
                runner.resize(self._other_kind(kind)[1])
            self.in_flight.main.changed.set()  # there may be room now
        finally:
            done.set_result(None)

    @property
    def running(self) -> bool:
        """Whether it takes tasks: not before `start`, once it stops, or in a forked child."""
        return bool(self._parts) and self.failure is None and self._forks == forks()

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop, or has stopped."""
        return self._grace is not None

    @property
    def overdue(self) -> float:
        """Seconds by which its next look for tasks is late: its loop stands still, or the store doesn't answer.

        A store that answers with errors makes nothing late. From any thread, once it is started.
        """
        return self._fetcher.overdue

    @property
    def slots(self) -> int:
        """How many tasks can run at once as things are: none while it lacks threads or child processes."""
        return sum(runner.slots for runner in self.runners.all())

    @property
    def last_fetch(self) -> float:
        """When a claim last came back from the store with an answer, on `time.monotonic()`'s clock."""
        return self._fetcher.last_fetch

    @property
    def failures(self) -> Sequence[FailedRun]:
        """The runs that have failed last, the latest at the end."""
        return self._completer.failures

    def report(self) -> WorkerRecord:
        """What this worker says of itself in its store."""
        return WorkerRecord(
            name=self.name,
            host=socket.gethostname(),
            kind="+".join([self.kind, *self.runners.others]),
            queues=self._queues,
            slots=sum(runner.max_workers for runner in self.runners.all()),
            running=len(self.in_flight.held),
            abandoned=sum(runner.abandoned for runner in self.runners.all()),
            lease=self.config.lease,
            breakers=self._stores.breakers,
            started_at=self._started_at,
        )

    async def stacks(self) -> str:
        """What this worker is doing, as text: the tasks in its hands, and where each is that runs.

        No values are shown. It works while the worker's own loop is stuck, from any other one. Raises `WorkerError`
        unless it runs.
        """
        return await asyncio.wrap_future(self.look())

    def look(self) -> Future[str]:
        """The same for any thread."""
        if not self._started_at:
            raise WorkerError("the worker isn't running")
        return self._leases.look()

    async def _text_of_stacks(self) -> str:
        return text_of(self.name, list(self.in_flight.held.values()), await self.runners.stacks())

    @property
    def ended(self) -> Counter[RunStatus]:
        """How many runs have ended in which way since the worker started."""
        return self._completer.ended

    async def disconnect(self) -> None:
        """Give back the running loop's connections: for a loop that is the worker's own."""
        await self._queue.close()
        if self._stores.results is not None:
            await self._stores.results.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def drain(self) -> None:
        """Wait until nothing is due, running or unsettled: the tasks there are have been worked off.

        Raises `WorkerError` if it doesn't run or can't go on, and `Closed` if it is stopped meanwhile.
        """
        if not self._parts:
            raise WorkerError("the worker isn't running")
        try:
            with Wait(self._drains):
                while not await self._is_drained():
                    continue
        except Closed:
            if self.failure is None:
                raise
            raise WorkerError(f"the worker can't go on: {self.failure}") from None

    async def _is_drained(self) -> bool:
        await self.in_flight.until_held_at_most(0)
        await self._completer.children_released()
        return await self._fetcher.until_nothing_due() and not await self._anything_running()

    # ── parts ────────────────────────────────────────────────────────────────

    def _assemble(self) -> None:
        queue, config = self._queue, self.config
        self.in_flight = InFlight(config.lease, self.kind)
        kept = self._stores.results or queue.store
        max_result = SizeLimit.of(queue.config.max_body, kept, beside=BESIDE_A_VALUE)
        execution = Execution(queue.security, max_result)
        self._watch = HeartbeatWatch(lambda job: self.runners.end_silent(job))
        self._starts = Starts(self.in_flight, self._watch, self._stores, worker=self.name)
        self.runners = Runners(self.in_flight, self.kind, partial(self._runner, execution))
        self._progress = ProgressWriter(self._stores, self.in_flight, worker=self.name)
        execution.on_report = self._progress.report
        self._callbacks = TaskCallbacks(queue)
        self._fetcher = Fetcher(
            queue.store,
            self.in_flight,
            self.runners,
            Admission(queue, max_crashes=config.max_crashes),
            queues=self._queues,
            config=config,
            worker=self.name,
        )
        policy = CompletionPolicy(queue, RetryManager(), worker=self.name, config=config)
        ended = self._callbacks.ended
        dependencies = dependencies_of(self._stores, config, ended)
        self._completer = Completer(queue, dependencies, self.in_flight, policy, worker=self.name, on_ended=ended)
        self._leases = LeaseKeeper(
            queue.store,
            self.in_flight,
            lease=config.lease,
            stop_job=self.runners.stop_job,
            call_off=self.runners.call_off,
            back=lambda job: policy.change(job, RunResult(end=RunStatus.RELEASED)),
            report=self.report,
            stacks=self._text_of_stacks,
            stall_timeout=config.stall_timeout,
            on_stall=self._stalled,
        )
        self._upkeep = Upkeep(self._stores, dependencies, config)
        self._reaper = Reaper(queue, dependencies, config, self._upkeep.sweep_soon)

    def _runner(self, execution: Execution, kind: str, line: Line) -> Runner:
        """Slots of a kind. Raises `PluginError` if there is none of it here."""
        own = (self._runner_class, self.max_workers, self.config)
        runner_class, size, config = own if kind == self.kind else self._other_kind(kind)
        runner = runner_class(line, execution, max_workers=size, config=config)
        runner.on_failure = self._fail
        runner.on_start = self._starts.note
        return runner

    def _spawn(self, part: Callable[[], Coroutine[Any, Any, None]], name: str) -> Background[None]:
        task = spawn(persist(part, f"the worker's part {name!r}"), name=f"omniq-{name}")
        task.add_done_callback(self._part_ended)
        return task

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        """A part that ends before the worker is stopped: by an error, or because the program cancels all there is."""
        if task.cancelled():
            if self.running:
                self.die(WorkerError("its event loop is being ended by the program"))
        elif (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """The worker can't go on: hand back what can be, so that others may run it. On its loop."""
        if self._note_failure(error):
            self._give_up()

    def _give_up(self) -> None:
        self._leases.cease()
        self._drains.close()
        self._ending = spawn(self.stop(0), name="omniq-end")

    def die(self, error: BaseException) -> None:
        """The worker can't go on, nor its loop; from any thread."""
        if self._note_failure(error):
            self._leases.take_over()
            self.on_death(error)

    def _stalled(self) -> None:
        """The loop stands still, and a task that blocks it has no time left; on the thread that renews leases."""
        self.die(WorkerError("its event loop has stood still for too long: a task blocks it"))
        self.in_flight.call_soon(self._give_up)  # should it ever go on

    def _note_failure(self, error: BaseException) -> bool:
        """Whether it is the first one: it tells why."""
        if self.failure is not None:
            return False
        self.failure = error
        self.in_flight.close()
        log.critical("worker %s can't go on", self.name, exc_info=error)
        return True

    # ── stopping ─────────────────────────────────────────────────────────────

    def _hand_back(self) -> None:
        for job in self.in_flight.withdraw():
            self.in_flight.done(job, RunResult(end=RunStatus.RELEASED))

    async def _settle_rest(self) -> bool:
        """Settle what is left, but don't wait for a store that is away: the leases run out by themselves."""
        try:
            settled = await self._completer.finish(max(1.0, self._grace.seconds if self._grace else 0.0))
        except Exception as error:
            self._fail(error)
            settled = False
        if not settled and self.in_flight.held:
            log.error(
                "%d tasks couldn't be settled; they will run again when their leases are over", len(self.in_flight.held)
            )
        return settled

    async def _anything_running(self) -> bool:
        store = self._queue.store
        return any(
            stats.counts.get(TaskState.RUNNING, 0)
            for stats in await store.stats()
            if stats.name in self._queues and not stats.paused
        )


def declared_queues(asked: Sequence[str], declared: Sequence[str]) -> tuple[str, ...]:
    """The queues, each once, if they are declared. Raises `ConfigError`: from any other, nothing would ever come."""
    if not asked:
        raise ConfigError("queues: none given; leave it out to serve all")
    for name in asked:
        if name not in declared:
            known = did_you_mean(name, declared) or f"; declared: {', '.join(declared)}"
            how = "queues=[…] of the task queue declares it, as does OMNIQ_QUEUES"
            raise ConfigError(f"queues: there is no queue {name!r}{known} ({how})")
    return tuple(dict.fromkeys(asked))
