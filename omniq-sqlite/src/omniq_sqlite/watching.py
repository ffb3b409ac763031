"""Waking those who wait for what another process writes.

SQLite can't push, but it tells cheaply whether anybody has committed. While somebody waits, one thread asks that, and
looks into the tables only when the answer is yes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

from omniq import clock
from omniq.storage.sql.claiming import holding
from omniq.storage.wakeups import News, Wakeups

from omniq_sqlite.codec import FOREVER, TICKS, encode, fetch_rows, fetch_texts, ticks_of
from omniq_sqlite.dialect import carry_out
from omniq_sqlite.opening import Link

_NEXT_DUE = f"""
    select q.value, coalesce(
        (select min(coalesce({ticks_of("run_at")}, 0), ?2) from task where state = 'pending' and queue_name = q.value
         order by priority desc, run_at, id limit 1),
        (select {ticks_of("run_at")} from task where state = 'scheduled' and queue_name = q.value
         and run_at < {FOREVER} order by run_at limit 1))
    from json_each(?1) q where q.value not in (select queue_name from paused_queue)
"""
_STORED = """
    select task_id from result
    where task_id in (select value from json_each(?1)) and (expires_at is null or expires_at > ?2)
    and (status != 'running' or finished_at > ?3)
"""
LAG = 0.05
"""Seconds that a write may take from its time to its commit, for progress to be told of once and not at each commit."""


def next_due(connection: sqlite3.Connection, queues: Sequence[str]) -> dict[str, float]:
    """In how many seconds each queue has something to claim, or since how many it has. Paused and empty ones are left
    out."""
    now = clock.now()
    held = encode(carry_out(connection, partial(holding, queues)))
    rows = fetch_rows(connection, 2, _NEXT_DUE, held, int(now * TICKS))
    return {queue: ticks / TICKS - now for queue, ticks in rows if ticks is not None}


class Watcher:
    """Looks at a file for commits by anybody."""

    def __init__(self, wakeups: Wakeups, link: Link) -> None:
        self._wakeups = wakeups
        self._link = link
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._looked_at = 0.0
        """When it looked into the tables, on `omniq.clock`."""

    def look(self, left_for: float = 0.0) -> bool:
        """If anybody has committed, tell those who wait of what they wait for; returns whether anybody has.

        Tasks that have been due for less than `left_for` seconds are left to others, until the next look.
        """
        with self._link.use() as connection:
            changed = self._changed(connection)
            if changed:
                self._tell(connection, left_for)
            return changed

    def _tell(self, connection: sqlite3.Connection, left_for: float) -> None:
        queues, ids = self._wakeups.awaited_queues, self._wakeups.awaited_tasks
        due = next_due(connection, queues) if queues else {}
        left = {queue for queue, seconds in due.items() if -left_for < seconds <= 0}
        now, looked_at = clock.now(), self._looked_at
        self._looked_at = now
        stored = fetch_texts(connection, _STORED, encode(ids), now, looked_at - LAG) if ids else []
        self._wakeups.tell(News({queue: due[queue] for queue in due.keys() - left}, stored))
        if left:
            self._seen = None

    def _changed(self, connection: sqlite3.Connection) -> bool:
        """Whether anybody has committed since the last look."""
        seen, self._seen = self._seen, (connection, connection.execute("pragma data_version").fetchone()[0])
        return seen is None or seen[0] is not connection or seen[1] != self._seen[1]
