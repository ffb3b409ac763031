"""What the servers of the tests have in common: a port, a folder, and a process that can be killed and frozen."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 60.0
"""Seconds that a server may take to start."""
FIRST_PORT, PORTS = 12_000, 10_000
"""From which ports one is chosen: below those that a system gives to connections, which would be as fast to take one
again as a server is to start. Nodes of a Redis cluster use among themselves the port 10,000 further."""


class Server:
    """A server on a port of its own."""

    def __init__(self, name: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._home = Path(tempfile.mkdtemp(prefix=f"omniq-{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self._home / "log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run(self, command: Sequence[object]) -> None:
        """Start the program, and don't wait for it."""
        with open(self._home / "log", "ab") as log:
            self._process = subprocess.Popen(list(map(str, command)), cwd=self._home, stdout=log, stderr=log)

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Ask again until the answer is yes. Raises `RuntimeError` when the server ends, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server doesn't start: {self.log[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """`kill -9`: nothing is flushed, and nobody says goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop it where it stands: connections stay open, new ones are accepted by the system, and nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it, and delete its data."""
        self.kill()
        shutil.rmtree(self._home)


def free_port() -> int:
    """A port that nobody has, and that no connection will get."""
    while True:
        port = FIRST_PORT + secrets.randbelow(PORTS)
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + PORTS))
            except OSError:
                continue
            return port


def until(condition: Callable[[], bool], reason: str) -> None:
    """Ask again until the answer is yes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, reason
        time.sleep(0.02)
