"""A child process as its worker sees it, and how it is started."""

from __future__ import annotations

import asyncio
import fcntl
import marshal
import math
import os
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self, cast

from msgspec import DecodeError, MsgspecError

from omniq.config import settings
from omniq.errors import WorkerError
from omniq.loops import to_its_end
from omniq.models.config import ChildProcessWorkerConfig
from omniq.texts import get_logger
from omniq.workers import messages
from omniq.workers.child import SIGNALS
from omniq.workers.execution import Execution, LogSettings
from omniq.workers.jobs import Job
from omniq.workers.stacks import SIGSTACKS, Stack

# ── starting ────────────────────────────────────────────────────────────────


BOOTSTRAP: Final = Path(__file__).with_name("bootstrap.py")


class Ends(NamedTuple):
    """The worker's ends of the sockets to a child."""

    tasks: socket.socket
    results: socket.socket
    tickets: socket.socket
    drawn: socket.socket
    """The child's own end of `tickets`: what is read here, the child doesn't get."""
    leash: socket.socket
    """Nothing is said here: that it is closed, as by the death of this process, kills the child."""

    def close(self) -> None:
        for end in self:
            end.close()


class Started(NamedTuple):
    """A new child process."""

    process: subprocess.Popen[bytes]
    ends: Ends


def start(module: str) -> Started:
    """Start a child, which is to run the module's `main`, in a session of its own.

    Raises `OSError` when there are no descriptors or processes left.
    """
    with ExitStack() as opened:
        (tasks, their_tasks), (results, their_results), (tickets, drawn), (leash, their_leash) = (
            _pair(opened) for _ in range(4)
        )
        theirs = (their_tasks, drawn, their_results, their_leash)
        process = _popen(module, [end.fileno() for end in theirs])
        opened.pop_all()
    for end in (their_tasks, their_results, their_leash):
        end.close()
    tickets.setblocking(False)
    return Started(process, Ends(tasks, results, tickets, drawn, leash))


def first_bytes(execution: Execution, config: ChildProcessWorkerConfig) -> bytes:
    """What a child reads first: the import path, and a greeting."""
    # Python itself skips entries that aren't text. Only `marshal` is at hand to the bootstrap, and it takes any text.
    path = marshal.dumps([entry for entry in cast("list[object]", sys.path) if isinstance(entry, str)])
    security, limit, logs = execution.security.for_children(), execution.max_result, LogSettings.of_this_process()
    own = (config.max_memory_per_child, config.initializer)
    greeting = messages.Greeting(security, limit, settings.secrets(), logs, os.getpid(), *own)
    return len(path).to_bytes(4, "big") + path + messages.parts(messages.pack_greeting(greeting))[0]


def _popen(module: str, theirs: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, *_flags(), "-P", str(BOOTSTRAP), module, *map(str, theirs)]
    with _signals_blocked():  # until the child has handlers for them
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=settings.without_secrets(),
            pass_fds=theirs,
            start_new_session=True,  # so that all that it starts can be killed with it, and Ctrl-C reaches none
        )


def _flags() -> list[str]:
    """The options that this interpreter was started with, such as -O, -W and -X."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        option = name if value is True else f"{name}={value}"
        if option not in flags:
            flags += ["-X", option]
    return flags


def _pair(opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that block, whatever `socket.setdefaulttimeout` says: a child shares its end's mode."""
    pair = [_above_standard(end) for end in socket.socketpair()]
    for end in pair:
        opened.enter_context(end).setblocking(True)
    return pair[0], pair[1]


def _above_standard(sock: socket.socket) -> socket.socket:
    """The socket under a number that no standard stream of a child takes, should this process have closed its own."""
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep `SIGNALS` waiting, also in a process that is started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ── children ────────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")

START_PATIENCE: Final = 60.0
"""Seconds that a child may take to be ready."""
ANSWER_PATIENCE: Final = 1.0
"""Seconds that a child has to tell what it runs, and as many again when it is asked by a signal."""
SIGNAL_PAUSE: Final = 0.1
"""Seconds after which what a signal's handler writes is over, if nothing more has come."""
UNLIMITED: Final = ChildProcessWorkerConfig()
EXIT_PATIENCE: Final = 2.0
"""Seconds that a child which runs nothing may take to end by itself, and one that is killed to be dead."""


