"""`Worker`: what every kind of worker is for its users; and `WorkerPool`, a worker on a thread of its own."""

from __future__ import annotations

import atexit
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, Self

from msgspec import UNSET

from omniq import build
from omniq.build import AnyEventStorage, AnyResultStorage, AnyTaskQueue, FromSource, Source
from omniq.callbacks import CallbackManager
from omniq.clock import Duration, seconds
from omniq.config.convert import convert, given_fields
from omniq.config.described import OF_WORKERS
from omniq.config.loader import WorkerChoice, check_kind, config_of, worker_config
from omniq.errors import ConfigError, PluginError, UnknownBackend, WorkerError
from omniq.models.config import WorkerConfig
from omniq.models.task import TaskRef
from omniq.outcomes import OutcomeWaiter, results_of
from omniq.plugins.registry import load_class, registry
from omniq.queue.engine import AsyncTaskQueue
from omniq.results import AsyncResultStorage
from omniq.sync import Portal, portal, refuse_in_loop
from omniq.workers.execution import Runner
from omniq.workers.pool import AsyncWorkerPool, declared_queues


def _slots(settings_for: Callable[[str], WorkerConfig] | None, kind: str) -> tuple[type[Runner], int, WorkerConfig]:
    """The slots of a kind, how many, and what else they are told. Raises `PluginError` if there is none of it here."""
    worker = load_class(registry().worker(kind).worker_class, Worker)
    config = worker.config_class() if settings_for is None else settings_for(kind)
    return worker.runner, config.max_workers or worker.default_max_workers, config


