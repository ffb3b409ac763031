"""Requirements of workers: what becomes of tasks when a worker stops, stands still or dies, or a task is rude to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from omniq.config.choices import resolve
from omniq.config.loader import ComponentChoice
from omniq.core import OmniQ
from omniq.errors import TaskFailed, UnknownBackend
from omniq.models.task import TERMINAL, Task, TaskState
from omniq.queue.options import TaskCall
from omniq.testing import worker_tasks as tasks
from omniq.testing.conformance.base import NOT_SEEN, needs, new_project
from omniq.testing.conformance.bench import PAUSE, Bench, WorkerTests
from omniq.testing.fleet import Fleet, Options, open_omniq
from omniq.testing.rude_tasks import ACTS, INNOCENT, SUCCESS
from omniq.workers.async_ import AsyncWorker
from omniq.workers.base import Worker, WorkerPool


class StopTests(WorkerTests):
    """A worker that stops finishes what runs, and gives back the rest, uncharged."""

    @pytest.fixture
    def waiters(self, worker_class: type[Worker]) -> list[Callable[..., Any]]:
        """Functions that wait, one of which doesn't listen where the kind can deal with that."""
        runner = worker_class.runner
        return [tasks.wait_for_async, tasks.wait_for][: 1 + (runner.preempts and runner.concurrent)]

    def test_what_runs_is_finished_and_the_rest_goes_back(
        self, bench: Bench, waiters: list[Callable[..., Any]], log: Path, gate: Path
    ) -> None:
        """What was claimed ahead goes back at once, for others to take; stopping twice is stopping once."""
        running = [bench.enqueue(func, str(gate), str(log), priority=1) for func in waiters]
        ahead = [bench.enqueue(tasks.append, str(log), "ran") for _ in range(5)]
        with bench.working(max_workers=len(running), prefetch=5, lease=30.0) as pool, ThreadPoolExecutor(1) as beside:
            bench.until_states([*running, *ahead], TaskState.RUNNING)
            bench.until_lines(log, len(running))
            stopped = beside.submit(pool.stop)
            bench.until_states(ahead, TaskState.PENDING)
            assert {bench.task(task_id).state for task_id in running} == {TaskState.RUNNING}
            gate.touch()
            stopped.result(bench.patience)
            pool.stop()
            assert not pool.running
        assert bench.results(running) == ["done"] * len(running)
        bench.assert_uncharged(ahead, TaskState.PENDING)
        assert "ran" not in tasks.lines(log)

    def test_after_the_grace_period_running_tasks_go_back(
        self, bench: Bench, waiters: list[Callable[..., Any]], log: Path, gate: Path
    ) -> None:
        """Uncharged, and another worker runs them."""
        ids = [bench.enqueue(func, str(gate), str(log)) for func in waiters]
        with bench.working(max_workers=len(ids), prefetch=0, grace_period=0.1, lease=30.0):
            bench.until_lines(log, len(ids))
        bench.assert_uncharged(ids, TaskState.PENDING)
        gate.touch()
        with bench.working():
            assert bench.results(ids) == ["done"] * len(ids)
        bench.assert_uncharged(ids)

    def test_stopping_at_any_moment_repeats_and_charges_nothing(self, bench: Bench, log: Path) -> None:
        """However often workers start and stop, each task that has ended ran once."""
        chance = Random(1)
        ids = [bench.enqueue(tasks.append, str(log), str(n)) for n in range(300)]
        for _ in range(2):
            with bench.working(lease=30.0) as pool:
                self._until_some_ran(bench, pool, log, chance)
            assert {task.crashes for task in bench.oq.list_tasks(state="pending", limit=1000)} <= {0}
            assert bench.oq.list_tasks(state="running") == []
        with bench.working():
            bench.results(ids)
        assert sorted(tasks.lines(log), key=int) == [str(n) for n in range(300)]

    @staticmethod
    def _until_some_ran(bench: Bench, pool: WorkerPool, log: Path, chance: Random) -> None:
        before = len(tasks.lines(log))
        bench.until(lambda: len(tasks.lines(log)) > before or not bench.oq.list_tasks(state="pending", limit=1))
        time.sleep(chance.uniform(0.0, 0.01))  # into the midst of it