class ChildProcess(ABC):
    """A process that runs jobs, as its worker sees it."""

    module: ClassVar[str]
    """Whose `main` it runs."""

    def __init__(
        self, started: Started, on_message: Callable[[Any, messages.Message], None], config: ChildProcessWorkerConfig
    ) -> None:
        self.process = started.process
        self._config = config
        self._ends = started.ends
        self._on_message = on_message
        self._given = 0
        self._trouble = ""
        """Why it isn't ready, if it has said so."""
        self._transports: list[asyncio.WriteTransport] = []
        self._spoken = asyncio.Event()
        """Set when it is ready, or will never be."""
        self._gone = asyncio.Event()
        """Set when it has hung up: it is dead, or about to be."""
        self.ready = False
        self.spent = asyncio.Event()
        """Set when it takes no more jobs, and is to have a successor."""
        self.killed_for: Job | None = None
        """The job which had to be ended."""
        self.left = asyncio.Event()
        """Set when it has to go."""

    @classmethod
    async def start(
        cls,
        execution: Execution,
        on_message: Callable[[Self, messages.Message], None],
        config: ChildProcessWorkerConfig = UNLIMITED,
    ) -> Self:
        """A child that is ready. Raises `OSError` or `WorkerError` when there is none to be had now."""
        child = cls(start(cls.module), on_message, config)
        try:
            async with asyncio.timeout(START_PATIENCE):
                await child._get_ready(execution)
        except TimeoutError:
            child._trouble = f"it isn't ready after {START_PATIENCE:g} s"
        except BaseException:  # it may be ready just now, and nobody have heard of it
            await to_its_end(child.end())
            raise
        if not child.ready:
            await to_its_end(child.end())
            code = child.process.returncode
            died = f"a child died before it was ready (exit code {code}): see what it wrote to stderr"
            raise WorkerError(child._trouble or died)
        return child

    async def _get_ready(self, execution: Execution) -> None:
        loop = asyncio.get_running_loop()
        results = messages.FrameProtocol(self._received, self._hung_up)
        # A socket for each direction: what can't be written any more mustn't keep us from reading what was said before.
        reading, _ = await loop.create_unix_connection(lambda: results, sock=self._ends.results)
        self._transports.append(reading)
        self._tasks, _ = await loop.create_unix_connection(asyncio.Protocol, sock=self._ends.tasks)
        self._transports.append(self._tasks)
        self._tasks.write(first_bytes(execution, self._config))
        await self._spoken.wait()

    # ── jobs ─────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether it has no job."""

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be given any."""
        return not (self.spent.is_set() or self._tasks.is_closing())

    @property
    def quota(self) -> float:
        """How many more jobs it may be given."""
        most = self._config.max_tasks_per_child
        return math.inf if most is None else most - self._given

    def _numbers(self, count: int) -> range:
        """Numbers for so many jobs that it is about to be given."""
        numbers = range(self._given, self._given + count)
        self._given = numbers.stop
        if self.quota <= 0:
            self.spent.set()
        return numbers

    def _send(self, jobs: Iterable[tuple[int, Job]]) -> None:
        packed = (messages.pack_task(number, job) for number, job in jobs)
        for part in messages.coalesced(messages.parts(head, body) for head, body in packed):
            self._tasks.write(part)

    # ── what it does ─────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def running(self) -> list[Job]:
        """The jobs that it has begun, as far as can be told."""

    async def stacks(self) -> dict[str, Stack]:
        """Where its tasks are, by their ids; from any event loop, but once at a time.

        A child whose threads don't get their turn, as C code holds Python's lock, is asked by a signal: its handler
        writes what the interpreter knows. Nothing, if it ends meanwhile.
        """
        with suppress(OSError), self._ends.tickets.dup() as answers:
            await self._read(answers, at_most=0.0)  # what was answered too late
            self._ends.results.send(b"?", socket.MSG_DONTWAIT)
            answer = await self._read(answers, at_most=ANSWER_PATIENCE, end=messages.END)
            if answer.endswith(messages.END):
                with suppress(MsgspecError):
                    return messages.read_stacks(answer)
            self.process.send_signal(SIGSTACKS)
            text = (await self._read(answers, at_most=ANSWER_PATIENCE, quiet=SIGNAL_PAUSE)).decode("utf-8", "replace")
            return dict.fromkeys((job.record.id for job in self.running), text)
        return {}

    @staticmethod
    async def _read(answers: socket.socket, *, at_most: float, quiet: float = 60.0, end: bytes | None = None) -> bytes:
        """What comes within so many seconds, until it ends, or nothing has come after it for some time."""
        loop, data = asyncio.get_running_loop(), b""
        deadline = loop.time() + at_most
        with suppress(TimeoutError):
            while end is None or not data.endswith(end):
                async with asyncio.timeout_at(min(deadline, loop.time() + quiet) if data else deadline):
                    data += await loop.sock_recv(answers, 1 << 20)
        return data

    # ── the end ──────────────────────────────────────────────────────────────

    def leave(self) -> None:
        """Let it go, whatever it runs."""
        self.spent.set()
        self.left.set()

    def leave_if_done(self) -> None:
        """Let it go if it has run all that it was to run."""
        if self.spent.is_set() and self.is_idle:
            self.left.set()

    async def end(self) -> None:
        """See it off, with all that its tasks have started: one that is idle goes by itself, another one is killed."""
        self.leave()
        if self.ready and self.is_idle and not self._tasks.is_closing():
            self._tasks.write_eof()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), EXIT_PATIENCE)
        self.kill_group()  # before it is buried: until then, its number is nobody else's
        try:
            async with asyncio.timeout(EXIT_PATIENCE):
                await self._dead()
        except TimeoutError:
            log.error("child process %d was killed and isn't dead yet", self.process.pid)
        self._close()
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Kill it, for a worker whose event loop was closed."""
        self.kill_group()
        self.process.wait()
        self._ends.close()

    async def _dead(self) -> None:
        while self.process.poll() is None:  # noqa: ASYNC110 (nothing tells of it that needs no thread or descriptor)
            await asyncio.sleep(0.001)
        if self.ready:
            await self._gone.wait()  # what it said last is heard by then

    def kill(self, job: Job) -> None:
        """Kill it because of this job; no other one is to blame."""
        self.killed_for = self.killed_for or job
        self.leave()
        self.kill_group()

    def kill_group(self) -> None:
        """Kill it, with all that its tasks have started."""
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
            self.ready, self._trouble = not head, head.decode()
            self._spoken.set()
            return
        try:
            message = messages.read_message(head, body)
        except DecodeError:
            log.error("child process %d says what is no message: it is killed", self.process.pid)
            self.kill_group()
        else:
            if not self.is_idle:
                self._on_message(self, message)

    def _hung_up(self) -> None:
        self._spoken.set()
        self._gone.set()
        self.leave()


