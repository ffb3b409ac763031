"""What all tests share: the event loop that users get, a clean environment, and the fixtures that OmniQ gives away."""

from __future__ import annotations

import os
import signal
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from omniq.sync import new_event_loop

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and the processes of these tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "pytester",
    "omniq.testing.builders",
    "tests.starvation",
    "tests.fixtures",
    "tests.servers.marks",
    "tests.servers.objects",
    "tests.servers.postgres",
    "tests.servers.redis",
    "tests.servers.nats",
    "tests.servers.tls",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="asyncio" if find_spec("uvloop") is None else "uvloop",
        help="event loop of the tests and of OmniQ in their process; uvloop where it is installed, if nothing is said",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hide uvloop where asyncio is chosen, so that OmniQ itself doesn't find it either."""
    if config.option.loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # what makes an import fail
    elif find_spec("uvloop") is None:
        raise pytest.UsageError("--loop uvloop: it isn't installed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors, since most tests wait for something."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return processors + 1


def pytest_report_header(config: pytest.Config) -> str:
    loop = config.option.loop
    return f"event loop: {loop} {version('uvloop')}" if loop == "uvloop" else f"event loop: {loop}"


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Every async test runs on what OmniQ runs on."""
    return {config.option.loop: new_event_loop}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the developer's own environment configure OmniQ or its drivers, except those that name test
    servers."""
    for name in os.environ:
        if name.startswith(("OMNIQ_", "PG")) and not name.startswith("OMNIQ_TEST_"):
            monkeypatch.delenv(name)
