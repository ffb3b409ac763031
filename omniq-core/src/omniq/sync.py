"""Where sync meets async: event loops on threads of their own, and blocking facades over async classes."""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import os
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from types import MethodType
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    get_args,
    get_origin,
    overload,
)

from omniq.errors import BlockingCallInLoop, Closed, ConfigError, SerializationError
from omniq.loops import Background, begin, clear_loop, drive, end_task, forks, keep_to_ourselves, run_once
from omniq.texts import get_logger
from omniq.threads import is_patched, new_future, new_lock, new_native_loop, outcome, start_thread

# ── event loops on threads of their own ─────────────────────────────────────


log = get_logger("omniq.sync")

R = TypeVar("R")

CLEARING = 0.5
"""Seconds that what is left on a portal's loop has to end."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's when it is installed, but where gevent has patched what that would go past."""
    if is_patched():
        return new_native_loop()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    reopen_standard_files()  # libuv gives up the process when it is to close a descriptor of theirs
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def reopen_standard_files() -> None:
    """Open the descriptors 0 to 2 where they are closed: the next file or connection would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):  # none is left: the next look will see to it
                _open_null(number)


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:  # somebody else has got it by now
        os.close(opened)


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _stop_portals() -> None:
    """A loop of uvloop that still runs when the interpreter goes can take the process down."""
    for portal in list(_portals):
        if portal.alive:
            portal.stop()


atexit.register(_stop_portals)


class Portal:
    """An event loop on a thread of its own, to which other threads hand coroutines.

    Code on it may raise `SystemExit` or stop it: it goes on until `end` or `stop`. If it can't, such as without its
    selector, it closes, and whoever waits for it gets a `RuntimeError`.
    """

    def __init__(self, name: str) -> None:
        self.on_death: Callable[[Exception], None] = lambda error: None
        """Told, on its thread, when the loop can't run any more."""
        self._ending = False
        self._forks = forks()
        self._pending: set[Future[Any]] = set()
        self.loop = new_event_loop()
        keep_to_ourselves(self.loop)
        try:
            self.thread = start_thread(self._run, name)
        except BaseException:
            self.loop.close()
            raise
        _portals.add(self)

    @property
    def alive(self) -> bool:
        """Whether it takes coroutines: not after its end, and not in a forked child."""
        return self.thread.is_alive() and not self._ending and not self.of_parent

    @property
    def of_parent(self) -> bool:
        """Whether this process is a forked child of the one that has the portal."""
        return self._forks != forks()

    def submit(self, coroutine: Coroutine[Any, Any, R]) -> Future[R]:
        """Run the coroutine on the portal's loop, in a copy of this context. Raises `RuntimeError` after its end."""
        future: Future[R] = new_future()
        try:
            self.loop.call_soon_threadsafe(self._begin, coroutine, future, copy_context(), context=Context())
        except BaseException:
            coroutine.close()
            raise
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        if self.loop.is_closed():
            self._refuse_pending()
        return future

    def call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run the coroutine on the portal's loop and wait; Ctrl-C cancels it there.

        Raises `Closed` if the portal is stopped meanwhile.
        """
        future = self.submit(coroutine)
        try:
            return outcome(future)
        except CancelledError:
            raise Closed(f"{self.thread.name} was stopped while a call waited on it") from None
        except BaseException:
            future.cancel()
            raise

    def end(self) -> None:
        """Let the loop end soon; for its own coroutines, too."""
        self._ending = True
        with suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self.loop.stop)

    def stop(self) -> None:
        """End the loop and wait for that."""
        self.end()
        self.thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._ending:
                run_once(self.loop)
        except Exception as error:
            self._ending = True
            log.exception("the event loop of the thread %s can't run any more", self.thread.name)
            self.on_death(error)
            self._close()
        else:
            self._close()

    def _close(self) -> None:
        try:
            drive(self.loop, clear_loop(CLEARING))
            drive(self.loop, self.loop.shutdown_asyncgens())
        except Exception as error:  # it can't run any more
            log.debug("an event loop couldn't be cleared: %r", error)
        with suppress(OSError, RuntimeError):
            self.loop.close()
        self._refuse_pending()

    def _begin(self, coroutine: Coroutine[Any, Any, R], future: Future[R], context: Context) -> None:
        if future.cancelled():
            coroutine.close()
            return
        # Tasks of a worker may be on this loop, too: they can't cancel it.
        task = begin(coroutine, self.loop, context)
        task.add_done_callback(partial(_hand_over, future))
        future.add_done_callback(partial(self._end_if_cancelled, task))

    def _end_if_cancelled(self, task: Background[Any], future: Future[Any]) -> None:
        if future.cancelled():
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(task.end)

    def _refuse_pending(self) -> None:
        for future in list(self._pending):
            with suppress(InvalidStateError):  # it has just been done
                future.set_exception(Closed(f"the event loop of the thread {self.thread.name} has ended"))


def _hand_over(future: Future[R], task: asyncio.Task[R]) -> None:
    """Tell who waits in another thread what came of the task."""
    with suppress(InvalidStateError):  # nobody waits any more
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


# ── blocking facades ────────────────────────────────────────────────────────


class AsyncResource(Protocol):
    """What a facade needs of its async core."""

    async def connect(self) -> None: ...

    async def close(self) -> None: ...


P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound=AsyncResource)
A_co = TypeVar("A_co", bound=AsyncResource, covariant=True)


_portal: Portal | None = None
_portal_lock = new_lock()
_open_facades: weakref.WeakSet[Blocking[Any]] = weakref.WeakSet()


def portal() -> Portal:
    """The portal that all facades of this process share; made anew after a fork. Raises `Closed` where the interpreter
    is ending: a thread that is begun then never runs, and whoever waits for it would wait for ever."""
    global _portal
    if sys.is_finalizing():
        raise Closed("the interpreter is ending: there is no event loop for blocking calls any more")
    with _portal_lock:
        if _portal is None or not _portal.alive:
            _portal = Portal("omniq-portal")
        return _portal


def _after_fork() -> None:
    global _portal, _portal_lock
    _portal = None
    _portal_lock = new_lock()
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


STAYS_HERE: Final = (
    "{} has connections and stays in its process: put it, and the tasks that use it, into a module that workers import"
)
"""What is said where one is to travel, as a global of a script's function would."""


