"""The worker whose tasks run in child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import msgspec

from omniq import clock
from omniq.errors import TaskTimeout, WorkerError
from omniq.logs import get_logger
from omniq.workers.base import Worker
from omniq.workers.child import READY, SIGNALS, ChildTask, Hello
from omniq.workers.desk import Desk
from omniq.workers.execution import Execution, failure
from omniq.workers.job import End, Job, Ran
from omniq.workers.runner import Runner

log = get_logger("omniq.worker")

CHUNK_SECONDS = 0.005
"""A child gets as many short tasks at once as take about so long."""
MAX_CHUNK = 64
MAX_FALSE_STARTS = 3
"""Children that die before they are ready, in a row, before the worker gives up."""

_encode = msgspec.msgpack.Encoder().encode
_decode_ran = msgspec.msgpack.Decoder(Ran).decode


class Child:
    """One child process and the jobs it was given, the running one first."""

    def __init__(self, hello: Hello, on_message: Callable[[Child, bytes], None], on_death: Callable[[Child], None]):
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_death = on_death
        self.jobs: deque[Job] = deque()
        self.ready = False
        self.began = 0.0
        self.dying = False
        """Whether it was killed from here, or found dead."""
        self.killed_for: Job | None = None
        self.timer: asyncio.TimerHandle | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "omniq.workers.child", str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            with signals_blocked():  # until the child has handlers for them
                self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(_encode(hello))
        self._loop.add_reader(self._connection.fileno(), self._readable)

    def send(self, jobs: list[Job]) -> None:
        """Give it these jobs to run one after the other."""
        self.jobs.extend(jobs)
        try:
            self._connection.send_bytes(_encode([ChildTask.of(job) for job in jobs]))
        except OSError:
            self.kill()  # it is dead already: the reader will see it

    def kill(self, job: Job | None = None) -> None:
        """Kill it because of this job; no other one is to blame."""
        self.dying = True
        self.killed_for = job
        self.process.kill()

    def close(self) -> None:
        """Hang up and see the process off."""
        self._loop.remove_reader(self._connection.fileno())
        self._connection.close()
        if self.timer is not None:
            self.timer.cancel()
        self.process.kill()
        self.process.wait()

    def _readable(self) -> None:
        try:
            while not self._connection.closed and self._connection.poll():
                self._on_message(self, self._connection.recv_bytes())
        except (EOFError, OSError):
            self._on_death(self)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Keep `SIGNALS` waiting, also in a process that is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ProcessRunner(Runner):
    """Each task has a process to itself while it runs; a process that dies takes only its running task along."""

    isolates = True

    def __init__(self, desk: Desk, execution: Execution, *, max_workers: int) -> None:
        super().__init__(desk, execution, max_workers=max_workers)
        self._children: set[Child] = set()
        self._false_starts = 0
        self._seconds: dict[str, float] = {}
        """By function: how long its tasks take, as a moving average."""
        self._closing = False

    async def open(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise WorkerError("ProcessPoolWorker needs a POSIX system: use ThreadPoolWorker here")
        for _ in range(self.max_workers):
            self._spawn()

    def wake(self) -> None:
        for child in self._children:
            if child.ready and not child.jobs and not child.dying:
                jobs = self._chunk()
                if not jobs:
                    return
                child.send(jobs)
                self._begin(child)

    def stop_job(self, job: Job, why: End) -> None:
        """Kill the process that runs the job; one that waits behind another job is killed when its turn comes."""
        if job.ended_by is None:
            job.ended_by = why
            child = next((child for child in self._children if child.jobs and child.jobs[0] is job), None)
            if child is not None:
                child.kill(job)

    async def close(self) -> None:
        self._closing = True
        for child in list(self._children):
            self._children.discard(child)
            child.close()
            for job in child.jobs:
                self.desk.done(job, Ran(end=job.ended_by or End.RELEASED))

    # ── children ─────────────────────────────────────────────────────────────

    def _spawn(self) -> None:
        security, max_result = self.execution.security, self.execution.max_result
        hello = Hello(sys_path=sys.path, security=security, max_result=max_result, parent=os.getpid())
        self._children.add(Child(hello, self._message, self._death))

    def _chunk(self) -> list[Job]:
        """The jobs that a free child gets: one, or some of functions that are known to be short."""
        jobs: list[Job] = []
        left = CHUNK_SECONDS
        while left > 0 and len(jobs) < MAX_CHUNK and (job := self.desk.take()) is not None:
            jobs.append(job)
            if job.alone or job.call.timeout is not None:
                break
            left -= self._seconds.get(job.call.func, CHUNK_SECONDS)
        return jobs

    def _begin(self, child: Child) -> None:
        """The child's first job has begun, as far as can be told from here."""
        job = child.jobs[0]
        child.began = time.monotonic()
        job.started_at = clock.now()
        self.on_start(job)
        if job.ended_by is not None:
            child.kill(job)
        elif job.call.timeout is not None:
            child.timer = asyncio.get_running_loop().call_later(job.call.timeout, child.kill, job)

    def _message(self, child: Child, data: bytes) -> None:
        if not child.ready:
            assert data == READY
            child.ready = True
            self._false_starts = 0
        else:
            self._finished(child, _decode_ran(data))
        if child.jobs:
            self._begin(child)
        else:
            self.wake()

    def _finished(self, child: Child, ran: Ran) -> None:
        job = child.jobs.popleft()
        if child.timer is not None:
            child.timer.cancel()
            child.timer = None
        self._learn(job.call.func, time.monotonic() - child.began)
        self.desk.done(job, ran)

    def _learn(self, func: str, seconds: float) -> None:
        known = self._seconds.get(func, seconds)
        self._seconds[func] = known + 0.2 * (seconds - known)

    def _death(self, child: Child) -> None:
        child.close()
        self._children.discard(child)
        if child.jobs and (not child.dying or child.killed_for is child.jobs[0]):
            job = child.jobs.popleft()
            self.desk.done(job, self._what_killed(child, job))
        self.desk.put_back(child.jobs)
        if not child.ready:
            self._false_starts += 1
            if self._false_starts >= MAX_FALSE_STARTS:
                self.on_failure(WorkerError("child processes die before they are ready: see what they wrote to stderr"))
                return
        if not self._closing:
            self._spawn()

    def _what_killed(self, child: Child, job: Job) -> Ran:
        if job.ended_by is not None:
            return Ran(end=job.ended_by, started_at=job.started_at)
        if child.killed_for is job:
            return failure(job, TaskTimeout())
        log.error("task %s: its process died (exit code %s)", job.record.id, child.process.returncode)
        return Ran(end=End.CRASHED)


class ProcessPoolWorker(Worker):
    """Runs tasks in `max_workers` processes: for code that computes, that may crash, or that must be stoppable."""

    kind = "process"
    default_max_workers = os.cpu_count() or 1
    runner = ProcessRunner
