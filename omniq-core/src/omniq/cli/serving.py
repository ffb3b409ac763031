"""Running a worker or a wait from the command line until it ends, or a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, NamedTuple, NoReturn, Self

from msgspec import Struct

from omniq.cli.app import FAILED, SIGNALLED, tell
from omniq.cli.health import HealthServer
from omniq.cli.live import Watch, ends_text, leave_terminals
from omniq.cli.output import count, say
from omniq.cli.program import Reloader
from omniq.cli.quitting import SIGHUP, SIGNALS, hangups, is_heard, stacks_on_quit
from omniq.core import AsyncOmniQ
from omniq.errors import ConfigError, OmniQError, WorkerError
from omniq.logs import name_in_logs
from omniq.loops import clear_loop, drive, keep_to_ourselves
from omniq.storage.base import Capability
from omniq.sync import new_event_loop
from omniq.texts import escaped
from omniq.workers.pool import AsyncWorkerPool

# ── ending ──────────────────────────────────────────────────────────────────


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
        self.end: Callable[[int, str], NoReturn] = end_now
        """How: with an exit code and last words."""
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
                self.end(deadline.code, deadline.note)
            if deadline is not None and order is not None:
                order = order._replace(at=min(deadline.at, order.at))
            deadline = order


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP, while entered, and lets a loop know of them.

    The handlers run between any two instructions of the main thread, so also while a task blocks the loop.
    Once a signal has come they stay: more of them mustn't disturb the end. A SIGHUP stops the worker only if its
    terminal is gone, else it reads its configuration again; one that is ignored stays so: that is what `nohup` is for.

    A supervised worker stops at once only if its supervisor says so: who stops a service may signal each of its
    processes, beside the supervisor that tells them.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, last_resort: LastResort, link: SupervisorLink | None = None
    ) -> None:
        self._loop = loop
        self._last_resort = last_resort
        self._link = link
        self.count = 0
        self.exit_code = 0
        """What a process exits with that was ended by the last signal."""
        self.patience: float | None = None
        """Seconds that the first signal leaves to what runs; None before the worker works, when nothing does."""
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.reread = asyncio.Event()
        """Set when the configuration is to be read again."""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._received) for number in SIGNALS if is_heard(number)}
        if self._link is not None:
            self._link.on_order, self._link.on_hangup = self.stop, self.read_again
            self._link.told_early()
        if hangups.came_early:
            self.reread.set()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.count:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if number == SIGHUP and not hangups.ends_it:
            self.read_again()
            return
        self.stop(number, at_once=self.count > 0 and self._link is None)

    def read_again(self) -> None:
        """Let the worker read its configuration again; from any thread."""
        self.call_soon(self.reread.set)

    def stop(self, number: int, *, at_once: bool) -> None:
        """Let the worker stop, as by this signal; from any thread."""
        if self.count > at_once:
            return
        self.count = 1 + at_once
        self.exit_code = SIGNALLED + number
        if self.patience is None:
            self._last_resort.within(0.0, self.exit_code if at_once else 0)
            return
        self._last_resort.within(AT_ONCE if at_once else self.patience + MARGIN, self.exit_code, TOO_LATE)
        self.call_soon(self._tell)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Let the loop call this; from any thread, and from a signal's handler."""
        with suppress(RuntimeError):  # the loop is closed: the end is near
            self._loop.call_soon_threadsafe(function)

    def die(self, error: BaseException) -> None:
        """Be gone soon, though the loop never turns again, so that a supervisor starts another one."""
        self._last_resort.within(MARGIN, FAILED, f"the worker can't go on: {error}")

    def _tell(self) -> None:
        self.first.set()
        if self.count > 1:
            self.second.set()


