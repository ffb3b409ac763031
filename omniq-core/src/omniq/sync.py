"""The one place where sync meets async.

A blocking facade holds an async core in `aio` and runs each call on one loop thread that all
facades of the process share. `enqueue = blocking(AsyncTaskQueue.enqueue)` gives a method with the
async method's exact signature.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from omniq.background import end_task
from omniq.errors import BlockingCallInLoop, ConfigError
from omniq.logs import get_logger
from omniq.portals import Portal as Portal
from omniq.portals import new_event_loop as new_event_loop


class AsyncResource(Protocol):
    """What a facade needs of its async core."""

    async def connect(self) -> None: ...

    async def close(self) -> None: ...


log = get_logger("omniq.sync")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A", bound=AsyncResource)
A_co = TypeVar("A_co", bound=AsyncResource, covariant=True)


_portal: Portal | None = None
_portal_lock = threading.Lock()
_open_facades: weakref.WeakSet[Blocking[Any]] = weakref.WeakSet()


def portal() -> Portal:
    """The portal that all facades of this process share; made anew after a fork."""
    global _portal
    with _portal_lock:
        if _portal is None or not _portal.alive:
            _portal = Portal("omniq-portal")
        return _portal


def _after_fork() -> None:
    global _portal, _portal_lock
    _portal = None
    _portal_lock = threading.Lock()
    for facade in list(_open_facades):
        facade._opened = False
    _open_facades.clear()


def _at_exit() -> None:
    for facade in list(_open_facades):
        try:
            facade.close()
        except Exception:
            log.exception("%s couldn't be closed at the interpreter's end", type(facade).__name__)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def in_running_loop() -> bool:
    """Whether this thread is inside a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_in_loop(what: str) -> None:
    """Raise `BlockingCallInLoop` where a blocking call would freeze the running loop."""
    if in_running_loop():
        raise BlockingCallInLoop(
            f"{what} blocks, and this thread runs an event loop: use the async class "
            f"(Async…) and await it, or call it in a thread with asyncio.to_thread"
        )


class Blocking(Generic[A_co]):
    """Base of the blocking facades: `aio` is the async core; it connects at the first call."""

    aio: A_co

    def __init__(self, aio: A_co) -> None:
        self.aio = aio
        self._opened = False

    def _call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine of the core on the shared loop."""
        try:
            refuse_in_loop(type(self).__name__)
            self._open()
        except BaseException:
            coroutine.close()
            raise
        return portal().call(coroutine)

    def _open(self) -> None:
        """Note that there will be something to close. The core connects within the call, and its deadline."""
        if not self._opened:
            self._opened = True
            _open_facades.add(self)

    def connect(self) -> None:
        """Connect now instead of at the first call."""
        self._call(self.aio.connect())

    def close(self) -> None:
        """Give back every connection of this object; a later call opens it again."""
        if self._opened:
            self._opened = False
            _open_facades.discard(self)
            portal().call(self.aio.close())

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def core_of(component: A | Blocking[A], type_: type[A], name: str) -> A:
    """The async core of a component that may be a blocking facade. Raises `ConfigError` if it is something else."""
    core = component.aio if isinstance(component, Blocking) else component
    if isinstance(core, type_):
        return core
    raise ConfigError(f"{name}: expected {type_.__name__} or its blocking facade, got {type(core).__name__}")


def maybe_core_of(component: A | Blocking[A] | None, type_: type[A], name: str) -> A | None:
    """As `core_of`; None if there is none."""
    return None if component is None else core_of(component, type_, name)


class blocking(Generic[P, R]):  # noqa: N801 (reads as a keyword at its uses)
    """A descriptor that turns an async method of `aio` into a blocking one, signature kept."""

    def __init__(self, method: Callable[Concatenate[Any, P], Awaitable[R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Blocking[Any], owner: type) -> Callable[P, R]: ...
    def __get__(self, obj: Blocking[Any] | None, owner: type) -> Any:
        if obj is None:
            return self

        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            async def run() -> R:
                return await self._method(obj.aio, *args, **kwargs)

            return obj._call(run())

        return call


CANCEL_AGAIN = 0.2
"""Seconds after which a task that goes on in spite of its cancellation is cancelled again."""


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks and wait for their end: again and again, since a driver may swallow a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            end_task(task)
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN)


class Delegated(Generic[P, R]):
    """A descriptor: this object's method is that of the part it keeps in `attribute`, signature kept."""

    def __init__(self, method: Callable[Concatenate[Any, P], R], attribute: str) -> None:
        self._method = method
        self._attribute = attribute
        self.__doc__ = method.__doc__

    def __call__(self, owner: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it as a function of the owner, as `Class.method(owner, …)` does."""
        return self._method(getattr(owner, self._attribute), *args, **kwargs)

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, obj: object | None, owner: type) -> Any:
        return self if obj is None else functools.partial(self._method, getattr(obj, self._attribute))
