"""For tests of programs that use OmniQ: a queue in memory, whose tasks run when they are told to, and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Self, TypeVar, Unpack

from omniq import clock
from omniq.clock import Duration, utc
from omniq.clock import seconds as in_seconds
from omniq.config.loader import OmniQConfig
from omniq.core import AsyncOmniQ, OmniQ
from omniq.errors import WorkerError
from omniq.events.storage import AsyncEventStorage
from omniq.loops import inside
from omniq.models.config import EventStorageConfig, ResultStorageConfig, TaskQueueConfig
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.scheduler import AsyncScheduler
from omniq.results import AsyncResultStorage
from omniq.sync import Blocking, Delegated, blocking, core_of, refuse_in_loop
from omniq.testing.draining import Drain, Drained, EagerAdder, Journal, JournaledStore, run_inline
from omniq.testing.enqueued import Enqueued, EnqueuedConditions, Expected, check_count, complaint
from omniq.testing.reference import ReferenceEventStore, ReferenceResultStore, ReferenceSpace, VirtualClock

R = TypeVar("R")

RUNS: Final = 1000
"""Runs after which `drain` takes a chain of tasks for one without an end."""
PATIENCE: Final = 30.0
"""Seconds of real time that one `drain` may take."""
STEPS: Final = 10_000
"""Times at which something is due that one `advance` may pass."""

# ── the sandbox ─────────────────────────────────────────────────────────────


Door = AsyncOmniQ | OmniQ
CORE_PARTS: Final = ("task_queue", "_results", "event_store", "events", "_event_logger", "_worker")
"""What an `AsyncOmniQ` works with, and what takes the sandbox's place."""


