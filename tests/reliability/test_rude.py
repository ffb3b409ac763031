"""Rude tasks hurt nobody but themselves: a small run of `tests.reliability.rude` for each worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omniq.testing.rude_tasks import ACTS

ROOT = Path(__file__).parents[2]
MEMORY = 1 << 24
FORKS = [name for name in ACTS if name.startswith("fork")]
LEFT_TO_THE_SYSTEM = {
    "process": ["--without", "set_a_signal_handler"],
    "gevent": ["--without", "set_a_signal_handler", *(word for name in FORKS for word in ("--without", name))],
}
"""What a worker doesn't undo."""


@pytest.mark.parametrize("worker", ["async", "thread", "process", "gevent"])
@pytest.mark.slow
def test_rude_tasks_hurt_no_innocent_one(worker: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    command = [sys.executable, "-m", "tests.reliability.rude", "--worker", worker, "--tasks", "600", "--patience", "60"]
    options = ["--memory", str(MEMORY), "--report", str(report), *LEFT_TO_THE_SYSTEM.get(worker, [])]
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert report.exists(), ended.stdout + ended.stderr
    assert report.read_text() == ""
    assert ended.returncode == 0
