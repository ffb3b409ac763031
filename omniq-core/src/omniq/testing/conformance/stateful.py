"""Random walks: Hypothesis drives a store and a model side by side, and shrinks whatever tells them apart.

`OMNIQ_CONFORMANCE_EXAMPLES` (30) and `OMNIQ_CONFORMANCE_STEPS` (30) say how many walks of how many steps.
Durations are multiples of 1000 seconds and the clock moves a little further than that, so that no
decision hangs on the moment at which a store reads its clock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock as wall
from omniq.models.state import TERMINAL, TaskState
from omniq.storage.base import BaseTaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.records import Change, ChangeStatus, Lease, NewTask, TaskFilter
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import OVERRIDE, Conformance
from omniq.testing.conformance.builders import NOT_ENDED, new_schedule, new_task
from omniq.testing.conformance.model import ScheduleModel, TaskModel

T = TypeVar("T")

TASK_IDS = [f"t{n}" for n in range(6)]
SLOT_IDS = ["s-slot-0", "s-slot-1"]
QUEUES = ["first", "second"]
SCHEDULE_IDS = ["r", "s"]
SECONDS = st.sampled_from([0.0, 1000.0, 2000.0])
LIMITS = st.integers(1, 4)
IDS = st.sampled_from(TASK_IDS)

TASKS = st.builds(
    new_task,
    IDS,
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 1),
    delay=SECONDS,
    ttl=st.none() | st.just(1000.0) | st.just(3000.0),
    parents=st.lists(IDS, max_size=2, unique=True).map(tuple),
)
OFFSETS = st.sampled_from([0, 0, 0, -1, 1])
"""How far an epoch or a version is from the right one: mostly not at all."""
FROM_STATES = st.sampled_from(
    [
        (TaskState.RUNNING,),
        (TaskState.PENDING, TaskState.SCHEDULED),
        (TaskState.WAITING,),
        (TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING),
        (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED),
        tuple(TaskState),
    ]
)
"""PENDING and SCHEDULED go together: which of the two a task is that has come due is the store's choice."""
CHARGES = st.fixed_dictionaries({"attempted": st.booleans(), "crashed": st.booleans()})


class Wish(Struct, frozen=True):
    """A change whose epoch is relative to the one that the task will have."""

    change: Change
    offset: int | None


def _wish(task_id: str, from_states: tuple[TaskState, ...], offset: int | None, effect: dict[str, Any]) -> Wish:
    return Wish(Change(task_id=task_id, from_states=from_states, **effect), offset)


EFFECTS = st.one_of(
    st.builds(lambda to, charges: {"to": to, **charges}, st.sampled_from(sorted(TERMINAL)), CHARGES),
    st.builds(
        lambda delay, charges: {"to": TaskState.PENDING, "delay": delay, **charges}, st.none() | SECONDS, CHARGES
    ),
    st.just({"to": TaskState.PENDING, "fresh": True}),
    st.just({"to": TaskState.EXPIRED, "if_expired": True}),
    st.just({"to": TaskState.CANCELLED, "request_cancel": True}),
)
WISHES = st.builds(_wish, IDS, FROM_STATES, st.none() | OFFSETS, EFFECTS)


