"""A child process: how it runs tasks, and is tidied up between them."""

from __future__ import annotations

import faulthandler
import fcntl
import functools
import inspect
import io
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from typing import Final, TextIO

from omniq.config import settings
from omniq.errors import SerializationError
from omniq.loops import forks
from omniq.models.config import mask_url
from omniq.models.result import Progress
from omniq.texts import escaped, get_logger, qualified_name, safe_text
from omniq.threads import Thread, new_lock, start_thread
from omniq.workers import messages
from omniq.workers.execution import Execution, failure
from omniq.workers.jobs import Job, RunResult
from omniq.workers.stacks import SIGSTACKS, Stack, of_threads
from omniq.workers.thread import ThreadLoop
from omniq.workers.thread_loop import is_usable, reopened

# ── what tasks leave behind ─────────────────────────────────────────────────


MANY: Final = 0.75
"""The part of the descriptors it may have after whose use a process is given up: innocent tasks need some too."""

CHECK: Final = 0.001
"""Seconds after which descriptors are put back though none seems to be closed: a task may have led them elsewhere."""


TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
"""Those that end a process by a signal; the first one is that of `signal.alarm`."""


class ProcessState:
    """Puts back what a task has changed for those behind it, as far as that goes.

    That is: descriptors 0 to 2, `sys.stdout` and `sys.stderr`, the working directory, the umask, blocked signals,
    timers that raise one and the recursion limit. The environment, modules and `sys.path` are left alone: much code
    sets them, for good, when it is first imported.
    """

    def __init__(self, vital: Iterable[int]) -> None:
        """`vital` are descriptors without which the process has to end."""
        self._vital = {descriptor: _identity(descriptor) for descriptor in vital}
        self._standard = [(kept, number) for number in range(3) if (kept := _duplicate(number)) is not None]
        self._output, self._errors = _by_line(sys.stdout), _by_line(sys.stderr)
        self._directory = _working_directory()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._recursion_limit = sys.getrecursionlimit()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_descriptors = sys.maxsize if limit == resource.RLIM_INFINITY else int(MANY * limit)
        self._lowest = _lowest_free()
        self._check_at = 0.0

    def restore(self) -> bool:
        """Put everything back, and out what was printed; returns whether the process is fit for another task."""
        sys.setrecursionlimit(self._recursion_limit)
        try:
            os.umask(self._umask)
            for timer in TIMERS:
                signal.setitimer(timer, 0.0)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
            if self._directory is not None:
                os.fchdir(self._directory)
            flushed, now, lowest = self.flush(), time.monotonic(), _lowest_free()
            if not flushed or lowest != self._lowest or now > self._check_at:
                self._check_at = now + CHECK
                self._restore_descriptors()
        except (OSError, ValueError):
            return False
        sys.stdout, sys.stderr = self._output, self._errors
        return self._lowest < self._most_descriptors

    def flush(self) -> bool:
        """Put out what was printed, to where it would go now; returns whether that could be done."""
        try:
            if self._output is not None:
                self._output.flush()
            if self._errors is not None:
                self._errors.flush()
        except (OSError, ValueError):  # nobody reads it, or a task has closed it
            return False
        return True

    def _restore_descriptors(self) -> None:
        for descriptor, identity in self._vital.items():
            if _identity(descriptor) != identity:
                os._exit(1)
        for kept, number in self._standard:
            os.dup2(kept, number)
        self._lowest = _lowest_free()
        if not self.flush():
            self._output, self._errors = _usable(self._output, "stdout"), _usable(self._errors, "stderr")


def _identity(descriptor: int) -> tuple[int, ...] | None:
    """Device and number of the file; None when it is closed."""
    try:
        return os.fstat(descriptor)[1:3]
    except OSError:
        return None


def _lowest_free() -> int:
    """The number that the next descriptor gets: it changes when one is closed or left open; without any it is huge."""
    try:
        lowest = os.dup(0)
    except OSError:
        return sys.maxsize
    os.close(lowest)
    return lowest


