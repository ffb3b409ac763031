"""Starting a child process: its command, its environment, and the sockets that it inherits."""

from __future__ import annotations

import fcntl
import marshal
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, cast

from omniq.config import settings
from omniq.workers import frames, messages
from omniq.workers.child import SIGNALS
from omniq.workers.execution import Execution
from omniq.workers.logs import LogSettings

BOOTSTRAP: Final = Path(__file__).with_name("bootstrap.py")


class Ends(NamedTuple):
    """The worker's ends of the sockets to a child."""

    tasks: socket.socket
    results: socket.socket
    tickets: socket.socket
    drawn: socket.socket
    """The child's own end of `tickets`: what is read here, the child doesn't get."""

    def close(self) -> None:
        for end in self:
            end.close()


class Started(NamedTuple):
    """A new child process."""

    process: subprocess.Popen[bytes]
    ends: Ends


def start() -> Started:
    """Start a child in a session of its own. Raises `OSError` when there are no descriptors or processes left."""
    with ExitStack() as opened:
        (tasks, their_tasks), (results, their_results), (tickets, drawn) = (_pair(opened) for _ in range(3))
        process = _popen([their_tasks.fileno(), drawn.fileno(), their_results.fileno()])
        opened.pop_all()
    their_tasks.close()
    their_results.close()
    tickets.setblocking(False)
    return Started(process, Ends(tasks, results, tickets, drawn))


def first_bytes(execution: Execution) -> bytes:
    """What a child reads first: the import path, and a greeting."""
    # Python itself skips entries that aren't text. Only `marshal` is at hand to the bootstrap, and it takes any text.
    path = marshal.dumps([entry for entry in cast("list[object]", sys.path) if isinstance(entry, str)])
    security, limit, logs = execution.security, execution.max_result, LogSettings.of_this_process()
    greeting = messages.Greeting(security, limit, settings.secrets(), logs, os.getpid())
    return len(path).to_bytes(4, "big") + path + frames.parts(messages.pack_greeting(greeting))[0]


def _popen(theirs: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, *_flags(), "-P", str(BOOTSTRAP), *map(str, theirs)]
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
