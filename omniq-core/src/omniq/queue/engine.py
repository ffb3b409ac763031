"""The task queue that everybody shares: what users call, on top of any store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar, Unpack

from omniq.backend import BaseBackend, BlockingChosen, Chosen, SecuredComponent, check_backend
from omniq.batching import Batcher, repeated, repeating
from omniq.callbacks import CallbackManager
from omniq.config.loader import OmniQConfig, Security, TaskDefaults
from omniq.errors import TaskNotFound
from omniq.events.logger import AsyncEventLogger
from omniq.loops import PerLoop
from omniq.models.config import DEFAULT_QUEUE, BreakerConfig, TaskQueueConfig
from omniq.models.event import EventType
from omniq.models.result import Outcome
from omniq.models.task import (
    QUEUED,
    DeadLetter,
    Page,
    Task,
    TaskId,
    TaskRef,
    TaskState,
    check_limit,
    id_of,
)
from omniq.plugins.registry import load_class
from omniq.queue.adding import Resigner, TaskAdder
from omniq.queue.explain import Explainer, Explanation
from omniq.queue.many import (
    CANCELLABLE,
    DEAD,
    REQUEUABLE,
    WAITING_TO_RUN,
    ManyTasks,
    Selection,
    TaskConditions,
    check_cursor,
    check_meant,
    page_of_tasks,
)
from omniq.queue.options import (
    AnyCall,
    EnqueueOptions,
    FuncArgs,
    TaskOptions,
    listed_calls,
)
from omniq.queue.policies import DependencyResolver, TTLManager
from omniq.queue.request import RequestBuilder, task_details
from omniq.queue.scheduler import AsyncScheduler, Scheduling
from omniq.queue.stores import Stores
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Guarantees, look_up
from omniq.storage.records import Change, ChangeStatus, QueueStats, TaskRecord
from omniq.sync import Blocking, blocking, core_of, portal

C = TypeVar("C", bound=TaskQueueConfig)


class AsyncTaskQueue(SecuredComponent[C, BaseTaskQueue], Scheduling, Chosen, Generic[C]):
    """A task queue on a store.

    `store` makes the implementation of the contract from `config`; a backend's own classes, such as
    `AsyncSQLiteTaskQueue`, fill both in. Results go where the queue is and events nowhere, unless it is said otherwise.
    """

    kind, contract = "task_queue", BaseTaskQueue

    def __init__(
        self,
        store: Callable[[C], BaseTaskQueue],
        config: C,
        *,
        defaults: TaskDefaults | None = None,
        security: Security | None = None,
        results: BaseResultStorage | None = None,
        events: AsyncEventLogger | None = None,
        breaker: BreakerConfig | None = None,
        callbacks: CallbackManager | None = None,
    ) -> None:
        super().__init__(store, config, security, breaker)
        config = self.config
        self._own_defaults = defaults
        self._own_results = self.store.result_storage() if results is None else None
        self.stores = Stores(self.store, results or self._own_results, events, self.serialization, callbacks)
        self.requests = RequestBuilder(self.serialization, config.queue_names, defaults)
        self.dependencies = DependencyResolver(self.stores)
        self.ttl = TTLManager(self.stores, self.dependencies)
        self.adder = TaskAdder(self.stores, self.dependencies, config.max_body)
        self.many = ManyTasks(self.stores, self.dependencies, self.cancel)
        self.explainer = Explainer(self.stores, self.many)
        self.scheduler = AsyncScheduler(self.stores, self.requests, self.adder)
        self._gets = PerLoop(lambda: Batcher(self._get_many))

    def as_part(
        self,
        *,
        project: str | None = None,
        defaults: TaskDefaults | None = None,
        security: Security | None = None,
        results: BaseResultStorage | None = None,
        events: AsyncEventLogger | None = None,
        breaker: BreakerConfig | None = None,
        callbacks: CallbackManager | None = None,
    ) -> AsyncTaskQueue[C]:
        """The same queue as part of something larger: what it wasn't given itself, it takes from there."""
        make_store, config = self._at(project)
        return AsyncTaskQueue(
            make_store,
            config,
            defaults=self._own_defaults or defaults,
            security=self._own_security or security,
            results=results or (self.stores.results if self._own_results is None else None),
            events=events or self.stores.events,
            breaker=self._own_breaker or breaker,
            callbacks=self.callbacks if callbacks is None else callbacks,
        )

    @classmethod
    def options_of(cls, config: OmniQConfig) -> dict[str, Any]:
        return {"breaker": config.breaker, "defaults": config.defaults, "security": Security.of(config)}

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> AsyncTaskQueue[Any]:
        """A backend's task queue; `overrides` are fields of its config, such as `queues`."""
        store = load_class(check_backend(backend).specs.task_queue.store, BaseTaskQueue)  # type: ignore[type-abstract]
        return AsyncTaskQueue(store, backend.task_queue_config(**overrides))

    @property
    def queues(self) -> tuple[str, ...]:
        """The declared queues in order of priority; "default" is among them."""
        return self.config.queue_names

    @property
    def callbacks(self) -> CallbackManager:
        """What is called when tasks are enqueued here, or run by workers on this queue."""
        return self.stores.callbacks

    async def close(self) -> None:
        self._end_waits()
        await self.adder.close()
        await self.callbacks.close()
        if self.stores.events is not None:
            await self.stores.events.close()
        if self._own_results is not None:
            await self._own_results.close()
        await super().close()

    # ── enqueueing ───────────────────────────────────────────────────────────

    async def enqueue(
        self, func: Callable[..., Any], func_args: FuncArgs = None, **options: Unpack[EnqueueOptions]
    ) -> TaskId:
        """Add a task and return its id, once the store has it as safely as it promises; or, where a task that hasn't
        ended holds its `unique_key`, add none and return that one's id. `TaskId.added` tells which.

        `func_args`: a mapping gives keyword arguments, a sequence positional ones. The options are those of
        `EnqueueOptions`. Concurrent calls share one write to the store.

        Raises `InvalidTask` or `SerializationError` naming the argument, `PayloadTooLarge` for too many bytes,
        `StoreError` with the task's id if the store fails. Where only the store's answer was lost, it is asked again,
        with the same id.
        """
        checked = TaskOptions.of(func, options)
        task = self.requests.build(func, func_args, checked)
        await self.adder.check_size(task.body, task.name)
        if checked.connection is not None:
            return await self.adder.add_within(checked.connection, task)
        return await self.adder.add(task, own_id=checked.task_id is None)

    async def enqueue_many(self, calls: Iterable[AnyCall]) -> list[TaskId]:
        """Add many tasks in as few writes as possible and return their ids in order.

        Each is what `call` makes, or a tuple `(func, func_args)` or `(func, args, kwargs)`. They may depend on each
        other. Raises as `enqueue` does, naming a bad call as `calls[7]`, by its index; a bad call adds none of them.
        Errors of the store have all their ids, and those that are `added` already.
        """
        calls = listed_calls(calls)
        options, tasks = self.requests.build_many(calls)
        await self.adder.check_sizes(tasks)
        own_ids = {task.id for task, checked in zip(tasks, options, strict=True) if checked.task_id is None}
        return await self.adder.add_many(tasks, own_ids)

    # ── one task ─────────────────────────────────────────────────────────────

    @repeating
    async def get_task(self, task_id: TaskRef) -> Task:
        """The task now, with its call's options. Raises `TaskNotFound`, and `InvalidTask` for what can't be an id."""
        id_ = id_of(task_id)
        (record,) = await self.store.get([id_])
        return task_details(self._found(id_, record), self.serialization)

    @repeating
    async def explain(self, task_id: TaskRef) -> Explanation:
        """Why the task hasn't run, or how it has ended, and what has happened to it. Raises as `get_task` does."""
        return await self.explainer.explain(await self._record(id_of(task_id)))

    async def look(self, task_id: str) -> TaskRecord | None:
        """The task as the store holds it, without its body; all who look at the same moment share one read."""
        return await self._gets.get().submit(task_id)

    @repeating
    async def _get_many(self, ids: Sequence[str]) -> list[TaskRecord | None]:
        return await look_up(self.store, partial(self.store.get, bodies=False), ids)

    async def _record(self, task_id: str) -> TaskRecord:
        return self._found(task_id, await self.look(task_id))

    def _found(self, task_id: str, record: TaskRecord | None) -> TaskRecord:
        if record is None:
            raise TaskNotFound(f"no task {task_id} in {self.store.location}")
        return record

    async def cancel(self, task_id: TaskRef) -> bool:
        """Cancel the task; returns False if it had ended already.

        A task that isn't running yet is CANCELLED at once. A running one is asked to stop: an async task is
        cancelled, a process killed, a task on a thread sees `current_task().cancelled`.
        Raises as `get_task` does.
        """
        id_ = id_of(task_id)
        while True:
            record = await self._record(id_)
            if record.state.is_terminal:
                return False
            if record.state in QUEUED:
                done = bool(await self.dependencies.end([record], TaskState.CANCELLED, Outcome()))
            else:
                done = await self._request_cancel(record)
            if done:
                return True

    async def _request_cancel(self, record: TaskRecord) -> bool:
        running = (TaskState.RUNNING,)
        change = Change(
            task_id=record.id, to=TaskState.RUNNING, from_states=running, epoch=record.epoch, request_cancel=True
        )
        (changed,) = await repeated(lambda _: self.store.transition([change]))
        return changed.status is ChangeStatus.APPLIED

    async def requeue(self, task_id: TaskRef) -> bool:
        """Let a task that ended without success start afresh, due now; returns False if it is in no such state.

        Its attempts and crashes are forgotten, and its TTL. Raises as `get_task` does.
        """
        id_ = id_of(task_id)
        while True:
            record = await self._record(id_)
            if record.state not in REQUEUABLE:
                return False
            if await self.many.start_afresh([record]):
                return True

    # ── many tasks ───────────────────────────────────────────────────────────

    @repeating
    async def list_tasks(
        self,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        **conditions: Unpack[TaskConditions],
    ) -> Page[Task]:
        """Up to `limit` tasks in the order of their ids, or `newest_first`. OmniQ's own ids sort by their creation.

        The conditions are those of `TaskConditions`. The page's `cursor`, given with the same ones, brings the next.
        Their calls aren't read, however large they are: `get_task` tells a task's options.
        """
        selection = Selection.of(conditions)
        size, after = check_limit(limit), check_cursor(cursor)
        page = await self.many.page(selection, newest_first=newest_first, limit=size, cursor=after)
        return page_of_tasks(page)

    @repeating
    async def list_dead(
        self,
        *,
        newest_first: bool = True,
        limit: int = 100,
        cursor: str | None = None,
        tracebacks: bool = False,
        arguments: bool = False,
        **conditions: Unpack[TaskConditions],
    ) -> Page[DeadLetter]:
        """The dead-letter queue: tasks that ended in an error, with that, the newest first, in pages as `list_tasks`.

        What they were called with is read only if `arguments` is set: they may be secret, and where they were packed
        with dill, reading them runs code.
        """
        selection = Selection.of(conditions, among=DEAD)
        size, after = check_limit(limit), check_cursor(cursor)
        page = await self.many.page(selection, newest_first=newest_first, limit=size, cursor=after)
        return await self.many.dead_page(page, tracebacks=tracebacks, arguments=arguments)

    @repeating
    async def get_dead(self, task_id: TaskRef, *, arguments: bool = False) -> DeadLetter:
        """One dead letter, with its traceback. Raises `TaskNotFound` where there is none of that id."""
        id_ = id_of(task_id)
        record = await self.look(id_)
        if record is None or record.state is not TaskState.ERROR:
            raise TaskNotFound(f"no dead letter {id_} in {self.store.location}")
        (letter,) = await self.many.dead_page(Page([record]), tracebacks=True, arguments=arguments)
        return letter

    async def cancel_many(
        self,
        ids: Iterable[TaskRef] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **conditions: Unpack[TaskConditions],
    ) -> int:
        """Cancel the tasks that meet all conditions, and are among `ids` if those are given, as `cancel` does; returns
        how many were, or with `dry_run` would be.

        Raises `InvalidTask` where neither ids nor a condition is given and `all` isn't set.
        """
        check_meant(conditions, ids, all=all, dry_run=dry_run)
        return await self.many.cancel(Selection.of(conditions, among=CANCELLABLE), ids, dry_run=dry_run)

    async def requeue_many(
        self,
        ids: Iterable[TaskRef] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **conditions: Unpack[TaskConditions],
    ) -> int:
        """Let dead letters start afresh, as `requeue` does; tasks that were cancelled or have expired, too, where
        `state` says so or `ids` name them. Conditions and answer are as those of `cancel_many`.
        """
        check_meant(conditions, ids, all=all, dry_run=dry_run)
        among = REQUEUABLE if conditions.get("state") is not None or ids is not None else DEAD
        return await self.many.requeue(Selection.of(conditions, among=among), ids, dry_run=dry_run)

    async def purge_dead(
        self,
        ids: Iterable[TaskRef] | None = None,
        *,
        all: bool = False,
        dry_run: bool = False,
        **conditions: Unpack[TaskConditions],
    ) -> int:
        """Delete dead letters and their errors for good. Conditions and answer are as those of `cancel_many`.

        A dead letter that a waiting task depends on is kept.
        """
        check_meant(conditions, ids, all=all, dry_run=dry_run)
        return await self.many.delete(Selection.of(conditions, among=DEAD), ids, dry_run=dry_run)

    async def purge_queue(self, queue_name: str = DEFAULT_QUEUE, *, dry_run: bool = False) -> int:
        """Remove the tasks of a queue that wait to be run; returns how many were, or with `dry_run` would be.

        They are cancelled first, so that whoever waits for them, or depends on them, learns it. What runs goes on, and
        what has ended is kept. Raises `InvalidTask` for a queue that neither is declared nor holds tasks.
        """
        if queue_name not in [stats.name for stats in await self.stats()]:
            self.requests.check_queue(queue_name)
        return await self.many.purge(Selection.of({"queue_name": queue_name}, among=WAITING_TO_RUN), dry_run=dry_run)

    @repeating
    async def stats(self) -> list[QueueStats]:
        """How many tasks of each queue are in which state."""
        return await self.store.stats()

    @repeating
    async def guarantees(self) -> Guarantees:
        """What the store promises, asked of the live server where that can be asked."""
        return await self.store.guarantees()

    @repeating
    async def pause_queue(self, queue_name: str = DEFAULT_QUEUE) -> None:
        """Let workers pass over the queue until `resume_queue`; what runs goes on."""
        await self.store.pause(self.requests.check_queue(queue_name), paused=True)
        self.stores.log(EventType.QUEUE_PAUSED, queue_name=queue_name)

    @repeating
    async def resume_queue(self, queue_name: str = DEFAULT_QUEUE) -> None:
        """Let workers take from the queue again."""
        await self.store.pause(self.requests.check_queue(queue_name), paused=False)
        self.stores.log(EventType.QUEUE_RESUMED, queue_name=queue_name)

    def resigner(self, *, accept_unsigned: bool = False) -> Resigner:
        """What signs all that is stored with the first key. Raises `ConfigError` without one."""
        return Resigner(self.stores, self.security, self.config.project, accept_unsigned=accept_unsigned)


