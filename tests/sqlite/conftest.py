"""What the tests of SQLite share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_left(nothing_left_behind: None) -> None:
    """Every test here cleans up after itself."""