class Child(ChildProcess):
    """One that runs its jobs one after the other, the running one first.

    With each job goes a ticket, through a socket of its own, and the child begins a job only once it has drawn the
    job's ticket. The worker holds both ends of that socket: a ticket that it draws itself belongs to a job which the
    child hasn't begun and won't begin. Neither has to ask the other, so it works whatever a task is doing.
    """

    module = "omniq.workers.child"

    def __init__(
        self, started: Started, on_message: Callable[[Any, messages.Message], None], config: ChildProcessWorkerConfig
    ) -> None:
        super().__init__(started, on_message, config)
        self.jobs: deque[Job] = deque()
        self.began = 0.0
        """When the first job began, on `time.monotonic()`'s clock."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        return not self.jobs

    @property
    def running(self) -> list[Job]:
        return list(self.jobs)[:1]

    def give(self, jobs: Sequence[Job]) -> None:
        """Let it run these jobs one after the other."""
        numbers = self._numbers(len(jobs))
        self.jobs.extend(jobs)
        self._ends.tickets.send(b"".join(map(messages.TICKET.pack, numbers)))
        self._send(zip(numbers, jobs, strict=True))

    def take_back(self) -> list[Job]:
        """The jobs that it hasn't begun, which are no longer its own."""
        drawn = b""
        with suppress(BlockingIOError):
            while more := self._ends.drawn.recv(4096, socket.MSG_DONTWAIT):
                drawn += more
        count = len(drawn) // messages.TICKET.size
        return [self.jobs.pop() for _ in range(count)][::-1]

    async def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        await super().end()
