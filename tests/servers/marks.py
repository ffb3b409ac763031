"""Marks what needs a server, by the fixtures that start one and by parameters that name a server's store."""

from __future__ import annotations

import re

import pytest

FIXTURE = re.compile(r"(nats|postgres|redis|pgbouncer|s3|azure|gcs|object)_\w+|(\w+_)?servers?")
"""How fixtures are called that start servers."""
STORES = {"nats", "postgres", "redis"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "server: needs NATS, PostgreSQL, Redis or an object store, started from a wheel; marked automatically",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before anybody selects by marks."""
    for item in items:
        if isinstance(item, pytest.Function) and _needs_server(item):
            item.add_marker(pytest.mark.server)


def _needs_server(test: pytest.Function) -> bool:
    values = test.callspec.params.values() if hasattr(test, "callspec") else ()
    return any(map(FIXTURE.fullmatch, test.fixturenames)) or any(
        isinstance(value, str) and value in STORES for value in values
    )
