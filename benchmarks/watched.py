"""A worker of any number of processes, watched from outside: `python -m watched ARGUMENT…` runs `python -m ARGUMENT…`.

Its tasks add a byte each to the file that BENCH_FILE names. From its first byte to its last is what is measured.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from measure import TASKS, report

LOOK = 0.002
"""Seconds between two looks."""


def main(command: list[str]) -> None:
    """Run it until all tasks are done, and print their rate. Raises `SystemExit` if it ends earlier."""
    file = Path(os.environ["BENCH_FILE"])
    worker = subprocess.Popen([sys.executable, "-m", *command], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        began, first = _until(file, 1, worker)
        ended, _ = _until(file, TASKS, worker)
        report(process_per_s=round((TASKS - first) / (ended - began)))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _until(file: Path, count: int, worker: subprocess.Popen[bytes]) -> tuple[float, int]:
    """When there were so many bytes, and how many."""
    while (size := file.stat().st_size if file.exists() else 0) < count:
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended early, with {worker.returncode}")
        time.sleep(LOOK)
    return time.perf_counter(), size


if __name__ == "__main__":
    main(sys.argv[1:])
