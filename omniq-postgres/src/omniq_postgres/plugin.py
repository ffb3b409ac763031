"""What this distribution brings. Imports neither asyncpg nor anything else of it."""

from __future__ import annotations

from omniq.plugins import stores_of

omniq_task_queues, omniq_result_stores, omniq_event_stores = stores_of(
    "omniq_postgres", "Postgres", "postgres", url_schemes=("postgresql", "postgres"), aliases=("postgresql",)
)
