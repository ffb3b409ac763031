"""Requirements of workers: how tasks end that fail, take too long, fall silent, are cancelled or tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from omniq.errors import TaskCancelled
from omniq.models.task import TaskState
from omniq.testing import VirtualClock
from omniq.testing import worker_tasks as tasks
from omniq.testing.conformance.base import needs
from omniq.testing.conformance.bench import Bench, WorkerTests

OWN: Final = "omniq.testing.worker_tasks."
ENDS: Final = {
    "own": (f"{OWN}Own", "7: no luck"),
    "base": (f"{OWN}OwnBase", "nobody catches it"),
    "immovable": (f"{OWN}Immovable", "it can't travel"),
    "unprintable": (f"{OWN}Unprintable", ""),
    "exit": ("SystemExit", "bye"),
    "interrupt": ("KeyboardInterrupt", ""),
    "cancelled": ("asyncio.exceptions.CancelledError", ""),
    "timeout": ("TimeoutError", "somebody else's"),
    "group": ("ExceptionGroup", "both (2 sub-exceptions)"),
    "base group": ("BaseExceptionGroup", "all (3 sub-exceptions)"),
    "surrogate": ("ValueError", "half a character"),
}
"""By which error a task ends that raises one of `worker_tasks.ERRORS`, and what its text says."""


class ErrorTests(WorkerTests):
    """Whatever a task raises is its own error, and no harm to the worker or to other tasks."""

    @pytest.mark.parametrize("func", [tasks.raise_, tasks.raise_async])
    @pytest.mark.parametrize("kind", ENDS)
    def test_what_a_task_raises_is_its_error(self, working: Bench, kind: str, func: Callable[..., Any]) -> None:
        """Its type, text and traceback are kept, whether or not it is an `Exception`, can be pickled or printed."""
        error_type, text = ENDS[kind]
        failed = working.fail(func, kind)
        assert failed.error_type == error_type
        assert text in failed.error_message
        assert func.__name__ in failed.remote_traceback
        assert working.run(tasks.add, 1, 2) == 3

    def test_an_error_is_told_with_its_causes_notes_and_members(self, working: Bench) -> None:
        """The traceback has all that Python would print of it."""
        failed = working.fail(tasks.fail_with_a_history)
        for words in ("KeyError: 'first'", "a note", "direct cause", "ValueError: one", "TypeError: two"):
            assert words in failed.remote_traceback

    @pytest.mark.parametrize("func", [tasks.recurse, tasks.recurse_async])
    def test_deep_recursion_is_an_error(self, working: Bench, func: Callable[..., Any]) -> None:
        """And the next task has all the stack it needs."""
        assert working.fail(func).error_type == "RecursionError"
        working.assert_goes_on()

    def test_a_result_that_cannot_be_stored_is_an_error(self, working: Bench, log: Path) -> None:
        """At once: another try would bring no other."""
        failed = working.fail(tasks.return_a_generator, str(log), max_retries=5, retry_delay=0.01)
        assert failed.error_type == "omniq.errors.SerializationError"
        assert len(tasks.lines(log)) == 1

    def test_no_error_is_charged_to_anybody_else(self, working: Bench) -> None:
        """All of them at once, with other tasks between."""
        bad = [working.enqueue(func, kind) for kind in ENDS for func in (tasks.raise_, tasks.raise_async)]
        good = [working.enqueue(tasks.add, n, 1) for n in range(len(bad))]
        assert working.results(good) == [n + 1 for n in range(len(bad))]
        working.until_states(bad, TaskState.ERROR)
        working.assert_uncharged(good)
        assert {(task.attempts, task.crashes) for task in map(working.task, bad)} == {(1, 0)}


class RetryTests(WorkerTests):
    """A task that fails is tried again as often as it may be."""

    @pytest.mark.parametrize("max_retries", [0, 2])
    def test_a_task_is_tried_once_more_than_it_is_retried(self, working: Bench, log: Path, max_retries: int) -> None:
        """Each time it knows which attempt it is."""
        options = {"max_retries": max_retries, "retry_delay": 0.01}
        task_id = working.enqueue(tasks.fail_until, str(log), 99, **options)
        assert working.failure(task_id).error_message == f"attempt {max_retries + 1}"
        assert len(tasks.lines(log)) == max_retries + 1
        assert (working.task(task_id).attempts, working.task(task_id).crashes) == (max_retries + 1, 0)

    def test_after_success_there_is_no_retry(self, working: Bench, log: Path) -> None:
        """It has run as often as it took."""
        assert working.run(tasks.fail_until, str(log), 3, max_retries=5, retry_delay=0.01) == 3
        working.assert_goes_on()
        assert len(tasks.lines(log)) == 3

    def test_a_task_may_say_when_it_wants_to_be_run_again(self, working: Bench, log: Path, clock: VirtualClock) -> None:
        """`Retry(delay=…)` overrides its backoff."""
        task_id = working.enqueue(tasks.ask_for_a_retry, str(log), 3600, max_retries=1, retry_delay=0.01)
        working.until_states([task_id], TaskState.SCHEDULED)
        assert 3590 < working.task(task_id).run_at.timestamp() - clock.now() <= 3600
        clock.advance(3601)
        assert working.result(task_id) == "done"
        assert len(tasks.lines(log)) == 2

    @pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "soon", True])
    def test_a_delay_that_is_no_time_hurts_nobody(self, working: Bench, log: Path, delay: object) -> None:
        """The task's own backoff holds then."""
        options = {"max_retries": 1, "retry_delay": 0.01}
        assert working.run(tasks.ask_for_a_retry, str(log), delay, **options) == "done"

    def test_a_rejected_task_is_not_tried_again(self, working: Bench, log: Path) -> None:
        """It is a dead letter at once."""
        task_id = working.enqueue(tasks.reject, str(log), max_retries=5, retry_delay=0.0)
        failed = working.failure(task_id)
        assert (failed.error_type, failed.error_message) == ("omniq.errors.Reject", "not for me")
        assert len(tasks.lines(log)) == 1
        assert working.oq.get_dead(task_id).state is TaskState.ERROR


