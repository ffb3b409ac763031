"""`omniq worker` as a process of its own, and in a process group of its own, as a shell starts it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[3]
PATIENCE = 20.0
"""Seconds after which a line that should come won't any more."""


OPENING = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"


class WorkerProcess:
    """A running `omniq worker`; leaving it kills what is left of its group.

    Without a URL, the arguments say where the queue is. `terminal` is the path of the one at which it is started.
    """

    def __init__(
        self, url: str | None, *arguments: str, directory: Path, terminal: str | None = None, **environ: str
    ) -> None:
        path = os.pathsep.join(filter(None, [environ.pop("PYTHONPATH", ""), str(ROOT)]))
        # The first terminal that the leader of a session opens becomes that of the session.
        opening = [] if terminal is None else [sys.executable, "-c", OPENING, terminal]
        command = [sys.executable, "-P", "-m", "omniq", *(["--url", url] if url else []), "worker", *arguments]
        self._process = subprocess.Popen(
            [*opening, *command],
            env={**os.environ, "PYTHONPATH": path, **environ},
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.said: list[str] = []
        """All lines that it has written to stderr so far, as far as they were waited for."""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def hears(self, text: str) -> str:
        """Wait for a line with that text."""
        while True:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, f"it ended without saying {text!r}: {self.said}"
            self.said.append(line)
            if text in line:
                return line

    def greets(self) -> str:
        """Wait until it works."""
        return self.hears(" serves ")

    def signal(self, number: signal.Signals, *, group: bool = False) -> float:
        """Send a signal to it, or to its whole group as a terminal does; returns when."""
        (os.killpg if group else os.kill)(self._process.pid, number)
        return time.monotonic()

    def ends(self, within: float = PATIENCE) -> int:
        """Wait for its end; returns its exit code. All that it said is in `said` then."""
        code = self._process.wait(timeout=within)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.said.append(line)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
