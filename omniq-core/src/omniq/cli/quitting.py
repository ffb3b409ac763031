"""SIGQUIT: what a worker is doing, on stderr; and it goes on."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from typing import Final

from omniq.cli.output import say_block
from omniq.threads import start_thread
from omniq.workers.pool import AsyncWorkerPool

ANSWER: Final = 10.0
"""Seconds that the worker has to tell."""
PAUSE: Final = 0.1
"""Seconds within which what comes belongs to one signal."""


@contextmanager
def stacks_on_quit(pool: AsyncWorkerPool) -> Iterator[None]:
    """Print what the worker is doing whenever SIGQUIT comes.

    The handler isn't Python's, which runs when the main thread gets to it: `faulthandler`'s writes into a pipe at once,
    whatever C code the main thread is in. What it writes is of no interest, only that it does.
    """
    if not hasattr(signal, "SIGQUIT"):
        yield
        return
    told, telling = os.pipe()
    os.set_blocking(telling, False)  # a handler mustn't wait
    faulthandler.register(signal.SIGQUIT, telling, all_threads=False)
    start_thread(partial(_print, pool, told), "omniq-quit")
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGQUIT)
        os.close(telling)


def _print(pool: AsyncWorkerPool, told: int) -> None:
    while os.read(told, 1 << 16):
        time.sleep(PAUSE)
        os.set_blocking(told, False)
        try:
            while os.read(told, 1 << 16):
                pass
        except BlockingIOError:
            os.set_blocking(told, True)
        else:
            break
        try:
            say_block(pool.look().result(ANSWER))
        except (CancelledError, RuntimeError, TimeoutError) as error:
            say_block(f"what the worker is doing can't be told: {str(error) or type(error).__name__}")
    os.close(told)
