"""The specification's "Component-Based Usage" runs as written.

What isn't in the specification is marked with "here:".
"""
# ruff: noqa: C408 (the specification writes dict(name="Tom"))

from __future__ import annotations

from pathlib import Path

import pytest
from omniq.models.result import ResultStatus
from omniq.queue import FileTaskQueue
from omniq.storage import SQLiteResultStorage
from omniq.workers import ThreadPoolWorker


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`some/path` is in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)


# Define a task
def simple_task(name):  # type: ignore[no-untyped-def]
    print(f"Hello {name}")
    return name


def test_component_based_usage(capsys: pytest.CaptureFixture[str]) -> None:
    # Create components individually
    queue = FileTaskQueue(
        project_name="my_project",
        base_dir="some/path",
        queues=["low", "medium", "high"],
    )

    result_store = SQLiteResultStorage(
        project_name="my_project",
        base_dir="some/path",
    )

    # Create worker with reference to queue and result store
    worker = ThreadPoolWorker(
        queue=queue,
        result_store=result_store,
        max_workers=20,
    )

    # Start the worker
    worker.start()

    # Enqueue a task
    task_id = queue.enqueue(
        func=simple_task,
        func_args=dict(name="Tom"),
        queue_name="low",
    )

    # Get the result
    result = result_store.get(task_id)
    # here: that is a snapshot, and may come before the task has ended
    assert result is None or result.value == "Tom"
    result = result_store.wait(task_id, timeout=30)

    # Stop the worker
    worker.stop()

    # here
    assert result is not None
    assert (result.status, result.value) == (ResultStatus.SUCCESS, "Tom")
    assert capsys.readouterr().out == "Hello Tom\n"
    queue.close()
    result_store.close()


def test_using_context_managers() -> None:
    # Using context managers
    with (
        FileTaskQueue(project_name="my_project", base_dir="some/path") as queue,
        SQLiteResultStorage(project_name="my_project", base_dir="some/path") as result_store,
        ThreadPoolWorker(queue=queue, result_store=result_store) as worker,
    ):
        task_id = queue.enqueue(simple_task, func_args=dict(name="Tom"))
        result = result_store.get(task_id)
        # here: a snapshot again, so wait; and the worker can be asked too
        assert result is None or result.value == "Tom"
        result = result_store.wait(task_id, timeout=30)
        assert worker.get_result(task_id) == "Tom"

    assert result is not None
    assert result.value == "Tom"
