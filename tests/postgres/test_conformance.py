import pytest
from omniq.testing.conformance import BackendConformance

from tests.postgres.looks import Looks
from tests.servers.postgres import shared_url


class TestPostgres(Looks, BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return shared_url()
