from pathlib import Path

import pytest
from omniq.models.task import new_id
from omniq.testing.conformance import BackendConformance


class TestFiles(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/omniq"


class TestMemory(BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{new_id()}"
