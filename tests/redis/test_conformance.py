import pytest
from omniq.testing.conformance import BackendConformance

from tests.redis.looks import Looks


class TestRedis(Looks, BackendConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url
