"""What this distribution brings. Imports neither sqlite3 nor anything else of it."""

from __future__ import annotations

from omniq.plugins import stores_of

omniq_task_queues, omniq_result_stores, omniq_event_stores = stores_of(
    "omniq_sqlite", "SQLite", "sqlite", url_schemes=("sqlite",)
)
