"""Schedules: any number of schedulers, no leader, each slot fired once.

A slot's task has an id made of the schedule and the slot, and is added in the same step that moves the
schedule to its next slot. Slots follow from the stored last one, never from when somebody looked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Unpack

from msgspec.structs import replace

from omniq import clock
from omniq.batching import apart, level_of, parts, repeated, repeating
from omniq.clock import as_datetime
from omniq.errors import CorruptPayload, InvalidTask, ScheduleNotFound, SerializationError, StoreError, StoreUnavailable
from omniq.models.event import EventType
from omniq.models.schedule import FiringPolicy, Schedule, Timing, delay_of
from omniq.models.task import TERMINAL, TaskState, check_id, new_id, slot_id
from omniq.queue.adding import TaskAdder
from omniq.queue.options import FuncArgs, ScheduleOptions, TaskOptions, schedule_options
from omniq.queue.request import UNREADABLE, RequestBuilder, check_priority
from omniq.queue.stores import Stores
from omniq.serialization.codec import ScheduledCall
from omniq.storage.base import carry_out
from omniq.storage.records import Firing, NewTask, ScheduleRecord, TaskFilter, task_bytes
from omniq.storage.wakeups import News, Wakeups
from omniq.texts import get_logger, shown_name

log = get_logger("omniq.queue")

SCHEDULES = "#schedules"
LIVE = tuple(state for state in TaskState if state not in TERMINAL)
AT_ONCE = 250
"""Schedules that are fired in one call: the first of their tasks begin before the last schedule has fired."""


class AsyncScheduler:
    """Adds, changes and fires the schedules of one task queue."""

    def __init__(self, stores: Stores, requests: RequestBuilder, adder: TaskAdder) -> None:
        self._stores = stores
        self._store = stores.queue
        self._requests = requests
        self._adder = adder
        self._complaints: dict[str, str] = {}
        """What is wrong with schedules that don't fire, so that it is logged once."""

    @property
    def _wakeups(self) -> Wakeups:
        """By which the schedulers of this process hear of new schedules."""
        return Wakeups.at(f"{self._store.location}{SCHEDULES}")

    async def connect(self) -> None:
        """Connect the queue's store. Raises `StoreError`."""
        await self._store.connect()

    async def close(self) -> None:
        """Give back the store's connections."""
        await self._store.close()

    async def add(
        self,
        func: Callable[..., Any],
        func_args: FuncArgs,
        timing: Timing,
        policy: FiringPolicy,
        options: TaskOptions,
        *,
        schedule_id: str | None = None,
    ) -> str:
        """Store a schedule, or replace the one of that id, and return its id.

        One that is there already keeps its next slot, unless its timing was another, and its pause.
        """
        requests = self._requests
        schedule_id = new_id() if schedule_id is None else check_id(schedule_id, "schedule_id")
        queue_name = requests.check_queue(options.queue_name)
        call = requests.build_call(func, func_args, options)
        if call.results_of:
            raise InvalidTask("func_args: the tasks of a schedule have no parents, so there is no result_of for them")
        template = ScheduledCall(
            timing=timing,
            policy=policy,
            call=call,
            priority=check_priority(options.priority),
            ttl=requests.ttl(options),
        )
        now = await self._stores.clock.now()
        blank = ScheduleRecord(id=schedule_id, queue_name=queue_name, body=b"", next_run=None, version=int(now * 1000))
        try:
            is_new = await repeated(lambda again: self._put(blank, template, now, again))
        except StoreError as error:
            raise error.about(schedule_id=schedule_id) from error.__cause__
        if is_new:
            self._log(EventType.SCHEDULE_CREATED, blank)
        self._wakeups.tell(News(due=None))
        return schedule_id

    async def _put(self, blank: ScheduleRecord, template: ScheduledCall, now: float, again: bool) -> bool:
        """Whether it is a new one; where the answer of a first call was lost, what is there may be of that."""
        store = self._store
        while True:
            stored = next(iter(await store.schedules([blank.id])), None)
            if stored is not None and stored.damage is not None:  # it goes
                await store.delete_schedule(blank.id)
                continue
            record = await self._filled_in(blank, template, now, stored)
            version = None if stored is None else stored.version
            if await store.put_schedule(record, if_version=version):
                return stored is None or (again and stored.body == record.body and version == blank.version + 1)

    async def _filled_in(
        self, blank: ScheduleRecord, template: ScheduledCall, now: float, stored: ScheduleRecord | None
    ) -> ScheduleRecord:
        """The record to write: it takes over from the one that it replaces what goes on.

        Where the timing is the same, that is the next slot, or that there is none left, and where a rule begins, by
        which it counts. Raises `InvalidTask`.
        """
        old = None if stored is None else self._view(stored).timing
        if stored is not None and old is not None and old.is_same(template.timing):
            timing, next_run = old, stored.next_run
        else:
            timing = template.timing.anchored(now)
            next_run = timing.first(now)
            if next_run is None:
                raise InvalidTask("schedule: it has no time left to fire: see cron, rrule, run_at and end")
        body = self._stores.serialization.pack_schedule(
            replace(template, timing=timing), schedule_id=blank.id, queue_name=blank.queue_name
        )
        await self._adder.check_size(body, template.call.func)
        record = replace(blank, body=body, next_run=next_run)
        return record if stored is None else replace(record, last_run=stored.last_run, paused=stored.paused)

    @repeating
    async def get(self, schedule_id: str) -> Schedule:
        """The schedule. Raises `ScheduleNotFound`."""
        return self._view(await self._record(schedule_id))

    @repeating
    async def list(self) -> list[Schedule]:
        """All schedules."""
        return [self._view(record) for record in await self._store.schedules()]

    @repeating
    async def pause(self, schedule_id: str) -> None:
        """Stop firing. Raises `ScheduleNotFound`."""
        await self._set_paused(schedule_id, True)

    @repeating
    async def resume(self, schedule_id: str) -> None:
        """Fire again, from the first slot after now. Raises `ScheduleNotFound`."""
        await self._set_paused(schedule_id, False)

    async def delete(self, schedule_id: str) -> None:
        """Forget the schedule. Raises `ScheduleNotFound`."""
        schedule_id = check_id(schedule_id, "schedule_id")

        async def delete(again: bool) -> bool:
            return await self._store.delete_schedule(schedule_id) or again

        if not await repeated(delete):
            raise ScheduleNotFound(f"no schedule {schedule_id}")
        self._stores.log(EventType.SCHEDULE_DELETED, schedule_id=schedule_id)

    async def run_now(self, schedule_id: str) -> str:
        """Add the schedule's task, due now and beside its slots; returns its id. Raises `ScheduleNotFound`."""
        record = await self._record(schedule_id)
        template = self._template(record)
        task = self._task(record, template, new_id(), due_at=None)
        return await self._adder.add(task, own_id=True)

    async def run(self, poll_interval: float = 1.0) -> None:
        """Fire schedules as their slots come, until cancelled. Every worker does this already.

        `poll_interval` (seconds) bounds how late a schedule is heard of that another process has added.
        """
        while True:
            await self._wakeups.for_tasks([SCHEDULES], poll_interval, partial(self._try_to_fire_within, poll_interval))

    async def _try_to_fire_within(self, ahead: float, topics: Sequence[str]) -> dict[str, float]:
        """Fire what is due; returns when there may be more, as `NextDue`."""
        try:
            pause = await self._fire_within(ahead)
        except StoreError as error:
            log.log(level_of(error), "schedules can't be fired, trying again: %s", error)
            return {}
        return dict.fromkeys(topics, pause)

    async def fire_due(self) -> int:
        """Fire the next slot of every schedule for which it has come; returns how many tasks this call added."""
        return len(await self._fire_all(await self._upcoming(within=0.0)))

    async def _fire_within(self, ahead: float) -> float:
        """Fire what is due; returns the seconds until there may be more, at most `ahead`.

        One read serves both, so that an idle worker asks little of its store.
        """
        upcoming = await self._upcoming(within=ahead)
        now = await self._stores.clock.now()
        await self._fire_all([pair for pair in upcoming if (pair[0].next_run or 0.0) <= now])
        now = await self._stores.clock.now()
        return max(0.0, min([ahead, *((record.next_run or 0.0) - now for record, _ in upcoming)]))

    async def _fire_all(self, due: Sequence[tuple[ScheduleRecord, ScheduledCall]]) -> Sequence[NewTask]:
        """Fire schedules; returns the tasks of the slots that this call fired, and not another scheduler."""
        fired: list[NewTask] = []
        for some in parts(due, limit=AT_ONCE):
            fired += await self._fire(some)
        if fired:
            await self._report_foreign(fired)
        return fired

    async def _report_foreign(self, fired: Sequence[NewTask]) -> None:
        """Slots whose task somebody else had put there; a schedule that doesn't do its work must not be silent."""
        records = await self._store.get([task.id for task in fired], bodies=False)
        for task, record in zip(fired, records, strict=True):
            if record is not None and record.schedule_id != task.schedule_id:
                log.error(
                    "schedule %r has lost its slot of %s: task %s was there already, and isn't the schedule's",
                    task.schedule_id,
                    as_datetime(task.run_at),
                    task.id,
                )

    async def _upcoming(self, *, within: float) -> Sequence[tuple[ScheduleRecord, ScheduledCall]]:
        """The schedules whose slot comes within so many seconds; those that can't be read don't fire."""
        upcoming = deque[tuple[ScheduleRecord, ScheduledCall]]()
        complaints: dict[str, str] = {}
        for record in await self._store.schedules(within=within):
            try:
                upcoming.append((record, self._timed(record)))
            except SerializationError as error:
                complaints[record.id] = str(error)
        for schedule_id, complaint in complaints.items() - self._complaints.items():
            log.error("schedule %s can't be read and doesn't fire: %s", schedule_id, complaint)
        self._complaints = complaints
        return upcoming

    def _template(self, record: ScheduleRecord) -> ScheduledCall:
        """What the schedule fires, and when. Raises `SerializationError` where it is damaged or not signed by us."""
        _check_sound(record)
        return self._stores.serialization.read_schedule(
            record.body, schedule_id=record.id, queue_name=record.queue_name
        )

    def _timed(self, record: ScheduleRecord) -> ScheduledCall:
        """As `_template`; raises too where its slots can't be told, such as for want of its time zone on this host."""
        template = self._template(record)
        try:
            if record.next_run is not None:
                template.timing.after(record.next_run)
        except InvalidTask as error:
            raise CorruptPayload(str(error)) from error
        return template

    async def next_task_id(self, schedule_id: str) -> str | None:
        """The id that the task of the next slot will have, or of the last one that the task has: None where no slot is
        left and all of the schedule's tasks have ended. Raises `ScheduleNotFound`."""
        record = await self._record(schedule_id)
        _check_sound(record)
        if record.next_run is None and not await self._is_running(schedule_id, 1):
            return None
        return slot_id(record.id, record.next_run or record.last_run or 0.0)

    async def _fire(self, due: Sequence[tuple[ScheduleRecord, ScheduledCall]]) -> Sequence[NewTask]:
        """The tasks that this call has added; one that the store refuses keeps no other from being fired."""
        store, began, now = self._store, clock.now(), await self._stores.clock.now()
        wanted = [await self._firing(record, template, now) for record, template in due]
        firings = [firing for firing in wanted if firing is not None]
        size, id_of = _task_bytes, attrgetter("schedule_id")
        answers = await apart(partial(carry_out, store, store.fire, id_of=id_of, size=size), firings)
        for firing, answer in zip(firings, answers, strict=True):
            if isinstance(answer, StoreError) and not isinstance(answer, StoreUnavailable):
                log.error("schedule %s can't be fired: %s", firing.schedule_id, answer)
            elif isinstance(answer, Exception):
                raise answer
        fired = [firing.task for firing, answer in zip(firings, answers, strict=True) if answer is True]
        self._log_enqueued(fired, began)
        return fired

    async def _firing(self, record: ScheduleRecord, template: ScheduledCall, now: float) -> Firing | None:
        """What fires the next slot, or the one that stands for those that were missed; None if it is left out."""
        timing, policy = template.timing, template.policy
        slot = record.next_run or 0.0
        is_missed = now - slot > policy.grace
        if is_missed and policy.misfire == "skip":
            await self._leave_out(record, template, timing.latest(slot, now - policy.grace), "it was missed")
            return None
        if is_missed and policy.misfire == "latest":
            slot = timing.latest(slot, now)
        if policy.max_running is not None and await self._is_running(record.id, policy.max_running):
            await self._leave_out(record, template, slot, f"{policy.max_running} of its tasks haven't ended")
            return None
        return Firing(
            schedule_id=record.id,
            if_version=record.version,
            slot=slot,
            next_run=timing.after(slot),
            task=self._task(
                record,
                template,
                slot_id(record.id, slot),
                due_at=slot + delay_of(record.id, slot, policy.jitter),
            ),
        )

    async def _is_running(self, schedule_id: str, number: int) -> bool:
        """Whether so many of the schedule's tasks haven't ended. None comes but by whoever moves the schedule on."""
        page = await self._store.find(TaskFilter(schedule_id=schedule_id, states=LIVE), limit=number)
        return len(page.tasks) >= number

    async def _leave_out(self, record: ScheduleRecord, template: ScheduledCall, slot: float, why: str) -> None:
        """Move the schedule on without a task, unless somebody else has moved it."""
        moved = replace(record, next_run=template.timing.after(slot))
        if await self._store.put_schedule(moved, if_version=record.version):
            log.warning("schedule %s: the slot of %s is left out: %s", record.id, as_datetime(slot), why)

    def _log_enqueued(self, fired: Sequence[NewTask], began: float) -> None:
        if self._stores.callbacks.enqueued:
            self._stores.callbacks.tell_enqueued(fired, began)
        for task in fired:
            self._stores.log_task(EventType.SCHEDULE_FIRED, task, time=began)
            self._stores.log_task(EventType.ENQUEUED, task, time=began)

    def _log(self, type: EventType, record: ScheduleRecord) -> None:
        self._stores.log(type, schedule_id=record.id, queue_name=record.queue_name)

    def _task(self, record: ScheduleRecord, template: ScheduledCall, task_id: str, *, due_at: float | None) -> NewTask:
        return NewTask(
            id=task_id,
            queue_name=record.queue_name,
            body=self._stores.serialization.reseal(
                template.call, task_id=task_id, queue_name=record.queue_name, schedule_id=record.id
            ),
            name=shown_name(template.call.func),
            priority=template.priority,
            run_at=due_at,
            ttl=template.ttl,
            schedule_id=record.id,
        )

    async def _set_paused(self, schedule_id: str, paused: bool) -> None:
        while True:
            record = await self._record(schedule_id)
            _check_sound(record)
            if record.paused is paused:
                return
            next_run = record.next_run if paused else await self._next_run(record)
            changed = replace(record, paused=paused, next_run=next_run)
            if await self._store.put_schedule(changed, if_version=record.version):
                break
        self._wakeups.tell(News(due=None))
        self._log(EventType.SCHEDULE_PAUSED if paused else EventType.SCHEDULE_RESUMED, record)

    async def _next_run(self, record: ScheduleRecord) -> float | None:
        timing = self._template(record).timing
        now = await self._stores.clock.now()
        if record.next_run is None or record.next_run > now:
            return record.next_run
        return timing.after(timing.latest(record.next_run, now))

    async def _record(self, schedule_id: str) -> ScheduleRecord:
        schedule_id = check_id(schedule_id, "schedule_id")
        records = await self._store.schedules([schedule_id])
        if not records:
            raise ScheduleNotFound(f"no schedule {schedule_id}")
        return records[0]

    def _view(self, record: ScheduleRecord) -> Schedule:
        func, timing, policy, damage = UNREADABLE.func, Timing(), FiringPolicy(), None
        try:
            template = self._timed(record)
            func, timing, policy = template.call.func, template.timing, template.policy
        except SerializationError as error:
            damage = str(error)
        return Schedule(
            id=record.id,
            func=func,
            queue_name=record.queue_name,
            timing=timing,
            paused=record.paused,
            next_run=as_datetime(record.next_run),
            last_run=as_datetime(record.last_run),
            policy=policy,
            damage=damage,
        )


