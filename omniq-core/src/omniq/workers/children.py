"""A child process as its worker sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self

from msgspec import DecodeError

from omniq.background import to_its_end
from omniq.errors import WorkerError
from omniq.logs import get_logger
from omniq.workers import frames, messages, spawning
from omniq.workers.execution import Execution
from omniq.workers.job import Job

log = get_logger("omniq.worker")

START_PATIENCE: Final = 60.0
"""Seconds that a child may take to be ready."""
EXIT_PATIENCE: Final = 2.0
"""Seconds that a child which runs nothing may take to end by itself, and one that is killed to be dead."""


class Child:
    """One child process and the jobs it was given, the running one first.

    With each job goes a ticket, through a socket of its own, and the child begins a job only once it has drawn the
    job's ticket. The worker holds both ends of that socket: a ticket that it draws itself belongs to a job which the
    child hasn't begun and won't begin. Neither has to ask the other, so it works whatever a task is doing.
    """

    def __init__(self, started: spawning.Started, on_report: Callable[[Child, messages.Report], None]) -> None:
        self.process = started.process
        self._ends = started.ends
        self._on_report = on_report
        self._given = 0
        self._transports: list[asyncio.WriteTransport] = []
        self._spoken = asyncio.Event()
        """Set when it is ready, or will never be."""
        self._gone = asyncio.Event()
        """Set when it has hung up: it is dead, or about to be."""
        self.ready = False
        self.left = asyncio.Event()
        """Set when it takes no more jobs."""
        self.jobs: deque[Job] = deque()
        self.began = 0.0
        """When the first job began, on `time.monotonic()`'s clock."""
        self.timer: asyncio.TimerHandle | None = None
        self.killed_for: Job | None = None
        """The job which had to be ended."""

    @classmethod
    async def start(cls, execution: Execution, on_report: Callable[[Child, messages.Report], None]) -> Self:
        """A child that is ready. Raises `OSError` or `WorkerError` when there is none to be had now."""
        child = cls(spawning.start(), on_report)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(START_PATIENCE):
                    await child._get_ready(execution)
        except BaseException:  # it may be ready just now, and nobody have heard of it
            await to_its_end(child.end())
            raise
        if not child.ready:
            await to_its_end(child.end())
            code = child.process.returncode
            raise WorkerError(f"a child died before it was ready (exit code {code}): see what it wrote to stderr")
        return child

    async def _get_ready(self, execution: Execution) -> None:
        loop = asyncio.get_running_loop()
        results = frames.FrameProtocol(self._received, self._hung_up)
        # A socket for each direction: what can't be written any more mustn't keep us from reading what was said before.
        reading, _ = await loop.create_unix_connection(lambda: results, sock=self._ends.results)
        self._transports.append(reading)
        self._tasks, _ = await loop.create_unix_connection(asyncio.Protocol, sock=self._ends.tasks)
        self._transports.append(self._tasks)
        self._tasks.write(spawning.first_bytes(execution))
        await self._spoken.wait()

    # ── jobs ─────────────────────────────────────────────────────────────────

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be given any."""
        return not (self.left.is_set() or self._tasks.is_closing())

    def give(self, jobs: Sequence[Job]) -> None:
        """Let it run these jobs one after the other."""
        numbers = range(self._given, self._given + len(jobs))
        self._given = numbers.stop
        self.jobs.extend(jobs)
        self._ends.tickets.send(b"".join(map(messages.TICKET.pack, numbers)))
        packed = (messages.pack_task(number, job) for number, job in zip(numbers, jobs, strict=True))
        for part in frames.coalesced(frames.parts(head, body) for head, body in packed):
            self._tasks.write(part)

    def take_back(self) -> list[Job]:
        """The jobs that it hasn't begun, which are no longer its own."""
        drawn = b""
        with suppress(BlockingIOError):
            while more := self._ends.drawn.recv(4096, socket.MSG_DONTWAIT):
                drawn += more
        count = len(drawn) // messages.TICKET.size
        return [self.jobs.pop() for _ in range(count)][::-1]

    # ── the end ──────────────────────────────────────────────────────────────

    def kill(self, job: Job) -> None:
        """Kill it because of this job; no other one is to blame."""
        self.killed_for = self.killed_for or job
        self.left.set()
        self._kill_group()

    async def end(self) -> None:
        """See it off, with all that its tasks have started: one that is idle goes by itself, another one is killed."""
        self.left.set()
        if self.timer is not None:
            self.timer.cancel()
        if self.ready and not self.jobs and not self._tasks.is_closing():
            self._tasks.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), EXIT_PATIENCE)
        self._kill_group()  # before it is buried: until then, its number is nobody else's
        try:
            async with asyncio.timeout(EXIT_PATIENCE):
                await self._dead()
        except TimeoutError:
            log.error("child process %d was killed and isn't dead yet", self.process.pid)
        self._close()
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Kill it, for a worker whose event loop was closed."""
        self._kill_group()
        self.process.wait()
        self._ends.close()

    async def _dead(self) -> None:
        while self.process.poll() is None:  # noqa: ASYNC110 (nothing tells of it that needs no thread or descriptor)
            await asyncio.sleep(0.001)
        if self.ready:
            await self._gone.wait()  # what it said last is heard by then

    def _kill_group(self) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _close(self) -> None:
        for transport in self._transports:
            transport.abort()
        self._ends.close()

    # ── what it says ─────────────────────────────────────────────────────────

    def _received(self, head: bytes, body: bytes) -> None:
        if not self.ready:
            self.ready = True
            self._spoken.set()
            return
        try:
            report = messages.read_report(head, body)
        except DecodeError:
            log.error("child process %d says what is no report: it is killed", self.process.pid)
            self._kill_group()
        else:
            if self.jobs:
                self._on_report(self, report)

    def _hung_up(self) -> None:
        self._spoken.set()
        self._gone.set()
        self.left.set()