def _duplicate(descriptor: int) -> int | None:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:  # the worker has none
        return None


def _by_line(stream: TextIO | None) -> TextIO | None:
    """The stream, now putting out each line at once: the process may be killed before the next one."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(line_buffering=True)
    return stream


def _usable(stream: TextIO | None, name: str) -> TextIO | None:
    """The stream, or another one in its place if a task has closed or detached it."""
    return stream if stream is None or is_usable(stream) else reopened(stream, name)


def _working_directory() -> int | None:
    try:
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it may not be read
        return None


# ── running ─────────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LOOK_AGAIN: Final = 1000
"""Milliseconds until the worker's process is looked for again, should a copy of it hold its sockets open."""


class Line:
    """The child's end of what connects it with its worker.

    The worker takes its end for the process's death: nothing that a task leaves behind may hold it open.
    """

    def __init__(
        self, tasks: int, tickets: int, results: int, leash: int, *, poll: Callable[[], select.poll] = select.poll
    ) -> None:
        self.descriptors = (tasks, tickets, results, leash)
        for descriptor in self.descriptors:
            os.set_inheritable(descriptor, False)
        _die_with(leash)
        self._tasks_socket = socket.socket(fileno=tasks)
        self._tasks = self._tasks_socket.makefile("rb")
        self._tickets = socket.socket(fileno=tickets)
        self._results = socket.socket(fileno=results)
        self._poll = poll
        self._nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._drawn: int | None = None
        """The number of the ticket that was drawn last, until its task is here."""
        self._number = 0
        """That of the task that came last."""
        os.register_at_fork(after_in_child=self._let_go)

    def greeting(self) -> messages.Greeting:
        """The worker's first message. Raises `EOFError` when it is gone."""
        return messages.read_greeting(messages.receive(self._tasks)[0])

    def is_ready(self, trouble: str = "") -> None:
        """Tell that tasks may come, and questions, by a frame with nothing in it; or why they can't."""
        faulthandler.register(SIGSTACKS, self.descriptors[1])  # for when no thread of Python's has its turn
        messages.send(self._results, trouble.encode())

    def next_order(self) -> tuple[messages.Order, bytes]:
        """What the worker says next, and a task's arguments if they are large. Raises `EOFError` at the end."""
        head, body = messages.receive(self._tasks)
        return messages.read_order(head), body

    def next_job(self) -> Job:
        """The next task that the worker hasn't taken back. Raises `EOFError` when there will be no more."""
        while True:
            order, body = self.next_order()
            if self._drawn is None:
                self._draw()
            if order.number == self._drawn and isinstance(order, messages.GivenTask):
                self._drawn, self._number = None, order.number
                return order.job(body)

    def _draw(self) -> None:
        with suppress(BlockingIOError):  # the worker was faster
            (self._drawn,) = messages.TICKET.unpack(self._tickets.recv(messages.TICKET.size, socket.MSG_DONTWAIT))

    def tell(self, progress: Progress | None) -> None:
        """Tell that the task goes on, and how far it has come. Raises `OSError` when the worker is gone."""
        messages.send(self._results, messages.pack_sign_of_life(self._number, progress))

    def report(self, ran: RunResult, *, leaving: bool) -> None:
        """Tell what came of a task. Raises `OSError` when the worker is gone."""
        messages.send(self._results, *messages.pack_report(self._number, ran, leaving=leaving))

    def say(self, frames: Iterable[tuple[bytes, ...]]) -> None:
        """Send frames one after the other. Raises `OSError` when the worker is gone."""
        for part in messages.coalesced(frames):
            self._results.sendall(part)

    def leave_open(self) -> None:
        """Let the end of the process close what tells the worker of it, and nothing earlier."""
        self._results.detach()

    def look_after(self, parent: int, stacks: Callable[[], dict[str, Stack]]) -> None:
        """Tell the worker what runs here when it asks; and end this process and its group when the worker's process
        does: nobody would settle what runs.

        The question is a byte on the socket of the results, against their direction, and the answer goes against that
        of the tickets: so neither disturbs what is said there.
        """
        while not self._is_dead(parent, LOOK_AGAIN):
            if self._is_asked():
                self._answer(stacks)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _is_asked(self) -> bool:
        polled = self._polled(self.descriptors[2], select.POLLIN, 0)
        return bool(polled and os.read(self.descriptors[2], 1024))

    def _answer(self, stacks: Callable[[], dict[str, Stack]]) -> None:
        try:
            data = messages.pack_stacks(stacks())
            while data and self._polled(self.descriptors[1], select.POLLOUT, LOOK_AGAIN):
                data = data[os.write(self.descriptors[1], data) :]
        except Exception as error:  # whatever it is: this thread has more to do
            log.warning("where tasks are can't be told: %r", error)

    def _polled(self, descriptor: int, events: int, wait: int) -> int:
        """What has come of these events, or of a hang-up, within so many milliseconds, or a bit less."""
        poll = self._poll()
        poll.register(descriptor, events)
        return sum(told for _, told in poll.poll(wait))

    def end_if_dead(self, parent: int) -> None:
        """The same, if it has ended already, before this process ends by itself and leaves its group behind."""
        if self._is_dead(parent, 0):
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def _is_dead(self, parent: int, wait: int) -> bool:
        """Whether the worker's process has ended; waits for it so many milliseconds, or a bit less."""
        told = self._polled(self.descriptors[2], select.POLLIN, wait)
        return bool(told & ~select.POLLIN) or os.getppid() != parent

    def _let_go(self) -> None:
        """In a fork of this process: be connected no more, even if another greenlet is just reading from there."""
        for descriptor in self.descriptors:
            os.dup2(self._nowhere, descriptor, inheritable=False)


