"""Servers for runs: each is new and empty, and there only for its run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.reliability.outages import Server
from tests.servers.nats import NATSCluster, NATSServer
from tests.servers.objects import S3Server
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

POSTGRES: Final = "postgres"
REDIS: Final = {"redis": "valkey9", "redis6": "redis6"}
"""What the servers of the Redis protocol are called here, and what they are."""
S3: Final = "s3"
NATS, NATS_CLUSTER = "nats", "nats-cluster"
KINDS: Final = (NATS, NATS_CLUSTER, POSTGRES, *REDIS, S3)


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """A new server of this kind, one of `KINDS`; it is deleted afterwards."""
    server: NATSCluster | NATSServer | PostgresServer | RedisServer | S3Server
    if kind == S3:
        server = S3Server()
    elif kind == NATS:
        server = NATSServer()
    elif kind == NATS_CLUSTER:
        server = NATSCluster()
    elif kind == POSTGRES:
        server = PostgresServer()
        server.create()
    else:
        server = RedisServer(REDIS[kind])
    try:
        server.start()
        yield server
    finally:
        server.remove()
