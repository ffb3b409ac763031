"""Programs that use a process worker: `python -m tests.core.workers.process_programs WHAT DIRECTORY`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from omniq import OmniQ

from tests.core.support import lines, result_storage, sqlite_place, task_queue
from tests.core.workers import process_tasks

CONFIG: dict[str, Any] = {"max_workers": 1, "lease": 60.0, "poll_interval": 0.2, "grace_period": 0.1}


def printing(oq: OmniQ, directory: Path) -> None:
    """Let tasks print, and close as soon as they have ended."""
    ids = [oq.enqueue(process_tasks.print_lines, [count]) for count in (3, 2)]
    for task_id in ids:
        oq.get_result(task_id, timeout=20)


def printing_and_dying(oq: OmniQ, directory: Path) -> None:
    """Let a task print and take its process along."""
    oq.enqueue(process_tasks.print_and_die, ["last words"], task_id="dying")
    while oq.get_task("dying").crashes == 0:
        time.sleep(0.01)


def exiting(oq: OmniQ, directory: Path) -> None:
    """Let a task ask for something to be done at the exit of its process."""
    oq.get_result(oq.enqueue(process_tasks.print_at_exit), timeout=20)


def reading(oq: OmniQ, directory: Path) -> None:
    """Print what a task reads from its standard input, and what is left for this program."""
    print(json.dumps([oq.get_result(oq.enqueue(process_tasks.read_input), timeout=20), sys.stdin.read()]))


def flags(oq: OmniQ, directory: Path) -> None:
    """Print how this interpreter was started, and how a child was."""
    child = oq.get_result(oq.enqueue(process_tasks.flags), timeout=20)
    print(json.dumps([process_tasks.flags(), child]))


def staying(oq: OmniQ, directory: Path) -> None:
    """Let a task start a program, print its number, and stay."""
    oq.enqueue(process_tasks.start_a_program, [str(directory / "log")])
    child = oq.get_result(oq.enqueue(process_tasks.leave_a_program, [str(directory / "other")]), timeout=20)
    assert child is None
    while not lines(directory / "log"):
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(60)


def main(what: str, directory: str) -> None:
    place = sqlite_place(Path(directory))
    workers = 2 if what == "staying" else 1
    with OmniQ(task_queue=task_queue(place), result_store=result_storage(place)) as oq:
        oq.start_worker("process", **{**CONFIG, "max_workers": workers})
        globals()[what](oq, Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
