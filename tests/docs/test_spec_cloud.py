"""The specification's "Using fsspec for Cloud Storage" runs as written, on servers that know its buckets and keys.

Where a server is, the clients are told by their own variables, as they would be of any server that isn't the cloud's.
What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408 (as elsewhere, the specification's tasks get dict(name="Tom"))

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from omniq import OmniQ
from omniq.queue import FileTaskQueue
from omniq.storage import FileResultStorage

from tests.core.support import SOON
from tests.servers.objects import AzureServer, GcsServer, ObjectServer, S3Server


def simple_task(name):  # type: ignore[no-untyped-def]
    return f"Hello {name}"


def assert_it_works(queue: FileTaskQueue) -> None:
    """Its tasks are run, and their results are beside them."""
    assert queue.queues == ("high", "medium", "low", "default")
    with OmniQ(project_name="my_project", task_queue=queue) as oq:
        oq.start_worker()
        ids = [oq.enqueue(simple_task, func_args=dict(name=name), queue_name=name) for name in ("low", "high")]
        assert [oq.get_result(id_, timeout=SOON) for id_ in ids] == ["Hello low", "Hello high"]


@contextmanager
def running(server: ObjectServer) -> Iterator[ObjectServer]:
    server.start()
    try:
        yield server
    finally:
        server.remove()


def folders(server: ObjectServer, path: str) -> set[str]:
    """The names of the folders there."""
    filesystem, _ = server.place.files()
    return {name.rpartition("/")[2] for name in filesystem.ls(path, detail=False)}


def make_bucket(server: ObjectServer, bucket: str) -> None:
    server.place.files()[0].mkdir(bucket)


# ── here: the servers ────────────────────────────────────────────────────────


class MyS3(S3Server):
    """One that knows the specification's key."""

    KEY, SECRET = "access_key", "secret_key"


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """S3. What the specification gives no key for, the results, finds the same one in boto's variables."""
    with running(MyS3()) as server:
        make_bucket(server, "my-bucket")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.place.options["endpoint_url"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access_key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret_key")
        yield server


@pytest.fixture
def azure_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Azure. Keys are base64 there, which "mykey" isn't: the connection string wins over it."""
    with running(AzureServer()) as server:
        make_bucket(server, "my-container")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", server.place.options["connection_string"])
        yield server


class Tokens(BaseHTTPRequestHandler):
    """Gives anybody a token for Google's cloud, which the test server doesn't look at."""

    def do_POST(self) -> None:
        body = json.dumps({"access_token": "any", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def private_key() -> str:
    """A key of the form that Google's are in."""
    pytest.importorskip("cryptography", reason="needs cryptography, as gcsfs does")
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A service account, in `path/to/token.json`, whose tokens a server of this test gives out."""
    monkeypatch.chdir(tmp_path)
    key = private_key()
    server = HTTPServer(("127.0.0.1", 0), Tokens)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    account = {
        "type": "service_account",
        "project_id": "my-project",
        "client_email": "me@my-project",
        "private_key": key,
    }
    path = Path("path/to/token.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**account, "token_uri": f"http://127.0.0.1:{server.server_port}/token"}))
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def gcs_server(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Google Cloud Storage."""
    with running(GcsServer()) as server:
        make_bucket(server, "my-bucket")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.place.options["endpoint_url"])
        yield server


# ── the specification ────────────────────────────────────────────────────────


def test_using_local_filesystem(tmp_path: Path) -> None:
    # Using local filesystem with DirFileSystem
    local_queue = FileTaskQueue(
        project_name="my_project",
        base_dir=f"{tmp_path}/path/to/local/storage",  # here: not in the root
        queues=["high", "medium", "low"],
    )

    # here
    assert_it_works(local_queue)
    assert (tmp_path / "path/to/local/storage/my_project/queues/high").is_dir()


def test_using_s3(s3_server: ObjectServer) -> None:
    # Using S3 (requires s3fs package)
    s3_queue = FileTaskQueue(
        project_name="my_project",
        base_dir="s3://my-bucket/omniq",
        queues=["high", "medium", "low"],
        storage_options={"key": "access_key", "secret": "secret_key"},
    )

    # Create OmniQ with cloud storage
    oq = OmniQ(
        project_name="my_project",
        task_queue=s3_queue,
        result_store=FileResultStorage(base_dir="s3://my-bucket/omniq/results"),
    )

    # here: tasks and results are where they belong
    with oq:
        oq.start_worker()
        task_id = oq.enqueue(simple_task, func_args=dict(name="Tom"), queue_name="low")
        assert oq.get_result(task_id, timeout=SOON) == "Hello Tom"
    assert folders(s3_server, "my-bucket/omniq/my_project/queues") == {"low"}
    assert "log" in folders(s3_server, "my-bucket/omniq/results/my_project")  # where small results are


def test_using_azure(azure_server: ObjectServer) -> None:
    # Using Azure Blob Storage (requires adlfs package)
    azure_queue = FileTaskQueue(
        project_name="my_project",
        base_dir="abfs://my-container/omniq",
        queues=["high", "medium", "low"],
        storage_options={"account_name": "myaccount", "account_key": "mykey"},
    )

    # here
    assert_it_works(azure_queue)
    assert folders(azure_server, "my-container/omniq/my_project/queues") == {"high", "low"}


def test_using_google_cloud(gcs_server: ObjectServer) -> None:
    # Using Google Cloud Storage (requires gcsfs package)
    gcs_queue = FileTaskQueue(
        project_name="my_project",
        base_dir="gs://my-bucket/omniq",
        queues=["high", "medium", "low"],
        storage_options={"token": "path/to/token.json"},
    )

    # here
    assert_it_works(gcs_queue)
    assert folders(gcs_server, "my-bucket/omniq/my_project/queues") == {"high", "low"}
