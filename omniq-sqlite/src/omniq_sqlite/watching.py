"""Waking those who wait for what another process writes.

SQLite can't push, but it tells cheaply whether anybody has committed. While somebody waits, one thread asks that
every few milliseconds, and looks into the tables only when the answer is yes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence

from omniq import clock
from omniq.logs import get_logger
from omniq.storage.wakeups import News, Wakeups

from omniq_sqlite.claiming import holding
from omniq_sqlite.opening import Link
from omniq_sqlite.wire import FOREVER, TICKS, encode, fetch_rows, fetch_texts, ticks_of

POLL_INTERVAL = 0.005
"""Seconds between two looks, and so the most that a wake-up by another process takes."""
SHARE, MAX_PAUSE = 10.0, 0.25
"""How much longer than a look the pause after it is, and how many seconds at most."""

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


class Watcher:
    """Looks for commits while somebody waits; sleeps otherwise."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._alarm = threading.Event()
        self._stopping = False
        self._seen: tuple[sqlite3.Connection, int] | None = None
        wakeups.on_wait.add(self._alarm.set)
        self._alarm.set()  # somebody may have begun to wait before

    def stop(self) -> None:
        """Let `watch` return. Called in any thread."""
        self._stopping = True
        self._wakeups.on_wait.discard(self._alarm.set)
        self._alarm.set()

    def watch(self, link: Link) -> None:
        """Keep a thread at it until `stop`."""
        pause: float | None = None  # seconds until the next look; None while nobody waits
        while not self._stopping:
            self._alarm.wait(pause)
            self._alarm.clear()
            began = time.monotonic()
            pause = POLL_INTERVAL if self._look(link) else None
            if pause is not None:
                time.sleep(min(MAX_PAUSE, SHARE * (time.monotonic() - began)))  # who waits for much is told of it later

    def _look(self, link: Link) -> bool:
        """Tell those who wait of what they wait for, if anybody has committed; returns whether anybody waits."""
        queues, ids = self._wakeups.awaited
        if not queues and not ids:
            return False
        try:
            with link.use() as connection:
                if self._changed(connection):
                    self._tell(connection, queues, ids)
        except Exception as error:
            # Waking is a hint: who reads or writes next gets the error. Here, a pause and a fresh start, since the
            # thread is there for all, whatever one of them waits for.
            _log.debug("looking for commits failed: %s", error)
        return True

    def _tell(self, connection: sqlite3.Connection, queues: Sequence[str], ids: Sequence[str]) -> None:
        now = clock.now()
        due = next_due(connection, queues) if queues else {}
        stored = fetch_texts(connection, _STORED, encode(ids), now) if ids else []
        self._wakeups.tell(News({queue: at - now for queue, at in due.items()}, stored))

    def _changed(self, connection: sqlite3.Connection) -> bool:
        """Whether anybody has committed since the last look."""
        seen, self._seen = self._seen, (connection, connection.execute("pragma data_version").fetchone()[0])
        return seen is None or seen[0] is not connection or seen[1] != self._seen[1]
