from pathlib import Path

import pytest
from omniq.testing.conformance import BackendConformance


class TestLmdb(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"lmdb:///{tmp_path}"
