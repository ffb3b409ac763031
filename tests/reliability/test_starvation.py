"""A test that the machine starved is run again, and no other is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.starvation import LATE, TRIES, VARIABLE, Heartbeat

ROOT = Path(__file__).parents[2]
FAILS_SOMETIMES = """
import os, pathlib, pytest

{mark}
def test_that_fails(tmp_path):
    tries = pathlib.Path("tries")
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    if {starved}:
        pathlib.Path(os.environ["{variable}"]).write_text("0.7\\n")
    assert len(tries.read_text()) == {passes_at}
"""


STARVABLE = "@pytest.mark.starvable"
COUNTED = "import pathlib, tests.starvation as it; it.PRESSURE = pathlib.Path('pressure')\n"
"""What others do to the machine meanwhile decides nothing here."""


def ran(folder: Path, *, passes_at: int, starved: bool, mark: str = STARVABLE) -> tuple[int, str]:
    """How often a test was run that passes at one of its tries only, and what was printed."""
    source = FAILS_SOMETIMES.format(mark=mark, starved=starved, variable=VARIABLE, passes_at=passes_at)
    (folder / "test_it.py").write_text(source)
    with open(folder / "conftest.py", "a") as conftest:
        conftest.write(COUNTED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.starvation", "--rootdir", str(folder), "test_it.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    return len((folder / "tries").read_text()), done.stdout


def test_a_test_that_was_starved_gets_another_try(tmp_path: Path) -> None:
    tries, printed = ran(tmp_path, passes_at=2, starved=True)
    assert (tries, "1 passed" in printed) == (2, True), printed
    assert "REPEATED test_it.py::test_that_fails: heartbeats were 0.7 s late" in printed


def test_one_that_ran_while_others_waited_for_a_processor_gets_one_too(tmp_path: Path) -> None:
    counting = "import itertools; counts = itertools.count(0, 10**9); it.waited = lambda: next(counts)\n"
    (tmp_path / "conftest.py").write_text(COUNTED + counting)
    tries, printed = ran(tmp_path, passes_at=2, starved=False)
    assert (tries, "REPEATED test_it.py::test_that_fails: somebody waited" in printed) == (2, True), printed


def test_it_gets_no_more_than_three(tmp_path: Path) -> None:
    tries, printed = ran(tmp_path, passes_at=TRIES + 1, starved=True)
    assert (tries, "1 failed" in printed) == (TRIES, True), printed


@pytest.mark.parametrize(("starved", "mark"), [(False, STARVABLE), (True, "")])
def test_no_other_test_gets_one(tmp_path: Path, starved: bool, mark: str) -> None:
    if starved:
        (tmp_path / "conftest.py").write_text(f"import os\nos.environ['{VARIABLE}'] = os.devnull\n")
    tries, printed = ran(tmp_path, passes_at=2, starved=starved, mark=mark)
    assert (tries, "1 failed" in printed, "REPEATED" in printed) == (1, True, False), printed


def test_a_process_that_gets_no_turn_is_late(tmp_path: Path) -> None:
    file = tmp_path / "late"
    source = (
        f"from tests.starvation import *; Heartbeat(Path({str(file)!r})).start(); print('beats', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"beats\n"
        while not file.exists():
            process.send_signal(signal.SIGSTOP)
            time.sleep(2 * LATE)
            process.send_signal(signal.SIGCONT)
            time.sleep(LATE)
        process.kill()
    assert float(file.read_text().split()[0]) > LATE


def test_a_heartbeat_ends_when_it_is_told_to(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "late")
    heartbeat.start()
    heartbeat.stop()
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
