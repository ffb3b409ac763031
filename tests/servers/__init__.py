"""Servers for tests, and for the commands that use them too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def exit_without_server() -> Iterator[None]:
    """End a command with the reason where a server, or an empty place on it, can't be had; a test is skipped for it."""
    try:
        yield
    except (pytest.skip.Exception, RuntimeError) as reason:
        raise SystemExit(f"left out: {reason}") from None
