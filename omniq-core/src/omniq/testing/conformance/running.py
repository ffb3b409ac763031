"""Requirements of workers: which functions run, what they see, in which order, and what they say meanwhile."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from omniq.errors import NoCurrentTask
from omniq.models.result import ResultStatus
from omniq.models.task import TaskState
from omniq.queue.options import TaskCall
from omniq.queue.workflows import result_of
from omniq.testing import worker_tasks as tasks
from omniq.testing.conformance.base import needs
from omniq.testing.conformance.bench import Bench, WorkerTests
from omniq.workers.jobs import current_task

MIB: Final = 1 << 20


class FunctionTests(WorkerTests):
    """Whatever can be called runs, and what it returns is its result."""

    def test_a_sync_function_runs(self, working: Bench) -> None:
        """It is called once, with its arguments by position and by name, and its value comes back."""
        assert working.run(tasks.add, 1, 2) == 3
        assert working.result(working.oq.enqueue(tasks.add, {"x": 3, "y": 4})) == 7

    def test_an_async_function_runs(self, working: Bench) -> None:
        """It is awaited on an event loop."""
        assert working.run(tasks.add_async, 1, 2) == 3

    def test_what_a_function_returns_is_awaited(self, working: Bench) -> None:
        """A plain function may return a coroutine: its result is the task's."""
        assert working.run(tasks.returns_an_awaitable, 1, 2) == 3

    def test_decorated_functions_run(self, working: Bench) -> None:
        """Behind `functools.wraps`, also where a plain wrapper hides an async function."""
        assert working.run(tasks.add_doubled, 1, 2) == 6
        assert working.run(tasks.add_passed, 1, 2) == 3

    def test_partials_run(self, working: Bench) -> None:
        """`functools.partial` of sync and async functions."""
        assert working.run(functools.partial(tasks.add, 1), 2) == 3
        assert working.run(functools.partial(tasks.add_async, y=1), 2) == 3

    def test_cached_functions_run(self, working: Bench) -> None:
        """Behind `functools.lru_cache`."""
        assert [working.run(tasks.add_cached, 1, 2) for _ in range(2)] == [3, 3]

    def test_objects_that_can_be_called_run(self, working: Bench) -> None:
        """Instances with `__call__`, sync or async, and classes."""
        assert working.run(tasks.Adder(1), 2) == 3
        assert working.run(tasks.AsyncAdder(1), 2) == 3
        assert working.run(tasks.Adder, 5).x == 5

    def test_methods_run(self, working: Bench) -> None:
        """Those of an instance, sync and async, static ones, and those of a class."""
        assert working.run(tasks.Adder(1).add, 2) == 3
        assert working.run(tasks.Adder(1).add_async, 2) == 3
        assert working.run(tasks.Adder.sum_of, 1, 2) == 3
        assert working.run(tasks.Adder.from_text, "7") == 7

    def test_a_lambda_runs(self, working: Bench) -> None:
        """What no name leads to goes by value."""
        assert working.run(lambda x: x + 1, 2) == 3


