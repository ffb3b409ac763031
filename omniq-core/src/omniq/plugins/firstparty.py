"""OmniQ's own distributions, so that an error can say which one to install."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omniq.plugins.specs import Kind

_EVENT_STORES: Final[Mapping[str, str]] = {
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "file": "fsspec",
    "memory": "fsspec",
    "s3": "fsspec",
    "gs": "fsspec",
    "gcs": "fsspec",
    "abfs": "fsspec",
    "abfss": "fsspec",
    "az": "fsspec",
}
_STORES: Final = {**_EVENT_STORES, "redis": "redis", "rediss": "redis", "nats": "nats"}
_WORKERS: Final[Mapping[str, str]] = {"gevent": "gevent", "gevent_pool": "gevent"}

EXTRAS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "task_queue": _STORES,
    "result_store": _STORES,
    "event_store": _EVENT_STORES,
    "worker": _WORKERS,
    "command": {},
}
"""For each kind: a name, alias or URL scheme, and the extra of omniq-core that brings it."""


def distribution(extra: str) -> str:
    """The distribution of ours that an extra of omniq-core installs."""
    return f"omniq-{extra}"


DISTRIBUTIONS: Final = frozenset(distribution(extra) for words in EXTRAS.values() for extra in words.values())
