"""Workflows: calls that are enqueued together and wait for each other, and what they are waited for by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, Unpack

from msgspec import Struct

from omniq.clock import Duration
from omniq.errors import InvalidTask, TaskCancelled
from omniq.models.config import Abridged
from omniq.models.result import Outcome, ResultStatus, TaskResult
from omniq.models.task import QUEUED, TaskRef, TaskState, id_of
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.graph import MAX_NODES, TaskDependencyGraph, records_of
from omniq.queue.options import EnqueueOptions, FuncArgs, Parent, TaskCall, TaskOptions
from omniq.queue.policies import some
from omniq.queue.request import check_call, listed_parents, parent_id
from omniq.serialization.parents import NO_DEFAULT, ResultOf
from omniq.sync import Blocking

# ── steps ───────────────────────────────────────────────────────────────────


MAX_NESTING: Final = 100
"""Chains and groups inside each other."""
MAX_EDGES: Final = 1_000_000
"""Of one workflow, how often a task waits for another."""


class Chain(Abridged, Struct, frozen=True):
    """Steps of which each begins when the one before it has succeeded. Iterating gives their calls."""

    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[TaskCall]:
        return iter(calls_of(self))


class Group(Abridged, Struct, frozen=True):
    """Steps that don't wait for each other. Iterating gives their calls."""

    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[TaskCall]:
        return iter(calls_of(self))

    def then(self, step: Step) -> Chain:
        """The group with a final step, which begins when all of the group have succeeded: a chord."""
        return chain(self, step)


Step: TypeAlias = TaskCall | Chain | Group


def call(func: Callable[..., Any], func_args: FuncArgs = None, **options: Unpack[EnqueueOptions]) -> TaskCall:
    """One task of a workflow: what `enqueue` would be given.

    Raises `InvalidTask` for a function that doesn't take these arguments, and for an option that doesn't exist.
    """
    check_call(func, func_args)
    TaskOptions.of(func, options)
    return TaskCall(func=func, func_args=func_args, options=options)


def chain(*steps: Step) -> Chain:
    """Steps one after the other: calls, groups, and chains, which become part of this one. Raises `InvalidTask`."""
    if not steps:
        raise InvalidTask("chain: it has no step")
    parts = ((step.steps if isinstance(step, Chain) else (_check_step(step),)) for step in steps)
    return Chain(tuple(step for part in parts for step in part))


def group(*steps: Step | Iterable[Step]) -> Group:
    """Steps side by side: calls, chains and groups, as arguments or in one iterable. It may be empty."""
    if len(steps) == 1 and isinstance(steps[0], Iterable) and not isinstance(steps[0], Chain | Group):
        steps = tuple(steps[0])
    return Group(tuple(map(_check_step, steps)))


def result_of(step: Parent | Chain | Group, *, default: object = NO_DEFAULT) -> Any:
    """Stands for a task's result among the arguments of another one, which thereby waits for it.

    It may be the argument itself, or be inside of lists, tuples, dicts and other values, but for sets and keys. Of a
    chain it is the result of the last step, of a group the list of its steps' results. Where `on_parent_failure="run"`
    lets a task run though a parent has no value, that takes the `default`. Without one the task fails with what
    `get_result` would raise; so it does in any case with `ResultExpired`, where the value isn't kept any more.

    Raises `InvalidTask` for what is no task.
    """
    if isinstance(step, Group):
        return [result_of(part, default=default) for part in step.steps]
    if isinstance(step, Chain):
        return result_of(step.steps[-1], default=default)
    return ResultOf(parent_id(step, "step"), default)


def calls_of(step: Step | Iterable[TaskCall]) -> list[TaskCall]:
    """The calls of a workflow, parents first, each with all that it waits for.

    Calls that aren't in a chain or group come as they are, and may depend on each other by themselves. Raises
    `InvalidTask` for what can't be enqueued together.
    """
    calls: list[TaskCall] = []
    _lay_out(step if isinstance(step, TaskCall | Chain | Group) else group(step), (), calls, MAX_NESTING)
    if not calls:
        raise InvalidTask("workflow: it has no call")
    twice = [id_ for id_, times in Counter(each.reserve_id() for each in calls).items() if times > 1]
    if twice:
        raise InvalidTask(f"workflow: a call is in it more than once ({some(twice)}): make a call for each task")
    return calls


