"""Waiting for a result: what is shown of its progress, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from omniq import OmniQ
from omniq.cli.output import BAR, bar_text
from omniq.models import Progress, ResultStatus, TaskResult
from omniq.workers import progress as reports

from tests.core.cli import tasks
from tests.core.cli.process import ROOT
from tests.core.cli.support import Cli

SOON = 30.0


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


@pytest.fixture
def running(cli: Cli, log: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of a task that is running and has said how far it is."""
    monkeypatch.setattr(reports, "STORE_INTERVAL", 0.02)
    with OmniQ(config=cli.config) as oq:
        task_id = oq.enqueue(tasks.progress, [str(log), str(gate)])
        oq.start_worker()
        for result in oq.watch(task_id, timeout=SOON):
            if result.progress is not None:
                break
        yield task_id
        gate.touch()


def waiting(cli: Cli, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """The command `omniq result … --wait`, in a process of its own."""
    command = [sys.executable, "-m", "omniq", "--url", cli.url, "result", *arguments, "--wait"]
    environ = {**os.environ, "COLUMNS": "80"}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, env=environ)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal's two ends: what is written to the second can be read from the first."""
    ours, theirs = pty.openpty()
    mode = termios.tcgetattr(theirs)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        with contextlib.suppress(OSError):
            os.close(theirs)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """What comes until that has come."""
    read = b""
    while wanted not in read:
        read += os.read(descriptor, 4096)
    return read


def test_a_terminal_shows_a_bar(cli: Cli, running: str, gate: Path) -> None:
    with terminal() as (ours, theirs):
        process = waiting(cli, running, stderr=theirs)
        shown = read_until(ours, "漢字".encode())
        assert f"\r[{'#' * 9}{' ' * 11}] 45 % reading\\x1b[2J ".encode() in shown
        gate.touch()
        output, _ = process.communicate(timeout=SOON)
        os.close(theirs)
        assert output == b'"done"\n'
        assert process.returncode == 0
        assert read_until(ours, b"\r\x1b[K").endswith(b"\r\x1b[K")


def test_ctrl_c_leaves_a_clean_line(cli: Cli, running: str) -> None:
    with terminal() as (ours, theirs):
        process = waiting(cli, running, stderr=theirs)
        read_until(ours, "漢字".encode())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=SOON) == 130
        assert b"Traceback" not in read_until(ours, b"\r\x1b[K\n")
        assert process.communicate()[0] == b""


def test_elsewhere_each_change_is_a_line(cli: Cli, running: str, gate: Path) -> None:
    process = waiting(cli, running)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said.decode() == f"task {running}: 45 % reading\\x1b[2J 漢字\n"
    gate.touch()
    output, more = process.communicate(timeout=SOON)
    assert (output, more, process.returncode) == (b'"done"\n', b"", 0)


def test_json_is_all_that_is_said_with_json(cli: Cli, running: str, gate: Path) -> None:
    threading.Timer(0.5, gate.touch).start()
    output, said = waiting(cli, running, "--json").communicate(timeout=SOON)
    assert (json.loads(output)["value"], said) == ("done", b"")


def test_who_does_not_wait_is_told_how_far_it_is(cli: Cli, running: str) -> None:
    told = cli("result", running)
    hint = f"error: task {running} hasn't ended: it is running (45 % reading\\x1b[2J 漢字)\n"
    assert (told.exit_code, told.stderr) == (4, hint)


@pytest.mark.parametrize(
    ("fraction", "bar"), [(0.0, " " * BAR), (0.5, "#" * 10 + " " * 10), (0.999, "#" * 19 + " "), (1.0, "#" * BAR)]
)
def test_the_bar_is_as_long_as_the_task_is_far(fraction: float, bar: str) -> None:
    result = TaskResult(task_id="t", status=ResultStatus.RUNNING, progress=Progress.of(fraction))
    assert bar_text(result).startswith(f"[{bar}] {int(100 * fraction)} %")
    assert bar_text(TaskResult(task_id="t", status=ResultStatus.PENDING)) == f"[{' ' * BAR}] pending"
