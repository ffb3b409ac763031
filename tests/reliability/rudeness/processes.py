"""Tasks that misuse the process that they share with others."""

from __future__ import annotations

import asyncio
import gc
import locale
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from tests.reliability.rudeness.acts import EXIT, LEFT, SUCCESS, rude, variable
from tests.reliability.rudeness.left import stay

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
