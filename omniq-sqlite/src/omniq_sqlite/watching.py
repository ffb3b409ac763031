"""Waking those who wait for what another process writes.

SQLite can't push, but it tells cheaply whether anybody has committed. While somebody waits, one thread asks that
every few milliseconds, less often once nobody commits, and looks into the tables only when the answer is yes.
"""

from __future__ import annotations

import fcntl
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from hashlib import sha256

from omniq import clock
from omniq.logs import get_logger
from omniq.storage.wakeups import News, Wakeups

from omniq_sqlite.claiming import holding
from omniq_sqlite.opening import Link
from omniq_sqlite.wire import FOREVER, TICKS, encode, fetch_rows, fetch_texts, ticks_of

POLL_INTERVAL, QUIET_INTERVAL, REST_INTERVAL = 0.005, 0.02, 0.04
"""Seconds between two looks, and so the most that a wake-up by another process takes: soon after a commit; later; and
where another process looks for the same tasks."""
QUIET_AFTER = 1.0
"""Seconds without a commit after which it is quiet."""
SHARE, MAX_PAUSE = 10.0, 0.25
"""How much longer than a look the pause after it is, and how many seconds at most."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW

_log = get_logger("omniq.sqlite")

_NEXT_DUE = f"""
    select q.value, case
        when exists (select 1 from task where state = 'pending' and queue_name = q.value) then 0
        else (select {ticks_of("run_at")} from task where state = 'scheduled' and queue_name = q.value
              and run_at < {FOREVER} order by run_at limit 1) end
    from json_each(?) q where q.value not in (select queue_name from paused_queue)
"""
_STORED = """
    select task_id from result
    where task_id in (select value from json_each(?)) and (expires_at is null or expires_at > ?)
"""


def next_due(connection: sqlite3.Connection, queues: Sequence[str]) -> dict[str, float]:
    """From when on each queue has something to claim: 0 for now already. Paused and empty ones are left out."""
    rows = fetch_rows(connection, 2, _NEXT_DUE, encode(holding(connection, queues)))
    return {queue: ticks / TICKS for queue, ticks in rows if ticks is not None}


class Lookout:
    """Which of a machine's processes that wait for the same tasks looks often, so that one task doesn't wake them all.

    After the pattern Leader/Followers (Schmidt et al., 2000): it holds a lock, which is free as soon as it is busy or
    has ended. Where locks aren't to be had, everybody looks often.
    """

    def __init__(self, path: str) -> None:
        name = f"omniq-{sha256(os.fsencode(path)).hexdigest()[:16]}.lookout"
        self._path = os.path.join(tempfile.gettempdir(), name)
        self._file: int | None = None
        self._held: int | None = None
        """The byte that it has locked: it stands for the queues."""

    def is_ours(self, queues: Sequence[str]) -> bool:
        """Whether this process is the one that looks for tasks of these queues."""
        byte = int.from_bytes(sha256("/".join(sorted(queues)).encode()).digest()[:4])
        if byte != self._held:
            self.leave()
            try:
                self._lock(byte)
            except BlockingIOError:
                return False
            except OSError as error:
                _log.debug("everybody looks for tasks often: %s", error)
            self._held = byte
        return True

    def _lock(self, byte: int) -> None:
        if self._file is None:
            self._file = os.open(self._path, _FLAGS, 0o600)
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)

    def leave(self) -> None:
        """Leave it to others."""
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._held = None

    def close(self) -> None:
        """Leave it, and remove the file once nobody holds a lock on it. Who has it open then looks with the others."""
        self.leave()
        if self._file is not None:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(self._path)
            os.close(self._file)


class Watcher:
    """Looks for commits while somebody waits; sleeps otherwise."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._alarm = threading.Event()
        self._stopping = False
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._changed_at = -math.inf
        wakeups.on_wait.add(self._alarm.set)
        self._alarm.set()  # somebody may have begun to wait before

    def stop(self) -> None:
        """Let `watch` return. Called in any thread."""
        self._stopping = True
        self._wakeups.on_wait.discard(self._alarm.set)
        self._alarm.set()

    def watch(self, link: Link) -> None:
        """Keep a thread at it until `stop`."""
        with closing(Lookout(link.path)) as lookout:
            while not self._stopping:
                queues, awaits_results = self._wakeups.awaited_queues, self._wakeups.awaits_results
                if not queues and not awaits_results:
                    lookout.leave()
                    self._alarm.wait()
                    self._alarm.clear()
                    continue
                looks_often = awaits_results or lookout.is_ours(queues)
                began = time.thread_time()
                self._look(link)
                took = time.thread_time() - began  # who waits for much hears of it later
                time.sleep(min(MAX_PAUSE, max(self._interval(looks_often), SHARE * took)))

    def _interval(self, looks_often: bool) -> float:
        if not looks_often:
            return REST_INTERVAL
        return POLL_INTERVAL if time.monotonic() < self._changed_at + QUIET_AFTER else QUIET_INTERVAL

    def _look(self, link: Link) -> None:
        """Tell those who wait of what they wait for, if anybody has committed."""
        try:
            with link.use() as connection:
                if self._changed(connection):
                    self._changed_at = time.monotonic()
                    self._tell(connection)
        except Exception as error:
            # Waking is a hint: who reads or writes next gets the error. Here, a pause and a fresh start, since the
            # thread is there for all, whatever one of them waits for.
            _log.debug("looking for commits failed: %s", error)

    def _tell(self, connection: sqlite3.Connection) -> None:
        queues, ids = self._wakeups.awaited_queues, self._wakeups.awaited_tasks
        now = clock.now()
        due = next_due(connection, queues) if queues else {}
        stored = fetch_texts(connection, _STORED, encode(ids), now) if ids else []
        self._wakeups.tell(News({queue: at - now for queue, at in due.items()}, stored))

    def _changed(self, connection: sqlite3.Connection) -> bool:
        """Whether anybody has committed since the last look."""
        seen, self._seen = self._seen, (connection, connection.execute("pragma data_version").fetchone()[0])
        return seen is None or seen[0] is not connection or seen[1] != self._seen[1]
