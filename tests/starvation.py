"""Notices that the machine starved a test, and gives the test another try.

Where other programs keep all processors busy, a thread that renews leases may get no turn for as long as a lease. A
test that fails then has shown nothing. So a heartbeat beats beside tests that are marked `starvable`, in each process
that renews leases, and writes down when it came late; and where the system counts how long anybody waited for a
processor, it is asked. A test that failed meanwhile is run again. Nothing is repeated on a machine that gave everybody
his turn.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from _pytest.runner import runtestprotocol

VARIABLE = "OMNIQ_TEST_HEARTBEATS"
"""Environment variable with the file in which processes write down how late their heartbeats came."""
TRIES = 3
BEAT = 0.02
"""Seconds between two beats."""
BEATS = 10
"""Beats that are judged together: a renewal takes as many turns."""
LATE = 0.15
"""Seconds by which so many beats may come late in all; a busy thread beside them delays each by 5 ms."""
PRESSURE = Path("/proc/pressure/cpu")
"""What Linux says of how long somebody waited for a processor."""
CROWDED = 0.5
"""Share of a test's time in which somebody may have waited."""
REPEATED = "repeated"
"""Property of a test's report: why it was run again."""


class Heartbeat:
    """Beats on a thread of its own, and notes in a file when the beats came late."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            began = time.monotonic()
            for _ in range(BEATS):
                if self._stopped.wait(BEAT):
                    return
            late = time.monotonic() - began - BEATS * BEAT
            if late > LATE:
                with self._file.open("a") as file:
                    file.write(f"{late:.3f}\n")


def beat_if_asked() -> None:
    """Beat as long as this process lives, if the test that started it is watched."""
    if file := os.environ.get(VARIABLE):
        Heartbeat(Path(file)).start()


def waited() -> float:
    """Seconds in which somebody waited for a processor, counted from some moment; always 0 where nobody counts."""
    found = re.match(r"some .*total=(\d+)", PRESSURE.read_text()) if PRESSURE.exists() else None
    return int(found[1]) / 1e6 if found else 0.0


class Watch:
    """What one try of a test lacked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began, self._waited = time.monotonic(), waited()
        self.reason = ""
        """Empty where it had its turns."""

    def close(self) -> None:
        """Come to a conclusion."""
        late = [float(line) for line in self._file.read_text().split()]
        crowded = (waited() - self._waited) / (time.monotonic() - self._began)
        if late:
            self.reason = f"heartbeats were {max(late):.1f} s late"
        elif crowded > CROWDED:
            self.reason = f"somebody waited for a processor in {crowded:.0%} of the time"


@contextmanager
def watched() -> Iterator[Watch]:
    """Beat in this process, and in those that it starts."""
    with TemporaryDirectory(prefix="omniq-heartbeats-") as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "late"
        file.touch()
        patch.setenv(VARIABLE, str(file))
        heartbeat, watch = Heartbeat(file), Watch(file)
        heartbeat.start()
        try:
            yield watch
        finally:
            heartbeat.stop()
            watch.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "starvable: depends on turns in time; is run again where the machine gave none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every try the time that any other test has."""
    for item in items:
        limit = item.config.getini("timeout")
        if limit and item.get_closest_marker("starvable") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TRIES * float(limit)))
    marked = {item.path for item in items if item.get_closest_marker("starvable")}
    if unsaid := [path.name for path in marked if "starvable" not in path.read_text("utf-8")]:
        raise pytest.UsageError(f"{', '.join(sorted(unsaid))}: CI finds starvable tests by that word in their file")


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run what is marked, again if need be, and report the last try."""
    if item.get_closest_marker("starvable") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    reasons: list[str] = []
    for left in reversed(range(TRIES)):
        with watched() as watch:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not (left and watch.reason and any(report.failed for report in reports)):
            break
        reasons.append(watch.reason)
    reports[0].user_properties += [(REPEATED, reason) for reason in reasons]
    return reports


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which tests were run again, and why; the reports may have come from other processes."""
    for report in chain.from_iterable(terminalreporter.stats.values()):
        for name, reason in getattr(report, "user_properties", ()):
            if name == REPEATED:
                terminalreporter.write_line(f"REPEATED {report.nodeid}: {reason}")
