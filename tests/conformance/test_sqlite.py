"""SQLite passes the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from omniq.testing.conformance import BackendConformance


class TestSQLite(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/queue.db"
