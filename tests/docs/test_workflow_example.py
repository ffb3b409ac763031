"""The example workflow, run as its page says: by itself, and with a worker elsewhere that is killed in the middle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "workflow"
TEXTS = EXAMPLE.parent / "quickstart" / "texts"
CONFIG = """
task_queue: {url: "sqlite:///$PLACE/texts.db?synchronous=NORMAL"}
worker: {type: thread, config: {max_workers: 1, lease: 2, reap_interval: 0.2}}
"""
WORKER = ("-m", "omniq", "worker", "--project", "texts")
PATIENCE = 60.0
"""Seconds after which something that should have happened won't happen any more."""


def environment(tmp_path: Path) -> dict[str, str]:
    """That of this process without any OMNIQ_ variable, with a queue of its own and leases that end soon."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
    (file := tmp_path / "omniq.yaml").write_text(CONFIG.replace("$PLACE", str(tmp_path)), "utf-8")
    return {**kept, "OMNIQ_CONFIG": str(file), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(tmp_path: Path, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python program in the example's directory, which is killed in the end if it still runs."""
    program = subprocess.Popen(
        [sys.executable, *command],
        cwd=EXAMPLE,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate(timeout=PATIENCE)


def test_it_draws_its_graph_and_shows_how_far_it_is(tmp_path: Path) -> None:
    with running(tmp_path, "-W", "error", "summary.py", "--pause", "0") as program:
        out, errors = program.communicate(timeout=PATIENCE)
    count = len(list(TEXTS.iterdir()))
    assert program.returncode == 0, errors
    lines = out.splitlines()
    assert (lines[0], lines[count + 1]) == ("level 1", "level 2")
    assert re.fullmatch(rf"  #{count + 1}  reading:sum_up  waiting    \w+  after #1 to #{count}", lines[count + 2])
    assert lines[count + 3].split() == ["files", str(count)]
    assert errors.splitlines()[-1].endswith(f"{count + 1}/{count + 1}")


def test_it_survives_that_its_worker_is_killed_in_the_middle(tmp_path: Path) -> None:
    with running(tmp_path, "summary.py", "--no-worker") as program:
        assert program.stderr is not None
        with running(tmp_path, *WORKER) as first:
            for line in program.stderr:
                if int(line.rpartition("] ")[2].partition("/")[0]) >= 3:
                    break
            first.send_signal(signal.SIGKILL)
            first.wait(PATIENCE)
        with running(tmp_path, *WORKER):
            out, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, errors
    count = len(list(TEXTS.iterdir()))
    assert f"files           {count}" in out