def _die_with(leash: int) -> None:
    """Let the system kill this process and its group when the worker's end of that socket is closed.

    Where it can, which is on Linux: no thread has to get its turn for that, as none does while C code holds Python's
    lock, or the process is stopped.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(leash, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)


TELL_INTERVAL: Final = 0.1
"""Seconds between two signs of life that the worker is told of."""


class Teller:
    """Tells the worker, from a thread of its own, what the running task says of itself: the latest, now and then.

    So a task never waits for a worker that is busy. The thread is there from the first sign of life on.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._forks = forks()
        self._job: Job | None = None
        self._telling = new_lock()
        self._news = threading.Event()
        self._thread: Thread | None = None

    def begin(self, job: Job) -> None:
        """The job is the running one."""
        self._job = job

    def end(self) -> None:
        """Nothing runs: nothing is told any more, and nothing is being told."""
        self._job = None
        if self._thread is not None:
            with self._telling:
                self._news.clear()

    def report(self, job: Job, progress: Progress | None) -> None:
        """Take a sign of life; from any thread of the task."""
        wanted = progress is not None or job.call.heartbeat_timeout is not None
        if not wanted or job is not self._job or forks() != self._forks:
            return
        self._news.set()
        if self._thread is None:
            try:
                self._thread = start_thread(self._run, "omniq-teller")
            except (RuntimeError, MemoryError) as error:
                log.warning("progress can't be told, there is no thread for it: %s", error)

    def _run(self) -> None:
        with suppress(OSError):  # the worker is gone, which others notice
            while self._news.wait():
                self._tell()
                time.sleep(TELL_INTERVAL)

    def _tell(self) -> None:
        with self._telling:
            self._news.clear()
            if (job := self._job) is not None:
                self._line.tell(job.progress)


