"""Random walks: a store and a model of the contract, side by side; and what is told after all that may happen."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock
from omniq import clock as wall
from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability, carry_out
from omniq.storage.records import (
    NEW,
    Added,
    Change,
    ChangeStatus,
    Lease,
    LeaseStatus,
    NewTask,
    ScheduleRecord,
    TaskFilter,
    TaskRecord,
)
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    IN_LINE,
    NOT_ENDED,
    PATIENCE,
    TOLERANCE,
    add,
    assert_same,
    cancel,
    change,
    claim,
    finish,
    fire,
    new_schedule,
    new_task,
    reap,
    until_equal,
)
from omniq.testing.conformance.base import Conformance

# ── the model ───────────────────────────────────────────────────────────────


Rank: TypeAlias = tuple[int, int, float]
"""Place of the queue in the list, negated priority, `run_at`: the smaller is claimed first."""


class TaskModel:
    """Tasks, and what each verb of the contract must do to them.

    With `ranked`, a higher priority must be claimed first. Methods that are shown the store's answer check
    it; the others return what it must be.
    """

    def __init__(self, *, ranked: bool) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self._paused: set[str] = set()
        self._ranked = ranked
        self._purged: set[str] = set()
        self._survivors: set[str] = set()
        """Parents of tasks that were purged."""

    def epoch(self, task_id: str) -> int:
        """The task's epoch; 0 where it isn't there."""
        task = self.tasks.get(task_id)
        return 0 if task is None else task.epoch

    def alike(self, task_id: str) -> tuple[TaskState, ...]:
        """The states that the task may be said to be in."""
        task = self.tasks.get(task_id)
        return IN_LINE if task is None or task.state in IN_LINE else (task.state,)

    def add(self, task: NewTask) -> Added:
        holders = {held.unique: id_ for id_, held in self.tasks.items() if held.unique is not None}
        (verdict,) = rules.judge([task], set(self.tasks), holders)
        if verdict == NEW:
            self.tasks[task.id] = rules.new_record(task, clock.now())
        return verdict

    def claim(self, handed: Sequence[TaskRecord], queues: Sequence[str], limit: int, lease: float, worker: str) -> None:
        """Check that these tasks were due, and none that was left should have come before them."""
        due = {task.id for task in self.tasks.values() if task.queue_name in queues and self._is_due(task)}
        _check_choice([record.id for record in handed], due, limit)
        ranks = {id_: self._rank(self.tasks[id_], queues) for id_ in due}
        for record in handed:
            mine = ranks.pop(record.id)
            assert not any(_precedes(other, mine) for other in ranks.values()), f"{record.id} came too early"
        for record in handed:
            self._follow(record, rules.claimed(self.tasks[record.id], clock.now(), lease=lease, worker=worker))

    def extend(self, lease: Lease, seconds: float) -> LeaseStatus:
        task = self.tasks.get(lease.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.epoch != lease.epoch:
            return LeaseStatus(held=False)
        self.tasks[task.id] = replace(task, lease_until=clock.now() + seconds)
        return LeaseStatus(held=True, cancel_requested=task.cancel_requested)

    def reap(self, reaped: Sequence[TaskRecord], limit: int) -> None:
        """Check that these leases had run out."""
        now = clock.now()
        lapsed = {task.id for task in self.tasks.values() if task.lease_until is not None and task.lease_until <= now}
        _check_choice([record.id for record in reaped], lapsed, limit)
        for record in reaped:
            expected = rules.reaped(self.tasks[record.id], None)
            assert_same(record, replace(expected, body=b""))
            self.tasks[record.id] = expected

    def transition(self, change: Change) -> ChangeStatus:
        status, record = rules.decide(self.tasks.get(change.task_id), change, clock.now())
        if record is not None:
            self.tasks[record.id] = record
        return status

    def purge(self, left: Iterable[str], older_than: float, states: Collection[TaskState], limit: int) -> int:
        """Check that what isn't left was old and not waited for; returns how many those are."""
        before = clock.now() - older_than
        ended = [task for task in self.tasks.values() if task.state in states]
        old = {task.id for task in ended if task.finished_at is not None and task.finished_at < before}
        gone = self.tasks.keys() - set(left)
        _check_choice(gone, old - self._awaited(), limit)
        return self._forget(gone)

    def delete(self, task_id: str, states: Collection[TaskState]) -> bool:
        task = self.tasks.get(task_id)
        goes = task is not None and task.state in states and task_id not in self._awaited()
        return goes and self._forget({task_id}) == 1

    def _awaited(self) -> set[str]:
        waiting = [task for task in self.tasks.values() if task.state is TaskState.WAITING]
        return {parent for task in waiting for parent in task.depends_on}

    def _forget(self, gone: set[str]) -> int:
        self._survivors.update(parent for id_ in gone for parent in self.tasks[id_].depends_on)
        self.tasks = {id_: task for id_, task in self.tasks.items() if id_ not in gone}
        self._purged |= gone
        return len(gone)

    def pause(self, queue_name: str, *, paused: bool) -> None:
        (self._paused.add if paused else self._paused.discard)(queue_name)

    def check(self, task_id: str, record: TaskRecord | None) -> None:
        """Compare with what the store holds; PENDING and SCHEDULED are one where `run_at` has come."""
        assert_same(_settled(record), _settled(self.tasks.get(task_id)))

    def check_children(self, task_id: str, children: Sequence[str]) -> None:
        """Compare with the edges that the store holds; a purged task of that id blurs them."""
        if task_id not in self._purged:
            assert sorted(children) == sorted(self._children(task_id))

    def check_has_children(self, task_id: str, *, said: bool) -> None:
        """A task with children that wait has some; one that never had any has none."""
        children = self._children(task_id)
        waits = any(self.tasks[child].state is TaskState.WAITING for child in children)
        assert task_id in self._purged or waits <= said <= (bool(children) or task_id in self._survivors)

    def _children(self, task_id: str) -> set[str]:
        return {task.id for task in self.tasks.values() if task_id in task.depends_on}

    def _is_due(self, task: TaskRecord) -> bool:
        ready = task.state in IN_LINE and task.run_at <= clock.now()
        return ready and task.queue_name not in self._paused

    def _rank(self, task: TaskRecord, queues: Sequence[str]) -> Rank:
        return queues.index(task.queue_name), -task.priority if self._ranked else 0, task.run_at

    def _follow(self, record: TaskRecord, expected: TaskRecord) -> None:
        assert_same(record, expected)
        self.tasks[record.id] = expected


