"""How a Redis server is named, and that no secret shows."""

from __future__ import annotations

import pytest
from omniq.errors import ConfigError
from omniq_redis.backend import RedisBackend
from omniq_redis.config import RedisResultStorageConfig, RedisTaskQueueConfig


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("redis://", RedisTaskQueueConfig()),
        ("redis://cache", RedisTaskQueueConfig(host="cache")),
        ("redis://cache:7000/3", RedisTaskQueueConfig(host="cache", port=7000, db=3)),
        ("redis://[::1]:7000", RedisTaskQueueConfig(host="::1", port=7000)),
        ("redis://joe:s%40fe@cache", RedisTaskQueueConfig(host="cache", username="joe", password="s@fe")),
        ("redis://:safe@cache/", RedisTaskQueueConfig(host="cache", password="safe")),
        (
            "rediss://cache?timeout=2.5&ssl_ca_certs=/ca.pem&prefix=jobs&queues=",
            "url.queues: expected list, got str",
        ),
        (
            "rediss://cache?timeout=2.5&ssl_ca_certs=/ca.pem&prefix=jobs",
            RedisTaskQueueConfig(host="cache", ssl=True, timeout=2.5, ssl_ca_certs="/ca.pem", prefix="jobs"),
        ),
        (
            "redis+sentinel://:safe@a:1,b/primary/2?sentinel_password=also",
            RedisTaskQueueConfig(
                nodes=["a:1", "b"], sentinel_master="primary", db=2, password="safe", sentinel_password="also"
            ),
        ),
        ("rediss+cluster://a:1,b", RedisTaskQueueConfig(nodes=["a:1", "b"], cluster=True, ssl=True)),
        ("unix:///run/r%20s.sock?db=1", RedisTaskQueueConfig(unix_socket_path="/run/r s.sock", db=1)),
        (
            "unix://joe:safe@/run/redis.sock",
            RedisTaskQueueConfig(unix_socket_path="/run/redis.sock", username="joe", password="safe"),
        ),
        ("unix://", "url: expected redis://"),
        ("unix://run/redis.sock", "url: expected redis://"),
        ("unix:///run/redis.sock?cluster=true", "url.unix_socket_path: leave out cluster"),
        ("redis://a:1,b:2", "url: expected redis://"),
        ("redis://a,b", "url: expected redis://"),
        ("redis://cache/jobs", "url.db: expected int"),
        ("redis://cache/1/2", "url: expected redis://"),
        ("redis://cache:port", "url: expected redis://"),
        ("redis://cache?prefx=a", "url.prefx: unknown name, did you mean 'prefix'?"),
        ("redis://cache?prefix={a}", "url.prefix: "),
        ("redis+sentinel://a:1", "url: sentinels need the master's name"),
        ("redis+cluster://a:1/2", "url.db: a cluster has no database but 0"),
        ("redis+other://a", "url: expected redis://"),
        ("postgresql://a", "url: expected redis://"),
    ],
)
def test_a_url_is_read_or_refused(url: str, config: RedisTaskQueueConfig | str) -> None:
    if isinstance(config, RedisTaskQueueConfig):
        assert RedisTaskQueueConfig.from_url(url) == config
    else:
        with pytest.raises(ConfigError) as refused:
            RedisTaskQueueConfig.from_url(url)
        assert str(refused.value).startswith(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": True, "sentinel_master": "primary"}, "cluster: sentinels don't watch"),
        ({"cluster": True, "db": 1}, "db: a cluster has no database but 0"),
        ({"nodes": ["a:1"]}, "nodes: are those of a cluster or the sentinels"),
        ({"nodes": ["a:b"], "cluster": True}, "nodes: expected addresses"),
        ({"nodes": ["joe@a:1"], "cluster": True}, "nodes: expected addresses"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RedisTaskQueueConfig(**fields)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


def test_no_secret_shows() -> None:
    url = "redis+sentinel://joe:s3cret@a:1/primary?sentinel_password=s3cret"
    config = RedisTaskQueueConfig.from_url(url)
    backend = RedisBackend(password="s3cret")
    shown = [repr(config), str(config), repr(config.settings), config.settings.location, repr(backend)]
    assert not [text for text in shown if "s3cret" in text]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"host": "LOCALHOST", "password": "x", "timeout": 1.0}, True),
        ({}, {"db": 1}, False),
        ({}, {"port": 1}, False),
        ({}, {"project_name": "shop"}, False),
        ({}, {"prefix": "jobs"}, False),
        ({"nodes": ["a:1", "b:1"], "cluster": True}, {"nodes": ["b:1", "a:1"], "cluster": True}, True),
        ({"nodes": ["a:1"], "sentinel_master": "x"}, {"nodes": ["a:1"], "sentinel_master": "y"}, False),
    ],
)
def test_equal_places_have_equal_locations(one: dict[str, object], other: dict[str, object], same: bool) -> None:
    queue = RedisTaskQueueConfig(**one)  # type: ignore[arg-type]
    results = RedisResultStorageConfig(**other)  # type: ignore[arg-type]
    assert (queue.settings.location == results.settings.location) is same
