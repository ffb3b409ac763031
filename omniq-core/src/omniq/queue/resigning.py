"""Signing again what a store holds, after keys were replaced or signing was switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from omniq.errors import ConfigError, SerializationError
from omniq.queue.engine import AsyncTaskQueue
from omniq.serialization.envelope import FOREVER
from omniq.storage.base import BaseResultStorage
from omniq.storage.queue import BaseTaskQueue, carry_out, look_up
from omniq.storage.records import NewBody, ResultRecord, ScheduleRecord, TaskFilter, TaskRecord
from omniq.texts import get_logger

log = get_logger("omniq.queue")

PAGE = 200


class Tally(Struct):
    """What became of the payloads of one kind."""

    signed: int = 0
    """Signed with the first key by this call."""
    current: int = 0
    """Signed with it before."""
    changed: int = 0
    """Changed by somebody else at the same time, and left alone."""
    refused: int = 0
    """Damaged, wrongly signed, signed with a key that isn't here, or unsigned."""

    @property
    def left(self) -> int:
        """How many aren't signed with the first key."""
        return self.changed + self.refused


class Report(Struct):
    """What became of everything that was looked at."""

    tasks: Tally = field(default_factory=Tally)
    schedules: Tally = field(default_factory=Tally)
    results: Tally = field(default_factory=Tally)

    @property
    def left(self) -> int:
        """How many payloads aren't signed with the first key."""
        return self.tasks.left + self.schedules.left + self.results.left


class Resigner:
    """Signs the tasks, schedules and results of a queue with the first key.

    Each must verify with one of the keys, or be unsigned where `accept_unsigned` is given. Nothing is decoded, and
    each payload is written only if it is still the one that was read: workers may go on meanwhile. Results are found
    by their tasks; one that is kept for longer than its task isn't reached. Raises `ConfigError` without a key.
    """

    def __init__(
        self, queue: AsyncTaskQueue[Any], results: BaseResultStorage | None, *, accept_unsigned: bool = False
    ) -> None:
        security = queue.security
        if security.signing_key is None:
            raise ConfigError("signing_key: none is set, so there is nothing to sign with")
        if accept_unsigned:
            security = replace(security, accept_unsigned_until=FOREVER)
        self._queue = queue
        self._results = results
        self._serialization = security.manager(queue.config.project)

    async def run(self) -> Report:
        """Sign everything. Raises `StoreError`."""
        report = Report()
        async for ids in self._pages():
            await self._sign_tasks(ids, report.tasks)
            await self._sign_results(ids, report.results)
        for schedule in await self._queue.store.schedules():
            await self._sign_schedule(schedule, report.schedules)
        return report

    async def _pages(self) -> AsyncIterator[list[str]]:
        """The ids of all tasks."""
        cursor: str | None = None
        while True:
            page = await self._queue.store.find(TaskFilter(), limit=PAGE, cursor=cursor)
            yield [task.id for task in page.tasks]
            if page.cursor in (None, cursor):  # it stands still at ids that are no text
                return
            cursor = page.cursor

    async def _sign_tasks(self, ids: Sequence[str], tally: Tally) -> None:
        store = self._queue.store
        records = [record for record in await look_up(store, store.get, ids) if record is not None]
        missing = set(ids) - {record.id for record in records}
        tally.refused += sum(not id_.isprintable() for id_ in missing)  # others were purged meanwhile
        found = ((r.id, r.body, self._try(tally, r.body, partial(self._task, r))) for r in records)
        _count(tally, await _replace(store, _changes(found)))

    async def _sign_results(self, ids: Sequence[str], tally: Tally) -> None:
        if self._results is None:
            return
        found_at = await look_up(self._results, self._results.get, ids)
        records = [record for record in found_at if record is not None]
        found = ((r.task_id, r.body, self._try(tally, r.body, partial(self._result, r))) for r in records)
        _count(tally, await _replace(self._results, _changes(found)))

    async def _sign_schedule(self, schedule: ScheduleRecord, tally: Tally) -> None:
        if schedule.damage is not None:  # which writing it again would hide
            tally.refused += 1
            log.warning("not signed: schedule %s is damaged: %s", schedule.id, schedule.damage)
            return
        signed = self._try(tally, schedule.body, partial(self._schedule, schedule))
        if signed is not None:
            changed = replace(schedule, body=signed)
            _count(tally, [await self._queue.store.put_schedule(changed, if_version=schedule.version)])

    @staticmethod
    def _try(tally: Tally, body: bytes, sign: Callable[[], bytes]) -> bytes | None:
        """The body to write instead of this one, if there is another one to write."""
        try:
            signed = sign()
        except SerializationError as error:
            tally.refused += 1
            log.warning("not signed: %s", error)
            return None
        if signed != body:
            return signed
        tally.current += 1
        return None

    def _task(self, record: TaskRecord) -> bytes:
        return self._serialization.resign_call(
            record.body, task_id=record.id, queue_name=record.queue_name, schedule_id=record.schedule_id
        )

    def _result(self, record: ResultRecord) -> bytes:
        return self._serialization.resign_outcome(
            record.body,
            task_id=record.task_id,
            epoch=record.epoch,
            status=record.status,
            schedule_id=record.schedule_id,
        )

    def _schedule(self, record: ScheduleRecord) -> bytes:
        return self._serialization.resign_schedule(record.body, schedule_id=record.id, queue_name=record.queue_name)


def _changes(found: Iterable[tuple[str, bytes, bytes | None]]) -> list[NewBody]:
    return [NewBody(task_id=id_, old=old, body=new) for id_, old, new in found if new is not None]


async def _replace(store: BaseTaskQueue | BaseResultStorage, bodies: Sequence[NewBody]) -> list[bool]:
    size, id_of = _both_bodies, attrgetter("task_id")
    return await carry_out(store, store.replace_bodies, bodies, id_of=id_of, size=size)


def _both_bodies(new: NewBody) -> int:
    return len(new.old) + len(new.body)


def _count(tally: Tally, replaced: Sequence[bool]) -> None:
    tally.signed += sum(replaced)
    tally.changed += len(replaced) - sum(replaced)
