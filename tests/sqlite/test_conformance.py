from pathlib import Path

import pytest
from omniq.testing.conformance import BackendConformance

from tests.sqlite.looks import Looks


class TestSQLite(Looks, BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/queue.db"