class Worker(FromSource):
    """A worker on a task queue.

    `start` and `stop` (or `with`) run it on a thread of its own; `async with` runs it on the running loop.
    `result_store` defaults to where the queue is; without an `event_store` no events are written; `callbacks` default
    to the queue's. The rest are the fields of its `config_class`; what isn't given comes from the environment.

    Components are taken as `OmniQ` takes them: a URL, a store's name, a dict, a config struct, a backend, or made by
    hand, async or blocking. A queue that is said in words is configured as that of an `OmniQ` is, with its results and
    events. Raises `ConfigError`.
    """

    kind: ClassVar[str]
    default_max_workers: ClassVar[int]
    runner: ClassVar[type[Runner]]
    config_class: ClassVar[type[WorkerConfig]] = WorkerConfig
    """The struct that configures it."""

    def __init__(
        self,
        queue: AnyTaskQueue,
        result_store: AnyResultStorage | None = None,
        event_store: AnyEventStorage | None = None,
        callbacks: CallbackManager | None = None,
        **config: Any,
    ) -> None:
        given: build.Given = {"task_queue": queue, "result_store": result_store, "event_store": event_store}
        if queue is None:
            raise ConfigError(f"queue: expected {build.expected('task_queue')}, got None")
        try:
            (loaded, _), made = build.configured(None, None, given)
            if isinstance(queue, build.WORDS):
                self._queue = build.joined(loaded, made, callbacks).queue
            else:
                wanted = {kind for kind, part in given.items() if part is not None}
                self._queue = build.with_parts(loaded, made, wanted, callbacks)
        except (ConfigError, UnknownBackend) as error:
            raise type(error)(_PREFIX.sub("queue", str(error))) from None
        self._begin(loaded.worker, config, owns=isinstance(queue, build.WORDS))

    def _begin(self, choice: WorkerChoice, config: Mapping[str, Any], *, owns: bool) -> None:
        choice.check_options()
        said = {**given_fields(choice.settings_for(self.kind)), **config}
        self.config = worker_config(said, self.config_class, type(self).__name__)
        check_queues(f"{type(self).__name__}: ", self.config.queues, self._queue.queues)
        self._results: AsyncResultStorage[Any] | None = None
        self._blocking: WorkerPool | None = None
        self._async: AsyncWorkerPool | None = None
        self._owns = owns
        """Whether the queue is this worker's alone, so that nobody else gives back its connections."""
        self._has_asked = False

    @classmethod
    def _from(cls, config: Source | None = None, task_queue: Any = None) -> Self:
        """As a whole configuration says."""
        given: build.Given = {"task_queue": task_queue, "result_store": None, "event_store": None}
        (loaded, _), made = build.configured(config, None, given)
        return cls.told(build.joined(loaded, made).queue, loaded.worker, {}, owns=True)

    @classmethod
    def told(
        cls, queue: AsyncTaskQueue[Any], choice: WorkerChoice, config: Mapping[str, Any], *, owns: bool = False
    ) -> Self:
        """One on a queue that is complete; `config` wins over what a whole configuration says of workers."""
        self = cls.__new__(cls)
        self._queue = queue
        self._begin(choice, config, owns=owns)
        return self

    def pool(self, settings_for: Callable[[str], WorkerConfig] | None = None) -> AsyncWorkerPool:
        """A new engine with this worker's configuration; `settings_for` tells that of other kinds, which tasks may ask
        for."""
        return AsyncWorkerPool(
            self._queue,
            self.runner,
            self.config,
            kind=self.kind,
            max_workers=self.config.max_workers or self.default_max_workers,
            other_kind=partial(_slots, settings_for),
        )

    @property
    def _is_running(self) -> bool:
        in_loop = self._async is not None and self._async.failure is None
        return in_loop or (self._blocking is not None and self._blocking.running)

    # ── blocking ─────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to work on a thread of its own and return. Raises `StoreError`, or `WorkerError` if it runs."""
        refuse_in_loop(f"{type(self).__name__}.start()")
        if self._is_running:
            raise WorkerError("the worker is running already")
        self.stop()  # one that can't go on
        blocking = WorkerPool(self.pool())
        blocking.start()
        self._blocking = blocking

    def stop(self, grace_period: Duration | None = None) -> None:
        """Finish or hand back what this worker holds, and return when it has stopped."""
        grace = seconds("grace_period", grace_period)
        if self._blocking is not None or self._has_asked:
            refuse_in_loop(f"{type(self).__name__}.stop()")
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.stop(grace)
        if self._owns and self._has_asked:
            self._has_asked = False
            portal().call(self._give_back())

    async def _give_back(self) -> None:
        if self._results is not None:
            await self._results.close()
        await self._queue.close()

    def drain(self) -> None:
        """Wait until the tasks that are due now have been worked off."""
        if self._blocking is None:
            raise WorkerError("the worker isn't running: start() it")
        self._blocking.drain()

    def get_result(self, task_id: TaskRef, timeout: Duration | None = None) -> Any:
        """Wait for a task's value; raises as `OmniQ.get_result` does."""
        refuse_in_loop(f"{type(self).__name__}.get_result()")
        self._has_asked = True
        return portal().call(self._outcomes().value(task_id, timeout))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # ── async ────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        if self._is_running:
            raise WorkerError("the worker is running already")
        await self.__aexit__()  # one that can't go on
        pool = self.pool()
        await pool.start()
        self._async = pool
        return self

    async def __aexit__(self, *exc: object) -> None:
        running, self._async = self._async, None
        if running is not None:
            await running.stop()
            if self._owns:
                await self._give_back()

    def _outcomes(self) -> OutcomeWaiter:
        if self._results is None:
            self._results = results_of(self._queue)
        return OutcomeWaiter(self._queue, self._results)


_PREFIX: Final = re.compile(r"\Atask_queue\b")

# ── those of one OmniQ ──────────────────────────────────────────────────────


def check_queues(where: str, asked: Sequence[str] | None, declared: Sequence[str]) -> None:
    """Raise `ConfigError` for queues to serve of which one isn't declared, or that are none."""
    try:
        if asked is not None:
            declared_queues(asked, declared)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


