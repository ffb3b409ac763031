"""The threads that use a database: each has one connection and does what event loops ask of it.

SQLite has one writer at a time and syncs once per commit, so that writes which come while a transaction is in
flight share the next one (group commit). Every call into SQLite gives up the GIL, and beside a busy event loop
it takes milliseconds to get it back: what counts is the number of statements, not that of rows.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from omniq.background import start_thread
from omniq.errors import StoreUnavailable
from omniq.loops import PerLoop

from omniq_sqlite.opening import Link, store_errors

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""Something to do with a connection. One that writes may be run again after a rollback."""

GROUP_LIMIT = 500


class LinkThread(ABC):
    """A daemon thread with a connection of its own, which it closes at its end.

    Raises `StoreUnavailable` when it can't be started.
    """

    def __init__(self, name: str, link: Link) -> None:
        self._link = link
        self._on_end: Callable[[], None] | None = None
        try:
            self._thread = start_thread(self._run, name)
        except RuntimeError as error:
            raise StoreUnavailable(f"{link.path}: {error}") from error

    async def end(self) -> None:
        """Let the thread finish what it was asked for, and wait for its end."""
        ended = asyncio.Event()
        self._on_end = partial(_call_in, asyncio.get_running_loop(), ended.set)
        self.ask_to_end()
        await ended.wait()
        self._thread.join()

    def end_now(self) -> None:
        """As `end`, but the caller's thread waits."""
        self.ask_to_end()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._link.close()
            if self._on_end is not None:
                self._on_end()

    @abstractmethod
    def _serve(self) -> None:
        """The thread's life; returns after `ask_to_end`."""

    @abstractmethod
    def ask_to_end(self) -> None:
        """Let `_serve` return. Called in any thread."""


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(callback)


class _Call(Generic[T_co]):
    """A job, and the future by which its caller waits."""

    def __init__(self, job: Job[T_co]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T_co] = self.loop.create_future()
        self._job = job
        self._error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        self._result = self._job(connection)

    @property
    def failed(self) -> bool:
        return self._error is not None

    def fail(self, error: Exception) -> None:
        self._error = error

    def report(self) -> None:
        """Wake the caller; to be called in its loop."""
        if self.future.done():  # it was cancelled
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)


_Calls: TypeAlias = Sequence[_Call[object]]


class _Breaks:
    """Makes a loop's thread sleep for an instant now and then, while the loop waits for a lane.

    At every turn a busy loop gives up the GIL to poll, and has taken it again before another thread is awake.
    Since the loop never holds it for the whole switch interval, it isn't asked to let go of it either: a lane that
    comes back from SQLite can starve for seconds. These breaks, of 6 % at most, let it in within a millisecond.
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


_breaks = PerLoop(_Breaks)


class Lane(LinkThread):
    """A thread that does at one go all that was asked for while it was busy."""

    def __init__(self, name: str, link: Link) -> None:
        self._inbox: queue.SimpleQueue[_Call[object] | None] = queue.SimpleQueue()
        self._stopping = False
        super().__init__(name, link)

    async def do(self, job: Job[T]) -> T:
        """What the job returns. Cancelling the caller doesn't undo the job.

        Raises `StoreUnavailable` or `StoreError`, and what the job raises.
        """
        call = _Call(job)
        self._inbox.put(call)
        with store_errors(self._link.path), _breaks.get().while_waiting():
            return await call.future

    def ask_to_end(self) -> None:
        self._inbox.put(None)

    def _serve(self) -> None:
        while not self._stopping:
            self._serve_group()

    def _serve_group(self) -> None:
        """Wait for a group and answer it. Nothing here keeps its data while the thread is idle."""
        calls = self._gather()
        if calls:
            self._answer(calls)

    def _gather(self) -> list[_Call[object]]:
        """Wait for a call, and take the others that are there by then."""
        calls: list[_Call[object]] = []
        call = self._inbox.get()
        with suppress(queue.Empty):
            while call is not None:
                calls.append(call)
                if len(calls) == GROUP_LIMIT:
                    return calls
                call = self._inbox.get_nowait()
            self._stopping = True
        return calls

    def _answer(self, calls: _Calls) -> None:
        try:
            with self._link.use() as connection:
                self._work(connection, calls)
                if any(call.failed for call in calls):
                    self._link.drop()  # it may be the connection that is broken
        except Exception as error:  # the file couldn't be opened
            _fail(calls, error)
        by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Call[object]]] = defaultdict(list)
        for call in calls:
            by_loop[call.loop].append(call)
        for loop, of_loop in by_loop.items():
            _call_in(loop, partial(_report, of_loop))

    @abstractmethod
    def _work(self, connection: sqlite3.Connection, calls: _Calls) -> None:
        """Run each call, or fail it."""


def _report(calls: _Calls) -> None:
    for call in calls:
        call.report()


def _fail(calls: _Calls, error: Exception) -> None:
    for call in calls:
        call.fail(error)


class Reader(Lane):
    """Reads without waiting for the writer's disk."""

    def _work(self, connection: sqlite3.Connection, calls: _Calls) -> None:
        for call in calls:
            try:
                call.run(connection)
            except Exception as error:
                call.fail(error)


class Writer(Lane):
    """Runs each group in one transaction, so that all its jobs share one commit."""

    def _work(self, connection: sqlite3.Connection, calls: _Calls) -> None:
        try:
            self._commit(connection, calls)
        except _NotBegun as error:
            _fail(calls, error.reason)
        except Exception as error:
            if len(calls) == 1:
                _fail(calls, error)
            else:
                self._one_by_one(connection, calls)

    def _one_by_one(self, connection: sqlite3.Connection, calls: _Calls) -> None:
        """After a failed group: so that the call which failed hurts nobody but its caller."""
        for index, call in enumerate(calls):
            try:
                self._commit(connection, [call])
            except _NotBegun as error:
                _fail(calls[index:], error.reason)
                return
            except Exception as error:
                call.fail(error)

    def _commit(self, connection: sqlite3.Connection, calls: _Calls) -> None:
        try:
            connection.execute("begin immediate")
        except sqlite3.Error as error:
            raise _NotBegun(error) from error
        try:
            for call in calls:
                call.run(connection)
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:  # after a full disk, for instance, SQLite has rolled back by itself
                connection.execute("rollback")
            raise


class _NotBegun(Exception):
    """No transaction could be begun: there is no use in trying for each call."""

    def __init__(self, reason: sqlite3.Error) -> None:
        super().__init__(reason)
        self.reason = reason
