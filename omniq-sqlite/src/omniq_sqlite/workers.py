"""The workers that were seen."""

from __future__ import annotations

import sqlite3

import msgspec
from omniq import clock
from omniq.storage.damage import worker_of
from omniq.storage.records import WorkerRecord

_BEAT = """
    insert into worker (name, last_seen, report) values (?, ?, ?)
    on conflict (name) do update set last_seen = excluded.last_seen, report = excluded.report
"""
_LEAVE = "delete from worker where name = ?"
_FORGET = "delete from worker where last_seen <= ?"
_SEEN = "select name, report, last_seen from worker order by name"

_encode = msgspec.json.Encoder().encode


def beat(connection: sqlite3.Connection, worker: WorkerRecord, leaving: bool) -> None:
    """Note that the worker was seen now, or has left."""
    if leaving:
        connection.execute(_LEAVE, (worker.name,))
    else:
        connection.execute(_BEAT, (worker.name, clock.now(), _encode(worker).decode()))


def fetch_workers(connection: sqlite3.Connection) -> list[WorkerRecord]:
    """All of them by name."""
    return [worker_of(*row) for row in connection.execute(_SEEN).fetchall()]


def forget_workers(connection: sqlite3.Connection, older_than: float) -> None:
    """Delete those that weren't seen for so many seconds."""
    connection.execute(_FORGET, (clock.now() - older_than,))