class LeaseTests(WorkerTests):
    """A task is its worker's as long as that lives."""

    def test_a_task_that_blocks_keeps_its_lease(self, bench: Bench, log: Path) -> None:
        """For three leases and more, on a thread or on the loop that it shares: it runs once."""
        lease = 0.6
        ids = [bench.enqueue(tasks.block, str(log), 3.5 * lease), bench.enqueue(tasks.nap, 3.5 * lease)]
        reaper = bench.working(AsyncWorker, queues=["low"], lease=lease, reap_interval=0.05)
        with bench.working(lease=lease), reaper:
            assert bench.results(ids) == ["done", "awake"]
        assert len(tasks.lines(log)) == 1
        assert {bench.task(task_id).epoch for task_id in ids} == {1}
        bench.assert_uncharged(ids)


# ── deaths, and what is as rude ──────────────────────────────────────────────


class Processes:
    """A worker in a process of its own, which is started again whenever it dies; and the queue that it serves."""

    def __init__(self, options: Options, folder: Path, patience: float) -> None:
        self._fleet = Fleet(options, folder, size=1)
        self._output = folder / "workers.log"
        self._patience = patience
        aio = open_omniq(options)
        self.oq = OmniQ(task_queue=aio.task_queue, result_store=aio.result_store, config=aio.config)

    @contextmanager
    def working(self) -> Iterator[Fleet]:
        """Let it work."""
        with self._fleet:
            yield self._fleet
            self._fleet.stop()

    def ends(self, task_ids: Sequence[str]) -> list[Task]:
        """The tasks, once all of them have ended."""
        deadline, left = time.monotonic() + self._patience, list(task_ids)
        while left := [id_ for id_ in left if self.oq.get_task(id_).state not in TERMINAL]:
            assert time.monotonic() < deadline, f"{left} haven't ended: {self._output.read_text()[-2000:]}"
            self._fleet.tend()
            time.sleep(10 * PAUSE)
        return [self.oq.get_task(id_) for id_ in task_ids]

    def error_of(self, task_id: str) -> str:
        """The type of a task's error, or "success"."""
        try:
            self.oq.get_result(task_id, timeout=self._patience)
        except TaskFailed as failed:
            return failed.error_type
        return SUCCESS


class ProcessTests(WorkerTests):
    """Base of what needs a worker in a process of its own, on a store that processes share."""

    @pytest.fixture
    def processes(self, url: str, worker_class: type[Worker], tmp_path: Path, patience: float) -> Iterator[Processes]:
        """Such a worker."""
        try:
            resolve("task_queue", ComponentChoice(url=url))
        except UnknownBackend as error:
            pytest.skip(f"{NOT_SEEN}{error}")
        config = {"max_workers": 4, "prefetch": 20, "lease": 1.0, "reap_interval": 0.05, "max_crashes": 2}
        worker = f"{worker_class.__module__}:{worker_class.__qualname__}"
        options = Options(url=url, project=new_project(), worker=worker, config=config)
        processes = Processes(options, tmp_path, 2 * patience)
        with processes.oq:
            yield processes