def _lay_out(step: Step, parents: tuple[str, ...], calls: list[TaskCall], depth: int) -> tuple[str, ...]:
    """Add the step's calls, all of which wait for these parents; returns what waits for it has to wait for."""
    if isinstance(step, TaskCall):
        calls.append(_after(step, parents))
        return (step.reserve_id(),)
    if depth == 0:
        raise InvalidTask(f"workflow: chains and groups are nested deeper than {MAX_NESTING} levels")
    if isinstance(step, Chain):
        for part in step.steps:
            parents = _lay_out(part, parents, calls, depth - 1)
        return parents
    if len(parents) * len(step.steps) > MAX_EDGES:
        raise InvalidTask(
            f"workflow: {len(step.steps):,} steps would each wait for {len(parents):,} tasks: put one call in between"
        )
    ends = [end for part in step.steps for end in _lay_out(part, parents, calls, depth - 1)]
    return tuple(ends) if step.steps else parents


def _after(step: TaskCall, parents: tuple[str, ...]) -> TaskCall:
    if step.options.get("unique_key") is not None:
        raise InvalidTask("unique_key: a task of a workflow can't have it, since others wait for its id")
    after = (*listed_parents(step.options.get("depends_on")), *parents)
    options: EnqueueOptions = {**step.options, "task_id": step.reserve_id(), "depends_on": after}
    return TaskCall(func=step.func, func_args=step.func_args, options=options)


def _check_step(step: object) -> Step:
    if isinstance(step, TaskCall | Chain | Group):
        return step
    raise InvalidTask(f"workflow: expected calls, chains and groups, got {type(step).__name__}; see omniq.call")


# ── handles ─────────────────────────────────────────────────────────────────


CANCELLED_AT_ONCE: Final = 500
Shape: TypeAlias = "str | list[Shape]"
"""The tasks whose results are those of a workflow."""


class Outcomes(Protocol):
    """What waits for the outcomes of tasks."""

    async def result(self, task_id: TaskRef, timeout: Duration | None = None) -> TaskResult: ...


