"""How a NATS server is named, and that no secret shows."""

from __future__ import annotations

import pytest
from omniq.errors import ConfigError
from omniq_nats.backend import NATSBackend
from omniq_nats.config import NATSResultStorageConfig, NATSTaskQueueConfig


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("nats://", NATSTaskQueueConfig()),
        ("nats://bus", NATSTaskQueueConfig(host="bus")),
        ("nats://bus:7000/", NATSTaskQueueConfig(host="bus", port=7000)),
        ("nats://[::1]:7000", NATSTaskQueueConfig(host="::1", port=7000)),
        ("nats://joe:s%40fe@bus", NATSTaskQueueConfig(host="bus", username="joe", password="s@fe")),
        ("nats://t0ken@bus", NATSTaskQueueConfig(host="bus", token="t0ken")),
        ("tls://bus", NATSTaskQueueConfig(host="bus", ssl=True)),
        ("nats://a:1,b", NATSTaskQueueConfig(servers=["a:1", "b"])),
        (
            "nats://joe:safe@a:1,joe:safe@b:2",
            NATSTaskQueueConfig(servers=["a:1", "b:2"], username="joe", password="safe"),
        ),
        (
            "nats://bus?replicas=3&timeout=2.5&prefix=jobs",
            NATSTaskQueueConfig(host="bus", replicas=3, timeout=2.5, prefix="jobs"),
        ),
        ("nats://bus?credentials=/a.creds", NATSTaskQueueConfig(host="bus", credentials="/a.creds")),
        ("nats://bus/jobs", "url: expected nats://"),
        ("nats://bus:port", "url: expected nats://"),
        ("nats://bus?prefx=a", "url.prefx: unknown name, did you mean 'prefix'?"),
        ("nats://bus?prefix=a.b", "url.prefix: "),
        ("nats://bus?replicas=6", "url.replicas: "),
        ("nats://t@bus?credentials=/a.creds", "url.credentials: give either this or token"),
        ("redis://a", "url: expected nats://"),
    ],
)
def test_a_url_is_read_or_refused(url: str, config: NATSTaskQueueConfig | str) -> None:
    if isinstance(config, NATSTaskQueueConfig):
        assert NATSTaskQueueConfig.from_url(url) == config
    else:
        with pytest.raises(ConfigError) as refused:
            NATSTaskQueueConfig.from_url(url)
        assert str(refused.value).startswith(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token": "a", "username": "joe"}, "token: give either this or username"),
        ({"password": "a"}, "password: give username, too"),
        ({"servers": ["a:b"]}, "servers: expected addresses"),
        ({"servers": ["joe@a:1"]}, "servers: expected addresses"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        NATSTaskQueueConfig(**fields)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


def test_no_secret_shows() -> None:
    config = NATSTaskQueueConfig.from_url("nats://joe:s3cret@a:1")
    token, backend = NATSTaskQueueConfig(token="s3cret"), NATSBackend(username="joe", password="s3cret")
    shown = [repr(config), str(config), repr(config.settings), config.settings.location, repr(backend), repr(token)]
    assert not [text for text in shown if "s3cret" in text]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"host": "LOCALHOST", "token": "x", "timeout": 1.0}, True),
        ({}, {"port": 1}, False),
        ({}, {"project_name": "shop"}, False),
        ({}, {"prefix": "jobs"}, False),
        ({"servers": ["a:1", "b:1"]}, {"servers": ["b:1", "a:1"]}, True),
    ],
)
def test_equal_places_have_equal_locations(one: dict[str, object], other: dict[str, object], same: bool) -> None:
    queue = NATSTaskQueueConfig(**one)  # type: ignore[arg-type]
    results = NATSResultStorageConfig(**other)  # type: ignore[arg-type]
    assert (queue.settings.location == results.settings.location) is same


@pytest.mark.parametrize(("one", "other"), [("a.b", "a-b"), ("a b", "a%20b"), ("a", "A")])
def test_two_projects_never_share_a_stream(one: str, other: str) -> None:
    configs = [NATSTaskQueueConfig(project_name=name) for name in (one, other)]
    assert configs[0].stream != configs[1].stream
    assert configs[0].subject != configs[1].subject
