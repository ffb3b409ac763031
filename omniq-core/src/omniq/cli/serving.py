"""Running a worker or a wait from the command line until it ends, or a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, NamedTuple, NoReturn, Self

from msgspec import Struct

from omniq.cli.app import FAILED, SIGNALLED
from omniq.cli.output import count, say
from omniq.core import AsyncOmniQ
from omniq.errors import WorkerError
from omniq.loops import clear_loop, drive, keep_to_ourselves
from omniq.sync import new_event_loop
from omniq.texts import escaped
from omniq.workers.jobs import RunStatus
from omniq.workers.pool import AsyncWorkerPool

# ── ending ──────────────────────────────────────────────────────────────────


SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
AT_ONCE: Final = 0.9
"""Seconds within which the process is gone after a second signal."""
MARGIN: Final = 3.0
"""Seconds beyond the grace period that are left for handing back and settling."""
TOO_LATE: Final = "the worker didn't stop in time and is ended; what it held runs again when the leases are over"


class Deadline(NamedTuple):
    """When the process ends at the latest, with which exit code and last words."""

    at: float
    """On `time.monotonic()`'s clock."""
    code: int
    note: str

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self.at - time.monotonic())


class LastResort:
    """Ends the process at a deadline, whatever still runs in it: a thread, or an event loop that is stuck."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[Deadline | None] = SimpleQueue()
        threading.Thread(target=self._watch, name="omniq-last-resort", daemon=True).start()

    def within(self, seconds: float, code: int, note: str = "") -> None:
        """Be gone in that time, or at an earlier deadline if there is one. May be called by a signal handler."""
        # A `SimpleQueue`'s put takes no lock that the interrupted code could hold.
        self._orders.put(Deadline(time.monotonic() + seconds, code, note))

    def call_off(self) -> None:
        """Forget the deadline."""
        self._orders.put(None)

    def _watch(self) -> None:
        deadline: Deadline | None = None
        while True:
            try:
                order = self._orders.get(timeout=None if deadline is None else deadline.left)
            except Empty:
                assert deadline is not None
                end_now(deadline.code, deadline.note)
            if deadline is not None and order is not None:
                order = order._replace(at=min(deadline.at, order.at))
            deadline = order


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP, while entered, and lets a loop know of them.

    The handlers run between any two instructions of the main thread, so also while a task blocks the loop.
    Once a signal has come they stay: more of them mustn't disturb the end. A SIGHUP that is ignored stays so: that is
    what `nohup` is for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, last_resort: LastResort) -> None:
        self._loop = loop
        self._last_resort = last_resort
        self.count = 0
        self.exit_code = 0
        """What a process exits with that was ended by the last signal."""
        self.patience = 0.0
        """Seconds that the first signal leaves to what runs."""
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._received) for number in SIGNALS if _is_heard(number)}
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.count:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.exit_code = SIGNALLED + number
        seconds = self.patience + MARGIN if self.count == 1 else AT_ONCE
        self._last_resort.within(seconds, self.exit_code, TOO_LATE)
        with suppress(RuntimeError):  # the loop is closed: the end is near
            self._loop.call_soon_threadsafe(self._tell)

    def die(self, error: BaseException) -> None:
        """Be gone soon, though the loop never turns again, so that a supervisor starts another one."""
        self._last_resort.within(MARGIN, FAILED, f"the worker can't go on: {error}")

    def _tell(self) -> None:
        self.first.set()
        if self.count > 1:
            self.second.set()


def _is_heard(number: int) -> bool:
    return number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN


def end_now(code: int, note: str = "") -> NoReturn:
    """End the process without waiting for anything in it, once what it printed is out."""
    talking = threading.Thread(target=_last_words, args=(note,), daemon=True)
    talking.start()
    talking.join(0.1)  # whoever reads our output may be stuck
    os._exit(code)


def _last_words(note: str) -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        if note:
            print(f"error: {escaped(note)}", file=sys.stderr)
        sys.stderr.flush()


# ── serving ─────────────────────────────────────────────────────────────────


CLOSING: Final = 2.0
"""Seconds that the process may take to end when the worker has stopped."""
CLEARING: Final = 0.5
"""Seconds that coroutines, and threads of the loop, which tasks left behind have to end."""


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What the command line says of a worker."""

    type: str | None = None
    config: Mapping[str, object] = {}
    """The fields of `WorkerConfig` that were given."""
    burst: bool = False
    """Stop when the tasks that are due have been worked off."""


