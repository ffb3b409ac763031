"""Functions that the tests of the command line run as tasks: what is hard to stop, or hard to print."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import subprocess
import sys
import threading
import time
import warnings

from omniq import current_task

from tests.core.tasks import note, wait_for_async

LONG = 60.0
"""Seconds that no test waits for."""


def greet(name: str, times: int = 1) -> str:
    """Say hello."""
    return f"hello {name} " * times


def birthday() -> dt.date:
    """Return what JSON doesn't know."""
    return dt.date(2020, 2, 29)


def fail() -> None:
    """Fail with a text of two lines."""
    raise ValueError("one\ntwo")


async def stay_awake(log: str) -> None:
    """Wait, whatever anybody says."""
    note(log)
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue


async def block_the_loop(log: str) -> None:
    """Compute on the loop without letting anything else onto it."""
    note(log)
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        sum(range(1000))


async def leave_a_thread_behind(log: str) -> None:
    """Wait for a thread of the loop that goes on when nobody waits any more."""
    note(log)
    await asyncio.to_thread(time.sleep, LONG)


def start_a_program(log: str) -> None:
    """Wait for another process."""
    program = subprocess.Popen(["sleep", str(LONG)])
    note(log)
    program.wait()


async def progress(log: str, gate: str) -> str:
    """Tell how far it is, with a message that would move a cursor, and wait for the file."""
    current_task().progress(0.45, "reading\x1b[2J 漢字")
    return await wait_for_async(gate, log)


def write_everywhere() -> None:
    """Write to both streams, by a program, over and over a line, and a line without an end."""
    print("to stdout")
    print("to stderr", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('from a program')"], check=True)
    print("1 %\r50 %\r100 %", flush=True)
    print("without an end", end="", flush=True)


def log_everything() -> None:
    """Log what is hard to put on one line, warn, and raise where nobody catches it."""
    log = logging.getLogger("shop")
    log.warning("two\nlines and \ud800 漢字 of %s", "text", extra={"order": 7, "odd": {1, 2}})
    log.warning("one %s too many", 1, 2)
    warnings.warn("mind\nthe gap", stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError:
        log.exception("it has failed")


def fork_and_stay(log: str) -> None:
    """Leave a forked child behind that lives on."""
    if os.fork() == 0:
        note(log, os.getpid())
        time.sleep(LONG)