def _check_sound(record: ScheduleRecord) -> None:
    if record.damage is not None:
        raise CorruptPayload(f"the stored schedule {record.id} is damaged: {record.damage}")


def _task_bytes(firing: Firing) -> int:
    return task_bytes(firing.task)


class Scheduling:
    """What a task queue has for schedules."""

    scheduler: AsyncScheduler

    async def schedule(
        self,
        func: Callable[..., Any],
        func_args: FuncArgs = None,
        *,
        schedule_id: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """Let a task be enqueued at certain times, and return the schedule's id. See `ScheduleOptions`.

        Give exactly one of `cron`, `interval`, `run_at` and `rrule`. Any number of schedulers may run (every worker is
        one): each slot is fired once. With a `schedule_id` of your own, calling again replaces what is enqueued; the
        next slot stays unless the timing is another, and a pause stays in any case. Raises as `enqueue` does.
        """
        timing, policy, checked = schedule_options(func, options)
        return await self.scheduler.add(func, func_args, timing, policy, checked, schedule_id=schedule_id)

    async def get_schedule(self, schedule_id: str) -> Schedule:
        """The schedule. Raises `ScheduleNotFound`."""
        return await self.scheduler.get(schedule_id)

    async def list_schedules(self) -> list[Schedule]:
        """All schedules."""
        return await self.scheduler.list()

    async def pause_schedule(self, schedule_id: str) -> None:
        """Stop firing until `resume_schedule`. Raises `ScheduleNotFound`."""
        await self.scheduler.pause(schedule_id)

    async def resume_schedule(self, schedule_id: str) -> None:
        """Fire again from now on; what was missed isn't replayed. Raises `ScheduleNotFound`."""
        await self.scheduler.resume(schedule_id)

    async def delete_schedule(self, schedule_id: str) -> None:
        """Forget the schedule; tasks that it has fired stay. Raises `ScheduleNotFound`."""
        await self.scheduler.delete(schedule_id)

    async def run_schedule(self, schedule_id: str) -> str:
        """Enqueue the schedule's task now, beside its slots, and return the task's id. Raises `ScheduleNotFound`."""
        return await self.scheduler.run_now(schedule_id)