class AsyncWorkflow:
    """Tasks that were enqueued together: to wait for, look at and cancel as one."""

    def __init__(self, queue: AsyncTaskQueue[Any], outcomes: Outcomes, ids: Sequence[str], shape: Shape) -> None:
        self.ids: Final = tuple(ids)
        """The tasks, parents first."""
        self._queue = queue
        self._outcomes = outcomes
        self._shape = shape

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.ids)} tasks, {self.ids[0]!r} the first)"

    @classmethod
    async def enqueue(
        cls, queue: AsyncTaskQueue[Any], outcomes: Outcomes, workflow: Step | Iterable[TaskCall]
    ) -> AsyncWorkflow:
        """Enqueue calls, a chain or a group. Raises as `enqueue_many` does."""
        step = workflow if isinstance(workflow, TaskCall | Chain | Group) else group(workflow)
        ids = await queue.enqueue_many(calls_of(step))
        return cls(queue, outcomes, ids, _shape(step))

    @classmethod
    async def find(cls, queue: AsyncTaskQueue[Any], outcomes: Outcomes, task_id: TaskRef) -> AsyncWorkflow:
        """The workflow that a task is part of, whose results are then those of its last tasks.

        Raises `TaskNotFound`, and `InvalidTask` for a workflow of more than 10,000 tasks.
        """
        graph = await TaskDependencyGraph.load(queue.store, task_id)
        if not graph.complete:
            raise InvalidTask(f"task_id: task {id_of(task_id)} is part of a workflow of more than {MAX_NODES:,} tasks")
        leaves = list[Shape](graph.leaves)
        return cls(
            queue, outcomes, [id_ for level in graph.levels for id_ in level], leaves[0] if len(leaves) == 1 else leaves
        )

    async def result(self, timeout: Duration | None = None) -> Any:
        """Wait for the workflow's end and return its result: of a call its value, of a chain that of the last step, of
        a group the list of its steps' results.

        Raises as `get_result` does, at the first task of these that has no value; where it was cancelled since another
        one failed, that one's `TaskFailed`.
        """
        ids = list(_ids(self._shape))
        try:
            values = {ended.task_id: ended.unwrap() for ended in await self._ended(ids, timeout, unwrap=True)}
        except TaskCancelled as error:
            await self._blame(error)
            raise
        return _filled(self._shape, values)

    async def results(self, timeout: Duration | None = None) -> dict[str, TaskResult]:
        """Wait until all tasks have ended; returns how, by their ids. Raises as `get_result` does of results that are
        no longer kept, and `ResultTimeout`."""
        return {ended.task_id: ended for ended in await self._ended(self.ids, timeout)}

    async def status(self) -> dict[TaskState, int]:
        """How many of the tasks, as far as they are kept, are in which state."""
        records = await records_of(self._queue.store, self.ids)
        return dict(Counter(record.state for record in records.values() if record is not None))

    async def graph(self) -> TaskDependencyGraph:
        """The tasks as they are now, with what was added to them since. Raises as `TaskDependencyGraph.load` does."""
        return await TaskDependencyGraph.load(self._queue.store, *self.ids[:MAX_NODES])

    async def cancel(self) -> int:
        """Cancel the tasks that haven't ended, as `cancel` does each; returns how many that are."""
        cancelled: set[str] = set()
        left = self.ids[::-1]  # children first, so that the end of a parent lets none begin
        while left:
            records = await records_of(self._queue.store, left)
            going = [
                r for r in records.values() if r is not None and not r.state.is_terminal and not r.cancel_requested
            ]
            queued = [record for record in going if record.state in QUEUED]
            for start in range(0, len(queued), CANCELLED_AT_ONCE):
                batch = queued[start : start + CANCELLED_AT_ONCE]
                ended = await self._queue.dependencies.end(batch, TaskState.CANCELLED, Outcome())
                cancelled.update(record.id for record in ended)
            for record in going:
                if record.state not in QUEUED and await self._queue.cancel(record.id):
                    cancelled.add(record.id)
            left = tuple(record.id for record in going)
        return len(cancelled)

    async def _ended(self, ids: Sequence[str], timeout: Duration | None, *, unwrap: bool = False) -> list[TaskResult]:
        """How these have ended; with `unwrap`, raises at once what the first failure says."""

        async def ended(id_: str) -> TaskResult:
            result = await self._outcomes.result(id_, timeout)
            if unwrap and result.status is not ResultStatus.SUCCESS:
                raise result.failure()
            return result

        waits = [asyncio.ensure_future(ended(id_)) for id_ in ids]
        try:
            return await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def _blame(self, cancelled: TaskCancelled) -> None:
        """Raise the error of the task that failed, if one did."""
        records = await records_of(self._queue.store, self.ids)
        failed = next((r.id for r in records.values() if r is not None and r.state is TaskState.ERROR), None)
        if failed is not None:
            raise (await self._outcomes.result(failed)).failure() from cancelled


class Workflow:
    """`AsyncWorkflow` with methods that block; `aio` is its async core."""

    def __init__(self, owner: Blocking[Any], aio: AsyncWorkflow) -> None:
        self._owner = owner
        self.aio = aio

    @property
    def ids(self) -> tuple[str, ...]:
        """The tasks, parents first."""
        return self.aio.ids

    def __repr__(self) -> str:
        return repr(self.aio).removeprefix("Async")

    def result(self, timeout: Duration | None = None) -> Any:
        """As `AsyncWorkflow.result`."""
        return self._owner._call(self.aio.result(timeout))

    def results(self, timeout: Duration | None = None) -> dict[str, TaskResult]:
        """As `AsyncWorkflow.results`."""
        return self._owner._call(self.aio.results(timeout))

    def status(self) -> dict[TaskState, int]:
        """As `AsyncWorkflow.status`."""
        return self._owner._call(self.aio.status())

    def graph(self) -> TaskDependencyGraph:
        """As `AsyncWorkflow.graph`."""
        return self._owner._call(self.aio.graph())

    def cancel(self) -> int:
        """As `AsyncWorkflow.cancel`."""
        return self._owner._call(self.aio.cancel())


def _shape(step: Step) -> Shape:
    if isinstance(step, TaskCall):
        return step.reserve_id()
    return _shape(step.steps[-1]) if isinstance(step, Chain) else [_shape(part) for part in step.steps]


def _ids(shape: Shape) -> Iterator[str]:
    if isinstance(shape, str):
        yield shape
    else:
        for part in shape:
            yield from _ids(part)


def _filled(shape: Shape, values: Mapping[str, Any]) -> Any:
    return values[shape] if isinstance(shape, str) else [_filled(part, values) for part in shape]
