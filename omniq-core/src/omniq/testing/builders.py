"""Short ways to say what a store's tests are about: tasks, leases, changes, and how two records compare.

A store's own tests may use them too. They need pytest (`omniq-core[testing]`), and are a plugin of it with the fixture
`virtual_clock`: `pytest_plugins = ["omniq.testing.builders"]` in the top `conftest.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from random import Random
from typing import Any, TypeVar

import pytest
from msgspec.structs import asdict

from omniq import clock
from omniq.models.task import TERMINAL, TaskState, new_id
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Store, carry_out
from omniq.storage.records import (
    NEW,
    BreakerState,
    BreakerStatus,
    Change,
    Changed,
    ChangeStatus,
    Firing,
    Lease,
    NewTask,
    ResultRecord,
    ScheduleRecord,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing import VirtualClock

T = TypeVar("T")


U = TypeVar("U")


V = TypeVar("V")


TOLERANCE = 2.0
"""Seconds by which a store's clock may differ from this process's."""


MILLISECOND = 0.0011
"""Seconds that a store may lose by rounding times to milliseconds."""


PATIENCE = 5.0
"""Seconds within which what should happen at once must have happened, on a slow machine too."""


HOUR = 3600.0


QUEUE = "default"


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """A clock that the test can advance; it is put back afterwards."""
    with VirtualClock() as clock:
        yield clock


IN_LINE = (TaskState.PENDING, TaskState.SCHEDULED)
"""These go together: which of the two a task is that has come due is the store's choice."""


NOT_ENDED = tuple(state for state in TaskState if state not in TERMINAL)


_TIMES = frozenset({"created_at", "run_at", "expires_at", "finished_at", "lease_until", "claimed_at"})


def new_task(
    task_id: str | None = None,
    *,
    queue: str = QUEUE,
    body: bytes = b"body",
    name: str = "",
    priority: int = 0,
    run_at: float | None = None,
    delay: float = 0.0,
    ttl: float | None = None,
    parents: tuple[str, ...] = (),
    schedule_id: str | None = None,
    unique: str | None = None,
) -> NewTask:
    """A task to add, due at once if nothing else is said."""
    return NewTask(
        id=task_id or new_id(),
        queue_name=queue,
        body=body,
        name=name,
        priority=priority,
        run_at=run_at,
        delay=delay,
        ttl=ttl,
        depends_on=parents,
        schedule_id=schedule_id,
        unique=unique,
    )


def new_tasks(count: int, *, queue: str = QUEUE, delay: float = 0.0, ttl: float | None = None) -> list[NewTask]:
    """As many tasks that differ by their ids only."""
    return [new_task(queue=queue, delay=delay, ttl=ttl) for _ in range(count)]


def finish(
    record: TaskRecord,
    to: TaskState = TaskState.SUCCESS,
    *,
    result: ResultRecord | None = None,
    delay: float | None = None,
) -> Change:
    """What a worker does with a task that it holds: end it, or with `to=PENDING` give it back."""
    return Change(
        task_id=record.id, to=to, from_states=(TaskState.RUNNING,), epoch=record.epoch, result=result, delay=delay
    )


def success(record: TaskRecord, body: bytes = b"result", ttl: float | None = None) -> Change:
    """What a worker does with a task that it holds and that went well: end it, with its result."""
    result = result_of(record.id, record.epoch, body=body, ttl=ttl, schedule_id=record.schedule_id)
    return finish(record, result=result)


def cancel(task_id: str) -> Change:
    """What a user does to a task that nobody holds."""
    return Change(task_id=task_id, to=TaskState.CANCELLED, from_states=(*IN_LINE, TaskState.WAITING))


def result_of(
    task_id: str,
    epoch: int = 1,
    *,
    status: TaskState = TaskState.SUCCESS,
    body: bytes = b"result",
    ttl: float | None = None,
    schedule_id: str | None = None,
) -> ResultRecord:
    """A result to store."""
    return ResultRecord(task_id=task_id, epoch=epoch, status=status, body=body, ttl=ttl, schedule_id=schedule_id)


def new_schedule(schedule_id: str = "nightly", *, next_run: float | None, paused: bool = False) -> ScheduleRecord:
    """A schedule to put."""
    return ScheduleRecord(id=schedule_id, queue_name=QUEUE, body=b"body", next_run=next_run, paused=paused)


def new_worker(name: str) -> WorkerRecord:
    """A worker that says all that a worker can say of itself."""
    error = 'it said "no"\né \U0001f6ab'
    open_ = BreakerStatus(location="shelf://h:1/0", state=BreakerState.OPEN, since=1.7e9, error=error)
    return WorkerRecord(
        name=name,
        host="here",
        kind="async",
        queues=("high", "low"),
        slots=8,
        running=2,
        abandoned=1,
        lease=7.5,
        breakers=(open_, BreakerStatus(location="shelf:/x")),
        started_at=1.5,
    )


def lease_of(record: TaskRecord) -> Lease:
    """The lease that a claim gave."""
    assert record.worker is not None
    return Lease(record.id, record.epoch, record.worker)


async def add(store: BaseTaskQueue, *tasks: NewTask) -> list[str]:
    """Add tasks that are all new, and return their ids."""
    assert await store.add(tasks) == [NEW] * len(tasks)
    return [task.id for task in tasks]


