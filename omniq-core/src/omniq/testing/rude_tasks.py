"""Tasks that misuse the worker which runs them, and innocent ones that run beside them: by the suite for workers.

`ACTS` says how each rude one may end; the innocent ones have to succeed at their first attempt.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import locale
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from omniq.errors import Retry

SUCCESS = "success"
EXIT = "SystemExit"
LEFT = 1.0
"""Seconds that what a task leaves behind goes on."""

variable: contextvars.ContextVar[str] = contextvars.ContextVar("rudeness", default="clean")


@dataclass(frozen=True)
class Act:
    """Something rude, and how a task may end that does it: by success, or by which error."""

    run: Callable[..., Any]
    ends: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


ACTS: dict[str, Act] = {}


def rude(*ends: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Count the function among the rude ones; `options` are those of `enqueue`."""

    def count(run: Callable[..., Any]) -> Callable[..., Any]:
        ACTS[run.__name__] = Act(run, frozenset(ends), options)
        return run

    return count


# ── what a task leaves running, and what won't stop ──────────────────────────

_left: set[asyncio.Task[Any]] = set()


def leave(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Start it and don't wait for it."""
    task = asyncio.create_task(coroutine)
    _left.add(task)
    task.add_done_callback(_left.discard)


async def stay(seconds: float) -> None:
    """Wait so long, whatever anybody says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


# ── errors that nobody expects ───────────────────────────────────────────────


class Falling:
    """Fails at its end."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


@rude(SUCCESS)
def raise_from_del() -> None:
    Falling(ValueError("from __del__"))
    Falling(SystemExit(1))


@rude(SUCCESS)
async def raise_from_del_on_a_loop() -> None:
    falling = Falling(SystemExit(1))
    await asyncio.sleep(0)
    del falling


class LyingMeta(type):
    """Its classes don't tell their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__"):
            raise ValueError("no name")
        return super().__getattribute__(name)


class Lying(Exception, metaclass=LyingMeta):
    """Lies about itself wherever it can."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Retry

    @property
    def delay(self) -> Any:
        raise SystemExit

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        return "none"

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise ValueError

    def __str__(self) -> str:
        return self.__str__()

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Rude(BaseException):
    """Caught by nobody."""


@rude("omniq.testing.rude_tasks.Lying")
def raise_a_lie() -> NoReturn:
    raise Lying


@rude("omniq.testing.rude_tasks.Lying")
async def raise_a_lie_on_a_loop() -> NoReturn:
    raise Lying


@rude("BaseExceptionGroup")
def raise_a_group() -> NoReturn:
    raise BaseExceptionGroup("all", [SystemExit(1), KeyboardInterrupt(), ValueError()])


@rude("GeneratorExit")
async def raise_generator_exit() -> NoReturn:
    raise GeneratorExit


@rude("StopIteration", "RuntimeError")  # a coroutine that it gets out of makes the latter of it
def raise_stop_iteration() -> NoReturn:
    raise StopIteration(1)


@rude("RuntimeError")
async def raise_stop_iteration_on_a_loop() -> NoReturn:
    raise StopIteration(1)


@rude("StopAsyncIteration", "RuntimeError")
async def raise_stop_async_iteration() -> NoReturn:
    raise StopAsyncIteration


@rude("omniq.testing.rude_tasks.Rude")
async def raise_a_base_exception_in_a_child() -> None:
    async def child() -> NoReturn:
        raise Rude

    await asyncio.gather(child())


@rude("omniq.errors.SerializationError")
def return_a_generator() -> Any:
    return (n for n in range(3))


# ── loops ────────────────────────────────────────────────────────────────────


async def exits() -> NoReturn:
    sys.exit("a child exits")


async def interrupts() -> NoReturn:
    raise KeyboardInterrupt


@rude(EXIT)
async def exit_in_a_child() -> None:
    await asyncio.gather(asyncio.sleep(0.05), exits())


@rude("KeyboardInterrupt")
async def interrupt_in_a_child() -> None:
    await asyncio.gather(asyncio.sleep(0.05), interrupts())


@rude(EXIT, "BaseExceptionGroup", SUCCESS)  # others may cancel the child before it exits
async def exit_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())
        await asyncio.sleep(0.05)


@rude(SUCCESS)
async def leave_a_child_that_exits() -> None:
    leave(exits())


@rude(SUCCESS)
async def leave_a_child_that_exits_later() -> None:
    async def later() -> None:
        await asyncio.sleep(0.02)
        sys.exit(1)

    leave(later())


@rude(SUCCESS)
async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(0.01)


@rude(SUCCESS)
async def exit_in_a_timer() -> None:
    asyncio.get_running_loop().call_later(0.02, sys.exit)


@rude(SUCCESS)
async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)


@rude("RuntimeError")
async def close_the_loop() -> None:
    asyncio.get_running_loop().close()


@rude("RuntimeError", SUCCESS)
def close_the_current_loop() -> None:
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.close()


@rude(SUCCESS)
def leave_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


@rude(SUCCESS)
async def take_the_loop_away() -> None:
    asyncio.set_event_loop(None)
    await asyncio.sleep(0)


@rude("asyncio.exceptions.CancelledError")
async def cancel_everything() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0.01)


@rude(SUCCESS, "asyncio.exceptions.CancelledError")
async def cancel_itself_last() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@rude("RuntimeError")
async def run_a_loop_inside() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


@rude(SUCCESS)
async def set_handlers_of_the_loop() -> None:
    def broken(*_: object) -> NoReturn:
        raise ValueError("no")

    asyncio.get_running_loop().set_exception_handler(broken)
    asyncio.get_running_loop().call_soon(broken)
    await asyncio.sleep(0.01)


