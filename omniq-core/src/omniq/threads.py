"""Threads of the system, whatever becomes of `threading`: gevent's monkey patching makes greenlets of those."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

# ── what gevent has patched ─────────────────────────────────────────────────


def is_patched() -> bool:
    """Whether this program's threads are greenlets, or sockets wait for gevent's loop of their thread: either may be
    patched without the other."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and any(map(monkey.is_module_patched, ("threading", "socket", "select")))


def _original(module: str, name: str) -> Any:
    """What a module of the standard library had under that name before it was patched."""
    from gevent import monkey

    return monkey.get_original(module, name)


# ── threads ─────────────────────────────────────────────────────────────────


class Thread(Protocol):
    """A thread that runs."""

    name: str

    def is_alive(self) -> bool:
        """Whether it hasn't ended."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most so many seconds."""
        ...


def start_thread(target: Callable[[], object], name: str) -> Thread:
    """Start a daemon thread in an empty context. Raises `RuntimeError` if there can't be one more."""
    if is_patched():
        return NativeThread(target, name)
    thread = threading.Thread(target=Context().run, args=(target,), name=name, daemon=True)
    thread.start()
    return thread


class NativeThread:
    """A daemon thread of the system where those of `threading` are none."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        from gevent import get_hub

        self.name = name
        self._target = target
        self._running = new_lock()
        self._running.acquire()
        get_hub()  # a first one that is made beside another imports what that imports, and both wait for ever
        _original("_thread", "start_new_thread")(Context().run, (self._run,))

    def is_alive(self) -> bool:
        return self._running.locked()

    def join(self, timeout: float | None = None) -> None:
        if self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._running.release()


async def on_thread(function: Callable[[], T], name: str) -> T:
    """What the function returns, or raises, on a daemon thread of its own, in a copy of this context.

    Unlike those of an executor, it isn't waited for at the interpreter's end, and takes nobody's place if it hangs.
    Raises `RuntimeError` if there can't be one more thread.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    future: asyncio.Future[T] = loop.create_future()

    def hand_over(set_: Callable[[Any], None], value: Any) -> None:
        if not future.done():  # else nobody waits any more
            set_(value)

    def run() -> None:
        set_: Callable[[Any], None] = future.set_result
        try:
            value: Any = context.run(function)
        except BaseException as error:
            set_, value = future.set_exception, RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(hand_over, set_, value, context=Context())

    start_thread(run, name)
    return await future


# ── what they wait on ───────────────────────────────────────────────────────


def new_lock() -> threading.Lock:
    """A lock for threads of the system: whoever waits for one of gevent's waits on its own greenlets."""
    lock: threading.Lock = _original("_thread", "allocate_lock")() if is_patched() else threading.Lock()
    return lock


def new_queue() -> SimpleQueue[Any]:
    """A queue for threads of the system."""
    queue: SimpleQueue[Any] = _original("queue", "SimpleQueue")() if is_patched() else SimpleQueue()
    return queue


class Alarm:
    """What a thread of the system waits for until others set it."""

    def __init__(self) -> None:
        self._rings = new_queue()

    def set(self) -> None:
        """End the wait, or the next one. From any thread."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self) -> None:
        """Wait until it is set, which it isn't any more then. In one thread."""
        self._rings.get()


KEEPALIVE: Final = 60.0
"""Seconds."""


def new_future() -> Future[Any]:
    """A future that one thread of the system ends and others wait for, with `outcome`."""
    future: Future[Any] = Future()
    if is_patched():
        # As a greenlet's, its lock would be handed from thread to thread by their hubs, which lose it now and then.
        future._condition = threading.Condition(_original("_thread", "RLock")())
    return future


def outcome(future: Future[T]) -> T:
    """Wait for what another thread does, and return or raise what came of it."""
    if is_patched() and not future.done():
        _let_others_run_until(future)
    return future.result()


def _let_others_run_until(future: Future[Any]) -> None:
    """Wait on this greenlet for the end of a future."""
    from gevent import get_hub
    from gevent.event import Event

    ended, loop = Event(), get_hub().loop
    future.add_done_callback(lambda _: loop.run_callback_threadsafe(ended.set))
    while not ended.wait(KEEPALIVE):  # without any timer, gevent takes it for a wait that can't end
        continue


# ── event loops ─────────────────────────────────────────────────────────────


def new_native_loop() -> asyncio.AbstractEventLoop:
    """A loop for a thread of the system, where selectors and threads are gevent's."""
    loop = asyncio.SelectorEventLoop(_original("selectors", "DefaultSelector")())
    loop.set_default_executor(NativeExecutor(1))
    return loop


class NativeExecutor(ThreadPoolExecutor):
    """Gives each call a thread of the system: greenlets would belong to the loop's, and never have their turn."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = new_future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        start_thread(run, "omniq-executor")
        return future
