"""Tasks on threads."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from omniq.batching import Backoff
from omniq.errors import WorkerError
from omniq.models.config import InProcessWorkerConfig, WorkerConfig
from omniq.serialization.codec import LoadedCall
from omniq.texts import get_logger, qualified_name
from omniq.threads import new_lock, new_queue, start_thread
from omniq.workers.base import Worker
from omniq.workers.execution import SCARCITY_PAUSE, Execution, Runner, failure, may_be_async
from omniq.workers.jobs import Job, Line, RunResult, RunStatus
from omniq.workers.thread_loop import ThreadLoop as ThreadLoop
from omniq.workers.thread_loop import ThreadState

log = get_logger("omniq.worker")


class TaskLoop(Protocol):
    """Where a thread runs what a task of its own gives it to await."""

    @property
    def busy(self) -> bool:
        """Whether something runs on it."""
        ...

    def run(self, awaitable: Awaitable[Any], *, timeout: float | None) -> Any:
        """Run it to its end, in a copy of the caller's context. Raises `TaskTimeout` after `timeout` seconds."""
        ...

    def cancel(self) -> None:
        """Cancel what runs; from any thread."""
        ...

    def close(self) -> None:
        """The thread ends."""
        ...


class ThreadSlots:
    """Up to `size` threads that take jobs from `take` as long as `waiting` counts any.

    A thread that finds nothing parks. Waking is a chain: whoever takes a job wakes one more thread if there
    is more to take, so that a burst of tiny tasks is run by few threads and a burst of slow ones by all.
    """

    def __init__(
        self,
        execution: Execution,
        *,
        size: int,
        take: Callable[[], Job | None],
        waiting: Callable[[], int],
        done: Callable[[Job, RunResult], None],
        make_loop: Callable[[], TaskLoop] = ThreadLoop,
    ) -> None:
        """`make_loop` makes what each thread runs awaitables on."""
        self._execution = execution
        self._make_loop = make_loop
        self._size = size
        self._take = take
        self._waiting = waiting
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._lock = new_lock()
        self._idle = 0  # parked threads minus tokens on their way to them
        self._tokens: SimpleQueue[bool] = new_queue()
        self._threads: set[_TaskThread] = set()
        self._running: dict[Job, _TaskThread] = {}
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._abandoned = 0
        self._closing = False
        self._starting = _Starting()
        self.on_start: Callable[[Job], None] | None = None
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self.on_give_up: Callable[[], None] = lambda: None

    @property
    def abandoned(self) -> int:
        """Threads that still run a task which was given up."""
        return self._abandoned

    @property
    def running(self) -> list[Job]:
        return list(self._running)

    @property
    def blocked(self) -> bool:
        """Whether there is no thread and none could be started."""
        return self._starting.failing and not self._threads

    @property
    def on_loops(self) -> set[Job]:
        """The async ones among the jobs that are running."""
        return {job for job, thread in list(self._running.items()) if thread.loop.busy}

    def wake(self) -> None:
        """Let one more thread look for work."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
                self._tokens.put(True)
            elif len(self._threads) < self._size and not self._closing:
                self._start_thread()

    def resize(self, size: int) -> None:
        """Have up to so many threads from now on: those that are too many end after what they run."""
        with self._lock:
            self._size = size
            for _ in range(min(self._idle, max(0, len(self._threads) - size))):
                self._idle -= 1
                self._tokens.put(True)
        for _ in range(self._waiting()):
            self.wake()

    def stop_job(self, job: Job, why: RunStatus) -> None:
        """Ask the task to stop: one on a thread's loop is cancelled, others see it in their context."""
        if job.ended_by is not None:
            return  # once is enough: a task that cleans up mustn't be cancelled again
        job.ended_by = why
        job.cancelled = True
        with self._lock:  # so that its thread can't have gone on to the next job
            thread = self._running.get(job)
            if thread is not None:
                thread.loop.cancel()

    def end_silent(self, job: Job) -> None:
        """Cancel a task on a thread's loop, and give it up if that doesn't end it, as at once any other."""
        if job.ended_by is not None:
            return
        job.silent = job.cancelled = True
        with self._lock:
            thread = self._running.get(job)
            on_loop = thread is not None and thread.loop.busy
            if thread is not None:
                thread.loop.cancel()
        self._disarm(job)
        if on_loop:
            self._arm(job, MARGIN)
        else:
            self._time_out(job)

    def give_up(self, job: Job, ran: RunResult) -> None:
        """Hand in `ran` for a job that goes on running; its thread is replaced and ends after it."""
        with self._lock:
            thread = self._running.pop(job, None)
            if thread is None:
                return
            self._threads.discard(thread)
            self._abandoned += 1
            thread.abandoned = True
        self._disarm(job)
        job.cancelled = True
        log.warning("task %s goes on running on a thread that was given up", job.record.id)
        self._done(job, ran)
        self.wake()
        self.on_give_up()

    def close(self) -> None:
        """Let the threads end after what they run."""
        self._closing = True
        with self._lock:
            for _ in self._threads:
                self._tokens.put(False)

    # ── starting threads ─────────────────────────────────────────────────────

    def _start_thread(self) -> None:
        """Start a thread, or see to it that it is tried again. With the lock held."""
        thread = _TaskThread(self._make_loop())
        self._threads.add(thread)
        try:
            start_thread(functools.partial(self._work, thread), "omniq-task")
        except (RuntimeError, MemoryError) as error:
            self._threads.discard(thread)
            self._call_soon(self._note_failed_start, error)
        else:
            self._starting.succeeded()

    def _note_failed_start(self, error: Exception) -> None:
        """Try again after a pause; fail when there has been no thread for too long. On the worker's loop."""
        if self._starting.pending:
            return
        if self._starting.exhausted and not self._threads:
            self.on_failure(WorkerError(f"no thread can be started: {error}"))
            return
        pause = self._starting.failed()
        log.warning("a thread can't be started, trying again in %.1f s: %s", pause, error)
        self._loop.call_later(pause, self._start_again, context=Context())

    def _start_again(self) -> None:
        self._starting.pending = False
        with self._lock:
            if len(self._threads) < self._size and not self._closing:
                self._start_thread()

    def _call_soon(self, function: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed: nobody waits for it any more
            self._loop.call_soon_threadsafe(function, *args, context=Context())

    # ── on a thread ──────────────────────────────────────────────────────────

    def _work(self, me: _TaskThread) -> None:
        state = ThreadState()
        try:
            while not (me.abandoned or self._is_one_too_many(me)) and self._work_once(me):
                state.restore()
        except Exception as error:  # tasks can't raise here: it is ours, and the thread's job would be held for ever
            self._call_soon(self.on_failure, error)
        except BaseException as error:  # sent to this thread by a task that has ended since
            log.warning("a thread was ended by %s, another takes its place", qualified_name(type(error)))
        me.loop.close()
        with self._lock:
            self._threads.discard(me)
            self._abandoned -= me.abandoned
        self._give_back_jobs_of(me)

    def _is_one_too_many(self, me: _TaskThread) -> bool:
        """Whether this thread has to end, for there are to be fewer."""
        if len(self._threads) <= self._size:  # nearly always: no reason to take the lock
            return False
        with self._lock:
            if len(self._threads) <= self._size:
                return False
            self._threads.discard(me)
            return True

    def _give_back_jobs_of(self, thread: _TaskThread) -> None:
        """Hand back what a thread held that ended too early, and let another look for work."""
        with self._lock:
            jobs = [job for job, running in self._running.items() if running is thread]
            for job in jobs:
                del self._running[job]
        for job in jobs:
            self._call_soon(self._disarm, job)
            self._done(job, RunResult(end=RunStatus.RELEASED, delay=SCARCITY_PAUSE, started_at=job.started_at))
        if self._waiting():
            self.wake()

    def _work_once(self, me: _TaskThread) -> bool:
        """Run the next job, if there is one; returns whether to go on. While the thread is idle, nothing holds it."""
        job = self._next()
        if job is not None:
            self._run(job, me)
        return not self._closing

    def _next(self) -> Job | None:
        while not self._closing and len(self._threads) <= self._size:
            job = self._take() or self._park()
            if job is not None:
                if self._waiting():
                    self.wake()
                return job
        return None

    def _park(self) -> Job | None:
        with self._lock:
            self._idle += 1
        job = self._take()  # something may have come since
        if job is not None:
            with self._lock:
                self._idle -= 1
            return job
        try:
            self._tokens.get()
        except BaseException:
            self._leave_park()
            raise
        return None

    def _leave_park(self) -> None:
        """Wait no longer. If all who wait have been called, one of the calls was for this thread: another gets it."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
                return
        with suppress(Empty):
            self._tokens.get_nowait()

    def _run(self, job: Job, me: _TaskThread) -> None:
        self._running[job] = me
        ran = self._ran(job, me) if job.ended_by is None else RunResult(end=job.ended_by)
        with self._lock:
            given_up = self._running.pop(job, None) is None
        if not given_up:
            if job.call.timeout is not None or job.silent:
                self._call_soon(self._disarm, job)
            self._done(job, ran)

    def _ran(self, job: Job, me: _TaskThread) -> RunResult:
        if self.on_start is not None:
            self.on_start(job)
        call = self._execution.load(job)
        if not isinstance(call, LoadedCall):
            return call
        if job.call.timeout is not None:
            # An async task is cancelled on its thread's loop; it is given up only if that doesn't end it.
            margin = MARGIN if may_be_async(call.func) else 0.0
            self._call_soon(self._arm, job, job.call.timeout + margin)
        return self._execution.run_sync(job, call, functools.partial(me.loop.run, timeout=job.call.timeout))

    # ── timeouts, on the worker's loop ───────────────────────────────────────

    def _arm(self, job: Job, seconds: float) -> None:
        self._timers[job] = self._loop.call_later(seconds, self._time_out, job)

    def _disarm(self, job: Job) -> None:
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()

    def _time_out(self, job: Job) -> None:
        self._disarm(job)
        if job in self._running:
            self.give_up(job, failure(job, job.overdue))


MARGIN = 1.0
"""Seconds that a cancelled async task has to end before it is given up."""
CANCEL_PATIENCE = 0.5
"""Seconds that cancelled async tasks have to clean up when a worker closes."""


async def give_up_all(slots: ThreadSlots) -> None:
    """Stop what still runs on threads, hand back what can't be stopped, and let the threads end."""
    slots.close()
    cancelled = slots.on_loops
    for job in slots.running:
        slots.stop_job(job, RunStatus.RELEASED)
    deadline = time.monotonic() + CANCEL_PATIENCE
    # Until they are handed in, not just off their loops: what they have left behind there is ended before.
    while not cancelled.isdisjoint(slots.running) and time.monotonic() < deadline:  # noqa: ASYNC110 (on threads, and soon)
        await asyncio.sleep(0.005)
    for job in slots.running:
        slots.give_up(job, RunResult(end=RunStatus.RELEASED, started_at=job.started_at))


class _TaskThread:
    """A thread for tasks, with an event loop for the async ones among them."""

    def __init__(self, loop: TaskLoop) -> None:
        self.loop = loop
        self.abandoned = False


START_PATIENCE = 10.0
"""Seconds without any thread after which a worker gives up to start one."""


class _Starting:
    """How well threads can be started of late."""

    def __init__(self) -> None:
        self._backoff = Backoff(0.05, 1.0)
        self._since: float | None = None
        self.pending = False
        """Whether the next attempt is under way."""

    @property
    def failing(self) -> bool:
        return self._since is not None

    @property
    def exhausted(self) -> bool:
        """Whether it has failed for too long."""
        return self._since is not None and time.monotonic() - self._since > START_PATIENCE

    def failed(self) -> float:
        """Note a failure; returns the seconds until the next attempt."""
        self._since = self._since or time.monotonic()
        self.pending = True
        return self._backoff.step()

    def succeeded(self) -> None:
        """Begin again."""
        if self._since is not None:
            self._since = None
            self._backoff.reset()


# ── the worker ──────────────────────────────────────────────────────────────


class InProcessRunner(Runner):
    """Runs tasks in the worker's own process, where nothing ends those that don't listen.

    They are given up and counted, and with too many of them the worker can't go on: each keeps its memory and its
    thread, and only the end of the process ends them.
    """

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self._abandon_limit = config.max_abandoned if isinstance(config, InProcessWorkerConfig) else None
        self._closing = False

    def _note_abandoned(self) -> None:
        """End the worker if too many tasks go on that were given up. On the worker's loop."""
        count, most = self.abandoned, self.max_workers if self._abandon_limit is None else self._abandon_limit
        if count > most and not self._closing:
            many = f"more tasks go on that were given up than max_abandoned allows ({count}, {most})"
            self.on_failure(WorkerError(f"{many}: they end with the process, which has to be started again"))


class ThreadRunner(InProcessRunner):
    """Every task gets a thread; an async one runs in that thread's event loop."""

    def __init__(
        self, line: Line, execution: Execution, *, max_workers: int, config: WorkerConfig | None = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self._slots = ThreadSlots(execution, size=max_workers, take=line.take, waiting=line.__len__, done=line.done)
        self._slots.on_give_up = self._note_abandoned

    @property
    def abandoned(self) -> int:
        return self._slots.abandoned

    @property
    def blocked(self) -> bool:
        return self._slots.blocked

    async def open(self) -> None:
        self._slots.on_start, self._slots.on_failure = self.on_start, self.on_failure

    def resize(self, max_workers: int) -> None:
        self._slots.resize(max_workers)
        super().resize(max_workers)

    def wake(self) -> None:
        self._slots.wake()

    def stop_job(self, job: Job, why: RunStatus) -> None:
        self._slots.stop_job(job, why)

    def end_silent(self, job: Job) -> None:
        self._slots.end_silent(job)

    async def close(self) -> None:
        self._closing = True
        await give_up_all(self._slots)


class ThreadPoolWorker(Worker):
    """Runs tasks on `max_workers` threads: for blocking code that waits more than it computes."""

    kind = "thread"
    default_max_workers = 16
    runner = ThreadRunner
    config_class = InProcessWorkerConfig
