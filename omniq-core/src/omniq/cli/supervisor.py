"""`omniq worker --processes N`: a process that starts workers, and others in the place of those that die.

Each is this process's own command, run anew in a session of its own: nothing is inherited but a socket. The worker
takes its orders from there, and the end of this process for its last one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self

from omniq.batching import Backoff
from omniq.cli.app import FAILED, MISUSED, SIGNALLED
from omniq.cli.output import count, say
from omniq.cli.program import this_command
from omniq.cli.quitting import SIGHUP, SIGNALS, hangups, is_heard
from omniq.cli.serving import AT_ONCE, MARGIN, SupervisorLink

FIRST_PAUSE, MAX_PAUSE = 0.5, 30.0
"""Seconds until another worker is started in the place of one that has died; they double from death to death."""
LONG_LIFE: Final = 60.0
"""Seconds after which a worker's death has nothing to do with those before it."""
LATE: Final = 0.05
"""Seconds after its own deadline at which a worker is killed."""


class WorkerProcess:
    """A supervised worker, as its supervisor sees it."""

    def __init__(self, process: asyncio.subprocess.Process, ours: socket.socket) -> None:
        self.process = process
        self._link = ours
        self._began = time.monotonic()
        self.works = False
        """Whether it has ever said that it does."""
        self.patience = 0.0
        """Seconds that it leaves to what runs when it is stopped, as it has said."""

    @classmethod
    async def start(cls, number: int) -> Self:
        """Start the worker of that number. Raises `OSError` when there are no descriptors or processes left."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *this_command(),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **SupervisorLink.environment(theirs.fileno(), number)},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # so that Ctrl-C reaches the supervisor alone
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began

    def tell(self, number: int) -> None:
        """Pass this signal on: it stops, at once if it is the second time, or reads its configuration again."""
        with suppress(OSError):  # it has ended
            self._link.send(bytes([number]))

    async def until_ready(self) -> bool:
        """Wait until it works; returns whether it ever did."""
        said = b""
        while not said.endswith(b"\n"):
            try:
                more = await asyncio.get_running_loop().sock_recv(self._link, 64)
            except OSError:
                more = b""
            if not more:
                return False
            said += more
        self.patience = float(said.split()[0])
        self.works = True
        return True

    def close(self) -> None:
        """Give back what it needed: it has ended."""
        self._link.close()


class Supervisor:
    """Keeps so many workers alive until it is told to stop, or each has worked off what was due."""

    def __init__(self, processes: int, *, burst: bool) -> None:
        self._processes = processes
        self._burst = burst
        self._workers: set[WorkerProcess] = set()
        self._heard: list[int] = []
        """The signals that it was told to stop by."""
        self._any_ready = False
        """Whether any worker has ever worked."""
        self._go_on = asyncio.Event()
        """Set when the first worker works: what could be checked is right then, and others may start."""
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Start workers, and wait for their end; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in filter(is_heard, SIGNALS):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGQUIT, self._ask)
        first = asyncio.create_task(self._keep(1))
        first.add_done_callback(lambda _: self._go_on.set())
        await self._go_on.wait()
        await asyncio.gather(first, *(self._keep(number) for number in range(2, self._processes + 1)))
        say(f"all worker processes have ended, exit code {self._exit_code}")
        return self._exit_code

    async def _keep(self, number: int) -> None:
        """Have a worker at any time, until there is to be none."""
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while not self._stopping.is_set():
            try:
                worker = await WorkerProcess.start(number)
            except OSError as error:
                say(f"worker process {number} can't be started, trying again in {backoff.next:g} s: {error}")
            else:
                code = await self._watch(worker, number)
                if self._is_over(code):
                    return
                if worker.age > LONG_LIFE:
                    backoff.reset()
                say(f"worker process {number}: another one takes its place in {backoff.next:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff.step())

    async def _watch(self, worker: WorkerProcess, number: int) -> int:
        """Look after a worker until it ends; returns its exit code, negative for the signal that has killed it."""
        self._workers.add(worker)
        for heard in self._heard:  # while it was being started
            worker.tell(heard)
        say(f"worker process {number} of {self._processes} has pid {worker.process.pid}")
        listening = asyncio.create_task(self._listen(worker))
        code = await worker.process.wait()
        listening.cancel()
        await asyncio.wait([listening])
        worker.close()
        self._workers.discard(worker)
        say(f"worker process {number} (pid {worker.process.pid}) {_told(code)} after {worker.age:.1f} s")
        return code

    async def _listen(self, worker: WorkerProcess) -> None:
        if await worker.until_ready():
            self._any_ready = True
            self._go_on.set()

    def _is_over(self, code: int) -> bool:
        """Whether a worker that has ended so gets no successor."""
        refused = code == MISUSED or (code == FAILED and not self._any_ready)
        if not (refused or self._stopping.is_set() or (self._burst and code in (0, FAILED))):
            return False
        was_told = self._stopping.is_set() and -code in SIGNALS  # before it could listen
        if code != 0 and not was_told and len(self._heard) < 2:
            self._exit_code = self._exit_code or (code if code > 0 else SIGNALLED - code)
        if refused and not self._stopping.is_set():
            self._stop(signal.SIGTERM)
        return True

    # ── signals ──────────────────────────────────────────────────────────────

    def _signalled(self, number: int) -> None:
        if number == SIGHUP and not hangups.ends_it:
            say("the workers are told to read their configuration again")
            for worker in self._workers:
                worker.tell(number)
            return
        if self._heard:
            say("stopping at once")
            self._exit_code = SIGNALLED + number
        else:
            say(f"stopping {count(len(self._workers), 'worker process', 'worker processes')}; again to stop at once")
        self._stop(number)

    def _stop(self, number: int) -> None:
        """Let all workers stop as by this signal, and kill those that don't in the time that they have."""
        self._heard.append(number)
        self._stopping.set()
        self._go_on.set()
        for worker in self._workers:
            worker.tell(number)
        patience = max((worker.patience for worker in self._workers), default=0.0)
        seconds = AT_ONCE if len(self._heard) > 1 else patience + MARGIN
        asyncio.get_running_loop().call_later(seconds + LATE, self._send, signal.SIGKILL)

    def _ask(self) -> None:
        """Let the workers tell what they are doing; one that is starting may not be able to hear it, and would die."""
        starting = [worker for worker in self._workers if not worker.works]
        for worker in starting:
            say(f"the worker process with pid {worker.process.pid} is starting")
        self._send(signal.SIGQUIT, self._workers.difference(starting))

    def _send(self, number: int, workers: Iterable[WorkerProcess] | None = None) -> None:
        """Send a signal to all workers, or to these."""
        for worker in self._workers if workers is None else workers:
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)


def _told(code: int) -> str:
    """How a worker ended."""
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"


def supervise(processes: int, *, burst: bool) -> int:
    """Run this process's command in so many processes until told to stop; returns the exit code."""
    return asyncio.run(Supervisor(processes, burst=burst).run())
