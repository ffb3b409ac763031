"""What the tutorial starts from: a queue in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from omniq import OmniQ
from omniq.queue import SQLiteTaskQueue
from omniq.storage import SQLiteEventStorage


@pytest.fixture
def oq(tmp_path: Path) -> Iterator[OmniQ]:
    """OmniQ on SQLite, with two queues and events."""
    with OmniQ(
        task_queue=SQLiteTaskQueue(base_dir=str(tmp_path), queues=["high", "low"]),
        event_store=SQLiteEventStorage(base_dir=str(tmp_path)),
        worker_config={"reap_interval": 0.2},
    ) as oq:
        yield oq