class ScheduleModel:
    """Schedules, and what each verb of the contract must do to them; each returns what the store must answer."""

    def __init__(self) -> None:
        self.rows: dict[str, ScheduleRecord] = {}

    def version(self, schedule_id: str) -> int | None:
        row = self.rows.get(schedule_id)
        return None if row is None else row.version

    def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        if self.version(schedule.id) != if_version:
            return False
        self.rows[schedule.id] = replace(schedule, version=(schedule.version if if_version is None else if_version) + 1)
        return True

    def move(self, schedule_id: str, if_version: int, next_run: float | None) -> bool:
        row = self.rows.get(schedule_id)
        return row is not None and self.put(replace(row, next_run=next_run, last_run=1.0), if_version)

    def delete(self, schedule_id: str) -> bool:
        return self.rows.pop(schedule_id, None) is not None

    def listed(self, *, within: float | None) -> list[ScheduleRecord]:
        """All by id, or the active ones whose slot has come by then."""
        by = clock.now() + (within or 0.0)
        rows = [self.rows[id_] for id_ in sorted(self.rows)]
        if within is None:
            return rows
        return [row for row in rows if not row.paused and row.next_run is not None and row.next_run <= by]


def _check_choice(chosen: Collection[str], eligible: set[str], limit: int) -> None:
    """As many as there are and the limit allows, each once, none that isn't eligible."""
    assert len(chosen) == len(set(chosen)) == min(limit, len(eligible))
    assert set(chosen) <= eligible