class ValueTests(WorkerTests):
    """Arguments and results arrive as they were."""

    @pytest.mark.parametrize("func", [tasks.echo, tasks.echo_async])
    def test_values_arrive_as_they_were(self, working: Bench, func: Callable[..., Any]) -> None:
        """Of any type, None and half a character too."""
        for value in (None, 0, "", "é\x00\ud83d", b"\x00\xff", [1, (2, {3})], {"a": {1: None}}, float("inf")):
            assert working.run(func, value) == value

    @pytest.mark.parametrize("func", [tasks.echo, tasks.echo_async])
    def test_ten_mebibytes_go_there_and_back(self, working: Bench, func: Callable[..., Any]) -> None:
        """As an argument and as a result."""
        value = bytes(range(256)) * (10 * MIB // 256)
        assert working.run(func, value) == value

    def test_results_of_parents_are_arguments(self, working: Bench) -> None:
        """A task takes the values of those that it depends on."""
        parents = [working.enqueue(func, n, 1) for n, func in ((1, tasks.add), (2, tasks.add_async))]
        child = working.enqueue(tasks.add, *(result_of(parent) for parent in parents))
        assert working.result(child) == 5

    def test_nothing_is_lost_or_run_twice(self, bench: Bench, log: Path, concurrency: int) -> None:
        """Of 1,000 tasks, sync and async ones, each runs once; 200 at a time, or as many as a class says."""
        funcs = (tasks.append, tasks.append_async)
        calls = [TaskCall(func=funcs[n % 2], func_args=[str(log), str(n)]) for n in range(1000)]
        ids = bench.oq.enqueue_many(calls)
        with bench.working(max_workers=concurrency, lease=30.0):
            assert bench.results(ids) == [str(n) for n in range(1000)]
        assert Counter(tasks.lines(log)) == Counter(str(n) for n in range(1000))
        bench.assert_uncharged(ids)


class ContextTests(WorkerTests):
    """What a task sees of itself, and of others: nothing."""

    @pytest.mark.parametrize("func", [tasks.describe, tasks.describe_async])
    def test_a_task_knows_about_itself(self, working: Bench, func: Callable[..., Any]) -> None:
        """`current_task()` tells its id, queue, attempt, epoch, metadata and time."""
        options = {"queue_name": "high", "metadata": {"user": 17}, "max_retries": 4, "timeout": 60}
        task_id = working.enqueue(func, **options)
        assert working.result(task_id) == {
            "id": task_id,
            "queue_name": "high",
            "attempt": 1,
            "max_retries": 4,
            "epoch": 1,
            "metadata": {"user": 17},
            "schedule_id": None,
            "cancelled": False,
            "has_time_left": True,
        }

    def test_each_of_many_tasks_knows_about_itself(self, working: Bench) -> None:
        """Sync and async ones that run one after the other and side by side."""
        ids = [working.enqueue(func) for func in [tasks.describe_async, tasks.describe] * 8]
        assert [found["id"] for found in working.results(ids)] == ids

    @pytest.mark.parametrize("func", [tasks.ids_in_threads, tasks.ids_in_threads_async])
    def test_threads_of_a_task_know_about_it(self, working: Bench, func: Callable[..., Any]) -> None:
        """In a copy of its context, and in its children."""
        task_id = working.enqueue(func)
        assert set(working.result(task_id)) == {task_id}

    def test_outside_there_is_no_current_task(self, working: Bench) -> None:
        """Where the worker was started, and where tasks are waited for."""
        working.run(tasks.add_async, 1, 2)
        with pytest.raises(NoCurrentTask):
            current_task()

    @pytest.mark.parametrize("func", [tasks.stain, tasks.stain_async])
    def test_context_variables_stay_with_their_task(self, working: Bench, func: Callable[..., Any]) -> None:
        """What one sets, the next one doesn't see."""
        ids = [working.enqueue(func, f"stain {n}") for n in range(8)]
        assert working.results(ids) == ["clean"] * 8

    def test_callbacks_are_told(self, working: Bench, log: Path) -> None:
        """`on_success` and `on_failure` are called once, after the last attempt."""
        good = working.enqueue(tasks.echo, str(log), on_success=tasks.called_back, on_failure=tasks.raise_)
        working.result(good)
        bad = working.enqueue(
            tasks.fail_naming, str(log), on_failure=tasks.called_back, max_retries=1, retry_delay=0.01
        )
        working.failure(bad)
        working.until_lines(log, 2)
        assert sorted(tasks.lines(log)) == sorted([f"success:{good}", f"error:{bad}"])


class SlotTests(WorkerTests):
    """How many tasks run at once, and which come first."""

    @needs("concurrent")
    @pytest.mark.parametrize("func", [tasks.wait_for, tasks.wait_for_async])
    def test_each_slot_runs_a_task(self, working: Bench, log: Path, gate: Path, func: Callable[..., Any]) -> None:
        """As many tasks run at once as there are slots."""
        ids = [working.enqueue(func, str(gate), str(log)) for _ in range(2)]
        working.until_lines(log, 2)
        gate.touch()
        assert working.results(ids) == ["done"] * 2

    def test_no_more_tasks_run_than_there_are_slots(self, working: Bench, log: Path) -> None:
        """Whatever was claimed ahead waits."""
        working.results([working.enqueue(tasks.overlap, str(log), 0.02) for _ in range(12)])
        running = most = 0
        for line in tasks.lines(log):
            running += 1 if line == "+" else -1
            most = max(most, running)
        assert most <= 2

    def test_earlier_queues_and_higher_priorities_come_first(self, single: Bench, log: Path) -> None:
        """Queue by queue, and by priority within each, as far as one slot can tell."""
        places = [("low", 100), ("high", -100), ("default", 0), ("high", 0), ("high", 100), ("low", -1)]
        calls = [
            TaskCall(
                func=tasks.append,
                func_args=[str(log), f"{queue}{priority}"],
                options={"queue_name": queue, "priority": priority},
            )
            for queue, priority in places
        ]
        single.results(single.oq.enqueue_many(calls))
        assert tasks.lines(log) == ["high100", "high0", "high-100", "default0", "low100", "low-1"]

    def test_what_was_claimed_ahead_runs_in_order(self, single: Bench, log: Path) -> None:
        """One slot runs tasks in the order of their claims."""
        calls = [TaskCall(func=tasks.append, func_args=[str(log), str(n)]) for n in range(30)]
        single.results(single.oq.enqueue_many(calls))
        assert tasks.lines(log) == [str(n) for n in range(30)]

    def test_what_has_expired_is_not_run(self, single: Bench, log: Path, gate: Path) -> None:
        """A task whose TTL is over before a slot is free for it never begins, though it was claimed in time."""
        first = single.enqueue(tasks.wait_for_async, str(gate), str(log))
        single.until_lines(log, 1)
        late = single.enqueue(tasks.append, str(log), "ran", ttl=0.2)
        single.until_states([late], TaskState.RUNNING, TaskState.EXPIRED)
        time.sleep(0.3)  # until then it might begin
        gate.touch()
        assert single.result(first) == "done"
        single.until_states([late], TaskState.EXPIRED)
        assert tasks.lines(log) == ["begun"]


class ProgressTests(WorkerTests):
    """What running tasks say of themselves."""

    def test_progress_is_seen_while_the_task_runs(self, working: Bench, log: Path, gate: Path) -> None:
        """By `peek_result`, with the message."""
        self.progress(working, tasks.tell_async, log, gate)

    @needs("preempts")
    def test_progress_of_a_sync_task_is_seen_while_it_runs(self, working: Bench, log: Path, gate: Path) -> None:
        """Likewise."""
        self.progress(working, tasks.tell, log, gate)

    def progress(self, working: Bench, func: Callable[..., Any], log: Path, gate: Path) -> None:
        """Run a task that tells how far it is, and see that."""
        task_id = working.enqueue(func, str(gate), str(log), 0.4)
        working.until(lambda: working.oq.peek_result(task_id).progress is not None, "progress")
        seen = working.oq.peek_result(task_id)
        assert seen.progress is not None
        assert (seen.status, seen.progress.fraction, seen.progress.message) == (ResultStatus.RUNNING, 0.4, "reading")
        gate.touch()
        assert working.result(task_id) == "done"

    def test_a_task_that_runs_is_seen_to(self, working: Bench, log: Path, gate: Path) -> None:
        """Its state is RUNNING, and it names the worker."""
        task_id = working.enqueue(tasks.wait_for_async, str(gate), str(log))
        working.until_lines(log, 1)
        task = working.task(task_id)
        assert (task.state, task.epoch) == (TaskState.RUNNING, 1)
        assert task.worker
        gate.touch()
        assert working.result(task_id) == "done"
