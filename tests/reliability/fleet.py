"""The worker processes of a run: kept alive, killed, stalled and stopped from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from random import Random

from tests.reliability.history import PATH_VARIABLE, UNREACHABLE, WORKER_VARIABLE, History
from tests.reliability.worker_main import WorkerOptions

ROOT = Path(__file__).parents[2]
WARNINGS = ("WARNING",)
ERRORS = ("ERROR", "CRITICAL", "Traceback")
"""How lines of a worker's log begin."""


class WorkerProcess:
    """One process, with a name that no other bears in its run, and a log of its own."""

    def __init__(
        self, name: str, options: WorkerOptions, directory: Path, history: Path, extra: dict[str, str]
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        environment = {**os.environ, **extra, PATH_VARIABLE: str(history), WORKER_VARIABLE: name}
        command = [sys.executable, "-m", "tests.reliability.worker_main", options.to_argument()]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives."""
        return self._process.poll()

    def send(self, signal_: signal.Signals) -> None:
        self._process.send_signal(signal_)

    def wait(self, timeout: float) -> int:
        """Its exit code; it is killed if it hasn't ended in `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Fleet:
    """`size` worker processes; one that dies is replaced by the next `tend`."""

    def __init__(self, options: WorkerOptions, *, size: int, directory: Path, history: History, seed: int) -> None:
        self._options = options
        self._size = size
        self._directory = directory
        self._history = history
        self._random = Random(seed)
        self._environment: dict[str, str] = {}
        self._workers: list[WorkerProcess] = []
        self._started = 0
        self.deaths: list[str] = []
        """How workers ended that nobody here had killed."""

    def set_environment(self, **variables: str) -> None:
        """Give these variables to the processes that are started from now on."""
        self._environment.update(variables)

    def tend(self) -> None:
        """Bury who has ended by itself, and bring the fleet back to its size, as a supervisor does."""
        for worker in list(self._workers):
            if (code := worker.exit_code) is not None:
                if code != UNREACHABLE:  # else the checker says whether that was right
                    self.deaths.append(f"{worker.name} ended with {code}, see {worker.log}")
                self._bury(worker)
        while len(self._workers) < self._size:
            self._workers.append(self._spawn())

    def kill_one(self, working: Container[str]) -> None:
        """Kill a random worker without a warning, one of those if any of them lives."""
        self.tend()
        worker = self._one_of(working)
        worker.send(signal.SIGKILL)
        worker.wait(10.0)
        self._bury(worker)

    def freeze_one(self, working: Container[str]) -> WorkerProcess:
        """Stop a random worker by SIGSTOP, one of those if any of them lives."""
        worker = self._one_of(working)
        self._history.freeze(worker.name, worker.pid)
        worker.send(signal.SIGSTOP)
        return worker

    def thaw(self, worker: WorkerProcess) -> None:
        """Let a frozen worker go on."""
        worker.send(signal.SIGCONT)
        self._history.thaw(worker.name, worker.pid)

    def stop(self, timeout: float, working: Container[str]) -> list[str]:
        """Ask all to stop; returns what was wrong with how they did, `timeout` seconds being the limit.

        One that isn't among those that are `working` may not have come to know what is asked for.
        """
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.send(signal.SIGTERM)
        ends = [(worker, worker.wait(timeout)) for worker in workers]
        return [
            f"{worker.name} stopped with {code}, see {worker.log}"
            for worker, code in ends
            if code not in _good_ends(worker.name in working)
        ]

    def abandon(self) -> None:
        """Kill what is left, frozen or not."""
        for worker in self._workers:
            worker.send(signal.SIGKILL)
            worker.wait(10.0)

    def complaints(self, beginnings: tuple[str, ...] = WARNINGS + ERRORS) -> Iterator[str]:
        """What the workers logged, of lines that begin so, and how those ended that died by themselves."""
        yield from self.deaths
        for path in sorted(self._directory.glob("w*.log")):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith(beginnings):
                    yield f"{path.stem}: {line}"

    def _one_of(self, working: Container[str]) -> WorkerProcess:
        return self._random.choice([worker for worker in self._workers if worker.name in working] or self._workers)

    def _spawn(self) -> WorkerProcess:
        self._started += 1
        name = f"w{self._started:03d}"
        worker = WorkerProcess(name, self._options, self._directory, self._history.path, self._environment)
        self._history.spawn(name, worker.pid)
        return worker

    def _bury(self, worker: WorkerProcess) -> None:
        code = worker.exit_code
        if code is None or code < 0:  # by a signal: ours, or its own task's
            self._history.kill(worker.name, worker.pid)
        else:
            self._history.exit(worker.name, worker.pid, code)
        self._workers.remove(worker)


def _good_ends(working: bool) -> tuple[int, ...]:
    """The exit codes of a worker that was asked to stop."""
    return (0,) if working else (0, -signal.SIGTERM)
