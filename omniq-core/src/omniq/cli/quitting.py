"""The signals that stop a worker, before it works; and SIGQUIT: what it is doing, on stderr, and it goes on."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from omniq.cli.app import SIGNALLED
from omniq.cli.output import say_block

if TYPE_CHECKING:
    from omniq.workers.pool import AsyncWorkerPool

R = TypeVar("R")

# ── before it works ─────────────────────────────────────────────────────────


SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


SIGHUP: Final = getattr(signal, "SIGHUP", None)


class Hangups:
    """What SIGHUP means to this process: that its terminal is gone, or that it is to read its configuration again."""

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()
        self.came_early = False
        """Whether it was told to read its configuration again before it works."""

    @property
    def ends_it(self) -> bool:
        """Whether the terminal is gone at which it was started."""
        return self._had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


hangups: Final = Hangups()
"""Of this process; made when it is about to run a worker."""


def is_heard(number: int) -> bool:
    """Whether this process is to heed the signal: not a SIGHUP that is ignored."""
    return number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN


@contextmanager
def early_signals() -> Iterator[None]:
    """Heed signals before a worker does, such as while its program is imported, and after it has ended.

    Nothing is in its hands then, so one that stops it ends the process in order. By default the first process of a
    container would hear none of them, and SIGQUIT would end any other.
    """
    before = {number: signal.signal(number, _end) for number in SIGNALS if is_heard(number)}
    if hasattr(signal, "SIGQUIT"):
        before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, _tell_where)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it isn't Python's
                signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    if number != SIGHUP or hangups.ends_it:
        os._exit(0)
    hangups.came_early = True


def _tell_where(number: int, frame: FrameType | None) -> None:
    places = [place for place in traceback.extract_stack(frame) if not place.filename.startswith("<frozen ")]
    with suppress(RuntimeError):  # what it interrupts is writing there itself
        say_block("".join(["no worker works here just now:\n", *traceback.format_list(places)]))


# ── what is to be tidied up ─────────────────────────────────────────────────


def run_tidily(work: Coroutine[Any, Any, R]) -> R:
    """Run it on a loop of its own; the first signal that would end this process cancels it, and those that follow are
    passed over, so that it can put away what it has made.

    Raises `KeyboardInterrupt` after Ctrl-C, and `Exit` with 128 and the signal's number after another one.
    """
    import asyncio

    async def heeding() -> R:
        loop, doing, came = asyncio.get_running_loop(), asyncio.ensure_future(work), list[int]()

        def end(number: int) -> None:
            came.append(number)
            if len(came) == 1:
                doing.cancel()

        heard = [number for number in SIGNALS if is_heard(number)]
        for number in heard:
            loop.add_signal_handler(number, end, number)
        try:
            return await doing
        except asyncio.CancelledError:
            if not came:
                raise
            raise _ended_by(came[0]) from None
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    return asyncio.run(heeding())


def _ended_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else click.exceptions.Exit(SIGNALLED + number)


# ── while it works ──────────────────────────────────────────────────────────


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
    from omniq.threads import start_thread  # it imports asyncio, and early signals are to be heard early

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