def _precedes(one: Rank, other: Rank) -> bool:
    return one[:2] < other[:2] or (one[:2] == other[:2] and one[2] < other[2] - TOLERANCE)


def _settled(record: TaskRecord | None) -> TaskRecord | None:
    if record is None or record.state is not TaskState.SCHEDULED:
        return record
    return replace(record, state=rules.due_state(record.run_at, clock.now()))


TASK_IDS = [f"t{n}" for n in range(6)]


SLOT_IDS = ["s-slot-0", "s-slot-1"]


QUEUES = ["first", "second"]


SCHEDULE_IDS = ["r", "s"]


STEP = 1003.0


IDS = st.sampled_from(TASK_IDS)


NUMBERS = st.integers(0, 11)
"""Which of the tasks that there are."""


OFFSETS = st.sampled_from([0, 0, 0, -1, 1])
"""How far an epoch or a version is from the right one: mostly not at all."""


SECONDS = st.sampled_from([0.0, 1000.0, 2000.0])


SLOTS = st.sampled_from([None, -500.0, 500.0, 1500.0])
"""Seconds from now to a schedule's next slot, if it has one."""


LEASES = st.sampled_from([1000.0, 3000.0])


LIMITS = st.integers(1, 4)


ENDS = st.sampled_from(sorted(TERMINAL))
ENDED_IN = st.sampled_from([tuple(TERMINAL), (TaskState.ERROR,)])


FROM_STATES = st.just(()) | st.sampled_from(
    [
        (TaskState.RUNNING,),
        IN_LINE,
        (*IN_LINE, TaskState.WAITING),
        (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED),
        tuple(TaskState),
    ]
)
"""Empty for the state that the task is in."""


TASKS = st.builds(
    new_task,
    IDS,
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 1),
    delay=st.just(0.0) | SECONDS,
    ttl=st.sampled_from([None, 1000.0, 3000.0]),
    parents=st.just(()) | st.lists(IDS, max_size=2, unique=True).map(tuple),
    unique=st.sampled_from([None, None, "key"]),
)


class Wish(Struct, frozen=True):
    """A change to one of the tasks that there are; epoch and `from_states` are still relative to that task."""

    number: int
    change: Change


def _changes(to: SearchStrategy[TaskState], **effects: SearchStrategy[object]) -> SearchStrategy[Change]:
    return st.builds(Change, task_id=st.just(""), to=to, from_states=FROM_STATES, epoch=st.none() | OFFSETS, **effects)


CHANGES = st.one_of(
    _changes(ENDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), delay=st.none() | SECONDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), fresh=st.just(True)),
    _changes(st.just(TaskState.EXPIRED), if_expired=st.just(True)),
    _changes(st.just(TaskState.CANCELLED), request_cancel=st.just(True)),
)


WISHES = st.builds(Wish, NUMBERS, CHANGES)


# ── walks ───────────────────────────────────────────────────────────────────


T = TypeVar("T")


ALL_IDS = [*TASK_IDS, *SLOT_IDS]


class Bench(Struct, frozen=True):
    """A store with the loop that it belongs to, for a machine that runs in another thread."""

    store: BaseTaskQueue
    loop: asyncio.AbstractEventLoop
    clock: VirtualClock

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call on the store's loop and wait for its answer, but not for ever."""
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(timeout=6 * PATIENCE)

    async def clear(self) -> None:
        """Empty the store by its own means, which tests them too."""
        for queue_name in QUEUES:
            await self.store.pause(queue_name, paused=False)
        for schedule_id in SCHEDULE_IDS:
            await self.store.delete_schedule(schedule_id)
        await self.store.transition([Change(task_id=i, to=TaskState.CANCELLED, from_states=NOT_ENDED) for i in ALL_IDS])
        self.clock.advance(STEP)
        await self.store.purge(older_than=STEP / 2)
        assert (await self.store.find(TaskFilter())).tasks == []


