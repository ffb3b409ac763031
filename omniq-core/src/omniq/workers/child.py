"""The child process of a process worker: it runs one task after another and reports each.

It imports nothing of the worker's `__main__`, so that a script needs no `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Final

from omniq.config import settings
from omniq.errors import SerializationError
from omniq.workers import frames, messages
from omniq.workers.execution import Execution, failure
from omniq.workers.job import Job, Ran
from omniq.workers.process_state import ProcessState
from omniq.workers.threads import ThreadLoop

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LOOK_AGAIN: Final = 1000
"""Milliseconds until the worker's process is looked for again, should a copy of it hold its sockets open."""


class Line:
    """The child's end of what connects it with its worker.

    The worker takes its end for the process's death: nothing that a task leaves behind may hold it open.
    """

    def __init__(self, tasks: int, tickets: int, results: int) -> None:
        for descriptor in (tasks, tickets, results):
            os.set_inheritable(descriptor, False)
        self._tasks_socket = socket.socket(fileno=tasks)
        self._tasks = self._tasks_socket.makefile("rb")
        self._tickets = socket.socket(fileno=tickets)
        self._results = socket.socket(fileno=results)
        self.descriptors = (tasks, tickets, results)
        self._drawn: int | None = None
        """The number of the ticket that was drawn last, until its task is here."""
        os.register_at_fork(after_in_child=self._close)

    def greeting(self) -> messages.Greeting:
        """The worker's first message. Raises `EOFError` when it is gone."""
        return messages.read_greeting(frames.receive(self._tasks)[0])

    def is_ready(self) -> None:
        """Tell that tasks may come: a frame with nothing in it."""
        frames.send(self._results, b"")

    def next_job(self) -> Job:
        """The next task that the worker hasn't taken back. Raises `EOFError` when there will be no more."""
        while True:
            head, body = frames.receive(self._tasks)
            task = messages.read_task(head)
            if self._drawn is None:
                self._draw()
            if task.number == self._drawn:
                self._drawn = None
                return task.job(body)

    def _draw(self) -> None:
        with suppress(BlockingIOError):  # the worker was faster
            (self._drawn,) = messages.TICKET.unpack(self._tickets.recv(messages.TICKET.size, socket.MSG_DONTWAIT))

    def report(self, ran: Ran, *, leaving: bool) -> None:
        """Tell what came of a task. Raises `OSError` when the worker is gone."""
        frames.send(self._results, *messages.pack_report(ran, leaving=leaving))

    def leave_open(self) -> None:
        """Let the end of the process close what tells the worker of it, and nothing earlier."""
        self._results.detach()

    def end_with(self, parent: int) -> None:
        """End this process and its group when the worker's process does: nobody would settle what runs."""
        while not self._is_dead(parent, LOOK_AGAIN):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def end_if_dead(self, parent: int) -> None:
        """The same, if it has ended already, before this process ends by itself and leaves its group behind."""
        if self._is_dead(parent, 0):
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def _is_dead(self, parent: int, wait: int) -> bool:
        """Whether the worker's process has ended; waits for it so many milliseconds, or a bit less."""
        poll = select.poll()
        poll.register(self._results.fileno(), 0)  # a hang-up is told in any case
        return bool(poll.poll(wait)) or os.getppid() != parent

    def _close(self) -> None:
        for closing in (self._tasks, self._tasks_socket, self._tickets, self._results):
            closing.close()


class Child:
    """Runs the tasks that come down the line."""

    def __init__(self, line: Line, greeting: messages.Greeting) -> None:
        self._line = line
        self._execution = Execution(greeting.security, greeting.max_result)
        self._loop = ThreadLoop()
        self._state = ProcessState(line.descriptors)
        self._process = os.getpid()

    def serve(self) -> None:
        """Run tasks until the worker hangs up, or a task has left behind what can't be put right."""
        with suppress(EOFError):
            while self._run_next():
                pass
        self._loop.close()
        self._state.flush()

    def _run_next(self) -> bool:
        ran = self._run(self._line.next_job())
        if os.getpid() != self._process:
            os._exit(0)  # the task has forked, and let its copy of us return
        fit = self._state.restore()
        self._line.report(ran, leaving=not fit)
        return fit

    def _run(self, job: Job) -> Ran:
        call = self._execution.load(job)
        if isinstance(call, Ran):
            return call
        # The worker's clock enforces the timeout, by killing this process.
        await_ = functools.partial(self._loop.run, timeout=None)
        ran = self._execution.run_sync(job, call, await_)
        if len(ran.value) > frames.MAX_BODY:
            too_large = f"its value takes {len(ran.value)} bytes, and a process hands over {frames.MAX_BODY} at most"
            return failure(job, SerializationError(too_large), fatal=True)
        return ran


def main(tasks: int, tickets: int, results: int) -> None:
    """Run tasks until the worker hangs up or is gone; the descriptors are the child's ends of sockets."""
    line = Line(tasks, tickets, results)
    _leave_signals_to_the_worker()
    try:
        greeting = line.greeting()
        greeting.logs.apply()
        settings.withheld.update(greeting.secrets)
        parent = greeting.parent
        threading.Thread(target=line.end_with, args=(parent,), daemon=True).start()
        child = Child(line, greeting)
        del greeting
        line.is_ready()
        child.serve()
        line.end_if_dead(parent)
    except (EOFError, ConnectionError):
        sys.exit(1)
    line.leave_open()


def _leave_signals_to_the_worker() -> None:
    """Whoever ends a whole service sends SIGTERM to each of its processes: the worker decides what becomes of tasks.

    Handlers that do nothing, since ignored signals would stay ignored in programs that a task starts. The worker
    blocked both until here.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
