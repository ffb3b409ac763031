from pathlib import Path
from urllib.parse import urlencode

import pytest
from omniq.models.task import new_id
from omniq.testing.conformance import BackendConformance

from tests.servers.objects import ObjectPlace

LARGE = "ignore:Sending a large body:ResourceWarning"
"""The clients hand bytes to aiohttp, which would rather have a file."""


class TestFiles(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/omniq"


class TestMemory(BackendConformance):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://{new_id()}"


class TestS3(BackendConformance):
    @pytest.fixture
    def url(self, s3_place: ObjectPlace) -> str:
        return f"{s3_place.url}?{urlencode(s3_place.options)}"


@pytest.mark.filterwarnings(LARGE)
class TestAzure(BackendConformance):
    @pytest.fixture
    def url(self, azure_place: ObjectPlace) -> str:
        return f"{azure_place.url}?{urlencode(azure_place.options)}"


@pytest.mark.filterwarnings(LARGE)
class TestGoogle(BackendConformance):
    @pytest.fixture
    def url(self, gcs_place: ObjectPlace) -> str:
        return f"{gcs_place.url}?{urlencode(gcs_place.options)}"
