from pathlib import Path

import pytest
from omniq.testing.conformance import BackendConformance


class TestShelf(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"shelf:///{tmp_path}"