async def claim(
    store: BaseTaskQueue, *queues: str, limit: int = 100, lease: float = HOUR, worker: str = "worker"
) -> list[TaskRecord]:
    """Claim from these queues, or from the usual one."""
    return await store.claim(queues or (QUEUE,), limit=limit, lease=lease, worker=worker)


async def running(store: BaseTaskQueue, count: int = 1, *, lease: float = HOUR) -> list[TaskRecord]:
    """As many tasks, added and claimed."""
    tasks = await add(store, *new_tasks(count))
    claimed = await claim(store, limit=count, lease=lease)
    assert ids(claimed) == set(tasks)
    return claimed


async def lapsed(store: BaseTaskQueue, clock: VirtualClock, count: int = 1) -> list[TaskRecord]:
    """As many tasks, added and claimed under a lease that has run out since."""
    claimed = await running(store, count, lease=30)
    clock.advance(60)
    return claimed


async def reap(store: BaseTaskQueue, limit: int = 100) -> list[TaskRecord]:
    """Take back up to `limit` leases that have run out."""
    lapsed = await store.lapsed(limit=limit)
    return await store.reap(lapsed) if lapsed else []


async def change(store: BaseTaskQueue, *changes: Change) -> list[ChangeStatus]:
    """Apply the changes, those of different tasks in one call, and tell what became of each."""
    answers = await carry_out(store, store.transition, changes, id_of=attrgetter("task_id"))
    return [changed.status for changed in answers]


async def fire(
    store: BaseTaskQueue,
    schedule_id: str,
    *,
    if_version: int,
    slot: float = 1.0,
    next_run: float | None,
    task: NewTask,
) -> bool:
    """Fire one schedule."""
    firing = Firing(schedule_id=schedule_id, if_version=if_version, slot=slot, next_run=next_run, task=task)
    (fired,) = await store.fire([firing])
    return fired


async def change_one(store: BaseTaskQueue, wanted: Change) -> Changed:
    """Apply one change."""
    (changed,) = await store.transition([wanted])
    return changed


async def read(store: BaseTaskQueue, task_id: str) -> TaskRecord:
    """A task that must be there."""
    (record,) = await store.get([task_id])
    assert record is not None
    return record


async def states(store: BaseTaskQueue, task_ids: Iterable[str]) -> list[TaskState | None]:
    """The tasks' states, None for those that aren't there."""
    return [None if record is None else record.state for record in await store.get(list(task_ids))]


def ids(records: Iterable[TaskRecord | NewTask]) -> set[str]:
    """Their ids; they must not repeat."""
    found = [record.id for record in records]
    assert len(found) == len(set(found)), "a task was handed out twice"
    return set(found)


def about(seconds: float) -> object:
    """Equal to a time on the store's clock that should be this one."""
    return pytest.approx(seconds, abs=TOLERANCE)


def exactly(seconds: float) -> object:
    """Equal to a duration, or to a time that the caller gave, up to a millisecond."""
    return pytest.approx(seconds, abs=MILLISECOND)


def now() -> object:
    """Equal to the store's now."""
    return about(clock.now())


def assert_same(actual: TaskRecord | None, expected: TaskRecord | None) -> None:
    """Every field is equal; times up to the difference of the clocks."""
    if actual is None or expected is None:
        assert actual is expected
        return
    found, wanted = asdict(actual), asdict(expected)
    for name, value in wanted.items():
        close = about(value) if name in _TIMES and value not in (None, found[name]) else value
        assert found[name] == close, f"{name} of {actual} isn't that of {expected}"


async def together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """The answers of calls that run at the same time."""
    return list(await asyncio.gather(*calls))


async def race(left: Sequence[Awaitable[T]], right: Sequence[Awaitable[U]], seed: int) -> tuple[list[T], list[U]]:
    """The answers of calls that start within a few turns of the loop, in an order that the seed decides."""
    chance = Random(seed)

    async def delayed(call: Awaitable[V]) -> V:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        return await call

    return await asyncio.gather(together(map(delayed, left)), together(map(delayed, right)))


async def in_other_loops(store: Store, uses: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Use the store from as many threads at once, each with an event loop of its own."""

    async def session(use: Callable[[], Coroutine[Any, Any, T]]) -> T:
        await store.connect()
        try:
            return await use()
        finally:
            await store.close()

    return await together(asyncio.to_thread(asyncio.run, session(use)) for use in uses)


@asynccontextmanager
async def woken(wait: Callable[[float], Coroutine[Any, Any, object]], count: int = 1) -> AsyncIterator[None]:
    """What happens inside must soon end so many calls of `wait`, whose own timeout is long."""
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(wait(100 * PATIENCE))
        await asyncio.sleep(0.05)
        yield


async def until_told(store: BaseResultStorage, ids: Iterable[str], timeout: float) -> None:
    """Return when the store tells that one of these results may have come, or after `timeout` seconds."""
    news = store.wakeups.subscribe()
    for id_ in ids:
        news.follow(id_)
    await news.told()  # at once: they might have been there
    waits = [asyncio.ensure_future(store.hear(timeout)), asyncio.ensure_future(news.told())]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        for id_ in ids:
            news.leave(id_)


async def until_equal(probe: Callable[[], Awaitable[T]], wanted: T) -> None:
    """Ask again until the answer is the wanted one: for what may lag behind."""
    found = await probe()
    for _ in range(100):
        if found == wanted:
            return
        await asyncio.sleep(PATIENCE / 100)
        found = await probe()
    assert found == wanted