class QueueMachine(RuleBasedStateMachine):
    """Each rule makes one call of the contract, and asks the model whether the answer is right."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.store = bench.store
        self.tasks = TaskModel(ranked=Capability.PRIORITY in bench.store.capabilities)
        self.schedules = ScheduleModel()
        bench.run(bench.clear())

    # ── tasks ────────────────────────────────────────────────────────────────

    @initialize(tasks=st.lists(TASKS, min_size=3, max_size=6, unique_by=lambda task: task.id))
    def begin(self, tasks: list[NewTask]) -> None:
        self.add(tasks)

    @rule(tasks=st.lists(TASKS, min_size=1, max_size=3))
    def add_more(self, tasks: list[NewTask]) -> None:
        self.add(tasks)

    def add(self, tasks: list[NewTask]) -> None:
        if Capability.UNIQUE not in self.store.capabilities:
            tasks = [replace(task, unique=None) for task in tasks]
        if Capability.PRIORITY not in self.store.capabilities:
            tasks = [replace(task, priority=0) for task in tasks]
        added = self.bench.run(carry_out(self.store, self.store.add, tasks, id_of=attrgetter("id")))
        assert added == [self.tasks.add(task) for task in tasks]

    @rule(times=st.integers(1, 2))
    def let_time_pass(self, times: int) -> None:
        self.bench.clock.advance(times * STEP)

    @rule(queues=st.permutations(QUEUES), limit=LIMITS, lease=LEASES)
    def claim(self, queues: list[str], limit: int, lease: float) -> None:
        handed = self.bench.run(self.store.claim(queues, limit=limit, lease=lease, worker="w"))
        self.tasks.claim(handed, queues, limit, lease, "w")

    @rule(picks=st.lists(st.tuples(NUMBERS, OFFSETS), min_size=1, max_size=4), seconds=LEASES)
    def extend(self, picks: list[tuple[int, int]], seconds: float) -> None:
        leases = [self._lease(number, offset) for number, offset in picks]
        extend = partial(self.store.extend, lease=seconds)
        answers = self.bench.run(carry_out(self.store, extend, leases, id_of=attrgetter("task_id")))
        for answer, wanted in zip(answers, [self.tasks.extend(lease, seconds) for lease in leases], strict=True):
            assert answer.held is wanted.held
            assert answer.cancel_requested is wanted.cancel_requested or not wanted.held

    @rule(limit=LIMITS, times=st.integers(0, 3))
    def reap(self, limit: int, times: int) -> None:
        self.let_time_pass(times)
        self.tasks.reap(self.bench.run(reap(self.store, limit)), limit)

    @rule(number=NUMBERS, offset=OFFSETS, to=ENDS | st.just(TaskState.PENDING), times=st.integers(1, 2))
    def finish(self, number: int, offset: int, to: TaskState, times: int) -> None:
        lease = self._lease(number, offset)
        change = Change(task_id=lease.task_id, to=to, from_states=(TaskState.RUNNING,), epoch=lease.epoch)
        self._transition(*[change] * times)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3))
    def transition(self, wishes: list[Wish]) -> None:
        self._transition(*map(self._change, wishes))

    def _transition(self, *changes: Change) -> None:
        answers = self.bench.run(carry_out(self.store, self.store.transition, changes, id_of=attrgetter("task_id")))
        for wanted, answer in zip(changes, answers, strict=True):
            assert answer.status is self.tasks.transition(wanted)
            if answer.status in (ChangeStatus.APPLIED, ChangeStatus.REPEATED):
                self.tasks.check_has_children(wanted.task_id, said=answer.has_children)

    @rule(older_than=st.sampled_from([500.0, 1500.0]), states=ENDED_IN, limit=LIMITS, times=st.integers(0, 2))
    def purge(self, older_than: float, states: tuple[TaskState, ...], limit: int, times: int) -> None:
        self.let_time_pass(times)
        count = self.bench.run(self.store.purge(older_than=older_than, states=states, limit=limit))
        left = [task.id for task in self.bench.run(self.store.find(TaskFilter())).tasks]
        assert self.tasks.purge(left, older_than, states, limit) == count

    @rule(number=NUMBERS, states=ENDED_IN)
    def delete(self, number: int, states: tuple[TaskState, ...]) -> None:
        task_id = self._pick(number, running=False)
        assert self.bench.run(self.store.delete([task_id], states=states)) == [self.tasks.delete(task_id, states)]

    @rule(queue_name=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue_name: str, paused: bool) -> None:
        self.bench.run(self.store.pause(queue_name, paused=paused))
        self.tasks.pause(queue_name, paused=paused)

    def _pick(self, number: int, *, running: bool) -> str:
        """One of the tasks, of those that run if there are any and that is asked; else an id that nobody has."""
        held = [id_ for id_, task in self.tasks.tasks.items() if running and task.state is TaskState.RUNNING]
        ids = sorted(held or self.tasks.tasks) or ["nobody"]
        return ids[number % len(ids)]

    def _lease(self, number: int, offset: int) -> Lease:
        task_id = self._pick(number, running=True)
        return Lease(task_id, self.tasks.epoch(task_id) + offset, "w")

    def _change(self, wish: Wish) -> Change:
        task_id = self._pick(wish.number, running=False)
        offset = wish.change.epoch
        epoch = None if offset is None else self.tasks.epoch(task_id) + offset
        from_states = wish.change.from_states or self.tasks.alike(task_id)
        return replace(wish.change, task_id=task_id, from_states=from_states, epoch=epoch)

    # ── schedules ────────────────────────────────────────────────────────────

    @rule(schedule_id=st.sampled_from(SCHEDULE_IDS), after=SLOTS, paused=st.booleans())
    def put_schedule(self, schedule_id: str, after: float | None, paused: bool) -> None:
        self._put_schedule(schedule_id, self.schedules.version(schedule_id), after, paused=paused)

    @rule(schedule_id=st.sampled_from(SCHEDULE_IDS), version=st.none() | st.integers(0, 3))
    def put_schedule_blindly(self, schedule_id: str, version: int | None) -> None:
        self._put_schedule(schedule_id, version, None, paused=False)

    def _put_schedule(self, schedule_id: str, version: int | None, after: float | None, *, paused: bool) -> None:
        schedule = new_schedule(schedule_id, next_run=self._slot(after), paused=paused)
        answer = self.bench.run(self.store.put_schedule(schedule, if_version=version))
        assert answer is self.schedules.put(schedule, version)

    @rule(
        schedule_id=st.sampled_from(SCHEDULE_IDS),
        slot=st.sampled_from(SLOT_IDS),
        after=SLOTS,
        offset=OFFSETS,
    )
    def fire(self, schedule_id: str, slot: str, after: float | None, offset: int) -> None:
        version = (self.schedules.version(schedule_id) or 0) + offset
        task, next_run = new_task(slot, queue=QUEUES[0], schedule_id=schedule_id), self._slot(after)
        answer = self.bench.run(fire(self.store, schedule_id, if_version=version, next_run=next_run, task=task))
        assert answer is self.schedules.move(schedule_id, version, next_run)
        if answer:
            self.tasks.add(task)

    @rule(schedule_id=st.sampled_from(SCHEDULE_IDS))
    def delete_schedule(self, schedule_id: str) -> None:
        answer = self.bench.run(self.store.delete_schedule(schedule_id))
        assert answer is self.schedules.delete(schedule_id)

    def _slot(self, after: float | None) -> float | None:
        return None if after is None else float(round(wall.now() + after))

    # ── what must hold after every step ──────────────────────────────────────

    @invariant()
    def everything_is_equal(self) -> None:
        self.bench.run(self._compare())

    async def _compare(self) -> None:
        for task_id, record in zip(ALL_IDS, await self.store.get(ALL_IDS), strict=True):
            self.tasks.check(task_id, record)
        for task_id, children in zip(ALL_IDS, await self.store.children(ALL_IDS), strict=True):
            self.tasks.check_children(task_id, children)
        for within in (None, 0.0, 20.0):
            assert await self.store.schedules(within=within) == self.schedules.listed(within=within)


def machine_for(bench: Bench) -> type[RuleBasedStateMachine]:
    """The machine for one store, in the form that Hypothesis wants: a class without arguments."""

    class BoundMachine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(bench)

    return BoundMachine


class WalkTests(Conformance):
    """Whatever calls are made in whatever order, the store answers as the model does."""

    async def test_a_random_walk_finds_no_difference(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        bench = Bench(store, asyncio.get_running_loop(), clock)
        bounds = settings(
            max_examples=int(os.environ.get("OMNIQ_TEST_WALKS", "60")),
            stateful_step_count=int(os.environ.get("OMNIQ_TEST_WALK_STEPS", "40")),
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate] if "OMNIQ_TEST_WALKS" in os.environ else list(Phase),
            derandomize="OMNIQ_TEST_WALKS" not in os.environ,
            suppress_health_check=list(HealthCheck),
        )
        await asyncio.to_thread(run_state_machine_as_test, machine_for(bench), settings=bounds)


# ── after all ───────────────────────────────────────────────────────────────


KINDS = list(product(("q0", "q1"), ("f0", "f1"), ("s0", "s1"), (None, 60.0)))
"""What tasks differ by: the queue, the name, the schedule and the TTL."""
CHOICES = ((), IN_LINE, (TaskState.RUNNING,), (TaskState.WAITING,), tuple(sorted(TERMINAL)))
"""States to look for."""


def family(fate: str, *, parents: tuple[str, ...] = (), delay: float = 0.0) -> list[NewTask]:
    """A task of each kind."""
    return [
        new_task(f"{fate}{n}", queue=queue, name=name, schedule_id=schedule, ttl=ttl, parents=parents, delay=delay)
        for n, (queue, name, schedule, ttl) in enumerate(KINDS)
    ]


async def held_family(store: BaseTaskQueue, fate: str, *, lease: float = 10 * HOUR) -> list[TaskRecord]:
    """A claimed task of each kind, where no others are due."""
    await add(store, *family(fate))
    return await claim(store, "q0", "q1", lease=lease)


async def live(store: BaseTaskQueue, clock: VirtualClock) -> list[str]:
    """Let families of tasks come to all that may become of a task; returns the ids of all."""
    gone = await held_family(store, "gone")
    await change(store, *map(finish, gone))
    await add(store, *family("ripe", delay=50))
    clock.advance(60)
    ripe = await claim(store, "q0", "q1", lease=10 * HOUR)
    assert await store.purge(older_than=30) == len(gone)
    lost = await held_family(store, "lost", lease=100)
    done, again, later, held = [await held_family(store, fate) for fate in ("done", "again", "later", "held")]
    requeues = [Change(task_id=r.id, to=TaskState.PENDING, from_states=(TaskState.ERROR,), fresh=True) for r in again]
    await change(store, *map(finish, done), *[finish(record, TaskState.ERROR) for record in again], *requeues)
    await change(store, *[finish(record, TaskState.PENDING, delay=HOUR) for record in later])
    parents = tuple(await add(store, new_task("root", queue="q2")))
    waiting, child = family("waiting", parents=parents), family("child", parents=parents)
    stopped, due, slots = family("stopped"), family("due", delay=50), family("slot")
    await add(store, *waiting, *child, *stopped, *due)
    release = [Change(task_id=task.id, to=TaskState.PENDING, from_states=(TaskState.WAITING,)) for task in child]
    await change(store, *release, *[cancel(task.id) for task in stopped])
    for version, slot in enumerate(slots, 1):
        await store.put_schedule(new_schedule("s", next_run=0.0), if_version=None)
        assert await fire(store, "s", if_version=version, next_run=0.0, task=slot)
    clock.advance(200)
    assert len(await reap(store)) == len(lost)
    records, tasks = (*gone, *ripe, *lost, *done, *again, *later, *held), (*waiting, *child, *stopped, *due, *slots)
    return [*parents, *(record.id for record in records), *(task.id for task in tasks)]


def filters() -> Iterator[TaskFilter]:
    """Every combination of conditions."""
    for states, queue, name, schedule, expired in product(
        CHOICES, (None, "q0"), (None, "f1"), (None, "s0"), (False, True)
    ):
        yield TaskFilter(states=states, queue_name=queue, name=name, schedule_id=schedule, expired=expired)


def is_found(task: TaskRecord, where: TaskFilter) -> bool:
    """Whether the task fulfils all conditions."""
    wanted = {"queue_name": where.queue_name, "name": where.name, "schedule_id": where.schedule_id}
    return (
        (not where.states or task.state in where.states)
        and all(value is None or getattr(task, field) == value for field, value in wanted.items())
        and (not where.expired or rules.is_expired(task, clock.now()))
    )


def counts_of(tasks: Iterable[TaskRecord]) -> Counter[tuple[str, TaskState]]:
    """How many tasks of each queue are in which state; PENDING and SCHEDULED are one."""
    return Counter((task.queue_name, IN_LINE[0] if task.state in IN_LINE else task.state) for task in tasks)


async def told(store: BaseTaskQueue) -> Counter[tuple[str, TaskState]]:
    """The same, as `stats` tells it."""
    found: Counter[tuple[str, TaskState]] = Counter()
    for queue in await store.stats():
        for state, count in queue.counts.items():
            found[queue.name, IN_LINE[0] if state in IN_LINE else state] += count
    return +found


class AfterAllTests(Conformance):
    """Whatever has become of tasks, every verb that reads tells the same of them."""

    async def test_tasks_are_found_by_what_they_are_now(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        tasks = [task for task in await store.get(await live(store, clock), bodies=False) if task is not None]
        for where in filters():
            wanted = sorted(task.id for task in tasks if is_found(task, where))
            forward, backward = [
                (await store.find(where, limit=500, newest_first=newest_first)).tasks for newest_first in (False, True)
            ]
            assert [task.id for task in forward] == wanted, where
            assert [task.id for task in backward] == wanted[::-1], where

    async def test_tasks_are_counted_by_what_they_are_now(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        tasks = [task for task in await store.get(await live(store, clock)) if task is not None]
        await until_equal(partial(told, store), counts_of(tasks))

    async def test_an_id_that_is_used_anew_is_found_by_nothing_old(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        old = [new_task(f"t{n}", queue="q0", name="f1", schedule_id="s0", ttl=1.0) for n in range(3)]
        await add(store, *old)
        await change(store, *[cancel(task.id) for task in old])
        clock.advance(60)
        assert await store.purge(older_than=30) == len(old)
        await add(store, *[new_task(task.id, queue="q1", name="f0", schedule_id="s1") for task in old])
        for where in filters():
            wanted = 0 if where.queue_name or where.name or where.schedule_id or where.expired else len(old)
            wanted = wanted if where.states in ((), IN_LINE) else 0
            assert len((await store.find(where)).tasks) == wanted, where

    async def test_names_that_are_much_alike_are_different(self, store: BaseTaskQueue) -> None:
        names = ["s", "s2", "S", "s-2", "s."]
        await add(store, *[new_task(f"of-{name}", queue=name, schedule_id=name, name=name) for name in names])
        for field, name in product(("queue_name", "schedule_id", "name"), names):
            found = (await store.find(TaskFilter(**{field: name}))).tasks  # type: ignore[arg-type]
            assert [task.id for task in found] == [f"of-{name}"], field
