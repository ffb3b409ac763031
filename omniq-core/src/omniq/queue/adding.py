"""Adding tasks to a store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

from omniq import clock
from omniq.batching import Batcher, parts, repeated
from omniq.errors import StoreError
from omniq.loops import PerLoop
from omniq.models.task import EventType
from omniq.queue.policies import DependencyResolver, parents_first, unknown_parent
from omniq.queue.stores import Stores
from omniq.storage.queue import ALWAYS_TAKEN, SizeLimit, task_bytes
from omniq.storage.records import DUPLICATE, NEW, UNKNOWN_PARENT, Added, AddStatus, NewTask

Answer: TypeAlias = tuple[Added, bool]
"""What the store said of a new task, and whether it had to be asked more than once."""


class TaskAdder:
    """Adds tasks to one queue. Its errors of the store carry the tasks' ids."""

    def __init__(self, stores: Stores, dependencies: DependencyResolver, max_body: int) -> None:
        self._stores = stores
        self._store = store = stores.queue
        self._dependencies = dependencies
        self._max_body = max_body
        self._surely_fits = min(max_body, ALWAYS_TAKEN)
        self._batches = PerLoop(lambda: Batcher(self._answers, size=task_bytes, max_bytes=store.max_bytes))

    async def check_size(self, body: bytes, func: str, argument: str = "func_args") -> None:
        """Raise `PayloadTooLarge` if the packed call is larger than `max_body` or than the store takes."""
        if len(body) > self._surely_fits:
            await self._store.connect()  # it knows then what it takes
            limit = SizeLimit.of(self._max_body, self._store)
            limit.check(len(body), f"{argument}: the call of {func}")

    async def check_sizes(self, tasks: Sequence[NewTask]) -> None:
        """As `check_size`, for the tasks of many calls."""
        surely_fits = self._surely_fits
        for place in [place for place, task in enumerate(tasks) if len(task.body) > surely_fits]:
            await self.check_size(tasks[place].body, tasks[place].name, f"calls[{place}].func_args")

    async def add(self, task: NewTask, *, own_id: bool) -> str:
        """Add a task, whose id is of our `own` making or the caller's, in one write with others that come now.

        Returns its id, or that of the task which holds its unique key.
        """
        began = clock.now()
        try:
            answer, again = await self._batches.get().submit(task)
            await self._added([task], [answer], began, (task.id,) if own_id and again else ())
        except StoreError as error:
            raise error.about([task.id]) from error.__cause__
        return answer.holder or task.id

    async def close(self) -> None:
        """Wait until what was given on this loop is stored, or refused."""
        if (batches := self._batches.pop()) is not None:
            await batches.drain()

    async def add_within(self, connection: Any, task: NewTask) -> str:
        """As `add`, in the transaction that the caller has open."""
        await self._store.connect()  # so that its tables are there
        (answer,) = await self._store.add_within(connection, [task])
        if answer.status is AddStatus.UNKNOWN_PARENT:
            raise unknown_parent(task)
        return answer.holder or task.id

    async def add_many(self, tasks: list[NewTask], own_ids: Collection[str]) -> list[str]:
        """Add tasks, which may depend on each other, in as few writes as possible; returns what `add` does of each.

        Raises `DependencyCycle` too.
        """
        stored: dict[str, str] = {}
        try:
            ordered = parents_first(tasks)
            await repeated(lambda _: self._dependencies.check_parents(ordered))
            for batch in self._parts(ordered):
                began = clock.now()
                answers, again = await self._add(batch)
                stored.update(_stored(batch, answers))
                await self._added(batch, answers, began, own_ids if again else ())
        except StoreError as error:
            raise error.about([task.id for task in tasks], added=list(stored.values())) from error.__cause__
        return [stored[task.id] for task in tasks]

    def _parts(self, tasks: Sequence[NewTask]) -> Iterator[Sequence[NewTask]]:
        store = self._store
        return parts(tasks, task_bytes, limit=store.max_items, max_bytes=store.max_bytes, id_of=_id_of)

    async def _add(self, tasks: Sequence[NewTask]) -> tuple[Sequence[Added], bool]:
        """What the store says of each, and whether it had to be asked more than once."""

        async def add(again: bool) -> tuple[Sequence[Added], bool]:
            return await self._store.add(tasks), again

        return await repeated(add)

    async def _answers(self, tasks: Sequence[NewTask]) -> list[Answer]:
        answered: list[Answer] = []
        for batch in self._parts(tasks):
            answers, again = await self._add(batch)
            answered += [(answer, again) for answer in answers]
        return answered

    async def _added(
        self, tasks: Sequence[NewTask], answers: Sequence[Added], began: float, again: Collection[str]
    ) -> None:
        """What follows an `add`: events, a look at parents that have ended, and an error for unknown ones.

        Its events are of when it `began`: a worker may have started a task before the reply was here. For ids of our
        own making that the store was asked for `again`, a duplicate is what the first time added.
        """
        if (events := self._stores.events) is not None:
            for task, answer in zip(tasks, answers, strict=True):
                if answer.status is AddStatus.NEW or (answer == DUPLICATE and task.id in again):
                    events.log(EventType.ENQUEUED, task_id=task.id, queue_name=task.queue_name, time=began)
        family = [(task, answer) for task, answer in zip(tasks, answers, strict=True) if task.depends_on]
        if children := [task.id for task, answer in family if _is_stored(answer)]:
            await repeated(lambda _: self._dependencies.children_added(children))
        if orphan := next((task for task, answer in family if answer == UNKNOWN_PARENT), None):
            raise unknown_parent(orphan)


_id_of = attrgetter("id")


def _is_stored(answer: Added) -> bool:
    return answer.status is not AddStatus.UNKNOWN_PARENT


def _stored(tasks: Sequence[NewTask], answers: Sequence[Added]) -> dict[str, str]:
    """The id under which each task is there, if it is."""
    if answers.count(NEW) == len(answers):  # as nearly always, and far more quickly
        return {task.id: task.id for task in tasks}
    return {
        task.id: answer.holder or task.id for task, answer in zip(tasks, answers, strict=True) if _is_stored(answer)
    }