def run_worker(oq: AsyncOmniQ, options: WorkerOptions) -> int:
    """Run a worker in the main thread until it is told to stop; returns the exit code.

    Raises `OmniQError` if it can't start or go on.
    """
    last_resort = LastResort()
    runner = asyncio.Runner(loop_factory=new_event_loop)
    keep_to_ourselves(runner.get_loop())
    with StopSignals(runner.get_loop(), last_resort) as signals:
        service = Service(oq, options, signals)
        complaint = ""
        try:
            return drive(runner.get_loop(), service.serve())
        except Exception as error:
            complaint = str(error)
            raise
        finally:
            _close(runner, last_resort, service.exit_code, complaint)
            if not signals.count:
                last_resort.call_off()


class Service:
    """One worker of this process."""

    def __init__(self, oq: AsyncOmniQ, options: WorkerOptions, signals: StopSignals) -> None:
        self._oq = oq
        self._options = options
        self._signals = signals
        self._began = time.monotonic()
        self.exit_code = FAILED

    async def serve(self) -> int:
        """Start, work, stop; returns the exit code. Raises `OmniQError` if it can't start or go on."""
        async with self._oq:
            pool = self._oq.worker_pool(self._options.type, **self._options.config)
            await pool.start()
            self._signals.patience = pool.config.grace_period
            pool.on_death = self._signals.die
            say(self._greeting(pool))
            try:
                await self._work(pool)
            finally:
                await self._stop(pool)
                say(self._summary(pool))
        return self.exit_code

    async def _work(self, pool: AsyncWorkerPool) -> None:
        """Return when a signal came, the worker can't go on, or there is nothing left to do. Raises `StoreError`."""
        reasons: list[asyncio.Future[object]] = [
            asyncio.ensure_future(self._signals.first.wait()),
            asyncio.ensure_future(pool.finished.wait()),
        ]
        if self._options.burst:
            reasons.append(asyncio.ensure_future(pool.drain()))
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        for reason in reasons:
            reason.cancel()
        for outcome in await asyncio.gather(*reasons, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        if pool.failure is not None:
            raise WorkerError(f"the worker can't go on: {pool.failure}") from pool.failure
        self.exit_code = 0

    async def _stop(self, pool: AsyncWorkerPool) -> None:
        hurrying = asyncio.ensure_future(self._hurry(pool))
        if self._signals.count:
            running = count(len(pool.in_flight.held) - pool.in_flight.buffered, "running task")
            say(f"stopping, waiting up to {pool.config.grace_period:g} s for {running}; again to stop at once")
        await pool.stop()
        hurrying.cancel()
        with suppress(asyncio.CancelledError):
            await hurrying
        if self._signals.second.is_set():
            self.exit_code = self._signals.exit_code

    async def _hurry(self, pool: AsyncWorkerPool) -> None:
        """After a second signal: wait no longer for what runs."""
        await self._signals.second.wait()
        say("stopping at once")
        await pool.stop(0)

    # ── what it says ─────────────────────────────────────────────────────────

    def _greeting(self, pool: AsyncWorkerPool) -> str:
        kind = self._options.type or self._oq.config.worker.type
        queues = ", ".join(pool.config.queues or self._oq.task_queue.queues)
        slots = count(pool.max_workers, "slot")
        return f"worker {pool.name} ({kind}, {slots}) serves {queues} in {self._oq.task_queue.store.location}"

    def _summary(self, pool: AsyncWorkerPool) -> str:
        line = f"worker {pool.name} has stopped after {time.monotonic() - self._began:.1f} s: {_ends(pool.ended)}"
        if left := len(pool.in_flight.held):
            line += f"; {count(left, 'task')} couldn't be handed back, to be run again when the leases are over"
        return line


def _ends(ended: Mapping[RunStatus, int]) -> str:
    """How many runs ended in which way, such as "12 success, 1 error"."""
    return ", ".join(f"{number} {end}" for end, number in ended.items()) or "no task was run"


def _close(runner: asyncio.Runner, last_resort: LastResort, exit_code: int, complaint: str) -> None:
    """Close the loop, but not at any price: tasks may have left behind what never ends."""
    last_resort.within(CLOSING, exit_code, complaint)
    try:
        cleared = drive(runner.get_loop(), _clear())
    except OSError:  # a task has closed what the loop waits with
        cleared = False
    if not cleared:
        end_now(exit_code, complaint)
    runner.close()


async def _clear() -> bool:
    """Cancel everything else on the loop and end its threads; returns whether nothing is left."""
    if not await clear_loop(CLEARING):
        return False
    # It is left to itself when it takes too long: cancelling it would wait for the threads.
    ending = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    return not (await asyncio.wait([ending], timeout=CLEARING))[1]