class DeathTests(ProcessTests):
    """Tasks that kill their process are parked, and nobody else suffers."""

    def test_what_kills_its_process_is_a_dead_letter(self, processes: Processes, tmp_path: Path) -> None:
        """By `os._exit` or a segfault, after `max_crashes` deaths; all other tasks succeed at their first attempt."""
        oq, log = processes.oq, tmp_path / "deaths"
        before = [oq.enqueue(tasks.add, [n, 1]) for n in range(4)]
        deadly = [oq.enqueue(tasks.die, [str(log), how], max_retries=5) for how in ("exit", "segfault")]
        after = [oq.enqueue(func, [n, 2]) for n in range(6) for func in (tasks.add, tasks.add_async)]
        with processes.working():
            dead, good = processes.ends(deadly), processes.ends([*before, *after])
        assert {(task.state, task.crashes, task.attempts) for task in dead} == {(TaskState.ERROR, 2, 0)}
        assert {processes.error_of(task_id) for task_id in deadly} == {"omniq.errors.WorkerCrashed"}
        assert {(task.state, task.attempts) for task in good} == {(TaskState.SUCCESS, 0)}
        assert 3 <= len(tasks.lines(log)) <= 4  # the one may take the other along

    def test_a_worker_outlives_the_process_of_a_task(self, bench: Bench, tmp_path: Path) -> None:
        """Where tasks run in processes beside the worker's, it goes on."""
        with bench.working(max_crashes=1):
            if bench.run(tasks.process_id) == os.getpid():
                pytest.skip(f"{NOT_SEEN}its tasks run in the worker's process")
            failed = bench.fail(tasks.die, str(tmp_path / "log"), "exit")
            assert failed.error_type == "omniq.errors.WorkerCrashed"
            bench.assert_goes_on()

    @needs("isolates")
    def test_only_the_task_that_killed_its_process_is_charged(self, bench: Bench, tmp_path: Path) -> None:
        """Those beside it go on, those behind it run as if nothing had happened."""
        log, gate = tmp_path / "log", tmp_path / "gate"
        with bench.working(max_crashes=1, prefetch=10):
            beside = bench.enqueue(tasks.wait_for, str(gate), str(log))
            bench.until_lines(log, 1)
            deadly = bench.enqueue(tasks.die, str(tmp_path / "deaths"), "segfault")
            behind = [bench.enqueue(tasks.add, n, 1) for n in range(5)]
            assert bench.failure(deadly).error_type == "omniq.errors.WorkerCrashed"
            gate.touch()
            assert bench.result(beside) == "done"
            assert bench.results(behind) == [n + 1 for n in range(5)]
            bench.assert_uncharged([beside, *behind])
        assert len(tasks.lines(log)) == 1


SPARED: Final = {"set_a_signal_handler", "use_up_descriptors"}
"""Rude tasks that the suite does without: what they do is every task's of the process, and takes a limit to try."""


class RudeTests(ProcessTests):
    """Whatever a task does to its worker, the tasks beside it and after it succeed at their first attempt."""

    def test_rude_tasks_hurt_nobody_but_themselves(self, processes: Processes, worker_class: type[Worker]) -> None:
        """They exit, fork, stop and close loops, close files, use up memory and signals, and leave things behind."""
        oq, memory = processes.oq, [1 << 24]
        acts = [name for name in ACTS if name not in SPARED]
        if not worker_class.runner.forks:
            acts = [name for name in acts if not name.startswith("fork")]
        rude = {name: oq.enqueue(ACTS[name].run, memory * (name == "allocate"), **ACTS[name].options) for name in acts}
        calls = [TaskCall(func=INNOCENT[n % len(INNOCENT)], func_args=[n, 1]) for n in range(100)]
        innocent = oq.enqueue_many(calls)
        with processes.working() as fleet:
            ended = dict(zip(rude, processes.ends(list(rude.values())), strict=True))
            good = processes.ends(innocent)
            assert fleet.deaths == 0, "the worker died"
        wrong = {name: processes.error_of(rude[name]) for name in ended}
        assert {name: end for name, end in wrong.items() if end not in ACTS[name].ends} == {}
        assert [oq.get_result(task_id) for task_id in innocent] == [n + 1 for n in range(100)]
        assert {(task.state, task.attempts, task.crashes) for task in good} == {(TaskState.SUCCESS, 0, 0)}