class AsyncSandbox(AsyncOmniQ):
    """An `AsyncOmniQ` in memory for tests, whose tasks run in `drain`, and whose clock `advance` moves.

    Given a program's own `oq`, or several for one queue, async or blocking: while this is entered, they work on it,
    configured as the first of them is, declared tasks included. Nothing reaches their own stores. With `eager`, tasks
    that are due run within `enqueue`. Raises `ConfigError` for what is no `OmniQ`.
    """

    def __init__(self, *doors: Door, eager: bool = False) -> None:
        self._doors = [core_of(door, AsyncOmniQ, "Sandbox") for door in doors]
        model = self._doors[0] if self._doors else None
        self._space, self._journal = ReferenceSpace(), Journal()
        config = OmniQConfig() if model is None else model.config
        given = None if model is None else model.task_queue
        events = AsyncEventStorage(lambda _: ReferenceEventStore(self._space), EventStorageConfig())
        super().__init__(
            config=config,
            task_queue=AsyncTaskQueue(
                lambda _: JournaledStore(self._space, self._journal),
                TaskQueueConfig() if given is None else given.config,
                defaults=None if given is None else given._own_defaults,
                security=None if given is None else given.security,
            ),
            result_store=AsyncResultStorage(lambda _: ReferenceResultStore(self._space), ResultStorageConfig()),
            event_store=events if model is None or model.event_store is not None else None,
            callbacks=None if given is None else given.callbacks.copy(),
        )
        self.eager = eager
        """Whether tasks that are due run within `enqueue`, and what comes due within `advance`."""
        self.clock: Final = VirtualClock()
        """The clock that `advance` moves."""
        if model is not None:
            self._tasks = model._tasks
        self._take_over_adding()
        self._installed = ExitStack()
        self._is_installed = False

    def _take_over_adding(self) -> None:
        queue = self.task_queue
        queue.adder = EagerAdder(queue, self._run_at_once)
        queue.scheduler = AsyncScheduler(queue.stores, queue.requests, queue.adder)

    # ── life ─────────────────────────────────────────────────────────────────

    def install(self) -> None:
        """Let the program's own `oq` work on this, and time be this clock's; what `async with` does at its beginning.

        `remove` undoes it. Raises `WorkerError` if it is done already.
        """
        if self._is_installed:
            raise WorkerError("install: this sandbox is entered already; make another one to nest them")
        self._is_installed = True
        self._installed.enter_context(self.clock)
        for door in self._doors:
            self._installed.enter_context(_replaced(door, {name: vars(self)[name] for name in CORE_PARTS}))

    def remove(self) -> None:
        """Put back what `install` has replaced."""
        self._is_installed = False
        self._installed.close()

    async def __aenter__(self) -> Self:
        self.install()
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            for door in self._doors:
                await door.stop_worker()
            await self.close()
        finally:
            self.remove()

    # ── running ──────────────────────────────────────────────────────────────

    async def drain(self, *, limit: int = RUNS, timeout: Duration | None = PATIENCE) -> Drained:
        """Run all tasks that are due, and those that they make due, one after the other; returns what ran.

        What is due later, a retry say, is left: see `advance`. A blocking `Sandbox` runs them on the thread that calls
        this, an async one on the running loop, and sync tasks there on a thread. Kinds of workers are all the same.

        Raises `WorkerError` after `limit` runs with more to come, after `timeout` seconds of real time (or a
        `timedelta`; None: no limit), and within a task.
        """
        if inside.get(None) is not None:
            raise WorkerError("drain: a task can't wait for all that is due, since it is itself")
        patience = in_seconds("timeout", timeout)
        drain = Drain(self.task_queue, self._space, self._journal, limit)
        try:
            async with asyncio.timeout(patience):
                await drain.run()
        except TimeoutError:
            raise WorkerError(f"drain: after {patience:g} s, {drain.unfinished()}") from None
        return await drain.outcome()

    async def advance(
        self, by: Duration = 0, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Move the clock forward, `by` seconds or a `timedelta` and all the rest together.

        Delayed tasks and retries come due, for the next `drain` to run; so do the tasks of schedules, one for each slot
        on the way. If this is `eager`, each runs at its time. What expires meanwhile is expired.

        Raises `InvalidTask` for what is no span of time, `WorkerError` outside of its `with` block, and if it meets
        more than 10,000 times on the way.
        """
        if not self._is_installed:
            raise WorkerError("advance: enter the sandbox first (with Sandbox() as app)")
        parts = {"by": (by, 1), "days": (days, 86_400), "hours": (hours, 3600), "minutes": (minutes, 60)}
        parts |= {"seconds": (seconds, 1)}
        until = clock.now() + sum((in_seconds(name, span) or 0.0) * unit for name, (span, unit) in parts.items())
        for _ in range(STEPS):
            next_at = await self._next_time()
            if next_at is None or next_at > until:
                break
            self.clock.advance(max(0.0, next_at - clock.now()) + 0.001)  # clocks are rounded
            await self.task_queue.scheduler.fire_due()
            await self._run_at_once()
        else:
            raise WorkerError(f"advance: more than {STEPS:,} times at which something is due until {utc(until)}")
        self.clock.advance(max(0.0, until - clock.now()))

    async def _next_time(self) -> float | None:
        """When a schedule has its next slot or, if tasks are run at their times, one is due."""
        schedules = await self.task_queue.store.schedules()
        times = [each.next_run for each in schedules if each.next_run is not None and not each.paused]
        if self.eager:
            queues, now = self.task_queue.queues, clock.now()
            times += [now + due for due in self._space.do(lambda rows, at: rows.tasks.next_due(queues, at)).values()]
        return min(times, default=None)

    async def _run_at_once(self) -> None:
        """Run what is due, if it is to be run at once; what a task enqueues is run by whoever runs that."""
        if self.eager and inside.get(None) is None:
            await self.drain()

    # ── what is enqueued ─────────────────────────────────────────────────────

    def enqueued(self, **expected: Unpack[EnqueuedConditions]) -> list[Enqueued]:
        """The tasks that were enqueued so far, whatever has become of them, in that order; the slots of schedules too.

        Given conditions, as `assert_enqueued` takes them, those that meet all.
        """
        wanted = Expected(**expected)
        return [task for task in self._all_enqueued() if not wanted.differences(task)]

    def assert_enqueued(self, *, count: int | None = None, **expected: Unpack[EnqueuedConditions]) -> list[Enqueued]:
        """Fail unless a task was enqueued that meets all conditions, or `count` of them if that is given; returns them.

        `name`: of the function, as "module:function" or its last part. `func`: the function itself. `args`, `kwargs`:
        all its arguments, however they were passed; `unittest.mock.ANY` stands for any. `queue`: the queue's name.
        `state`: the `TaskState` that the task is in now.

        Raises `AssertionError`, which shows what was enqueued and how that differs, and `InvalidTask` for what is no
        condition.
        """
        check_count(count)
        wanted, tasks = Expected(**expected), self._all_enqueued()
        found = [task for task in tasks if not wanted.differences(task)]
        if (not found) if count is None else (len(found) != count):
            raise AssertionError(complaint(wanted, tasks, count=count, found=len(found)))
        return found

    def refute_enqueued(self, **expected: Unpack[EnqueuedConditions]) -> None:
        """Fail if a task was enqueued that meets all conditions; these are as for `assert_enqueued`."""
        if found := self.enqueued(**expected):
            raise AssertionError(complaint(Expected(**expected), found, count=0, found=len(found)))

    def _all_enqueued(self) -> list[Enqueued]:
        with self._space.lock:
            rows = dict(self._space.tasks.rows)
        serialization = self.task_queue.serialization
        return [
            Enqueued.of(task, rows.get(task.id), serialization, clock.now()) for task in self._journal.added.values()
        ]


_MISSING: Final = object()
COVERED: Final = "_covered"
"""The attribute that holds what sandboxes have replaced, the first of them first."""


@contextmanager
def _replaced(owner: object, parts: Mapping[str, Any]) -> Iterator[None]:
    """Let an object have other attributes for a while. Of several such whiles, each may end before the others."""
    own = vars(owner)
    before = {name: own.get(name, _MISSING) for name in parts}
    covered: list[dict[str, Any]] = own.setdefault(COVERED, [])
    covered.append(before)
    own.update(parts)
    try:
        yield
    finally:
        place = next(place for place, each in enumerate(covered) if each is before)
        del covered[place]
        if place < len(covered):
            covered[place].update(before)  # whoever came next puts it back
        else:
            _put_back(own, before)
        if not covered:
            del own[COVERED]


def _put_back(own: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name, value in before.items():
        own.pop(name) if value is _MISSING else own.update({name: value})


# ── blocking ────────────────────────────────────────────────────────────────


class Sandbox(OmniQ):
    """`AsyncSandbox` with methods that block; `aio` is its async core.

    Tasks run on the thread that drains, or enqueues them if it is `eager`: what is bound to the thread of the test, as
    the transaction of a database is, they find there, too. What isn't an `Exception`, such as Ctrl-C or a failure of
    pytest's, goes to the test.
    """

    aio: AsyncSandbox

    def __init__(self, *doors: Door, eager: bool = False) -> None:
        self._facades = [door for door in doors if isinstance(door, OmniQ)]
        Blocking.__init__(self, AsyncSandbox(*doors, eager=eager))
        self._worker = None
        self._installed = ExitStack()

    @property
    def eager(self) -> bool:
        """Whether tasks that are due run within `enqueue`, and what comes due within `advance`."""
        return self.aio.eager

    @eager.setter
    def eager(self, eager: bool) -> None:
        self.aio.eager = eager

    @property
    def clock(self) -> VirtualClock:
        """The clock that `advance` moves."""
        return self.aio.clock

    def install(self) -> None:
        """As `AsyncSandbox.install`."""
        self.aio.install()
        self._installed.callback(self.aio.remove)
        for facade in self._facades:
            parts = {"_call": self._call, "_opened": False, "_worker": None}
            self._installed.enter_context(_replaced(facade, parts))

    def remove(self) -> None:
        """As `AsyncSandbox.remove`."""
        self._installed.close()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            for facade in self._facades:
                facade.stop_worker()
            self.close()
        finally:
            self.remove()

    drain = blocking(AsyncSandbox.drain)
    advance = blocking(AsyncSandbox.advance)
    enqueued = Delegated(AsyncSandbox.enqueued, "aio")
    assert_enqueued = Delegated(AsyncSandbox.assert_enqueued, "aio")
    refute_enqueued = Delegated(AsyncSandbox.refute_enqueued, "aio")

    def _call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """As that of other facades; meanwhile, this thread runs the tasks that the call has run."""
        try:
            refuse_in_loop(type(self).__name__)
            self._open()
        except BaseException:
            coroutine.close()
            raise
        return run_inline(coroutine)
