"""The first lesson: a task is a function that somebody else calls."""

from __future__ import annotations

import pytest
from omniq import OmniQ
from omniq.errors import InvalidTask, TaskFailed
from omniq.models import TaskState

from tests.fundamentals import tasks


def test_enqueue_gives_an_id_and_get_result_the_value(oq: OmniQ) -> None:
    oq.start_worker()
    task_id = oq.enqueue(tasks.add, {"x": 2, "y": 3})
    assert oq.get_result(task_id, timeout=10) == 5


def test_arguments_are_a_mapping_or_a_sequence(oq: OmniQ) -> None:
    oq.start_worker()
    assert oq.get_result(oq.enqueue(tasks.add, [2, 3]), timeout=10) == 5


def test_async_functions_are_tasks_like_any_other(oq: OmniQ) -> None:
    oq.start_worker("thread")
    assert oq.get_result(oq.enqueue(tasks.add_slowly, [2, 3]), timeout=10) == 5


def test_without_a_worker_a_task_waits(oq: OmniQ) -> None:
    task = oq.get_task(oq.enqueue(tasks.add, [2, 3]))
    assert task.state is TaskState.PENDING
    assert task.func == "tests.fundamentals.tasks:add"


def test_an_error_comes_back_with_the_remote_traceback(oq: OmniQ) -> None:
    oq.start_worker()
    task_id = oq.enqueue(tasks.divide, [1, 0], max_retries=0)
    with pytest.raises(TaskFailed, match="ZeroDivisionError") as caught:
        oq.get_result(task_id, timeout=10)
    assert "return x / y" in caught.value.remote_traceback


def test_a_mistake_is_told_where_it_is_made(oq: OmniQ) -> None:
    with pytest.raises(InvalidTask, match="queue_name: 'hihg'"):
        oq.enqueue(tasks.add, [2, 3], queue_name="hihg")
    with pytest.raises(InvalidTask, match="did you mean 'priority'"):
        oq.enqueue(tasks.add, [2, 3], priorty=1)  # type: ignore[call-arg]
