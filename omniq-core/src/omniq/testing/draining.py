"""Running what is due, and no more: in a test's own thread or loop, one task after the other, until nothing is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from functools import partial
from typing import Any, Self, TypeVar, cast

from msgspec import Struct

from omniq.errors import Closed, TaskFailed, WorkerError
from omniq.loops import inside
from omniq.models.config import Abridged, InProcessWorkerConfig
from omniq.models.task import Task, TaskId
from omniq.queue.adding import TaskAdder
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.request import task_details
from omniq.serialization.codec import LoadedCall
from omniq.storage.records import Added, AddStatus, Change, Changed, ChangeStatus, Firing, NewTask, TaskRecord
from omniq.sync import portal
from omniq.testing.reference import ReferenceQueueStore, ReferenceSpace
from omniq.threads import new_queue
from omniq.workers.async_ import LoopRunner
from omniq.workers.execution import Execution, Runner, failure
from omniq.workers.jobs import Job, Line, RunResult, RunStatus
from omniq.workers.pool import AsyncWorkerPool
from omniq.workers.thread_loop import ThreadLoop

R = TypeVar("R")

# ── what has run ────────────────────────────────────────────────────────────


class Run(Abridged, Struct, frozen=True, kw_only=True):
    """One attempt to run a task, as `drain` saw it."""

    task: Task
    """The task as it is after that: `task.state` is SCHEDULED or PENDING if it will be tried again."""
    attempt: int
    """1 for the first."""
    value: Any = None
    """What the function returned; None where it didn't."""
    error_type: str | None = None
    """Qualified name of the exception, None where there was none."""
    error_message: str | None = None
    traceback: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended with an exception, a timeout included."""
        return self.error_type is not None


class Drained(Struct, frozen=True, kw_only=True):
    """What a `drain` has done. Iterating gives its runs; there are `len` of them."""

    runs: tuple[Run, ...] = ()
    """In the order in which they ended."""
    unrun: tuple[Task, ...] = ()
    """Tasks that ended meanwhile without having been run: they had expired, or were cancelled."""

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def succeeded(self) -> list[Run]:
        """The runs that returned."""
        return [run for run in self.runs if not run.failed]

    @property
    def failed(self) -> list[Run]:
        """The runs that raised, whether or not their tasks will be tried again."""
        return [run for run in self.runs if run.failed]

    def raise_failed(self) -> Self:
        """Raise the first failure, if there was one, as the `TaskFailed` that `get_result` raises; else return this."""
        for run in self.failed:
            raise TaskFailed(run.task.id, run.error_type or "", run.error_message or "", run.traceback or "")
        return self


# ── the store ───────────────────────────────────────────────────────────────


class Journal:
    """What happens in a store in memory, for those who ask afterwards."""

    def __init__(self) -> None:
        self.added: dict[str, NewTask] = {}
        """The tasks that were ever added, in that order."""
        self.ended: list[str] = []
        """The tasks that have ended, in that order; one that is requeued may be there twice."""
        self.left: dict[str, int] = {}
        """How many tasks each worker may still claim that has a limit."""


class JournaledStore(ReferenceQueueStore):
    """The reference store, with a journal."""

    def __init__(self, space: ReferenceSpace, journal: Journal) -> None:
        super().__init__(space)
        self._journal = journal

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        answers = await super().add(tasks)
        pairs = zip(tasks, answers, strict=True)
        self._journal.added.update((task.id, task) for task, answer in pairs if answer.status is AddStatus.NEW)
        return answers

    async def fire(self, firings: Sequence[Firing]) -> list[bool]:
        fired = await super().fire(firings)
        pairs = zip(firings, fired, strict=True)
        self._journal.added.update((firing.task.id, firing.task) for firing, done in pairs if done)
        return fired

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        left = self._journal.left.get(worker, limit)
        if left == 0:
            return []
        claimed = await super().claim(queues, limit=min(limit, left), lease=lease, worker=worker)
        if worker in self._journal.left:
            self._journal.left[worker] -= len(claimed)
        return claimed

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        changed = await super().transition(changes)
        self._journal.ended += [
            change.task_id
            for change, answer in zip(changes, changed, strict=True)
            if answer.status is ChangeStatus.APPLIED and change.to.is_terminal and not change.request_cancel
        ]
        return changed


class EagerAdder(TaskAdder):
    """Adds tasks, and returns when they have been run."""

    def __init__(self, queue: AsyncTaskQueue[Any], run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(queue.stores, queue.dependencies, queue.config.max_body)
        self._run = run

    async def add(self, task: NewTask, *, own_id: bool) -> TaskId:
        added = await super().add(task, own_id=own_id)
        await self._run()
        return added

    async def add_many(self, tasks: list[NewTask], own_ids: Any) -> list[TaskId]:
        added = await super().add_many(tasks, own_ids)
        await self._run()
        return added


# ── running on the thread that asks for it ──────────────────────────────────


class InlineExecutor:
    """Where a thread that waits for a blocking call runs tasks meanwhile, as if it had called them."""

    def __init__(self) -> None:
        self._calls = new_queue()
        self.loop = ThreadLoop()
        """For the async ones."""
        self.waits: set[Future[Any]] = set()
        """The blocking calls that the running task waits for."""
        self.raised: BaseException | None = None
        """What a task has raised that is meant for the test: Ctrl-C, or a failure of pytest's."""

    def put(self, call: Callable[[], None]) -> None:
        """Have it done soon. From any thread."""
        self._calls.put(call)

    def close(self, _: object = None) -> None:
        """There is nothing more to come."""
        self._calls.put(None)

    def serve(self) -> None:
        """Do what is put here, until it is closed."""
        try:
            while (call := self._calls.get()) is not None:
                call()
        finally:
            self.loop.close()

    def noting(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function; what it raises that isn't an error of its own is kept for the test."""

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except (Exception, SystemExit, GeneratorExit, asyncio.CancelledError):
                raise
            except BaseException as error:
                self.raised = error
                raise

        return call


_executor: ContextVar[InlineExecutor | None] = ContextVar("omniq_inline", default=None)


class InlineRunner(Runner):
    """Tasks run one after the other on the thread that waits for them."""

    concurrent = False
    preempts = False

    def __init__(
        self, executor: InlineExecutor, line: Line, execution: Execution, *, max_workers: int, config: Any = None
    ) -> None:
        super().__init__(line, execution, max_workers=max_workers, config=config)
        self._executor = executor
        self._job: Job | None = None

    async def open(self) -> None:
        """There is nothing to open."""

    def wake(self) -> None:
        if self._job is None and (job := self.line.take()) is not None:
            self._job = job
            self._executor.put(partial(self._run, job))

    def stop_job(self, job: Job, why: RunStatus) -> None:
        if job is self._job and job.ended_by is None:
            job.ended_by, job.cancelled = why, True
            self._interrupt()

    def end_silent(self, job: Job) -> None:
        job.silent = job.cancelled = True
        self._interrupt()

    async def close(self) -> None:
        if (job := self._job) is not None:
            self.stop_job(job, RunStatus.RELEASED)
            self._ended(job, RunResult(end=RunStatus.RELEASED, started_at=job.started_at))

    def _interrupt(self) -> None:
        """End what the running task waits for; a sync one that computes can't be ended."""
        self._executor.loop.cancel()
        for wait in list(self._executor.waits):
            wait.cancel()

    def _run(self, job: Job) -> None:
        if job.ended_by is not None:
            return
        if self.on_start is not None:
            self.on_start(job)
        call = self.execution.load(job)
        ran = self._ran(job, call) if isinstance(call, LoadedCall) else call
        self.line.call_soon(self._ended, job, ran)

    def _ran(self, job: Job, call: LoadedCall) -> RunResult:
        executor = self._executor
        noted = LoadedCall(executor.noting(call.func), call.args, call.kwargs)
        ran = self.execution.run_here(job, noted, partial(executor.loop.run, timeout=job.call.timeout))
        late = job.deadline is not None and time.monotonic() > job.deadline
        return failure(job, job.overdue) if late and ran.end is RunStatus.SUCCESS else ran

    def _ended(self, job: Job, ran: RunResult) -> None:
        if job is self._job:  # else it was handed back
            self._job = None
            self.line.done(job, ran)
            self.wake()


def run_inline(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on the loop of the blocking facades and wait; this thread runs the tasks that it has run.

    Raises `Closed` if that loop is stopped meanwhile, and what a task has raised that is meant for the test.
    """
    if (executor := _executor.get()) is not None and inside.get(None) is not None:
        return _within_task(executor, coroutine)
    executor = InlineExecutor()
    token = _executor.set(executor)
    try:
        future = portal().submit(coroutine)
        future.add_done_callback(executor.close)
        return _served(executor, future)
    finally:
        _executor.reset(token)


def _served(executor: InlineExecutor, future: Future[R]) -> R:
    try:
        executor.serve()
        if executor.raised is not None:
            raise executor.raised
        return future.result()
    except CancelledError:
        raise Closed("the event loop of the blocking facades was stopped while a call waited on it") from None
    except BaseException:
        future.cancel()
        raise


def _within_task(executor: InlineExecutor, coroutine: Coroutine[Any, Any, R]) -> R:
    """A call of a task: whoever stops the task ends it."""
    future = portal().submit(coroutine)
    executor.waits.add(future)
    try:
        return future.result()
    except CancelledError:
        raise Closed("the task was stopped while a call of its own waited") from None
    finally:
        executor.waits.discard(future)


# ── one drain ───────────────────────────────────────────────────────────────


class Drain:
    """Workers that run what is due, one after the other, until nothing is."""

    def __init__(self, queue: AsyncTaskQueue[Any], space: ReferenceSpace, journal: Journal, limit: int) -> None:
        self._queue, self._space, self._journal = queue, space, journal
        self._limit = limit
        self._executor = _executor.get()
        self._ended_before = len(self._journal.ended)
        self._ran: list[tuple[Job, RunResult]] = []
        self._held: list[str] = []
        """What ran when it was given up."""

    async def run(self) -> None:
        """Run all of it. Raises `WorkerError`."""
        while True:
            await self._fire()
            if not self._is_due():
                return
            if len(self._ran) >= self._limit:
                raise WorkerError(f"drain: {self._limit:,} runs, and more tasks are due, such as {self._some_due()}")
            await self._run_due(self._limit - len(self._ran))

    async def outcome(self) -> Drained:
        """What came of it."""
        ran = {job.record.id: job.record for job, _ in self._ran}
        ended = [id_ for id_ in dict.fromkeys(self._journal.ended[self._ended_before :]) if id_ not in ran]
        ids = [*ran, *ended]
        now = dict(zip(ids, await self._queue.store.get(ids), strict=True)) if ids else {}
        serialization = self._queue.serialization

        def task(id_: str) -> Task | None:
            record = now[id_] or ran.get(id_)
            return None if record is None else task_details(record, serialization)

        runs = [_run(job, result, task(job.record.id), serialization.load_value) for job, result in self._ran]
        return Drained(runs=tuple(runs), unrun=tuple(found for id_ in ended if (found := task(id_)) is not None))

    def unfinished(self) -> str:
        """What still ran when it was given up, for an error."""
        hint = "; only one runs at a time, so none can wait for another's result: depends_on or result_of does"
        return f"{', '.join(self._held) or 'tasks'} still ran{hint}"

    async def _fire(self) -> None:
        for _ in range(self._limit):
            if not await self._queue.scheduler.fire_due():
                return

    def _is_due(self) -> bool:
        queues = self._queue.queues
        return min(self._space.do(lambda tables, now: tables.tasks.next_due(queues, now)).values(), default=1.0) <= 0.0

    def _some_due(self) -> str:
        with self._space.lock:
            rows = [row for row in self._space.tasks.rows.values() if not row.state.is_terminal]
        return ", ".join(dict.fromkeys(row.name for row in rows[:3]))

    async def _run_due(self, limit: int) -> None:
        config = InProcessWorkerConfig()
        runner = cast("type[Runner]", self._runner)
        pool = AsyncWorkerPool(
            self._queue, runner, config, kind="async", max_workers=1, other_kind=lambda kind: (runner, 1, config)
        )
        self._journal.left[pool.name] = limit
        await pool.start()
        try:
            await pool.drain()
        except BaseException:
            held = [job.record for job in pool.in_flight.held.values()]
            self._held = [f"{record.name} ({record.id})" for record in held]
            await pool.stop(0.0)
            raise
        else:
            await pool.stop()
        finally:
            del self._journal.left[pool.name]

    def _runner(self, line: Line, execution: Execution, **options: Any) -> Runner:
        """What runs the tasks in a line, and notes what came of each."""
        done = line.done

        def note(job: Job, ran: RunResult) -> None:
            if ran.end not in (RunStatus.RELEASED, RunStatus.LOST):
                self._ran.append((job, ran))
            done(job, ran)

        line.done = note
        if self._executor is None:
            return LoopRunner(line, execution, **options)
        return InlineRunner(self._executor, line, execution, **options)


def _run(job: Job, ran: RunResult, task: Task | None, load: Callable[[str, bytes], Any]) -> Run:
    assert task is not None
    return Run(
        task=task,
        attempt=job.attempt,
        value=load(ran.value_format, ran.value) if ran.end is RunStatus.SUCCESS else None,
        error_type=ran.error_type,
        error_message=ran.error_message,
        traceback=ran.traceback,
    )
