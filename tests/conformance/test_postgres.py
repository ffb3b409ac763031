"""PostgreSQL passes the suite."""

from __future__ import annotations

import pytest
from omniq.testing.conformance import BackendConformance

from tests.servers.postgres import shared_url


class TestPostgres(BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return shared_url()