class Bench(Struct, frozen=True):
    """A store with the loop that it belongs to, for a machine that runs in another thread."""

    store: BaseTaskQueue
    loop: asyncio.AbstractEventLoop
    clock: VirtualClock

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call on the store's loop and wait for its answer."""
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()

    async def clear(self) -> None:
        """Empty the store by its own means, which tests them too."""
        for queue_name in QUEUES:
            await self.store.pause(queue_name, paused=False)
        for schedule_id in SCHEDULE_IDS:
            await self.store.delete_schedule(schedule_id)
        ids = [*TASK_IDS, *SLOT_IDS]
        await self.store.transition([Change(task_id=i, to=TaskState.CANCELLED, from_states=NOT_ENDED) for i in ids])
        self.clock.advance(1000)
        await self.store.purge(older_than=100)
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

    def _epoch(self, task_id: str, offset: int) -> int:
        task = self.tasks.tasks.get(task_id)
        return offset if task is None else task.epoch + offset

    @rule(thousands=st.integers(1, 3))
    def advance(self, thousands: int) -> None:
        self.bench.clock.advance(1000 * thousands + 3)

    @rule(tasks=st.lists(TASKS, min_size=1, max_size=3))
    def add(self, tasks: list[NewTask]) -> None:
        assert self.bench.run(self.store.add(tasks)) == [self.tasks.add(task) for task in tasks]

    @rule(queues=st.permutations(QUEUES), limit=LIMITS, lease=st.sampled_from([1000.0, 3000.0]))
    def claim(self, queues: list[str], limit: int, lease: float) -> None:
        handed = self.bench.run(self.store.claim(queues, limit=limit, lease=lease, worker="w"))
        self.tasks.claim(handed, queues, limit, lease, "w")

    @rule(picks=st.lists(st.tuples(IDS, OFFSETS), min_size=1, max_size=4))
    def extend(self, picks: list[tuple[str, int]]) -> None:
        leases = [Lease(id_, self._epoch(id_, offset)) for id_, offset in picks]
        answers = self.bench.run(self.store.extend(leases, lease=2000.0))
        for answer, wanted in zip(answers, [self.tasks.extend(lease, 2000.0) for lease in leases], strict=True):
            assert answer.held is wanted.held
            assert answer.cancel_requested is wanted.cancel_requested or not wanted.held

    @rule(limit=LIMITS)
    def reap(self, limit: int) -> None:
        self.tasks.reap(self.bench.run(self.store.reap(limit)), limit)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3))
    def transition(self, wishes: list[Wish]) -> None:
        changes = [
            wish.change
            if wish.offset is None
            else replace(wish.change, epoch=self._epoch(wish.change.task_id, wish.offset))
            for wish in wishes
        ]
        for change, answer in zip(changes, self.bench.run(self.store.transition(changes)), strict=True):
            assert answer.status is self.tasks.transition(change)
            if answer.status in (ChangeStatus.APPLIED, ChangeStatus.REPEATED):
                self._check_children(change.task_id, said=answer.has_children)

    def _check_children(self, task_id: str, *, said: bool) -> None:
        """A task without children has none; one with children that wait has some."""
        children = self.tasks.children(task_id)
        if children is not None:
            waits = any(self.tasks.tasks[child].state is TaskState.WAITING for child in children)
            assert waits <= said <= bool(children)

    @rule(older_than=st.sampled_from([500.0, 1500.0]), limit=LIMITS)
    def purge(self, older_than: float, limit: int) -> None:
        count = self.bench.run(self.store.purge(older_than=older_than, limit=limit))
        left = [task.id for task in self.bench.run(self.store.find(TaskFilter())).tasks]
        assert self.tasks.purge(left, older_than, limit) == count

    @rule(queue_name=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue_name: str, paused: bool) -> None:
        self.bench.run(self.store.pause(queue_name, paused=paused))
        (self.tasks.paused.add if paused else self.tasks.paused.discard)(queue_name)

    @rule(schedule_id=st.sampled_from(SCHEDULE_IDS), after=st.none() | SECONDS, paused=st.booleans(), offset=OFFSETS)
    def put_schedule(self, schedule_id: str, after: float | None, paused: bool, offset: int) -> None:
        version = self.schedules.version(schedule_id)
        if_version = offset or None if version is None else version + offset
        schedule = new_schedule(schedule_id, next_run=self._slot(after), paused=paused)
        answer = self.bench.run(self.store.put_schedule(schedule, if_version=if_version))
        assert answer is self.schedules.put(schedule, if_version)

    @rule(
        schedule_id=st.sampled_from(SCHEDULE_IDS),
        slot=st.sampled_from(SLOT_IDS),
        after=st.none() | SECONDS,
        offset=OFFSETS,
    )
    def fire(self, schedule_id: str, slot: str, after: float | None, offset: int) -> None:
        if_version = (self.schedules.version(schedule_id) or 0) + offset
        task, next_run = new_task(slot, queue=QUEUES[0], schedule_id=schedule_id), self._slot(after)
        answer = self.bench.run(self.store.fire(schedule_id, if_version=if_version, next_run=next_run, task=task))
        assert answer is self.schedules.move(schedule_id, if_version, next_run)
        if answer:
            self.tasks.add(task)

    @rule(schedule_id=st.sampled_from(SCHEDULE_IDS))
    def delete_schedule(self, schedule_id: str) -> None:
        answer = self.bench.run(self.store.delete_schedule(schedule_id))
        assert answer is self.schedules.delete(schedule_id)

    def _slot(self, after: float | None) -> float | None:
        return None if after is None else float(round(wall.now() + after))

    @invariant()
    def tasks_are_equal(self) -> None:
        ids = [*TASK_IDS, *SLOT_IDS]
        for task_id, record in zip(ids, self.bench.run(self.store.get(ids)), strict=True):
            self.tasks.check(task_id, record)

    @invariant()
    def children_are_equal(self) -> None:
        for task_id, children in zip(TASK_IDS, self.bench.run(self.store.children(TASK_IDS)), strict=True):
            wanted = self.tasks.children(task_id)
            assert wanted is None or sorted(children) == sorted(wanted)

    @invariant()
    def schedules_are_equal(self) -> None:
        assert self.bench.run(self.store.schedules()) == self.schedules.listed(due=False)
        assert self.bench.run(self.store.schedules(due=True)) == self.schedules.listed(due=True)


def machine_for(bench: Bench) -> type[RuleBasedStateMachine]:
    """The machine for one store, in the form that Hypothesis wants: a class without arguments."""

    class BoundMachine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(bench)

    return BoundMachine


class StatefulConformance(Conformance):
    """Whatever calls are made in whatever order, the store answers as the model does."""

    @pytest.fixture
    def store(self) -> BaseTaskQueue:
        """A connected, empty store."""
        pytest.fail(OVERRIDE)

    async def test_a_random_walk_finds_no_difference(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        bench = Bench(store, asyncio.get_running_loop(), clock)
        bounds = settings(
            max_examples=int(os.environ.get("OMNIQ_CONFORMANCE_EXAMPLES", "30")),
            stateful_step_count=int(os.environ.get("OMNIQ_CONFORMANCE_STEPS", "30")),
            deadline=None,
            database=None,
            derandomize="OMNIQ_CONFORMANCE_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        )
        await asyncio.to_thread(run_state_machine_as_test, machine_for(bench), settings=bounds)
