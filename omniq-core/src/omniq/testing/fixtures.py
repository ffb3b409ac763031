"""Fixtures for pytest: `pytest_plugins = ["omniq.testing.fixtures"]` in the top `conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from omniq.testing import VirtualClock


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """A clock that the test can advance; it is put back afterwards."""
    with VirtualClock() as clock:
        yield clock