# ── leaving things behind ────────────────────────────────────────────────────


@rude(SUCCESS)
async def leave_coroutines() -> None:
    for _ in range(10):
        leave(asyncio.sleep(3600))
    await asyncio.sleep(0)


@rude(SUCCESS)
async def leave_a_stubborn_coroutine() -> None:
    leave(stay(LEFT))
    await asyncio.sleep(0.01)


@rude(SUCCESS)
async def leave_a_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            sys.exit("a generator exits")

    async for _ in numbers():
        break


@rude(SUCCESS)
async def leave_an_executor_job() -> None:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.2)


@rude(SUCCESS)
def leave_threads() -> None:
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(LEFT,), daemon=True).start()


@rude(SUCCESS)
def leave_a_thread_that_exits() -> None:
    threading.Thread(target=sys.exit).start()


@rude(SUCCESS)
def leave_a_process() -> None:
    subprocess.Popen(["sleep", str(LEFT)])


# ── forks ────────────────────────────────────────────────────────────────────


@rude(SUCCESS)
def fork_and_exit() -> None:
    child = os.fork()
    if child == 0:
        sys.exit(3)
    assert exit_code(child) == 3


@rude(SUCCESS)
def fork_and_return() -> None:
    child = os.fork()
    if child != 0:
        assert exit_code(child) == 0


@rude(SUCCESS)
def fork_and_fail() -> None:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    assert exit_code(child) == 1


@rude(SUCCESS)
async def fork_on_a_loop_and_exit() -> None:
    child = os.fork()
    if child == 0:
        sys.exit(3)
    assert exit_code(child) == 3


@rude(SUCCESS)
async def fork_on_a_loop_and_return() -> None:
    child = os.fork()
    if child != 0:
        assert exit_code(child) == 0


@rude(SUCCESS)
def fork_by_multiprocessing() -> None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


def exit_code(child: int) -> int:
    """How the child has ended, once it has."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ── what the process has in common ───────────────────────────────────────────


@rude(SUCCESS)
def change_directory() -> None:
    os.chdir("/")


@rude(SUCCESS)
def close_standard_files() -> None:
    for number in range(3):
        with suppress(OSError):
            os.close(number)


@rude(SUCCESS)
def close_standard_streams() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.close()


@rude(SUCCESS)
def use_up_descriptors(seconds: float = 0.3) -> None:
    opened = []
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        time.sleep(seconds)
    finally:
        for number in opened:
            with suppress(OSError):  # another one may have closed the standard files, and it is one of them
                os.close(number)


@rude(SUCCESS)
def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))


@rude(SUCCESS, "ValueError", EXIT)
def set_a_signal_handler() -> None:
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit())
    os.kill(os.getpid(), signal.SIGUSR2)


@rude(SUCCESS)
def set_a_context_variable() -> None:
    variable.set("stained")


@rude(SUCCESS)
async def set_a_context_variable_on_a_loop() -> None:
    variable.set("stained")
    await asyncio.sleep(0)


@rude(SUCCESS, "ValueError")
def trace_with_errors() -> None:
    def trace(*_: object) -> NoReturn:
        raise ValueError("traced")

    sys.settrace(trace)
    sys.setprofile(lambda *_: None)


@rude(SUCCESS)
def lower_the_recursion_limit() -> None:
    sys.setrecursionlimit(120)


@rude(SUCCESS)
def change_the_process() -> None:
    gc.disable()
    os.umask(0o077)
    os.environ["LC_ALL"] = "C"
    os.environ.pop("PATH", None)
    locale.setlocale(locale.LC_ALL, "C")


# ── too much ─────────────────────────────────────────────────────────────────


@rude("RecursionError")
def recurse() -> None:
    recurse()


@rude("RecursionError")
async def recurse_on_a_loop() -> None:
    await recurse_on_a_loop()


@rude(SUCCESS)
def allocate(size: int) -> int:
    return len(b"x" * size)


@rude("MemoryError", "OverflowError")
def allocate_too_much() -> int:
    return len(bytearray(1 << 60))


@rude("omniq.errors.TaskTimeout", timeout=0.2)
async def swallow_cancellations() -> None:
    await stay(3.0)


@rude("omniq.errors.TaskTimeout", SUCCESS, timeout=0.2)  # it may end before a busy worker looks
def ignore_the_timeout() -> None:
    time.sleep(LEFT)


# ── innocent ones ────────────────────────────────────────────────────────────


def add(x: int, y: int) -> int:
    assert variable.get() == "clean"
    return x + y


def add_on_a_loop_of_its_own(x: int, y: int) -> int:
    loop = _current_loop()
    try:
        return loop.run_until_complete(add_slowly(x, y))
    finally:
        loop.close()


def _current_loop() -> asyncio.AbstractEventLoop:
    """The thread's loop, else a new one, as soon as there are descriptors for it."""
    with suppress(RuntimeError, OSError):
        return asyncio.get_event_loop_policy().get_event_loop()
    while True:
        with suppress(OSError):
            return asyncio.new_event_loop()
        time.sleep(0.02)


async def add_slowly(x: int, y: int) -> int:
    assert variable.get() == "clean"
    await asyncio.sleep(0.01)
    return x + y


async def add_in_children(x: int, y: int) -> int:
    return sum(await asyncio.gather(add_slowly(x, 0), add_slowly(0, y)))


async def add_in_a_thread(x: int, y: int) -> int:
    return await asyncio.to_thread(add, x, y)


INNOCENT: tuple[Callable[..., Any], ...] = (add, add_slowly, add_in_children, add_in_a_thread, add_on_a_loop_of_its_own)