LATE: Final = "ran longer than its timeout of 0.2 s"


class TimeoutTests(WorkerTests):
    """What runs longer than it may fails, and is in nobody's way."""

    def test_a_task_that_sleeps_too_long_fails(self, working: Bench) -> None:
        """By `TaskTimeout`, though it sleeps in C."""
        failed = working.fail(tasks.nap, 0.5, timeout=0.2)
        assert (failed.error_type, failed.error_message) == ("omniq.errors.TaskTimeout", LATE)
        working.assert_goes_on()

    def test_a_task_that_computes_too_long_fails(self, working: Bench, log: Path, gate: Path) -> None:
        """Though it never gives up the interpreter."""
        assert working.fail(tasks.compute_until, str(gate), str(log), timeout=0.2).error_message == LATE
        gate.touch()
        working.assert_goes_on()

    def test_an_async_task_that_waits_too_long_fails(self, working: Bench, log: Path, gate: Path) -> None:
        """It is ended where it waits."""
        assert working.fail(tasks.wait_for_async, str(gate), str(log), timeout=0.2).error_message == LATE

    @needs("cancels")
    def test_a_late_async_task_may_clean_up(self, working: Bench, log: Path, gate: Path) -> None:
        """It gets a `CancelledError`."""
        assert working.fail(tasks.wait_for_async, str(gate), str(log), timeout=0.2).error_message == LATE
        assert tasks.lines(log) == ["begun", "cancelled"]

    @needs("preempts")
    @pytest.mark.parametrize("func", [tasks.wait_for, tasks.wait_for_async, tasks.swallow])
    def test_the_slot_of_a_late_task_is_free(
        self, single: Bench, log: Path, gate: Path, func: Callable[..., Any]
    ) -> None:
        """The next one needn't wait for its end, whether or not it listens; and what it still does changes nothing."""
        late = single.enqueue(func, str(gate), str(log), timeout=0.2)
        assert single.run(tasks.add, 1, 2) == 3
        assert single.failure(late).error_message == LATE
        gate.touch()
        single.assert_goes_on()
        assert single.task(late).state is TaskState.ERROR

    @pytest.mark.parametrize("func", [tasks.nap, tasks.beat_async])
    def test_a_late_task_is_tried_again_like_any_other(self, working: Bench, func: Callable[..., Any]) -> None:
        """A timeout is an attempt that failed."""
        task_id = working.enqueue(func, 0.5, timeout=0.2, max_retries=1, retry_delay=0.01)
        assert working.failure(task_id).error_message == LATE
        assert (working.task(task_id).attempts, working.task(task_id).crashes) == (2, 0)

    def test_a_task_that_was_in_time_is_left_alone(self, working: Bench) -> None:
        """Its limit ends with it: what runs after it in its slot isn't ended by it."""
        ids = [working.enqueue(func, 1, 2, timeout=1.0) for func in (tasks.add, tasks.add_async) * 4]
        naps = [working.enqueue(tasks.nap, 1.1) for _ in range(2)]
        assert working.results(ids) == [3] * 8
        assert working.results(naps) == ["awake"] * 2


