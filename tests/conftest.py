"""What all tests share: a clean environment, and the fixtures that OmniQ gives to its users' tests."""

from __future__ import annotations

import os
import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and the processes of these tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["omniq.testing.fixtures"]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the developer's own environment configure OmniQ, except those that name test servers."""
    for name in os.environ:
        if name.startswith("OMNIQ_") and not name.startswith("OMNIQ_TEST_"):
            monkeypatch.delenv(name)
