"""Tasks that misbehave: they kill their process, fail in ways of their own, or aren't plain functions at all."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Generator
from typing import Any, NoReturn

from omniq import Reject, Retry, current_task

from tests.core.tasks import PATIENCE, add_async, note

# ── ones that kill their process ─────────────────────────────────────────────


def die(log: str, how: str) -> NoReturn:
    """Take the process along."""
    note(log)
    if how == "exit":
        os._exit(7)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)
    raise AssertionError("the process should be dead")


def die_beside_a_fork(log: str) -> NoReturn:
    """Leave a copy of this process behind, which has inherited all its files, and die."""
    child = os.fork()
    if child == 0:
        time.sleep(PATIENCE)
        os._exit(0)
    note(log, child)
    os._exit(7)


# ── ones that fail in ways of their own ──────────────────────────────────────


def fail_until(log: str, attempt: int) -> int:
    """Fail before that attempt."""
    note(log)
    if current_task().attempt < attempt:
        raise ValueError(f"attempt {current_task().attempt}")
    return current_task().attempt


def ask_for_a_retry(log: str, delay: Any) -> str:
    """Ask once to be run again, after `delay`."""
    note(log)
    if current_task().attempt == 1:
        raise Retry("come back", delay=delay)
    return "done"


def reject(log: str) -> NoReturn:
    """Fail for good."""
    note(log)
    raise Reject("not for me")


def reset(log: str) -> NoReturn:
    """Fail as a connection does that was reset."""
    note(log)
    raise ConnectionResetError("by peer")


def fail_with_a_timeout() -> NoReturn:
    raise TimeoutError("somebody else's")


def fail_in_several_ways() -> NoReturn:
    """With a group, one of whose members was raised, and its cause, which has a note."""
    errors: list[Exception] = [TypeError("two")]
    try:
        raise ValueError("one")
    except ValueError as error:
        errors.insert(0, error)
    try:
        raise KeyError("first")
    except KeyError as error:
        error.add_note("a note")
        raise ExceptionGroup("both", errors) from error


def exit_politely() -> NoReturn:
    sys.exit("bye")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def cancel_itself() -> NoReturn:
    raise asyncio.CancelledError


async def exit_politely_async() -> NoReturn:
    sys.exit("bye")


async def interrupt_async() -> NoReturn:
    raise KeyboardInterrupt


async def cancel_itself_async() -> NoReturn:
    raise asyncio.CancelledError


def recurse() -> int:
    return recurse() + 1


class Unprintable(Exception):
    """Its text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def fail_unprintably() -> NoReturn:
    raise Unprintable


def fail_with_half_a_character() -> NoReturn:
    """Raise an error whose text isn't Unicode that can be encoded."""
    raise ValueError("half of one: \ud83d")


def return_a_generator(log: str) -> Generator[int, None, None]:
    """Return what no serializer takes."""
    note(log)
    return (n for n in range(3))


def return_half_a_character() -> str:
    return "\ud83d"


# ── ones that aren't plain functions ─────────────────────────────────────────


def return_an_awaitable(x: int, y: int) -> Awaitable[int]:
    """A plain function whose result has to be awaited."""
    return add_async(x, y)


class Adder:
    """An object that is called and awaited."""

    def __init__(self, x: int) -> None:
        self.x = x

    async def __call__(self, y: int) -> int:
        await asyncio.sleep(0)
        return self.x + y


# ── values that don't like to travel ─────────────────────────────────────────


class Canary:
    """Sings when it is unpickled: adds a line."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return note, (self.path, "sang")


class Homebody:
    """Can't travel."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("I stay here")


def make_canary(path: str) -> Canary:
    return Canary(path)
