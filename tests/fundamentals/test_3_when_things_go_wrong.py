"""The third lesson: retries, the dead-letter queue, cancelling, and what was recorded."""

from __future__ import annotations

import pytest
from omniq import OmniQ
from omniq.errors import TaskCancelled, TaskExpired, TaskFailed
from omniq.models import EventType, TaskState
from omniq.testing import VirtualClock

from tests.fundamentals import tasks


def test_a_task_may_ask_to_be_tried_again(oq: OmniQ) -> None:
    oq.start_worker()
    assert oq.get_result(oq.enqueue(tasks.succeed_at, [3], max_retries=2), timeout=10) == 3


def test_what_fails_for_good_is_kept_and_can_be_requeued(oq: OmniQ) -> None:
    oq.start_worker()
    task_id = oq.enqueue(tasks.divide, [1, 0], max_retries=0)
    with pytest.raises(TaskFailed):
        oq.get_result(task_id, timeout=10)
    assert [task.id for task in oq.list_dead()] == [task_id]
    oq.stop_worker()
    assert oq.requeue(task_id)
    assert oq.get_task(task_id).state is TaskState.PENDING


def test_a_task_can_be_cancelled_before_it_runs(oq: OmniQ) -> None:
    before = oq.enqueue(tasks.add, [2, 3])
    assert oq.cancel(before)
    with pytest.raises(TaskCancelled):
        oq.get_result(before, timeout=10)


def test_a_task_that_nobody_starts_in_time_expires(oq: OmniQ) -> None:
    with VirtualClock() as clock:
        task_id = oq.enqueue(tasks.add, [2, 3], ttl=60)
        clock.advance(61)
        with pytest.raises(TaskExpired):
            oq.get_result(task_id, timeout=10)


def test_events_tell_what_happened(oq: OmniQ) -> None:
    oq.start_worker()
    task_id = oq.enqueue(tasks.add, [2, 3])
    oq.get_result(task_id, timeout=10)
    oq.stop_worker()
    types = [event.type for event in oq.list_events(task_id=task_id, oldest_first=True)]
    assert types == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
