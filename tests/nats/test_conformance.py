import pytest
from omniq.testing.conformance import BackendConformance


class TestNATS(BackendConformance):
    @pytest.fixture
    def url(self, nats_url: str) -> str:
        return nats_url
