"""The front door: a task queue, its results, its events and a worker, as one object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, Unpack

from msgspec.structs import replace

from omniq import build
from omniq.backend import AsyncComponent, BaseBackend, check_backend
from omniq.build import AnyEventStorage, AnyResultStorage, AnyTaskQueue, FromSource, Source
from omniq.callbacks import CallbackManager
from omniq.clock import Duration, seconds
from omniq.config.described import Changes, Reloaded, adopted, changed, words_of
from omniq.config.loader import OmniQConfig
from omniq.config.settings import adopt, set_levels
from omniq.declaring import AsyncDeclaring, Declaring
from omniq.errors import ConfigError, InvalidTask, WorkerError
from omniq.events.processing import AsyncEvents, Events
from omniq.events.storage import AsyncEventStorage, EventConditions, EventStorage
from omniq.models.event import TaskEvent
from omniq.models.result import TaskResult
from omniq.models.task import TaskRef, check_flags, check_id
from omniq.outcomes import OutcomeWaiter, check_kind, results_of
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.queue.options import TaskCall
from omniq.queue.workflows import AsyncWorkflow, Step, Workflow
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.status import Status, inspect, status_of, workers_of
from omniq.storage.records import BreakerStatus, WorkerRecord
from omniq.sync import Blocking, Delegated, blocking, refuse_in_loop
from omniq.workers.base import OwnWorkers, WorkerPool
from omniq.workers.pool import AsyncWorkerPool

Kind: TypeAlias = Literal["latest", "first", "all"]


class AsyncOmniQ(FromSource, AsyncDeclaring):
    """A task queue with its results, its events and, if asked for, a worker.

    A component is given as a URL, a store's name, a dict as in the file, a config struct, a backend, or made by hand,
    async or blocking. What isn't given comes from `config` (a file's path, a dict or an `OmniQConfig`) and the
    environment, else from the defaults: SQLite in `./.omniq`, results where the queue is, no events. With
    `event_store=False` there are none whatever is configured. Entering it as a context manager connects; only
    `start_worker` works. Raises `ConfigError`.
    """

    def __init__(
        self,
        project_name: str | None = None,
        task_queue: AnyTaskQueue | None = None,
        result_store: AnyResultStorage | None = None,
        event_store: AnyEventStorage | Literal[False] | None = None,
        worker_type: str | None = None,
        worker_config: Mapping[str, Any] | None = None,
        *,
        config: Source | None = None,
        callbacks: CallbackManager | None = None,
    ) -> None:
        given: build.Given = {"task_queue": task_queue, "result_store": result_store, "event_store": event_store}
        resolved, made = build.configured(config, project_name, given)
        self.config, self._reread = resolved
        self._workers = OwnWorkers(self.config.worker, worker_type, worker_config)
        parts = build.joined(self.config, made, callbacks)
        self.task_queue, self._results, self.event_store, self._event_logger = parts
        self._workers.check_queues(self.task_queue.queues)
        self.events = AsyncEvents(self.event_store, self._event_logger)
        self._changes: dict[str, Any] = {}
        """What was changed at run time."""
        self._worker: AsyncWorkerPool | None = None
        AsyncDeclaring.__init__(self)

    # ── other ways to say where ──────────────────────────────────────────────

    @classmethod
    def from_backend(
        cls,
        backend: BaseBackend,
        result_store_backend: BaseBackend | None = None,
        event_store_backend: BaseBackend | None = None,
        *,
        worker_type: str | None = None,
        worker_config: Mapping[str, Any] | None = None,
        events: bool = True,
    ) -> Self:
        """All components from one backend, or each from its own.

        Events go to `event_store_backend`, else to `backend` if it keeps events; `events=False` turns them off.
        Raises `ConfigError` if an `event_store_backend` keeps none.
        """
        event_backend = event_store_backend or (backend if check_backend(backend).has_events else None)
        return cls(
            project_name=backend.project_name,
            task_queue=AsyncTaskQueue.from_backend(backend),
            result_store=AsyncResultStorage.from_backend(result_store_backend or backend),
            event_store=AsyncEventStorage.from_backend(event_backend) if event_backend and events else events and None,
            worker_type=worker_type,
            worker_config=worker_config,
        )

    # ── tasks and schedules: the queue's own methods ─────────────────────────

    enqueue = Delegated(AsyncTaskQueue.enqueue, "task_queue")
    enqueue_many = Delegated(AsyncTaskQueue.enqueue_many, "task_queue")

    async def enqueue_workflow(self, workflow: Step | Iterable[TaskCall]) -> AsyncWorkflow:
        """Enqueue a chain, a group or calls that depend on each other, all in as few writes as possible, and return
        what they can be waited for, looked at and cancelled by. Raises as `enqueue_many` does."""
        return await AsyncWorkflow.enqueue(self.task_queue, self._outcomes(), workflow)

    async def get_workflow(self, task_id: TaskRef) -> AsyncWorkflow:
        """The workflow that a task is part of: all tasks that are connected with it, whoever enqueued them.

        Its results are those of the tasks on which no other depends. Raises `TaskNotFound`, and `InvalidTask` where
        those are more than 10,000.
        """
        return await AsyncWorkflow.find(self.task_queue, self._outcomes(), task_id)

    get_task = Delegated(AsyncTaskQueue.get_task, "task_queue")
    explain = Delegated(AsyncTaskQueue.explain, "task_queue")
    list_tasks = Delegated(AsyncTaskQueue.list_tasks, "task_queue")
    list_dead = Delegated(AsyncTaskQueue.list_dead, "task_queue")
    get_dead = Delegated(AsyncTaskQueue.get_dead, "task_queue")
    cancel_many = Delegated(AsyncTaskQueue.cancel_many, "task_queue")
    requeue_many = Delegated(AsyncTaskQueue.requeue_many, "task_queue")
    purge_dead = Delegated(AsyncTaskQueue.purge_dead, "task_queue")
    stats = Delegated(AsyncTaskQueue.stats, "task_queue")
    pause_queue = Delegated(AsyncTaskQueue.pause_queue, "task_queue")
    resume_queue = Delegated(AsyncTaskQueue.resume_queue, "task_queue")
    purge_queue = Delegated(AsyncTaskQueue.purge_queue, "task_queue")
    cancel = Delegated(AsyncTaskQueue.cancel, "task_queue")
    requeue = Delegated(AsyncTaskQueue.requeue, "task_queue")
    schedule = Delegated(AsyncTaskQueue.schedule, "task_queue")
    get_schedule = Delegated(AsyncTaskQueue.get_schedule, "task_queue")
    list_schedules = Delegated(AsyncTaskQueue.list_schedules, "task_queue")
    pause_schedule = Delegated(AsyncTaskQueue.pause_schedule, "task_queue")
    resume_schedule = Delegated(AsyncTaskQueue.resume_schedule, "task_queue")
    delete_schedule = Delegated(AsyncTaskQueue.delete_schedule, "task_queue")
    run_schedule = Delegated(AsyncTaskQueue.run_schedule, "task_queue")

    # ── results and events ───────────────────────────────────────────────────

    @property
    def callbacks(self) -> CallbackManager:
        """What is called when tasks are enqueued here, or run by workers of this object."""
        return self.task_queue.callbacks

    @property
    def result_store(self) -> AsyncResultStorage[Any]:
        """Where results are kept."""
        if self._results is None:
            self._results = results_of(self.task_queue)
        return self._results

    async def get_result(
        self,
        task_id: TaskRef | None = None,
        *,
        schedule_id: str | None = None,
        kind: Kind = "latest",
        timeout: Duration | None = None,
    ) -> Any:
        """Wait until the task has ended, wherever it runs, and return its value.

        With a `schedule_id`: the value of its `latest` or `first` task that has ended, waiting for one if
        there is none yet, or a list of `all` so far.

        Raises `TaskFailed` with the remote traceback, `TaskCancelled`, `TaskExpired`, `TaskNotFound`,
        `ResultExpired`, and `ResultTimeout` after `timeout` (seconds or `timedelta`; None: no limit); `Closed` when
        this object is closed meanwhile, `InvalidTask` for what can't be an id.
        """
        check_kind(kind)
        if (task_id is None) == (schedule_id is None):
            raise InvalidTask("task_id: give a task_id or a schedule_id, and not both")
        if schedule_id is not None:
            return await self._outcomes().scheduled(schedule_id, kind, timeout)
        assert task_id is not None
        return await self._outcomes().value(task_id, timeout)

    async def peek_result(self, task_id: TaskRef) -> TaskResult:
        """How things stand with the task now: its status and, while it is running, its progress. Doesn't wait.

        Raises `TaskNotFound`, `ResultExpired` where it has succeeded and its result is no longer kept, `InvalidTask`
        for what can't be an id, and `SerializationError` for what is damaged or not signed by us.
        """
        return await self._outcomes().peek(task_id)

    def watch(self, task_id: TaskRef, timeout: Duration | None = None) -> AsyncGenerator[TaskResult, None]:
        """How things stand with the task, at once and whenever that changes; the last one tells how it has ended.

        Raises as `peek_result` does, `ResultTimeout` when it hasn't ended within `timeout` (seconds or `timedelta`;
        None: no limit), and `Closed` when this object is closed meanwhile.
        """
        return self._outcomes().watch(task_id, timeout)

    def _outcomes(self) -> OutcomeWaiter:
        return OutcomeWaiter(self.task_queue, self.result_store)

    async def list_events(
        self,
        *,
        oldest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        **conditions: Unpack[EventConditions],
    ) -> list[TaskEvent]:
        """A page of events: see `AsyncEventStorage.list`. Raises `ConfigError` when no event store is set."""
        await self.events.flush()
        return await self.events.storage.list(oldest_first=oldest_first, limit=limit, cursor=cursor, **conditions)

    # ── how things stand ─────────────────────────────────────────────────────

    def breakers(self) -> list[BreakerStatus]:
        """The circuit breakers of the stores in this process: what they do with calls, and since when."""
        return list(self.task_queue.stores.breakers)

    async def status(self) -> Status:
        """How things stand: stores, queues, workers, schedules, and what is wrong. A store that is away is no error."""
        store, logger = self.event_store, self._event_logger
        events = None if store is None else store.store
        return await status_of(self.task_queue, events, events_dropped=None if logger is None else logger.dropped)

    async def workers(self, *, alive: bool = True) -> list[WorkerRecord]:
        """The workers that serve queues here, wherever they run, as they were last seen.

        With `alive=False`, those that weren't seen for long and haven't said goodbye, until they are purged. Raises
        `StoreError`.
        """
        check_flags(alive=alive)
        found = await workers_of(await self.task_queue.ready())
        return found.alive if alive else found.gone

    async def inspect_worker(self, name: str, timeout: Duration | None = 30.0) -> str:
        """What a worker is doing, wherever it runs: the tasks in its hands, and the code where each is, as text.

        No values are shown. It is asked through the store, and answers within a third of its lease, even while its
        event loop is blocked. Raises `WorkerNotFound`, `WorkerError` when it is gone or doesn't answer within
        `timeout` (seconds or `timedelta`; None: no limit), and `StoreError`.
        """
        name, limit = check_id(name, "name"), seconds("timeout", timeout)
        return (await inspect(await self.task_queue.ready(), name, limit)).stacks

    # ── changes at run time ──────────────────────────────────────────────────

    async def configure(self, **changes: Unpack[Changes]) -> None:
        """Change some of the configuration, in this process, and in the workers of this object that run in it.

        `Changes` has what can be given; what isn't, stays as it is. Raises `ConfigError` for a value that can't be, and
        for what needs a restart; then nothing has changed.
        """
        new = changed(self._configuration, changes)
        if self._event_logger is None and (words := words_of(changes, "events")):
            raise ConfigError(f"{words[0]}: no event store is configured, so no events are kept")
        self._changes |= changes
        if words_of(changes, "logging"):
            set_levels(new.logging)
        await self._take(new, words_of(changes, "worker"))

    async def reload(self) -> Reloaded:
        """Read the configuration file again, and let hold what may change, as by `configure`, whose changes stay.

        Tells what has changed, and what takes a restart. Raises `ConfigError` if there is no file, or it can't be used;
        then nothing has changed.
        """
        if self._reread is None:
            raise ConfigError("config: no file was read, so there is none to be read again")
        now, read = self._configuration, changed(self._reread(), self._changes)
        told = Reloaded.of(now, read)
        adopt(read.logging, anew=True)
        await self._take(adopted(now, read), [])
        return told

    @property
    def _configuration(self) -> OmniQConfig:
        """The configuration as it holds just now: `events.configure` may have changed it, too."""
        logger = self._event_logger
        return self.config if logger is None else replace(self.config, events=logger.config)

    async def _take(self, new: OmniQConfig, words: Sequence[str]) -> None:
        if self._event_logger is not None:
            self._event_logger.take(new.events)
        if new.defaults != self.config.defaults:
            self.task_queue.requests.change_defaults(new.defaults)
        self.config = new
        await self._workers.take(new.worker, {word: self._changes[word] for word in words})

    # ── the worker ───────────────────────────────────────────────────────────

    def worker_pool(self, worker_type: str | None = None, **worker_config: Any) -> AsyncWorkerPool:
        """A worker that isn't started yet; arguments win over those of the constructor and the configuration."""
        return self._workers.pool(self.task_queue, worker_type, worker_config)

    async def start_worker(self, worker_type: str | None = None, **worker_config: Any) -> None:
        """Start a worker on the running loop. `worker_config`: the fields of `WorkerConfig`.

        Raises `WorkerError` when one runs already, `StoreError` when a store can't be reached.
        """
        if self._worker is not None and self._worker.failure is None:
            raise WorkerError("the worker is running already")
        await self.stop_worker()  # one that can't go on
        pool = self._worker = self.worker_pool(worker_type, **worker_config)
        try:
            await pool.start()
        except BaseException:
            self._worker = None
            raise

    async def stop_worker(self, grace_period: Duration | None = None) -> None:
        """Let the worker finish or hand back what it holds; returns when it has stopped."""
        grace = seconds("grace_period", grace_period)
        pool, self._worker = self._worker, None
        if pool is not None:
            await pool.stop(grace)

    # ── life ─────────────────────────────────────────────────────────────────

    async def connect(self) -> None:
        """Connect now instead of at the first call; an event store that is away is connected later.

        Raises `StoreError`.
        """
        for component in self._components():
            if component is not self.event_store:
                await component.connect()
        if self._event_logger is not None:
            await self._event_logger.connect()

    async def close(self) -> None:
        """Stop the worker and give back all connections of this loop; a later call opens them again."""
        await self.stop_worker()
        if self._event_logger is not None:
            await self._event_logger.flush()
        for component in self._components():
            await component.close()

    def _components(self) -> list[AsyncComponent[Any, Any]]:
        parts = [self.task_queue, self._results, self.event_store]
        return [part for part in parts if part is not None]

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()  # what is connected already: nobody else will
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class OmniQ(FromSource, Declaring, Blocking[AsyncOmniQ]):
    """`AsyncOmniQ` with methods that block; `aio` is its async core. Its worker has a thread and a loop of its own."""

    def __init__(
        self,
        project_name: str | None = None,
        task_queue: AnyTaskQueue | None = None,
        result_store: AnyResultStorage | None = None,
        event_store: AnyEventStorage | Literal[False] | None = None,
        worker_type: str | None = None,
        worker_config: Mapping[str, Any] | None = None,
        *,
        config: Source | None = None,
        callbacks: CallbackManager | None = None,
    ) -> None:
        parts = (project_name, task_queue, result_store, event_store, worker_type, worker_config)
        super().__init__(AsyncOmniQ(*parts, config=config, callbacks=callbacks))
        self._worker: WorkerPool | None = None

    enqueue = blocking(AsyncOmniQ.enqueue)
    enqueue_many = blocking(AsyncOmniQ.enqueue_many)

    def enqueue_workflow(self, workflow: Step | Iterable[TaskCall]) -> Workflow:
        """As `AsyncOmniQ.enqueue_workflow`."""
        return Workflow(self, self._call(self.aio.enqueue_workflow(workflow)))

    def get_workflow(self, task_id: TaskRef) -> Workflow:
        """As `AsyncOmniQ.get_workflow`."""
        return Workflow(self, self._call(self.aio.get_workflow(task_id)))

    get_result = blocking(AsyncOmniQ.get_result)
    peek_result = blocking(AsyncOmniQ.peek_result)
    get_task = blocking(AsyncOmniQ.get_task)
    explain = blocking(AsyncOmniQ.explain)
    list_tasks = blocking(AsyncOmniQ.list_tasks)
    list_dead = blocking(AsyncOmniQ.list_dead)
    get_dead = blocking(AsyncOmniQ.get_dead)
    cancel_many = blocking(AsyncOmniQ.cancel_many)
    requeue_many = blocking(AsyncOmniQ.requeue_many)
    purge_dead = blocking(AsyncOmniQ.purge_dead)
    stats = blocking(AsyncOmniQ.stats)
    pause_queue = blocking(AsyncOmniQ.pause_queue)
    resume_queue = blocking(AsyncOmniQ.resume_queue)
    purge_queue = blocking(AsyncOmniQ.purge_queue)
    list_events = blocking(AsyncOmniQ.list_events)
    cancel = blocking(AsyncOmniQ.cancel)
    requeue = blocking(AsyncOmniQ.requeue)
    schedule = blocking(AsyncOmniQ.schedule)
    get_schedule = blocking(AsyncOmniQ.get_schedule)
    list_schedules = blocking(AsyncOmniQ.list_schedules)
    pause_schedule = blocking(AsyncOmniQ.pause_schedule)
    resume_schedule = blocking(AsyncOmniQ.resume_schedule)
    delete_schedule = blocking(AsyncOmniQ.delete_schedule)
    run_schedule = blocking(AsyncOmniQ.run_schedule)
    configure = blocking(AsyncOmniQ.configure)
    reload = blocking(AsyncOmniQ.reload)
    status = blocking(AsyncOmniQ.status)
    workers = blocking(AsyncOmniQ.workers)
    inspect_worker = blocking(AsyncOmniQ.inspect_worker)

    def breakers(self) -> list[BreakerStatus]:
        """The circuit breakers of the stores in this process: what they do with calls, and since when."""
        return self.aio.breakers()

    @property
    def config(self) -> OmniQConfig:
        """The whole configuration as it holds."""
        return self.aio.config

    @property
    def task_queue(self) -> TaskQueue:
        """The queue that it works on."""
        return TaskQueue(self.aio.task_queue)

    @property
    def result_store(self) -> ResultStorage:
        """Where results are kept."""
        return ResultStorage(self.aio.result_store)

    @property
    def event_store(self) -> EventStorage | None:
        """Where events are kept; None if they aren't."""
        return None if self.aio.event_store is None else EventStorage(self.aio.event_store)

    def worker_pool(self, worker_type: str | None = None, **worker_config: Any) -> WorkerPool:
        """A worker that isn't started yet; arguments win over those of the constructor and the configuration."""
        return WorkerPool(self.aio.worker_pool(worker_type, **worker_config))

    @property
    def events(self) -> Events:
        """The events as an iterator, and which of them are kept: see `Events`."""
        return Events(self.aio.events, self._call)

    def watch(self, task_id: TaskRef, timeout: Duration | None = None) -> Generator[TaskResult, None, None]:
        """As `AsyncOmniQ.watch`, with a plain `for`."""
        return self._each(self.aio.watch(task_id, timeout))

    @property
    def callbacks(self) -> CallbackManager:
        """What is called when tasks are enqueued here, or run by workers of this object."""
        return self.aio.callbacks

    @classmethod
    def _around(cls, core: AsyncOmniQ) -> Self:
        self = cls.__new__(cls)
        Blocking.__init__(self, core)
        self._worker = None
        return self

    @classmethod
    def from_backend(
        cls,
        backend: BaseBackend,
        result_store_backend: BaseBackend | None = None,
        event_store_backend: BaseBackend | None = None,
        *,
        worker_type: str | None = None,
        worker_config: Mapping[str, Any] | None = None,
        events: bool = True,
    ) -> Self:
        """All components from one backend, or each from its own: see `AsyncOmniQ.from_backend`."""
        options: dict[str, Any] = {"worker_type": worker_type, "worker_config": worker_config, "events": events}
        return cls._around(AsyncOmniQ.from_backend(backend, result_store_backend, event_store_backend, **options))

    def start_worker(self, worker_type: str | None = None, **worker_config: Any) -> None:
        """Start a worker on a thread of its own and return. `worker_config`: the fields of `WorkerConfig`.

        Raises `WorkerError` when one runs already, `StoreError` when a store can't be reached.
        """
        if self._worker is not None and self._worker.running:
            raise WorkerError("the worker is running already")
        self.stop_worker()  # one that can't go on
        worker = self.worker_pool(worker_type, **worker_config)
        worker.start()
        self._worker = worker

    def stop_worker(self, grace_period: Duration | None = None) -> None:
        """Let the worker finish or hand back what it holds; returns when it has stopped."""
        grace = seconds("grace_period", grace_period)
        if (worker := self._worker) is not None:
            refuse_in_loop("OmniQ.stop_worker()")
            self._worker = None
            worker.stop(grace)

    def close(self) -> None:
        """Stop the worker and give back all connections; a later call opens them again."""
        self.stop_worker()
        super().close()
