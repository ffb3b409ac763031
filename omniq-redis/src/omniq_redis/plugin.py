"""What this distribution brings. Imports neither redis nor anything else of it."""

from __future__ import annotations

from omniq.plugins import stores_of

omniq_task_queues, omniq_result_stores, _ = stores_of(
    "omniq_redis",
    "Redis",
    "redis",
    url_schemes=("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    aliases=("valkey",),
)