class Child:
    """Runs the tasks that come down the line."""

    def __init__(self, line: Line, greeting: messages.Greeting) -> None:
        self._line = line
        self._execution = Execution(greeting.security, greeting.max_result)
        self._teller = Teller(line)
        self._execution.on_report = self._teller.report
        self._loop = ThreadLoop()
        self._state = ProcessState(line.descriptors)
        self._memory = MemoryLimit(greeting.max_memory)
        self._process = os.getpid()

    def serve(self) -> None:
        """Run tasks until the worker hangs up, or a task has left behind what can't be put right."""
        with suppress(EOFError):
            while self._run_next():
                pass
        self._loop.close()
        self._state.flush()

    def _run_next(self) -> bool:
        job = self._line.next_job()
        self._teller.begin(job)
        ran = self._run(job)
        if os.getpid() != self._process:
            os._exit(0)  # the task has forked, and let its copy of us return
        fit = self._state.restore() and not self._memory.is_exceeded()
        self._teller.end()
        self._line.report(ran, leaving=not fit)
        return fit

    def _run(self, job: Job) -> RunResult:
        call = self._execution.load(job)
        if isinstance(call, RunResult):
            return call
        # The worker's clock enforces the timeout, by killing this process.
        await_ = functools.partial(self._loop.run, timeout=None)
        ran = self._execution.run_sync(job, call, await_)
        if len(ran.value) > messages.MAX_BODY:
            too_large = f"its value takes {len(ran.value)} bytes, and a process hands over {messages.MAX_BODY} at most"
            return failure(job, SerializationError(too_large), fatal=True)
        return ran


def main(tasks: int, tickets: int, results: int, leash: int) -> None:
    """Run tasks until the worker hangs up or is gone; the descriptors are the child's ends of sockets."""
    line = Line(tasks, tickets, results, leash)
    leave_signals_to_the_worker()
    try:
        greeting = line.greeting()
        greeting.logs.apply()
        settings.withheld.update(greeting.secrets)
        parent = greeting.parent
        threading.Thread(target=line.look_after, args=(parent, of_threads), daemon=True).start()
        initialize(greeting.initializer, line)
        child = Child(line, greeting)
        del greeting
        line.is_ready()
        child.serve()
        line.end_if_dead(parent)
    except (EOFError, ConnectionError):
        sys.exit(1)
    line.leave_open()


def initialize(reference: str | None, line: Line) -> None:
    """Call the initializer, if there is one. If it fails, tell the worker why, and end this process."""
    if reference is None:
        return
    try:
        module, _, name = reference.partition(":")
        answer = attrgetter(name)(import_module(module))()
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("it is async, and no event loop runs yet: make it a plain function")
    except BaseException as error:
        log.debug("the initializer %s has failed", reference, exc_info=True)
        why = f"{qualified_name(type(error))}: {mask_url(escaped(safe_text(error)))}"
        line.is_ready(f"the initializer {reference} has failed: {why}")
        sys.exit(1)


class MemoryLimit:
    """Whether this process takes more memory than it may."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._looks = 0
        self._exceeded = False

    def is_exceeded(self) -> bool:
        """Looked at after each task, so what costs little comes first: the most that it has ever taken."""
        if self._most is None or self._exceeded:
            return self._exceeded
        self._looks += 1
        if peak_memory() > self._most and (taken := resident_memory()) > self._most:
            self._exceeded = True
            level = (
                logging.WARNING if self._looks == 1 else logging.INFO
            )  # it may be that each child is replaced so soon
            text = "child process %d takes %d MiB after %d tasks: more than max_memory_per_child, so it is replaced"
            log.log(level, text, os.getpid(), taken >> 20, self._looks)
        return self._exceeded


def peak_memory() -> int:
    """The most bytes that this process has had in memory at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """The bytes that this process has in memory; where the system doesn't tell without further tools, at its peak."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_memory()


def leave_signals_to_the_worker() -> None:
    """Whoever ends a whole service sends SIGTERM to each of its processes: the worker decides what becomes of tasks.

    Handlers that do nothing, since ignored signals would stay ignored in programs that a task starts. The worker
    blocked both until here.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
