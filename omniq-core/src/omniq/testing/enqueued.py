"""What a test asks of the tasks that were enqueued: which there are, and how they differ from what it expected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from msgspec import Struct
from msgspec.structs import replace

from omniq.errors import FunctionNotFound, InvalidTask
from omniq.models.task import Task, TaskState
from omniq.queue.request import task_details
from omniq.serialization.base import display_name, function_of
from omniq.serialization.manager import SerializationManager
from omniq.serialization.parents import ParentResult, ResultOf, filled
from omniq.storage.records import NewTask, TaskRecord
from omniq.texts import cut

SHOWN: Final = 20
"""Tasks that one complaint shows."""
MAX_SHOWN_VALUE: Final = 200
"""Characters of an argument that it shows."""
IN_LINE: Final = (TaskState.PENDING, TaskState.SCHEDULED)


class Enqueued(Struct, frozen=True, kw_only=True):
    """A task that was enqueued, and what it calls."""

    task: Task
    """As it is now; as it was enqueued, where it has been purged since."""
    args: tuple[Any, ...]
    """The positional arguments. What stands for another task's result is a `result_of`."""
    kwargs: dict[str, Any]
    """The keyword arguments."""
    func: Callable[..., Any] | None = None
    """The function; None where it can't be imported."""

    @classmethod
    def of(cls, new: NewTask, row: TaskRecord | None, serialization: SerializationManager, now: float) -> Enqueued:
        """The task that was added, by the row that it has now, if it has one. Raises `SerializationError`."""
        row = row or _row_of(new, now)
        if row.state in IN_LINE:  # which of the two a row says is the store's choice
            row = replace(row, state=TaskState.PENDING if row.run_at <= now else TaskState.SCHEDULED)
        call = serialization.read_call(new.body, task_id=new.id, queue_name=new.queue_name, schedule_id=new.schedule_id)
        func: Callable[..., Any] | None = None
        with filled([ParentResult(value=id_.encode()) for id_ in call.results_of], _stand_in):
            try:
                loaded = serialization.load_call(call)
                func, args, kwargs = loaded.func, loaded.args, loaded.kwargs
            except FunctionNotFound:
                args, kwargs = serialization.load_arguments(call)
        return cls(task=task_details(row, serialization), args=tuple(args), kwargs=dict(kwargs), func=func)

    def __str__(self) -> str:
        given = [_shown(value) for value in self.args]
        given += [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        return f"{self.task.func}({', '.join(given)}) in queue {self.task.queue_name!r}, {self.task.state.value}"


def _row_of(new: NewTask, now: float) -> TaskRecord:
    """What a task was that is no longer there."""
    run_at = now if new.run_at is None else new.run_at
    return TaskRecord(
        id=new.id,
        queue_name=new.queue_name,
        body=new.body,
        name=new.name,
        state=TaskState.PENDING,
        priority=new.priority,
        created_at=run_at,
        run_at=run_at,
        depends_on=new.depends_on,
        schedule_id=new.schedule_id,
    )


def _stand_in(_: str, task_id: bytes) -> ResultOf:
    return ResultOf(task_id.decode())


def _shown(value: object) -> str:
    return cut(repr(value), MAX_SHOWN_VALUE)


# ── what is expected ────────────────────────────────────────────────────────


class EnqueuedConditions(TypedDict, total=False):
    """Which tasks a test means: those that meet all of what is given."""

    name: str | None
    """Of the function: "module:function", or the last part of that."""
    func: Callable[..., Any] | None
    """The function itself."""
    args: Sequence[Any] | None
    """With `kwargs` all its arguments, however they were passed. `unittest.mock.ANY` stands for any value."""
    kwargs: Mapping[str, Any] | None
    queue: str | None
    """The queue's name."""
    state: TaskState | str | None
    """The state that the task is in now."""


class Expected:
    """The conditions, checked. Raises `InvalidTask` for some that no task can meet."""

    def __init__(
        self,
        *,
        name: str | None = None,
        func: Callable[..., Any] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        state: TaskState | str | None = None,
    ) -> None:
        self._name = _check("name", name, str)
        self._func = None if func is None else display_name(_check_function(func))
        self._args = None if args is None else tuple(_check_sequence(args))
        self._kwargs = None if kwargs is None else dict(_check("kwargs", kwargs, Mapping) or {})
        self._queue = _check("queue", queue, str)
        self._state = None if state is None else _check_state(state)

    def differences(self, task: Enqueued) -> list[str]:
        """In what the task isn't what is expected."""
        found = task.task
        differences = []
        if self._name is not None and not _is_called(found.func, self._name):
            differences.append(f"name: {found.func}")
        if self._func is not None and found.func != self._func:
            differences.append(f"func: {found.func}")
        if self._queue is not None and found.queue_name != self._queue:
            differences.append(f"queue: {found.queue_name!r}")
        if self._state is not None and found.state is not self._state:
            differences.append(f"state: {found.state.value}")
        return differences or self._other_arguments(task)

    def _other_arguments(self, task: Enqueued) -> list[str]:
        if self._args is None and self._kwargs is None:
            return []
        expected = _by_parameter(task.func, self._args or (), self._kwargs or {})
        found = _by_parameter(task.func, task.args, task.kwargs)
        names = [*expected, *(name for name in found if name not in expected)]
        return [_difference(name, expected, found) for name in names if not _is_same(name, expected, found)]

    def __str__(self) -> str:
        given = [] if self._args is None else [_shown(value) for value in self._args]
        given += [f"{name}={_shown(value)}" for name, value in (self._kwargs or {}).items()]
        any_arguments = self._args is None and self._kwargs is None
        called = f"{self._func or self._name or 'any function'}({'…' if any_arguments else ', '.join(given)})"
        queue = "" if self._queue is None else f" in queue {self._queue!r}"
        return called + queue + ("" if self._state is None else f", {self._state.value}")


def complaint(expected: Expected, tasks: Sequence[Enqueued], *, count: int | None, found: int) -> str:
    """What a test that expected another number of tasks is told: what there is, and how each differs."""
    wanted = "at least one task" if count is None else "no task" if count == 0 else _number(count)
    lines = [f"expected {wanted} of {expected}, found {found or 'none'}"]
    lines.append(f"enqueued were {_number(len(tasks))}{':' if tasks else ''}")
    for number, task in enumerate(tasks[:SHOWN], 1):
        differences = expected.differences(task)
        lines.append(f"  {number}. {task}" + (f"\n       differs in {'; '.join(differences)}" if differences else ""))
    if len(tasks) > SHOWN:
        lines.append(f"  … and {len(tasks) - SHOWN} more")
    return "\n".join(lines)


def check_count(count: object) -> None:
    """Raise `InvalidTask` for what no number of tasks can be."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
        raise InvalidTask(f"count: expected a whole number from 0 on, got {count!r:.80}")


def _number(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


_ABSENT: Final = object()


def _is_same(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    # The expected one first: it may be equal to anything, as `unittest.mock.ANY` is.
    return name in expected and name in found and bool(expected[name] == found[name])


def _difference(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    wanted, there = expected.get(name, _ABSENT), found.get(name, _ABSENT)
    if there is _ABSENT:
        return f"{name}: it isn't given, expected {_shown(wanted)}"
    return f"{name}: {_shown(there)}" + ("" if wanted is _ABSENT else f", expected {_shown(wanted)}")


def _by_parameter(func: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by the names of the function's parameters, defaults included, so that it doesn't matter how they
    were passed; by their places where that can't be told."""
    try:
        bound = inspect.signature(func, follow_wrapped=False).bind(*args, **kwargs) if func is not None else None
    except (TypeError, ValueError):
        bound = None
    if bound is None:
        return {f"args[{place}]": value for place, value in enumerate(args)} | dict(kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _is_called(func: str, name: str) -> bool:
    return func == name or func.endswith((f":{name}", f".{name}"))


def _check(name: str, value: Any, kind: type) -> Any:
    if value is None or isinstance(value, kind):
        return value
    raise InvalidTask(f"{name}: expected {kind.__name__.lower()}, got {type(value).__name__}")


def _check_function(func: object) -> Callable[..., Any]:
    if not callable(func):
        raise InvalidTask(f"func: expected a function, got {type(func).__name__}")
    found: Callable[..., Any] = function_of(func)
    return found


def _check_sequence(args: object) -> Sequence[Any]:
    if isinstance(args, Sequence) and not isinstance(args, str | bytes | bytearray):
        return args
    raise InvalidTask(f"args: expected a sequence of arguments, got {type(args).__name__}")


def _check_state(state: object) -> TaskState:
    try:
        return TaskState(state)  # type: ignore[arg-type]  # what isn't one of them is refused by it
    except ValueError:
        raise InvalidTask(f"state: expected one of {', '.join(TaskState)}, got {state!r:.80}") from None
