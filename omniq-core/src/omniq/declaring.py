"""Tasks as functions that are declared: `@oq.task(…)`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import UNSET, UnsetType

from omniq.clock import Duration
from omniq.errors import InvalidTask, SerializationError
from omniq.models.task import TaskId, TaskRef
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.options import CommonOptions, EnqueueOptions, FuncArgs, ScheduleOptions, TaskCall, TaskOptions
from omniq.queue.workflows import call
from omniq.serialization.base import DeclaredFunction, display_name, enlist
from omniq.sync import STAYS_HERE
from omniq.texts import did_you_mean

P = ParamSpec("P")
C = TypeVar("C")
"""What calling the function returns: a coroutine if it is async."""
R = TypeVar("R")
"""What a task of the function returns in the end."""
S = TypeVar("S")
"""Whose method it is."""
Q = ParamSpec("Q")
"""What a method takes besides."""
T = TypeVar("T")


class Slots(ScheduleOptions, total=False):
    """When a schedule fires, with what else it may say."""

    schedule_id: str
    """An id of your own: declaring the schedule again, as at each start of a program, then replaces it."""


When: TypeAlias = "str | dt.timedelta | dt.datetime | Slots"
"""A cron expression, an interval, a time, or all that a schedule may say, as a dict."""

OF_ONE_TASK: Final = ("run_in", "run_at", "depends_on", "on_parent_failure", "task_id", "unique_key", "connection")
"""Options of one task only, which a declaration can't have."""


class Door(Protocol):
    """What declared tasks need of an `AsyncOmniQ`."""

    task_queue: AsyncTaskQueue[Any]

    async def get_result(
        self, task_id: TaskRef | None = None, *, schedule_id: None = None, timeout: Duration | None = None
    ) -> Any: ...


# ── declared functions ──────────────────────────────────────────────────────


class BaseTaskFunction(DeclaredFunction, Generic[P, C, R]):
    """A function with which tasks are made, and which can be called as before."""

    def __init__(self, function: Callable[P, C], defaults: Mapping[str, Any]) -> None:
        super().__init__(function, defaults)
        self._function = function

    def __repr__(self) -> str:
        return f"<task {display_name(self.function)}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function here and now, without any queue."""
        return self._function(*args, **kwargs)

    def _bound(self, instance: object, owner: type | None) -> Callable[..., Any]:
        """The function as it is found on an object of its class: a method of that."""
        bind = getattr(type(self.function), "__get__", None)
        function: Callable[..., Any] = self.function if bind is None else bind(self.function, instance, owner)
        return function

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskCall:
        """The call as a step of a workflow, or for `enqueue_many`. Raises `InvalidTask` for arguments it doesn't take.

        Where one is to be another task's result, `omniq.call` takes it, which has no types.
        """
        return TaskCall(func=self, func_args=self.check(args, kwargs))

    def _timing(self, when: When) -> tuple[str | None, ScheduleOptions]:
        """The schedule's id, if it has one of its own, and its options."""
        if isinstance(when, Mapping):
            options = dict(when)
            return cast("str | None", options.pop("schedule_id", None)), cast("ScheduleOptions", options)
        if isinstance(when, str):
            return None, {"cron": when}
        if isinstance(when, dt.datetime):
            return None, {"run_at": when}
        if isinstance(when, dt.timedelta):
            return None, {"interval": when}
        raise InvalidTask(
            "when: expected a cron expression, a timedelta, a datetime or a dict of a schedule's options, "
            f"got {type(when).__name__}"
        )