# ── blocking ────────────────────────────────────────────────────────────────


class TaskQueue(BlockingChosen[AsyncTaskQueue[Any]]):
    """A task queue whose methods block; `aio` is its async core."""

    kind = "task_queue"

    @classmethod
    def from_backend(cls, backend: BaseBackend, **overrides: Any) -> TaskQueue:
        """A backend's task queue; `overrides` are fields of its config, such as `queues`."""
        return TaskQueue(AsyncTaskQueue.from_backend(backend, **overrides))

    enqueue = blocking(AsyncTaskQueue.enqueue)
    enqueue_many = blocking(AsyncTaskQueue.enqueue_many)
    get_task = blocking(AsyncTaskQueue.get_task)
    explain = blocking(AsyncTaskQueue.explain)
    cancel = blocking(AsyncTaskQueue.cancel)
    requeue = blocking(AsyncTaskQueue.requeue)
    list_tasks = blocking(AsyncTaskQueue.list_tasks)
    list_dead = blocking(AsyncTaskQueue.list_dead)
    get_dead = blocking(AsyncTaskQueue.get_dead)
    cancel_many = blocking(AsyncTaskQueue.cancel_many)
    requeue_many = blocking(AsyncTaskQueue.requeue_many)
    purge_dead = blocking(AsyncTaskQueue.purge_dead)
    stats = blocking(AsyncTaskQueue.stats)
    guarantees = blocking(AsyncTaskQueue.guarantees)
    pause_queue = blocking(AsyncTaskQueue.pause_queue)
    resume_queue = blocking(AsyncTaskQueue.resume_queue)
    purge_queue = blocking(AsyncTaskQueue.purge_queue)
    schedule = blocking(AsyncTaskQueue.schedule)
    get_schedule = blocking(AsyncTaskQueue.get_schedule)
    list_schedules = blocking(AsyncTaskQueue.list_schedules)
    pause_schedule = blocking(AsyncTaskQueue.pause_schedule)
    resume_schedule = blocking(AsyncTaskQueue.resume_schedule)
    delete_schedule = blocking(AsyncTaskQueue.delete_schedule)
    run_schedule = blocking(AsyncTaskQueue.run_schedule)

    @property
    def queues(self) -> tuple[str, ...]:
        """The declared queues in order of priority; "default" is among them."""
        return self.aio.queues

    @property
    def callbacks(self) -> CallbackManager:
        """What is called when tasks are enqueued here, or run by workers on this queue."""
        return self.aio.callbacks


class Scheduler(Blocking[AsyncScheduler]):
    """Fires the schedules of a task queue on a thread of the background, without a worker.

    Every worker fires schedules already; this is for a process that does nothing else.
    """

    def __init__(self, queue: AsyncTaskQueue[Any] | Blocking[AsyncTaskQueue[Any]]) -> None:
        super().__init__(core_of(queue, AsyncTaskQueue, "queue").scheduler)
        self._running: Future[None] | None = None

    fire_due = blocking(AsyncScheduler.fire_due)

    def start(self) -> None:
        """Begin to fire and return."""
        if self._running is None:
            self.connect()
            self._running = Context().run(portal().submit, self.aio.run())

    def stop(self) -> None:
        """Fire no more."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def close(self) -> None:
        """Fire no more, and give back the queue's connections."""
        self.stop()
        super().close()
