"""Stores inside this process: memory, the connections of databases, and waiting for other processes by looking."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from hashlib import sha256
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

from omniq import clock
from omniq.errors import StoreError
from omniq.loops import PerLoop
from omniq.storage.base import Guarantees
from omniq.storage.connected import Identity, identity, make_file
from omniq.storage.table_set import Step, Tables, Written, undoing
from omniq.storage.wakeups import Wakeups
from omniq.texts import get_logger
from omniq.threads import Alarm, new_lock

LOOK_INTERVAL = 0.05
"""Seconds, while a connection is in use, between two looks whether its file is still the one at its path."""

_log = get_logger("omniq.storage")


class Closable(Protocol):
    """What a driver calls a connection."""

    def close(self) -> object: ...


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


# ── memory ──────────────────────────────────────────────────────────────────


class MemoryTables(Tables):
    """Tables in this process's memory, which any number of event loops and threads use: each step behind one lock."""

    guarantees: ClassVar[Guarantees] = Guarantees(
        survives_process_kill=False,
        survives_power_loss=False,
        survives_failover=False,
        clock="host",
        push=False,
        atomic_results=True,
    )
    _named: ClassVar[dict[tuple[type[MemoryTables], str], MemoryTables]] = {}
    _guard: ClassVar[threading.Lock] = new_lock()

    def __init__(self, location: str) -> None:
        super().__init__()
        self.location = location
        self.lock = new_lock()
        """Whoever touches the tables holds it, and never across an `await`."""

    @classmethod
    def at(cls, location: str) -> Self:
        """Those of that location, which live as long as the process."""
        with MemoryTables._guard:
            tables = MemoryTables._named.setdefault((cls, location), cls(location))
        assert isinstance(tables, cls)
        return tables

    def do(self, step: Step[T]) -> T:
        """What the step answers; if it fails, nothing has changed. Tells those who wait."""
        with self.lock:
            now = clock.now()
            with undoing(self):
                answer = step(self, now)
            written = self.settle()
            news = written.news(now)
            self.on_written(written)
        Wakeups.at(self.location).tell(news)
        return answer

    def on_written(self, written: Written) -> None:
        """Take note of what a step has written."""


def _forget_memory() -> None:
    """A forked child has a memory of its own."""
    MemoryTables._guard = new_lock()
    MemoryTables._named.clear()


# ── databases ───────────────────────────────────────────────────────────────


class _GilYielder:
    """Lets a loop's thread sleep for an instant now and then, while the loop waits for a thread.

    At every turn a busy loop gives up the GIL to poll, and has taken it again before another thread is awake.
    Since the loop never holds it for the whole switch interval, it isn't asked to let go of it either: a thread that
    comes back from a database can starve for a second. These breaks, of 6 % at most, let it in within a millisecond.
    """

    INTERVAL = 0.001
    LENGTH = 0.00001

    def __init__(self) -> None:
        self._waiting = 0
        self._running = False

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        self._waiting += 1
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_later(self.INTERVAL, self._take_one)
        try:
            yield
        finally:
            self._waiting -= 1

    def _take_one(self) -> None:
        self._running = self._waiting > 0
        if self._running:
            time.sleep(self.LENGTH)
            asyncio.get_running_loop().call_later(self.INTERVAL, self._take_one)


_yielders = PerLoop(_GilYielder)


def let_threads_run() -> AbstractContextManager[None]:
    """While the running loop waits inside for what a thread does in C code, let that thread have its turns."""
    return _yielders.get().while_waiting()


class OpenFiles:
    """A database and the files beside it, by what is added to its path, as they are when a connection opens."""

    def __init__(self, path: str, beside: Sequence[str]) -> None:
        self.path = path
        self.beside = beside
        self.then = self.now()

    def now(self) -> dict[str, Identity]:
        """Which file is at each of the paths, that of the database under an empty text."""
        return {end: identity(self.path + end) for end in ("", *self.beside)}

    @property
    def harm(self) -> str | None:
        """What has happened to them since, if something has."""
        now = self.now()
        if now[""] != self.then[""]:
            return "the file was deleted" if now[""] is None else "the file was replaced"
        return None if now == self.then else f"its {' or '.join(self.beside)} was deleted or replaced"