class SupervisorLink:
    """A supervised worker's end of what connects it with its supervisor.

    Each byte from there is the number of a signal: at SIGHUP, the worker reads its configuration again; at another one
    it stops, and from the second on at once. When nobody is at the other end any more, it stops at once, too.
    """

    VARIABLE: Final = "_OMNIQ_SUPERVISOR"
    """The numbers of the descriptor and of the worker, in the environment of one that is just being started."""

    def __init__(self, descriptor: int, number: int) -> None:
        os.set_inheritable(descriptor, False)
        self.number = number
        """Which of the supervisor's workers this is, from 1 on."""
        self._descriptor = descriptor
        self._socket = socket.socket(fileno=descriptor)
        self.on_order: Callable[..., None] = self._end_at_once
        """Called with the signal's number, and whether to stop at once, on another thread."""
        self.on_hangup: Callable[[], None] = self._note_early
        """Called when the configuration is to be read again, on another thread."""
        self._hung_up_early = False
        threading.Thread(target=self._listen, name="omniq-link", daemon=True).start()

    @classmethod
    def from_environment(cls) -> Self | None:
        """That of this process, if it is supervised."""
        said = os.environ.pop(cls.VARIABLE, None)
        return None if said is None else cls(*map(int, said.split(":")))

    @classmethod
    def environment(cls, descriptor: int, number: int) -> dict[str, str]:
        """What tells a process of it that is about to be started, as which worker."""
        return {cls.VARIABLE: f"{descriptor}:{number}"}

    def is_ready(self, patience: float) -> None:
        """Tell that the worker works, and how many seconds it will leave to what runs when it is stopped."""
        with suppress(OSError):  # that nobody is there any more is noticed elsewhere
            self._socket.sendall(f"{patience}\n".encode())

    def pass_on(self) -> dict[str, str]:
        """Leave it to the command that is about to take this one's place: what that needs in its environment."""
        os.set_inheritable(self._descriptor, True)
        return self.environment(self._descriptor, self.number)

    def _listen(self) -> None:
        heard = 0
        while True:
            try:
                order = self._socket.recv(1)
            except OSError:
                order = b""
            if order and order[0] == SIGHUP:
                self.on_hangup()
                continue
            heard += 1
            self.on_order(order[0] if order else signal.SIGTERM, at_once=heard > 1 or not order)
            if not order:
                return

    def told_early(self) -> None:
        """Tell of an order to read the configuration again that came before anybody could heed it."""
        if self._hung_up_early:
            self.on_hangup()

    def _note_early(self) -> None:
        self._hung_up_early = True

    @staticmethod
    def _end_at_once(number: int, *, at_once: bool) -> None:
        """Nothing has been begun yet."""
        end_now(SIGNALLED + number if at_once else 0)


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
            tell(f"error: {escaped(note)}", "ERROR")
        sys.stderr.flush()
        leave_terminals()


# ── serving ─────────────────────────────────────────────────────────────────


CLOSING: Final = 2.0
"""Seconds that the process may take to end when the worker has stopped."""
RELOADING: Final = 2.0
"""Seconds for which a worker whose program has changed waits at most for what runs."""
CLEARING: Final = 0.5
"""Seconds that coroutines, and threads of the loop, which tasks left behind have to end."""


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What the command line says of a worker."""

    type: str | None = None
    config: Mapping[str, object] = {}
    """The fields of `WorkerConfig` that were given."""
    burst: bool = False
    """Stop when the tasks that are due have been worked off."""
    live: bool = False
    """Show a live view of it on the terminal at stderr."""
    health: tuple[str, int] | None = None
    """Host and port where its health may be asked for."""
    processes: int | None = None
    """How many of these there are, under one supervisor."""
    link: SupervisorLink | None = None
    """Leads to that supervisor."""
    reloader: Reloader | None = None
    """Notices that the program has changed: the command is run again then."""

    def run_again(self) -> NoReturn:
        """Run this process's command again in its place."""
        assert self.reloader is not None
        leave_terminals()  # what takes its place gets the terminal itself, and nothing that is drawn on
        self.reloader.run_again({} if self.link is None else self.link.pass_on())


def run_worker(oq: AsyncOmniQ, options: WorkerOptions) -> int:
    """Run a worker in the main thread until it is told to stop; returns the exit code.

    Raises `OmniQError` if it can't start or go on, and `Failure` if the port for its health can't be had.
    """
    with ExitStack() as stack:
        health = None if options.health is None else stack.enter_context(HealthServer.at(*options.health))
        return _run_worker(oq, options, health)


def _run_worker(oq: AsyncOmniQ, options: WorkerOptions, health: HealthServer | None) -> int:
    last_resort = LastResort()
    runner = asyncio.Runner(loop_factory=new_event_loop)
    keep_to_ourselves(runner.get_loop())
    with StopSignals(runner.get_loop(), last_resort, options.link) as signals:
        service = Service(oq, options, signals, health)
        service.reload_by(last_resort)
        complaint = ""
        try:
            return drive(runner.get_loop(), service.serve())
        except Exception as error:
            complaint = str(error)
            raise
        finally:
            if signals.count > 1:  # the interpreter would take its time to take itself apart
                end_now(service.exit_code, complaint)
            _close(runner, last_resort, service.exit_code, complaint)
            if service.changed.is_set():
                last_resort.end(service.exit_code, complaint)
            if not signals.count:
                last_resort.call_off()


