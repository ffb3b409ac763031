"""Tasks that show in which child process they run, what is kept of them, and who waits for whom."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from contextvars import ContextVar
from typing import Any, NoReturn

from tests.core.tasks import PATIENCE, note

# ── children that are replaced ───────────────────────────────────────────────

ready: list[str] = []
"""What the initializer has left behind."""
kept: list[bytes] = []


def initialize() -> None:
    ready.append(f"initialized in {os.getpid()}")


def fail_to_initialize() -> NoReturn:
    raise ConnectionError("postgresql://me:hush@db is down\nand out")


def exit_instead() -> NoReturn:
    raise SystemExit(3)


async def initialize_async() -> None:
    """No initializer: nothing awaits it."""


def initialized() -> list[str]:
    return ready


def keep(size: int) -> int:
    """Take so many bytes of memory, for good; returns the process."""
    kept.append(b"x" * size)
    return os.getpid()


def borrow(size: int) -> int:
    """Take so many bytes of memory, and give them back."""
    assert b"x" * size
    return os.getpid()


def pid_at_gate(gate: str, log: str) -> int:
    """Wait until the gate is open; returns the process."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


# ── tasks of which some are long ─────────────────────────────────────────────


def wait_if_told(log: str, gate: str) -> None:
    """Note that it has begun, and wait for the gate if there is to be one."""
    note(log)
    deadline = time.monotonic() + PATIENCE
    while gate and not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.005)


# ── what is kept of tasks ────────────────────────────────────────────────────


class Watched:
    """Notes in a file when it is made, and when it is freed."""

    def __init__(self, log: str, what: str) -> None:
        self.log, self.what = log, what
        note(log, f"+{what}")
        weakref.finalize(self, note, log, f"-{what}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Watched, (self.log, self.what)


variable: ContextVar[Watched] = ContextVar("variable")


def hold(argument: Watched, log: str, *, fails: bool = False) -> str:
    """Have an argument, a local, a context variable and perhaps an error that is part of a cycle."""
    variable.set(Watched(log, "variable"))
    local = Watched(log, "local")
    if fails:
        error = ValueError("no luck")
        error.watched = local  # type: ignore[attr-defined]
        raise error
    return argument.what + local.what


async def hold_async(argument: Watched, log: str, *, fails: bool = False) -> str:
    await asyncio.sleep(0)
    return hold(argument, log, fails=fails)