class AsyncTaskFunction(BaseTaskFunction[P, C, R]):
    """A function that `AsyncOmniQ.task` has declared."""

    def __init__(self, function: Callable[P, C], defaults: Mapping[str, Any], door: Door) -> None:
        super().__init__(function, defaults)
        self._door = door

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: AsyncTaskFunction[Concatenate[S, Q], C, R], instance: S, owner: type | None = None
    ) -> AsyncTaskFunction[Q, C, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        function = self._bound(instance, owner)
        return self if function is self.function else AsyncTaskFunction(function, self.defaults, self._door)

    def options(self, **options: Unpack[EnqueueOptions]) -> Self:
        """The same task with other options than those it was declared with. Raises `InvalidTask`."""
        self._door.task_queue.requests.check(TaskOptions.of(self, options))
        return type(self)(self._function, {**self.defaults, **options}, self._door)

    async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """Add a task with these arguments, and return its id. Raises as `AsyncOmniQ.enqueue` does."""
        return await self._door.task_queue.enqueue(self, self.check(args, kwargs))

    async def schedule(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Let such tasks be added at certain times, and return the schedule's id. Raises as `AsyncOmniQ.schedule`."""
        schedule_id, options = self._timing(when)
        arguments = self.check(args, kwargs)
        return await self._door.task_queue.schedule(self, arguments, schedule_id=schedule_id, **options)

    async def result(self, task_id: TaskRef, timeout: Duration | None = None) -> R:
        """Wait for what such a task returns. Raises as `AsyncOmniQ.get_result` does."""
        value: R = await self._door.get_result(task_id, timeout=timeout)
        return value


class TaskFunction(BaseTaskFunction[P, C, R]):
    """A function that `OmniQ.task` has declared; `aio` is its async twin."""

    def __init__(self, aio: AsyncTaskFunction[P, C, R], call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__(aio._function, aio.defaults)
        self.aio = aio
        self._call = call

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: TaskFunction[Concatenate[S, Q], C, R], instance: S, owner: type | None = None
    ) -> TaskFunction[Q, C, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        aio = self.aio.__get__(instance, owner)
        return self if aio is self.aio else TaskFunction(aio, self._call)

    def options(self, **options: Unpack[EnqueueOptions]) -> TaskFunction[P, C, R]:
        """As `AsyncTaskFunction.options`."""
        return TaskFunction(self.aio.options(**options), self._call)

    def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskId:
        """As `AsyncTaskFunction.enqueue`."""
        task_id: TaskId = self._call(self.aio.enqueue(*args, **kwargs))
        return task_id

    def schedule(self, when: When, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `AsyncTaskFunction.schedule`."""
        schedule_id: str = self._call(self.aio.schedule(when, *args, **kwargs))
        return schedule_id

    def result(self, task_id: TaskRef, timeout: Duration | None = None) -> R:
        """As `AsyncTaskFunction.result`."""
        value: R = self._call(self.aio.result(task_id, timeout))
        return value


# ── declaring ───────────────────────────────────────────────────────────────


class AsyncTaskDecorator:
    """Declares the function that it is put before."""

    def __init__(self, declare: Callable[[Callable[..., Any]], AsyncTaskFunction[..., Any, Any]]) -> None:
        self._declare = declare

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncTaskFunction[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> AsyncTaskFunction[P, T, T]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return self._declare(function)


class TaskDecorator:
    """Declares the function that it is put before."""

    def __init__(self, declare: Callable[[Callable[..., Any]], TaskFunction[..., Any, Any]]) -> None:
        self._declare = declare

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> TaskFunction[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> TaskFunction[P, T, T]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        return self._declare(function)


class Calling:
    """What both have to say what is to be enqueued."""

    def __reduce__(self) -> NoReturn:
        raise SerializationError(STAYS_HERE.format(type(self).__name__))

    @staticmethod
    def call(func: Callable[..., Any], func_args: FuncArgs = None, **options: Unpack[EnqueueOptions]) -> TaskCall:
        """What `enqueue` would be given, for `enqueue_many` and `enqueue_workflow`; `omniq.call` is the same.

        Raises `InvalidTask` for an option that doesn't exist.
        """
        return call(func, func_args, **options)


class AsyncDeclaring(Calling):
    """What `AsyncOmniQ` has to declare tasks."""

    task_queue: AsyncTaskQueue[Any]

    def __init__(self) -> None:
        self._tasks: dict[str, AsyncTaskFunction[..., Any, Any]] = {}

    @property
    def tasks(self) -> Mapping[str, AsyncTaskFunction[..., Any, Any]]:
        """What `task` has declared, by `module:qualname`."""
        return MappingProxyType(self._tasks)

    def task(
        self,
        function: None = None,
        /,
        *,
        worker: str | None = None,
        queue: str | None = None,
        retries: int | None = None,
        timeout: Duration | UnsetType | None = UNSET,
        **options: Unpack[CommonOptions],
    ) -> AsyncTaskDecorator:
        """Declare the function that follows as a task: `@oq.task(worker="process", timeout=60)`.

        It can be called as before, and has `enqueue`, `schedule`, `result`, `call` and `options`. `worker` is the kind
        of worker that runs it ("async", "thread", "process", "gevent"), `queue` one of the declared queues, `retries`
        how often it is tried again, `timeout` how long a run may take (seconds or `timedelta`; None: any time); the
        rest are as for `enqueue`, and what isn't given is as configured. Raises `InvalidTask`, naming the option.
        """
        if function is not None:
            raise InvalidTask("task: it takes no function: write @oq.task() with parentheses")
        named = {"worker": worker, "queue_name": queue, "max_retries": retries}
        defaults: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        if timeout is not UNSET:
            defaults["timeout"] = timeout
        defaults |= options
        self._check(defaults)
        return AsyncTaskDecorator(partial(self._declare, defaults))

    def _check(self, defaults: Mapping[str, Any]) -> None:
        allowed = [name for name in TaskOptions.__struct_fields__ if name not in OF_ONE_TASK]
        if (bad := next((name for name in defaults if name not in allowed), None)) is not None:
            hint = "give it to options()" if bad in OF_ONE_TASK else f"no such option{did_you_mean(bad, allowed)}"
            raise InvalidTask(f"{bad}: a task can't be declared with it: {hint}")
        try:
            self.task_queue.requests.check(TaskOptions.of(None, cast("EnqueueOptions", defaults)))
        except InvalidTask as error:
            name, colon, problem = str(error).partition(":")
            raise InvalidTask(f"{SHORT.get(name, name)}{colon}{problem}") from None

    def _declare(self, defaults: Mapping[str, Any], function: object) -> AsyncTaskFunction[..., Any, Any]:
        if not callable(function) or isinstance(function, type | DeclaredFunction):
            raise InvalidTask(f"task: expected a function to declare, got {type(function).__name__}")
        task: AsyncTaskFunction[..., Any, Any] = AsyncTaskFunction(function, defaults, cast("Door", self))
        name = display_name(function)
        self._tasks[name] = task
        enlist(task)
        return task


class Declaring(Calling):
    """What `OmniQ` has to declare tasks."""

    @property
    def tasks(self) -> Mapping[str, AsyncTaskFunction[..., Any, Any]]:
        """What `task` has declared, by `module:qualname`."""
        functions: Mapping[str, AsyncTaskFunction[..., Any, Any]] = cast("Any", self).aio.tasks
        return functions

    def task(
        self,
        function: None = None,
        /,
        *,
        worker: str | None = None,
        queue: str | None = None,
        retries: int | None = None,
        timeout: Duration | UnsetType | None = UNSET,
        **options: Unpack[CommonOptions],
    ) -> TaskDecorator:
        """Declare the function that follows as a task, as `AsyncOmniQ.task` does."""
        declare = cast("Any", self).aio.task(
            function, worker=worker, queue=queue, retries=retries, timeout=timeout, **options
        )
        return TaskDecorator(lambda function: self._declare(declare(function)))

    def _declare(self, aio: AsyncTaskFunction[..., Any, Any]) -> TaskFunction[..., Any, Any]:
        owner = cast("Any", self)
        task = TaskFunction(aio, lambda coroutine: owner._call(coroutine))  # as it is then: tests take its place
        enlist(task)
        return task


SHORT: Final = {"queue_name": "queue", "max_retries": "retries"}
"""What a declaration calls options of `enqueue`."""