class Service:
    """One worker of this process."""

    def __init__(
        self, oq: AsyncOmniQ, options: WorkerOptions, signals: StopSignals, health: HealthServer | None = None
    ) -> None:
        self._oq = oq
        self._options = options
        self._signals = signals
        self._health = health
        self._began = time.monotonic()
        self.changed = asyncio.Event()
        """Set when the program has changed."""
        self.exit_code = FAILED

    async def serve(self) -> int:
        """Start, work, stop; returns the exit code. Raises `OmniQError` if it can't start or go on."""
        pool = self._oq.worker_pool(self._options.type, **self._options.config)
        self._check_shared()
        async with self._oq:
            name_in_logs(pool.name)
            with Watch(self._oq.task_queue.store, live=self._options.live, health=self._health) as watch:
                await pool.start()
                pool.on_death = self._signals.die
                watch.begin(pool)
                self._signals.patience = pool.config.grace_period
                if self._options.link is not None:
                    self._options.link.is_ready(pool.config.grace_period)
                with stacks_on_quit(pool):
                    await self._work_and_stop(pool)
        return self.exit_code

    async def _work_and_stop(self, pool: AsyncWorkerPool) -> None:
        say(self._greeting(pool))
        rereading = asyncio.ensure_future(self._read_again())
        try:
            await self._work(pool)
        finally:
            rereading.cancel()
            await self._stop(pool)
            say(self._summary(pool))

    async def _read_again(self) -> None:
        """Whenever that is wanted, let hold what has changed in the configuration file, and tell of it."""
        while True:
            await self._signals.reread.wait()
            self._signals.reread.clear()
            try:
                told = await self._oq.reload()
            except OmniQError as error:
                say(f"the configuration stays as it is: {error}")
                continue
            for line in told.changed:
                say(f"the configuration has changed: {line}")
            for line in told.restart:
                say(f"the configuration has changed, which takes a restart: {line}")
            if not (told.changed or told.restart):
                say("the configuration was read again, and hasn't changed")

    def _check_shared(self) -> None:
        store, processes = self._oq.task_queue.store, self._options.processes
        if processes is not None and processes > 1 and Capability.CROSS_PROCESS not in store.capabilities:
            raise ConfigError(f"--processes: {store.location} lives in one process, so no {processes} can serve it")

    def reload_by(self, last_resort: LastResort) -> None:
        """Let the command be run again as soon as its program has changed, and this worker has stopped or should have.

        A signal that comes meanwhile ends it.
        """
        if self._options.reloader is None:
            return

        def end(code: int, note: str) -> NoReturn:
            if self._signals.count:
                end_now(code, note)
            self._options.run_again()

        def on_change(path: str) -> None:
            if self._signals.count:
                return
            say(f"{path} has changed, reloading")
            last_resort.end = end
            last_resort.within(RELOADING + MARGIN, self.exit_code)
            self._signals.call_soon(self.changed.set)

        self._options.reloader.start(on_change)

    async def _work(self, pool: AsyncWorkerPool) -> None:
        """Return when a signal came, the worker can't go on, or there is nothing left to do. Raises `StoreError`."""
        reasons: list[asyncio.Future[object]] = [
            asyncio.ensure_future(self._signals.first.wait()),
            asyncio.ensure_future(pool.finished.wait()),
            asyncio.ensure_future(self.changed.wait()),
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
        await pool.stop(min(RELOADING, pool.config.grace_period) if self.changed.is_set() else None)
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
        queues = ", ".join(pool.report().queues)
        slots = count(pool.max_workers, "slot")
        line = f"worker {pool.name} ({pool.kind}, {slots}) serves {queues} in {self._oq.task_queue.store.location}"
        return line if self._health is None else f"{line}; health at {self._health.url}"

    def _summary(self, pool: AsyncWorkerPool) -> str:
        ends = ends_text(pool.ended) or "no task was run"
        line = f"worker {pool.name} has stopped after {time.monotonic() - self._began:.1f} s: {ends}"
        if left := len(pool.in_flight.held):
            line += f"; {count(left, 'task')} couldn't be handed back, to be run again when the leases are over"
        return line


def _close(runner: asyncio.Runner, last_resort: LastResort, exit_code: int, complaint: str) -> None:
    """Close the loop, but not at any price: tasks may have left behind what never ends."""
    last_resort.within(CLOSING, exit_code, complaint)
    try:
        cleared = drive(runner.get_loop(), _clear())
    except OSError:  # a task has closed what the loop waits with
        cleared = False
    if not cleared:
        last_resort.end(exit_code, complaint)
    runner.close()


async def _clear() -> bool:
    """Cancel everything else on the loop and end its threads; returns whether nothing is left."""
    if not await clear_loop(CLEARING):
        return False
    # It is left to itself when it takes too long: cancelling it would wait for the threads.
    ending = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    return not (await asyncio.wait([ending], timeout=CLEARING))[1]
