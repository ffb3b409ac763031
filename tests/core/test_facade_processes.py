"""The blocking classes in a forked child, and at the end of a program that closes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from omniq.models import TaskState

from tests.core import tasks
from tests.core.support import KINDS, SOON, blocking_door, sqlite_place

ROOT = Path(__file__).parents[2]


def in_a_fork(run: Callable[[], None]) -> int:
    """The exit code of a forked child that runs this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TestForks:
    def test_a_forked_child_uses_the_facade_like_its_parent(self, tmp_path: Path) -> None:
        with blocking_door(sqlite_place(tmp_path)) as oq:
            oq.enqueue(tasks.nothing, task_id="parents")

            def child() -> None:
                assert oq.get_task("parents").state is TaskState.PENDING
                oq.enqueue(tasks.add, [1, 2], task_id="childs")
                oq.close()

            assert in_a_fork(child) == 0
            oq.start_worker()
            assert oq.get_result("childs", timeout=SOON) == 3

    def test_a_worker_stays_with_the_parent(self, tmp_path: Path) -> None:
        with blocking_door(sqlite_place(tmp_path)) as oq:
            oq.start_worker()

            def child() -> None:
                assert oq.get_result(oq.enqueue(tasks.process_id), timeout=SOON) == os.getppid()
                oq.close()  # must neither hang nor stop the parent's worker

            assert in_a_fork(child) == 0
            assert oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3

    def test_a_forked_child_may_have_a_worker_of_its_own(self, tmp_path: Path) -> None:
        with blocking_door(sqlite_place(tmp_path)) as oq:
            oq.start_worker(queues=["high"])

            def child() -> None:
                oq.start_worker("thread", queues=["low"])
                task_id = oq.enqueue(tasks.process_id, queue_name="low")
                assert oq.get_result(task_id, timeout=SOON) == os.getpid()
                oq.close()

            assert in_a_fork(child) == 0


@pytest.mark.starvable  # a cancelled task has half a second to end
@pytest.mark.parametrize("how", ["omniq", "components"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_closes_nothing_ends_well(tmp_path: Path, how: str, kind: str) -> None:
    command = [sys.executable, "-X", "dev", "-m", "tests.core.exits", how, kind, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SOON)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("3\n", "", 0)
    with blocking_door(sqlite_place(tmp_path)) as oq:
        left = oq.get_task("left")
        assert (left.state, left.attempts, left.crashes) == (TaskState.PENDING, 0, 0)


def test_no_loop_of_ours_runs_any_more_when_the_interpreter_goes(tmp_path: Path) -> None:
    program = (
        "import atexit, threading\n"
        "atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))\n"  # runs last
        "from tests.core import tasks\n"
        "from tests.core.support import blocking_door, sqlite_place\n"
        "with blocking_door(sqlite_place(__import__('pathlib').Path('.'))) as oq:\n"
        "    oq.enqueue(tasks.nothing)\n"
        "print(any(thread.name == 'omniq-portal' for thread in threading.enumerate()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SOON
    )
    assert (ended.stdout, ended.returncode) == ("True\n['MainThread']\n", 0), ended.stderr