class Link(ABC, Generic[C]):
    """A connection that opens at its first use, and closes before a fork and after an error.

    A database remembers per process which locks it has taken on a file. A child that inherited an open connection
    would trust in locks that only its parent holds, and could damage the file.
    """

    def __init__(self, path: str, beside: Sequence[str]) -> None:
        """`beside` is what the database adds to the path for the files that it has as long as somebody has it open."""
        self.path = path
        self.lock = new_lock()
        """Held during a use, so that a fork waits for its end."""
        self._beside = beside
        self._connection: C | None = None
        self._files: OpenFiles | None = None
        self._next_look = -math.inf
        with _links_lock:
            _links.add(self)

    @abstractmethod
    def _open(self) -> C:
        """A new connection, which any thread may use, one at a time."""

    @abstractmethod
    def _leave(self, connection: C, files: OpenFiles) -> None:
        """Save what can be saved of files that were harmed, and let them harm no new database."""

    @contextmanager
    def use(self) -> Iterator[C]:
        """The connection, for this thread alone. Raises what `_open` raises."""
        self._look_at_files()
        with self.lock:
            if self._connection is None:
                self._connection = self._open()
                self._files = OpenFiles(self.path, self._beside)
            try:
                yield self._connection
            except BaseException:
                self.drop()  # it may be the connection that is broken
                raise

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self.lock:
            self.drop()

    def drop(self) -> None:
        """`close` for who holds `lock`."""
        connection, self._connection, self._files = self._connection, None, None
        if connection is not None:
            connection.close()

    def _look_at_files(self) -> None:
        """Leave a file that was deleted or replaced, now and then: nobody else sees what is written to it."""
        files = self._files
        if files is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_INTERVAL
        if files.harm:
            with _links_lock, ExitStack() as held:
                for link in _links_to(self.path):
                    held.enter_context(link.lock)
                self.leave_harmed()  # unless another thread has seen to it

    def leave_harmed(self) -> None:
        """Close all of this process's connections to files that were harmed, so that no new one shares them.

        For who holds the locks of all of them. Does nothing if the files are as they were.
        """
        if self._files is None or self._connection is None or not (harm := self._files.harm):
            return
        _log.error(
            "%s: %s while it was in use: tasks and results that were written to it may be lost; "
            "going on with the file that is there now, or a new one",
            self.path,
            harm,
        )
        self._leave(self._connection, self._files)
        for link in _links_to(self.path):
            link.drop()


_links: weakref.WeakSet[Link[Any]] = weakref.WeakSet()
_links_lock = new_lock()
_held = ExitStack()
"""The locks that are held during a fork."""


def remove(path: str, beside: Sequence[str]) -> None:
    """Close all of this process's connections to a database, and delete its files."""
    with _links_lock, ExitStack() as held:
        for link in _links_to(path):
            held.enter_context(link.lock)
            link.drop()
        for end in ("", *beside):
            with suppress(FileNotFoundError):
                os.unlink(path + end)


def _links_to(path: str) -> list[Link[Any]]:
    return [link for link in _links if link.path == path]


def _before_fork() -> None:
    _held.enter_context(_links_lock)
    links = list(_links)
    for link in links:
        _held.enter_context(link.lock)
    for link in links:
        link.leave_harmed()  # once it is closed, nobody could tell any more
        link.drop()


def _after_fork_in_child() -> None:
    """The links, and what their threads hold, are the parent's."""
    global _links_lock
    _held.pop_all()
    _links.clear()
    _links_lock = new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_held.close, after_in_child=_after_fork_in_child)
    os.register_at_fork(after_in_child=_forget_memory)


# ── waiting by looking ──────────────────────────────────────────────────────


log = get_logger("omniq.storage")

POLL_INTERVAL, QUIET_INTERVAL, REST_INTERVAL = 0.005, 0.02, 0.04
"""Seconds between two looks, and so the most that a wake-up by another process takes: soon after a change; later; and
long after, or where another process looks for the same tasks."""
LEADERS_TIME = 0.015
"""Seconds for which those who don't look often leave a task that has come to the leader."""
QUIET_AFTER, REST_AFTER = 1.0, 10.0
"""Seconds without a change after which it is quiet, and for long."""
SHARE, MAX_PAUSE = 10.0, 0.25
"""How many times as long as a look the pause after it is, and how many seconds at most: whoever waits for much hears of
it later, and a process that is busy, so that its looks have to wait, isn't kept from its work by them."""

