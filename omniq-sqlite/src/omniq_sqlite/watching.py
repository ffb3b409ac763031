"""Waking those who wait for what another process writes.

SQLite can't push, but it tells cheaply whether anybody has committed. While somebody waits, one thread asks that, and
looks into the tables only when the answer is yes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial

from omniq import clock
from omniq.storage.sql.claiming import holding
from omniq.storage.wakeups import News, Wakeups

from omniq_sqlite.dialect import carry_out
from omniq_sqlite.opening import Link
from omniq_sqlite.wire import FOREVER, TICKS, encode, fetch_rows, fetch_texts, ticks_of

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
    rows = fetch_rows(connection, 2, _NEXT_DUE, encode(carry_out(connection, partial(holding, queues))))
    return {queue: ticks / TICKS for queue, ticks in rows if ticks is not None}


class Watcher:
    """Looks at a file for commits by anybody."""

    def __init__(self, wakeups: Wakeups, link: Link) -> None:
        self._wakeups = wakeups
        self._link = link
        self._seen: tuple[sqlite3.Connection, int] | None = None

    def look(self, patience: float = 0.0) -> bool:
        """If anybody has committed, tell those who wait of what they wait for, so many seconds later; returns whether
        anybody has."""
        with self._link.use() as connection:
            changed = self._changed(connection)
        if changed:
            time.sleep(patience)
            with self._link.use() as connection:
                self._tell(connection)
        return changed

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