class OwnWorkers:
    """What the workers of one `OmniQ` are told, and how that changes while they run. Raises `ConfigError`."""

    def __init__(self, choice: WorkerChoice, kind: str | None, given: Mapping[str, Any] | None) -> None:
        self.choice = choice
        self._kind = choice.type if kind is None else convert(kind, str, "worker_type")
        check_kind(self._kind, "worker.type" if kind is None else "worker_type", registry())
        self._given = convert({} if given is None else given, dict[str, Any], "worker_config")
        if self._given:
            with suppress(PluginError):  # it isn't installed where tasks are only enqueued
                worker_config(self._given, config_of(self._kind), "worker_config")
        choice.check_options()
        self._pools: weakref.WeakKeyDictionary[AsyncWorkerPool, tuple[type[Worker], dict[str, Any]]]
        self._pools = weakref.WeakKeyDictionary()

    def check_queues(self, declared: Sequence[str]) -> None:
        """Raise `ConfigError` if they are to serve queues that aren't declared: nothing would ever come from those."""
        choice, kinds = self.choice, self.choice.options.keys() & set(registry().names("worker"))
        check_queues("worker.config.", choice.config.queues, declared)
        for kind in kinds:
            check_queues(f"worker.options.{kind}.", choice.options[kind].get("queues"), declared)
        check_queues("worker_config.", self._given.get("queues"), declared)

    def pool(self, queue: AsyncTaskQueue[Any], kind: str | None, arguments: dict[str, Any]) -> AsyncWorkerPool:
        """A worker that isn't started yet. Raises `ConfigError` or `PluginError`."""
        if kind is not None:
            check_kind(convert(kind, str, "worker_type"), "worker_type", registry())
        spec = registry().worker(self._kind if kind is None else kind)
        worker_class = load_class(spec.worker_class, Worker)
        worker = worker_class.told(queue, self.choice, {**self._given, **arguments})
        pool = worker.pool(lambda kind: self.choice.settings_for(kind))
        self._pools[pool] = worker_class, arguments
        return pool

    async def take(self, choice: WorkerChoice, changes: Mapping[str, Any]) -> None:
        """Let the workers there are do as this says, as far as that can change. What is among the `changes` wins over
        what was said before as an argument."""
        self.choice = choice
        self._given = {name: value for name, value in self._given.items() if name not in changes}
        for pool, (worker_class, arguments) in list(self._pools.items()):
            own = changes.get(f"{worker_class.kind}_workers", changes.get("max_workers", UNSET))
            said = {**changes, "max_workers": own}
            arguments |= {name: said[name] for name in OF_WORKERS if said.get(name, UNSET) is not UNSET}
            config = self._config(worker_class, arguments)
            await pool.change(config, config.max_workers or worker_class.default_max_workers)

    def _config(self, worker_class: type[Worker], arguments: Mapping[str, Any]) -> WorkerConfig:
        said = {**given_fields(self.choice.settings_for(worker_class.kind)), **self._given, **arguments}
        return worker_config(said, worker_class.config_class, worker_class.__name__)


# ── on a thread of its own ──────────────────────────────────────────────────


class WorkerPool:
    """A worker pool on a thread and an event loop of its own; its methods block."""

    def __init__(self, pool: AsyncWorkerPool) -> None:
        """Raises `ConfigError` for what is no `AsyncWorkerPool`."""
        if not isinstance(pool, AsyncWorkerPool):
            raise ConfigError(f"pool: expected an AsyncWorkerPool, such as oq.worker_pool(), got {type(pool).__name__}")
        self.aio = pool
        self._portal: Portal | None = None

    @property
    def running(self) -> bool:
        """Whether it takes tasks: not when it can't go on, or in a forked child, whose parent has the worker."""
        return self._portal is not None and self._portal.alive and self.aio.running

    def start(self) -> None:
        """Begin to work; returns at once. Raises as `AsyncWorkerPool.start`."""
        refuse_in_loop("start()")
        portal = self._portal = Portal("omniq-worker")
        _started.add(self)
        try:
            portal.call(self.aio.start())
            portal.on_death = self.aio.die
        except BaseException:
            self._end()
            raise

    def stop(self, grace_period: Duration | None = None) -> None:
        """Stop as `AsyncWorkerPool.stop` does; returns when it has. Raises `BlockingCallInLoop` if it runs."""
        grace = seconds("grace_period", grace_period)
        if self._portal is None:
            return
        refuse_in_loop("stop()")
        if self._portal.alive:
            try:
                self._portal.call(self.aio.stop(grace))
            finally:
                self._end()
        else:
            _started.discard(self)
            self._portal = None

    def drain(self) -> None:
        """Wait until the tasks there are have been worked off. Raises `WorkerError` if the worker doesn't run."""
        if self._portal is None or not self.running:
            raise WorkerError("the worker isn't running")
        refuse_in_loop("drain()")
        self._portal.call(self.aio.drain())

    def _end(self) -> None:
        _started.discard(self)
        portal, self._portal = self._portal, None
        if portal is not None:
            try:
                portal.call(self.aio.disconnect())
            finally:
                portal.stop()


_started: set[WorkerPool] = set()


def _after_fork_in_child() -> None:
    _started.clear()  # they are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _stop_all() -> None:
    """At the interpreter's end: hand back what runs, instead of letting leases run out."""
    for pool in list(_started):
        pool.stop()


atexit.register(_stop_all)