class Blocking(Generic[A_co]):
    """Base of the blocking facades: `aio` is the async core; it connects at the first call."""

    aio: A_co
    _core: ClassVar[type[Any]] = object

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in cls.__dict__.get("__orig_bases__", ()):
            facade = get_origin(base)
            if isinstance(facade, type) and issubclass(facade, Blocking) and not isinstance(get_args(base)[0], TypeVar):
                (core,) = get_args(base)
                cls._core = get_origin(core) or core

    def __init__(self, aio: A_co) -> None:
        """Raises `ConfigError` for another core than this facade's."""
        if not isinstance(aio, self._core):
            name, core = type(self).__name__, self._core.__name__
            raise ConfigError(f"{name}: aio: expected {core}, got {type(aio).__name__}")
        self.aio = aio
        self._opened = False

    def _call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine of the core on the shared loop."""
        try:
            refuse_in_loop(type(self).__name__)
            self._open()
            shared = portal()
        except BaseException:
            coroutine.close()
            raise
        return shared.call(coroutine)

    def _each(self, items: AsyncGenerator[R, None]) -> Generator[R, None, None]:
        """The items of the core's generator, each waited for on the shared loop."""

        async def following() -> tuple[R, ...]:
            async for item in items:
                return (item,)
            return ()

        while item := self._call(following()):
            yield item[0]

    def __reduce__(self) -> NoReturn:
        raise SerializationError(STAYS_HERE.format(type(self).__name__))

    def _open(self) -> None:
        """Note that there will be something to close. The core connects within the call, and its deadline."""
        if not self._opened:
            self._opened = True
            _open_facades.add(self)

    def connect(self) -> None:
        """Connect now instead of at the first call."""
        self._call(self.aio.connect())

    def close(self) -> None:
        """Give back every connection of this object; a later call opens it again.

        Raises `BlockingCallInLoop` where there is one to give back, and a loop would stand still meanwhile.
        """
        if self._opened:
            refuse_in_loop(f"{type(self).__name__}.close()")
            self._opened = False
            _open_facades.discard(self)
            portal().call(self.aio.close())

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()  # what is connected already: nobody else will
            raise
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


def _look_like(descriptor: object, method: Callable[..., object]) -> None:
    """Let `help`, `inspect` and `typing.get_type_hints` say of a class's descriptor what they say of the method."""
    functools.update_wrapper(descriptor, method, updated=())  # type: ignore[arg-type] # it is called as the method is
    vars(descriptor)["__annotations__"] = method.__annotations__  # which Python 3.14 leaves out


class blocking(Generic[P, R]):  # noqa: N801 (reads as a keyword at its uses)
    """A descriptor that turns an async method of `aio` into a blocking one, signature kept."""

    def __init__(self, method: Callable[Concatenate[Any, P], Awaitable[R]]) -> None:
        self._method = method
        _look_like(self, method)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._method)

    def __call__(self, owner: Blocking[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it as a function of the owner, as `Class.method(owner, …)` does."""
        return self.__get__(owner, type(owner))(*args, **kwargs)

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

        call.__dict__["__wrapped__"] = MethodType(self._method, obj.aio)  # whose signature is this one's
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
        _look_like(self, method)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._method)

    def __call__(self, owner: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it as a function of the owner, as `Class.method(owner, …)` does."""
        return self._method(getattr(owner, self._attribute), *args, **kwargs)

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, obj: object | None, owner: type) -> Any:
        return self if obj is None else MethodType(self._method, getattr(obj, self._attribute))
