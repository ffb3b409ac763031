"""Redis and Valkey pass the suite."""

from __future__ import annotations

import pytest
from omniq.testing.conformance import BackendConformance

from tests.servers.redis import redis_url

__all__ = ["redis_url"]


class TestRedis(BackendConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url
