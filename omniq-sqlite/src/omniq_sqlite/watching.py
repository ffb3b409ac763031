"""Waking those who wait for what another process writes.

SQLite can't push, but it tells cheaply whether anybody has committed. While somebody waits, one thread asks that
every few milliseconds, and looks into the tables only when the answer is yes.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from omniq import clock
from omniq.logs import get_logger

from omniq_sqlite.lanes import LinkThread
from omniq_sqlite.opening import Link
from omniq_sqlite.wire import FOREVER, encode, fetch_text, fetch_texts, ticks_of, to_seconds

POLL_INTERVAL = 0.02
"""Seconds between two looks, and so the most that a wake-up by another process takes."""

_log = get_logger("omniq.sqlite")

_NEXT_DUE = f"""
    select json_group_array(json_array(q.value, case
        when exists (select 1 from task where state = 'pending' and queue_name = q.value) then 0
        else (select {ticks_of("run_at")} from task where state = 'scheduled' and queue_name = q.value
              and run_at < {FOREVER} order by run_at limit 1) end))
    from json_each(?) q where q.value not in (select queue_name from paused_queue)
"""
_STORED = """
    select json_group_array(task_id) from result
    where task_id in (select value from json_each(?)) and (expires_at is null or expires_at > ?)
"""
_decode_due = msgspec.json.Decoder(list[tuple[str, int | None]]).decode


def next_due(connection: sqlite3.Connection, queues: Sequence[str]) -> dict[str, float]:
    """From when on each queue has something to claim: 0 for now already. Paused and empty ones are left out."""
    rows = _decode_due(fetch_text(connection, _NEXT_DUE, encode(queues)))
    return {queue: to_seconds(ticks) for queue, ticks in rows if ticks is not None}


class _Watch:
    """What one waiter waits for, and when to look for it even though nobody commits."""

    def __init__(self, wake: Callable[[], None], *, queues: Sequence[str] = (), results: Sequence[str] = ()) -> None:
        self.wake = wake
        self.queues = queues
        self.results = results
        self.next_look = -math.inf
        self._loop = asyncio.get_running_loop()

    @property
    def is_over(self) -> bool:
        """Its loop was closed before it could be taken back."""
        return self._loop.is_closed()


class Watcher(LinkThread):
    """Looks for commits while somebody waits; sleeps otherwise."""

    def __init__(self, name: str, link: Link) -> None:
        self._watches: set[_Watch] = set()
        self._lock = threading.Lock()
        self._alarm = threading.Event()
        self._stopping = False
        self._next_poll = -math.inf
        self._seen: tuple[sqlite3.Connection, int] | None = None
        super().__init__(name, link)

    @contextmanager
    def for_tasks(self, queues: Sequence[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` in the watcher's thread when one of the queues has something due, now or later."""
        with self._watching(_Watch(wake, queues=queues)):
            yield

    @contextmanager
    def for_results(self, ids: Sequence[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` in the watcher's thread when one of the results is there, now or later."""
        with self._watching(_Watch(wake, results=ids)):
            yield

    @contextmanager
    def _watching(self, watch: _Watch) -> Iterator[None]:
        with self._lock:
            self._watches.add(watch)
        self._alarm.set()
        try:
            yield
        finally:
            with self._lock:
                self._watches.discard(watch)

    def ask_to_end(self) -> None:
        self._stopping = True
        self._alarm.set()

    def _serve(self) -> None:
        while not self._stopping:
            self._alarm.wait(self._pause())
            self._alarm.clear()
            self._look()

    def _pause(self) -> float | None:
        """Seconds until the next look; None while nobody waits."""
        with self._lock:
            soonest = min((watch.next_look for watch in self._watches), default=None)
        return None if soonest is None else min(POLL_INTERVAL, max(0.0, soonest - clock.now()))

    def _look(self) -> None:
        with self._lock:
            self._watches = {watch for watch in self._watches if not watch.is_over}
            watches = list(self._watches)
        if not watches:
            return
        try:
            with self._link.use() as connection:
                self._wake_served(connection, watches)
        except Exception as error:
            # Waking is a hint: who reads or writes next gets the error. Here, a pause and a fresh start, since the
            # thread is there for all, whatever one of them waits for.
            _log.debug("looking for commits failed: %s", error)
            self._link.close()
            self._alarm.wait(POLL_INTERVAL)

    def _wake_served(self, connection: sqlite3.Connection, watches: Sequence[_Watch]) -> None:
        now = clock.now()
        if not self._changed(connection):
            watches = [watch for watch in watches if watch.next_look <= now]
        if not watches:
            return
        due = next_due(connection, list({queue for watch in watches for queue in watch.queues}))
        ids = encode([id_ for watch in watches for id_ in watch.results])
        stored = set(fetch_texts(connection, _STORED, ids, now))
        for watch in watches:
            watch.next_look = min((due[queue] for queue in watch.queues if queue in due), default=math.inf)
            if watch.next_look <= now or not stored.isdisjoint(watch.results):
                watch.next_look = math.inf
                watch.wake()

    def _changed(self, connection: sqlite3.Connection) -> bool:
        """Whether anybody has committed since the last poll; asked no more often than `POLL_INTERVAL`."""
        if time.monotonic() < self._next_poll:
            return False
        self._next_poll = time.monotonic() + POLL_INTERVAL
        seen, self._seen = self._seen, (connection, connection.execute("pragma data_version").fetchone()[0])
        return seen is None or seen[0] is not connection or seen[1] != self._seen[1]