class HeartbeatTests(WorkerTests):
    """A task that owes signs of life is ended when there are none."""

    @needs("preempts")
    @pytest.mark.parametrize("func", [tasks.wait_for, tasks.wait_for_async])
    def test_a_task_that_falls_silent_fails(
        self, working: Bench, log: Path, gate: Path, func: Callable[..., Any]
    ) -> None:
        """By `HeartbeatTimeout`."""
        failed = working.fail(func, str(gate), str(log), heartbeat_timeout=0.3)
        assert failed.error_type == "omniq.errors.HeartbeatTimeout"
        assert failed.error_message == "gave no sign of life for 0.3 s"
        gate.touch()
        working.assert_goes_on()

    def test_a_task_that_gives_signs_of_life_goes_on(self, working: Bench) -> None:
        """However long it takes."""
        ids = [working.enqueue(func, 1.2, heartbeat_timeout=0.7) for func in (tasks.beat, tasks.beat_async)]
        assert working.results(ids) == ["done"] * 2


class CancelTests(WorkerTests):
    """A task that is cancelled doesn't begin, or ends soon, and isn't tried again."""

    def cancel(self, bench: Bench, task_id: str) -> None:
        """Cancel it, and see it end so."""
        assert bench.oq.cancel(task_id)
        with pytest.raises(TaskCancelled):
            bench.result(task_id)
        task = bench.task(task_id)
        assert (task.state, task.crashes) == (TaskState.CANCELLED, 0)

    def test_one_that_has_not_begun_never_begins(self, working: Bench, log: Path) -> None:
        """Neither is it run nor charged."""
        working.oq.pause_queue("low")
        task_id = working.enqueue(tasks.append, str(log), "ran", queue_name="low")
        self.cancel(working, task_id)
        working.oq.resume_queue("low")
        working.run(tasks.add, 1, 2, queue_name="low")
        assert tasks.lines(log) == []

    def test_one_that_was_claimed_ahead_never_begins(self, single: Bench, log: Path, gate: Path) -> None:
        """The worker hears of it when it renews the lease."""
        first = single.enqueue(tasks.wait_for_async, str(gate), str(log))
        single.until_lines(log, 1)
        ahead = single.enqueue(tasks.append, str(log), "ran")
        single.until_states([ahead], TaskState.RUNNING)
        assert single.oq.cancel(ahead)
        single.until_heard(ahead)
        gate.touch()
        assert single.result(first) == "done"
        with pytest.raises(TaskCancelled):
            single.result(ahead)
        assert "ran" not in tasks.lines(log)

    def test_an_async_one_ends_while_it_runs(self, working: Bench, log: Path, gate: Path) -> None:
        """Where it waits."""
        task_id = working.enqueue(tasks.wait_for_async, str(gate), str(log), max_retries=3)
        working.until_lines(log, 1)
        self.cancel(working, task_id)
        assert len(tasks.lines(log)) <= 2

    @needs("preempts")
    def test_a_sync_one_ends_while_it_runs(self, working: Bench, log: Path, gate: Path) -> None:
        """It is ended, or sees in `current_task().cancelled` that it should stop."""
        task_id = working.enqueue(tasks.fail_when_told, str(gate), str(log), max_retries=3)
        working.until_lines(log, 1)
        self.cancel(working, task_id)
        assert tasks.lines(log).count("begun") == 1
        working.assert_goes_on()

    def test_a_child_that_waits_never_begins(self, working: Bench, log: Path, gate: Path) -> None:
        """Though its parent succeeds."""
        parent = working.enqueue(tasks.wait_for_async, str(gate), str(log))
        child = working.enqueue(tasks.append, str(log), "ran", depends_on=parent)
        working.until_lines(log, 1)
        self.cancel(working, child)
        gate.touch()
        assert working.result(parent) == "done"
        assert working.run(tasks.add, 1, 2, depends_on=parent) == 3
        assert tasks.lines(log) == ["begun"]


__all__ = ["CancelTests", "ErrorTests", "HeartbeatTests", "RetryTests", "TimeoutTests"]
