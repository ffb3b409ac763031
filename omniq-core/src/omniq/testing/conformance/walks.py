"""Random walks: Hypothesis drives a store and a model side by side, and shrinks whatever tells them apart.

`OMNIQ_TEST_WALKS` (60) and `OMNIQ_TEST_WALK_STEPS` (40) say how many walks of how many steps. Without the first, the
walks are the same every time, and what they find is made as short as can be, which takes its time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock as wall
from omniq.models.task import TaskState
from omniq.storage.base import BaseTaskQueue, Capability, carry_out
from omniq.storage.records import Change, ChangeStatus, Lease, NewTask, TaskFilter
from omniq.testing.builders import NOT_ENDED, PATIENCE, fire, new_schedule, new_task, reap
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance import model as c
from omniq.testing.conformance.base import Conformance
from omniq.testing.conformance.model import ScheduleModel, TaskModel

T = TypeVar("T")


ALL_IDS = [*c.TASK_IDS, *c.SLOT_IDS]


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
        for queue_name in c.QUEUES:
            await self.store.pause(queue_name, paused=False)
        for schedule_id in c.SCHEDULE_IDS:
            await self.store.delete_schedule(schedule_id)
        await self.store.transition([Change(task_id=i, to=TaskState.CANCELLED, from_states=NOT_ENDED) for i in ALL_IDS])
        self.clock.advance(c.STEP)
        await self.store.purge(older_than=c.STEP / 2)
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

    @initialize(tasks=st.lists(c.TASKS, min_size=3, max_size=6, unique_by=lambda task: task.id))
    def begin(self, tasks: list[NewTask]) -> None:
        self.add(tasks)

    @rule(tasks=st.lists(c.TASKS, min_size=1, max_size=3))
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
        self.bench.clock.advance(times * c.STEP)

    @rule(queues=st.permutations(c.QUEUES), limit=c.LIMITS, lease=c.LEASES)
    def claim(self, queues: list[str], limit: int, lease: float) -> None:
        handed = self.bench.run(self.store.claim(queues, limit=limit, lease=lease, worker="w"))
        self.tasks.claim(handed, queues, limit, lease, "w")

    @rule(picks=st.lists(st.tuples(c.NUMBERS, c.OFFSETS), min_size=1, max_size=4), seconds=c.LEASES)
    def extend(self, picks: list[tuple[int, int]], seconds: float) -> None:
        leases = [self._lease(number, offset) for number, offset in picks]
        extend = partial(self.store.extend, lease=seconds)
        answers = self.bench.run(carry_out(self.store, extend, leases, id_of=attrgetter("task_id")))
        for answer, wanted in zip(answers, [self.tasks.extend(lease, seconds) for lease in leases], strict=True):
            assert answer.held is wanted.held
            assert answer.cancel_requested is wanted.cancel_requested or not wanted.held

    @rule(limit=c.LIMITS, times=st.integers(0, 3))
    def reap(self, limit: int, times: int) -> None:
        self.let_time_pass(times)
        self.tasks.reap(self.bench.run(reap(self.store, limit)), limit)

    @rule(number=c.NUMBERS, offset=c.OFFSETS, to=c.ENDS | st.just(TaskState.PENDING), times=st.integers(1, 2))
    def finish(self, number: int, offset: int, to: TaskState, times: int) -> None:
        lease = self._lease(number, offset)
        change = Change(task_id=lease.task_id, to=to, from_states=(TaskState.RUNNING,), epoch=lease.epoch)
        self._transition(*[change] * times)

    @rule(wishes=st.lists(c.WISHES, min_size=1, max_size=3))
    def transition(self, wishes: list[c.Wish]) -> None:
        self._transition(*map(self._change, wishes))

    def _transition(self, *changes: Change) -> None:
        answers = self.bench.run(carry_out(self.store, self.store.transition, changes, id_of=attrgetter("task_id")))
        for change, answer in zip(changes, answers, strict=True):
            assert answer.status is self.tasks.transition(change)
            if answer.status in (ChangeStatus.APPLIED, ChangeStatus.REPEATED):
                self.tasks.check_has_children(change.task_id, said=answer.has_children)

    @rule(older_than=st.sampled_from([500.0, 1500.0]), limit=c.LIMITS, times=st.integers(0, 2))
    def purge(self, older_than: float, limit: int, times: int) -> None:
        self.let_time_pass(times)
        count = self.bench.run(self.store.purge(older_than=older_than, limit=limit))
        left = [task.id for task in self.bench.run(self.store.find(TaskFilter())).tasks]
        assert self.tasks.purge(left, older_than, limit) == count

    @rule(queue_name=st.sampled_from(c.QUEUES), paused=st.booleans())
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

    def _change(self, wish: c.Wish) -> Change:
        task_id = self._pick(wish.number, running=False)
        offset = wish.change.epoch
        epoch = None if offset is None else self.tasks.epoch(task_id) + offset
        from_states = wish.change.from_states or self.tasks.alike(task_id)
        return replace(wish.change, task_id=task_id, from_states=from_states, epoch=epoch)

    # ── schedules ────────────────────────────────────────────────────────────

    @rule(schedule_id=st.sampled_from(c.SCHEDULE_IDS), after=c.SLOTS, paused=st.booleans())
    def put_schedule(self, schedule_id: str, after: float | None, paused: bool) -> None:
        self._put_schedule(schedule_id, self.schedules.version(schedule_id), after, paused=paused)

    @rule(schedule_id=st.sampled_from(c.SCHEDULE_IDS), version=st.none() | st.integers(0, 3))
    def put_schedule_blindly(self, schedule_id: str, version: int | None) -> None:
        self._put_schedule(schedule_id, version, None, paused=False)

    def _put_schedule(self, schedule_id: str, version: int | None, after: float | None, *, paused: bool) -> None:
        schedule = new_schedule(schedule_id, next_run=self._slot(after), paused=paused)
        answer = self.bench.run(self.store.put_schedule(schedule, if_version=version))
        assert answer is self.schedules.put(schedule, version)

    @rule(
        schedule_id=st.sampled_from(c.SCHEDULE_IDS),
        slot=st.sampled_from(c.SLOT_IDS),
        after=c.SLOTS,
        offset=c.OFFSETS,
    )
    def fire(self, schedule_id: str, slot: str, after: float | None, offset: int) -> None:
        version = (self.schedules.version(schedule_id) or 0) + offset
        task, next_run = new_task(slot, queue=c.QUEUES[0], schedule_id=schedule_id), self._slot(after)
        answer = self.bench.run(fire(self.store, schedule_id, if_version=version, next_run=next_run, task=task))
        assert answer is self.schedules.move(schedule_id, version, next_run)
        if answer:
            self.tasks.add(task)

    @rule(schedule_id=st.sampled_from(c.SCHEDULE_IDS))
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
