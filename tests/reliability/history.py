"""What happened in a run, seen from outside: an append-only log that every process of the run shares.

One JSON line per event, written by a single `write` to a descriptor in append mode, so that lines of many
processes neither mix nor get lost when a process is killed. Times are `time.monotonic()`, which on Linux
is one clock for all processes of a machine and never jumps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

PATH_VARIABLE = "OMNIQ_TEST_HISTORY"
"""Environment variable with the log's path."""
WORKER_VARIABLE = "OMNIQ_TEST_WORKER"
"""Environment variable with the name of the worker process, which its children inherit."""
UNREACHABLE: Final = 75
"""Exit code (sysexits' EX_TEMPFAIL) of a worker process that couldn't reach the store at its start, and did nothing."""


class Kind(StrEnum):
    """What happened."""

    ENQ_OK = "enq_ok"
    """`enqueue` returned."""
    ENQ_UNKNOWN = "enq_unknown"
    """`enqueue` raised: the task may be there or not."""
    CLAIM = "claim"
    """A worker was handed the task; the time was taken before it asked."""
    BEAT = "beat"
    """A worker was told that it still holds the lease; the time was taken before it asked."""
    START = "start"
    """The function was entered."""
    DONE = "done"
    """The function is about to return; nothing is settled yet."""
    FAILED = "failed"
    """The function is about to raise; nothing is settled yet."""
    SETTLED_OK = "settled_ok"
    """The store accepted a change of the claim's holder."""
    SETTLED_LOST = "settled_lost"
    """The store refused a change of the claim's holder."""
    SPAWN = "spawn"
    """A worker process was started."""
    READY = "ready"
    """A worker process has begun to look for work."""
    FREEZE = "freeze"
    """A worker process was stopped for a while."""
    THAW = "thaw"
    """A worker process that was stopped goes on."""
    KILL = "kill"
    """A worker process was killed and is gone."""
    EXIT = "exit"
    """A worker process has ended by itself, without being asked to."""
    SERVER_DOWN = "server_down"
    """The store's server was killed and is gone."""
    SERVER_UP = "server_up"
    """The store's server has been started again and answers."""


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the log; fields that mean nothing for its kind keep their defaults."""

    kind: Kind
    time: float
    """Seconds on the system-wide monotonic clock."""
    id: str = ""
    epoch: int = 0
    worker: str = ""
    """The worker process; a task in a child process bears its parent's name."""
    pid: int = 0
    value: str = ""
    """With `done`: what the function returns; with `exit`: the exit code."""
    to: str = ""
    """With `settled_ok` and `settled_lost`: the state that was asked for."""
    parents: tuple[str, ...] = ()
    """With `enq_ok` and `enq_unknown`: what the task depends on."""


class History:
    """The log, open for writing; threads and forked children may share one."""

    def __init__(self, path: Path, *, worker: str = "") -> None:
        self.path = path
        self._worker = worker
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def from_environment(cls) -> History:
        """The log that the environment names. Raises `KeyError` where it names none."""
        return cls(Path(os.environ[PATH_VARIABLE]), worker=os.environ.get(WORKER_VARIABLE, ""))

    def enqueued(self, id: str, parents: Iterable[str] = (), *, known: bool = True) -> None:
        """Log that a task was enqueued, or that nobody knows."""
        kind = Kind.ENQ_OK if known else Kind.ENQ_UNKNOWN
        self._write(Event(kind=kind, time=time.monotonic(), id=id, parents=tuple(parents)))

    def claim(self, id: str, epoch: int, *, asked_at: float) -> None:
        """Log a claim that was asked for at `asked_at` (monotonic seconds)."""
        self._log(Kind.CLAIM, id, epoch, time_=asked_at)

    def beat(self, id: str, epoch: int, *, asked_at: float) -> None:
        """Log a renewal that was asked for at `asked_at` (monotonic seconds) and granted."""
        self._log(Kind.BEAT, id, epoch, time_=asked_at)

    def start(self, id: str, epoch: int) -> None:
        """Log that the function was entered."""
        self._log(Kind.START, id, epoch)

    def done(self, id: str, epoch: int, value: str) -> None:
        """Log what the function is about to return."""
        self._log(Kind.DONE, id, epoch, value=value)

    def failed(self, id: str, epoch: int) -> None:
        """Log that the function is about to raise."""
        self._log(Kind.FAILED, id, epoch)

    def settled(self, id: str, epoch: int, to: str, *, accepted: bool) -> None:
        """Log what the store answered to a change by the claim's holder."""
        self._log(Kind.SETTLED_OK if accepted else Kind.SETTLED_LOST, id, epoch, to=to)

    def spawn(self, worker: str, pid: int) -> None:
        """Log that a worker process was started."""
        self._write(Event(kind=Kind.SPAWN, time=time.monotonic(), worker=worker, pid=pid))

    def ready(self) -> None:
        """Log that this worker process has begun to look for work."""
        self._write(Event(kind=Kind.READY, time=time.monotonic(), worker=self._worker, pid=os.getpid()))

    def freeze(self, worker: str, pid: int) -> None:
        """Log that a worker process was stopped; call it before."""
        self._write(Event(kind=Kind.FREEZE, time=time.monotonic(), worker=worker, pid=pid))

    def thaw(self, worker: str, pid: int) -> None:
        """Log that a worker process goes on; call it after."""
        self._write(Event(kind=Kind.THAW, time=time.monotonic(), worker=worker, pid=pid))

    def kill(self, worker: str, pid: int) -> None:
        """Log that a worker process is dead; call it once it has been waited for."""
        self._write(Event(kind=Kind.KILL, time=time.monotonic(), worker=worker, pid=pid))

    def exit(self, worker: str, pid: int, code: int) -> None:
        """Log that a worker process has ended by itself."""
        self._write(Event(kind=Kind.EXIT, time=time.monotonic(), worker=worker, pid=pid, value=str(code)))

    def server_down(self) -> None:
        """Log that the server is dead; call it once it has been waited for."""
        self._write(Event(kind=Kind.SERVER_DOWN, time=time.monotonic()))

    def server_up(self) -> None:
        """Log that the server answers again."""
        self._write(Event(kind=Kind.SERVER_UP, time=time.monotonic()))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _log(
        self, kind: Kind, id: str, epoch: int, *, time_: float | None = None, value: str = "", to: str = ""
    ) -> None:
        at = time.monotonic() if time_ is None else time_
        self._write(
            Event(kind=kind, time=at, id=id, epoch=epoch, worker=self._worker, pid=os.getpid(), value=value, to=to)
        )

    def _write(self, event: Event) -> None:
        line = msgspec.json.encode(event) + b"\n"
        if os.write(self._descriptor, line) != len(line):
            raise OSError(f"{self.path}: a line of the history was cut short")


def read(path: Path) -> list[Event]:
    """The log's events in the order in which they were written.

    Raises `msgspec.DecodeError` for a line that isn't one: a log with damage proves nothing.
    """
    return msgspec.json.decode(b"[" + b",".join(path.read_bytes().splitlines()) + b"]", type=list[Event])
