"""Tasks that are somewhere for as long as a test wants: until a file exists."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

SECRET = "hunter2"


def wait(gate: str, started: str, password: str = "") -> str:
    Path(started).touch()
    return blocking_here(gate)


def blocking_here(gate: str) -> str:
    while not os.path.exists(gate):
        time.sleep(0.02)
    return "done"


def compute(gate: str, started: str, password: str = "") -> str:
    Path(started).touch()
    return computing_here(gate)


def computing_here(gate: str) -> str:
    while not os.path.exists(gate):
        pass
    return "done"


async def wait_async(gate: str, started: str, password: str = "") -> str:
    Path(started).touch()
    return await outer(gate)


async def outer(gate: str) -> str:
    async for turn in turns(gate):
        await awaiting_here(turn)
    return "done"


async def awaiting_here(turn: int) -> None:
    await asyncio.sleep(0.02)


async def turns(gate: str) -> AsyncIterator[int]:
    turn = 0
    while not os.path.exists(gate):
        yield (turn := turn + 1)


async def block_the_loop(gate: str, started: str, password: str = "") -> str:
    Path(started).touch()
    return blocking_here(gate)


async def wait_then_block_the_loop(gate: str, started: str, password: str = "") -> str:
    await asyncio.sleep(0)
    return await block_the_loop(gate, started)


async def block_in_c(started: str) -> None:
    """Block the loop for ever in C code that no signal interrupts, and that lets other threads have their turns."""
    Path(started).touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def hold_the_lock(started: str) -> None:
    """Run C code for ever that lets no other thread of the process have its turn."""
    Path(started).touch()
    re.match("(a+)+$", 60 * "a" + "b")


def recurse(gate: str, started: str, depth: int = 200) -> str:
    return recurse(gate, started, depth - 1) if depth else wait(gate, started)
