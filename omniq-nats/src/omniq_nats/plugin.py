"""What this distribution brings. Imports neither nats nor anything else of it."""

from __future__ import annotations

from omniq.plugins import stores_of

omniq_task_queues, omniq_result_stores, _ = stores_of("omniq_nats", "NATS", "nats", url_schemes=("nats", "tls"))