Look: TypeAlias = Callable[[float], bool]
"""Tells who waits of what has changed, but not of tasks that have been due for less than so many seconds: they are left
to whoever looks more often. Returns whether anything has changed since the last look."""


class Leadership:
    """Which of a machine's processes that wait for the same tasks looks often, so that one task doesn't wake them all.

    After the pattern Leader/Followers (Schmidt et al., 2000): the leader holds a lock, which is free as soon as it is
    busy or has ended. Where locks aren't to be had, everybody leads.
    """

    def __init__(self, place: str) -> None:
        name = f"omniq-{sha256(os.fsencode(place)).hexdigest()[:16]}.lock"
        self._path = os.path.join(tempfile.gettempdir(), name)
        self._file: int | None = None
        self._held: int | None = None
        """The byte that it has locked: it stands for the queues."""

    def acquire(self, queues: Sequence[str]) -> bool:
        """Whether this process leads those that wait for tasks of these queues."""
        byte = int.from_bytes(sha256("/".join(sorted(queues)).encode()).digest()[:4])
        if byte != self._held:
            if self._held is not None:
                self.release()
            try:
                self._lock(byte)
            except BlockingIOError:
                return False
            except (OSError, StoreError) as error:
                log.debug("everybody looks for tasks often: %s", error)
            self._held = byte
        return True

    def _lock(self, byte: int) -> None:
        if self._file is None:
            make_file(self._path, trust_owner=False)  # else another user could hold it for ever
            self._file = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)

    def release(self) -> None:
        """Let another one lead; the last to go removes the file. Who has it open still competes with its like."""
        self._held = None
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(self._path)
            os.close(self._file)
            self._file = None


class Poller:
    """Keeps a thread looking while anybody in this process waits; it sleeps otherwise.

    `place` is the same for all processes of the machine that look at the same.
    """

    def __init__(self, wakeups: Wakeups, place: str) -> None:
        self._wakeups = wakeups
        self._place = place
        self._alarm = Alarm()
        self._stopping = False
        wakeups.on_wait.add(self._alarm.set)
        self._alarm.set()  # somebody may have begun to wait before

    def stop(self) -> None:
        """Let `run` return. Called in any thread."""
        self._stopping = True
        self._wakeups.on_wait.discard(self._alarm.set)
        self._alarm.set()

    def run(self, look: Look) -> None:
        """Look, until `stop`."""
        leadership = Leadership(self._place)
        try:
            self._run(look, leadership)
        finally:
            leadership.release()

    def _run(self, look: Look, leadership: Leadership) -> None:
        changed_at = -math.inf
        while not self._stopping:
            queues, awaits_results = self._wakeups.awaited_queues, self._wakeups.awaits_results
            if not queues:
                leadership.release()
            if not queues and not awaits_results:
                self._alarm.wait()
                continue
            looks_often = awaits_results or leadership.acquire(queues)
            began, busy = time.monotonic(), time.thread_time()
            if self._has_changed(look, 0.0 if looks_often else LEADERS_TIME):
                changed_at = time.monotonic()
            took, busy = time.monotonic() - began, time.thread_time() - busy
            pauses = (_interval(looks_often, changed_at), SHARE * busy, min(SHARE * took, REST_INTERVAL))
            time.sleep(min(MAX_PAUSE, max(pauses)))

    @staticmethod
    def _has_changed(look: Look, left_for: float) -> bool:
        try:
            return look(left_for)
        except Exception as error:
            # Waking is a hint: who reads or writes next gets the error. Here, a pause and a fresh start, since the
            # thread is there for all, whatever one of them waits for.
            log.debug("looking for changes failed: %s", error)
            return False


def _interval(looks_often: bool, changed_at: float) -> float:
    unchanged_for = time.monotonic() - changed_at
    if not looks_often or unchanged_for > REST_AFTER:
        return REST_INTERVAL
    return POLL_INTERVAL if unchanged_for < QUIET_AFTER else QUIET_INTERVAL
