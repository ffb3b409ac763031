"""The second lesson: queues, priorities, delays, schedules and dependencies."""

from __future__ import annotations

from omniq import OmniQ
from omniq.models import TaskState
from omniq.testing import VirtualClock

from tests.fundamentals import tasks


def test_an_earlier_queue_and_a_higher_priority_come_first(oq: OmniQ) -> None:
    tasks.order.clear()
    ids = [
        oq.enqueue(tasks.note, ["low"], queue_name="low"),
        oq.enqueue(tasks.note, ["high"], queue_name="high"),
        oq.enqueue(tasks.note, ["urgent"], queue_name="high", priority=10),
    ]
    oq.start_worker("thread", max_workers=1)
    for task_id in ids:
        oq.get_result(task_id, timeout=10)
    assert tasks.order == ["urgent", "high", "low"]


def test_a_delayed_task_runs_when_its_time_has_come(oq: OmniQ) -> None:
    with VirtualClock() as clock:
        oq.start_worker()
        task_id = oq.enqueue(tasks.add, [2, 3], run_in=3600)
        assert oq.get_task(task_id).state is TaskState.SCHEDULED
        clock.advance(3600)
        assert oq.get_result(task_id, timeout=10) == 5


def test_a_schedule_fires_again_and_again(oq: OmniQ) -> None:
    with VirtualClock() as clock:
        schedule_id = oq.schedule(tasks.add, [2, 3], interval=60)
        oq.start_worker()
        clock.advance(60)
        assert oq.get_result(schedule_id=schedule_id, timeout=10) == 5
        oq.pause_schedule(schedule_id)
        assert oq.get_schedule(schedule_id).state == "paused"


def test_a_child_waits_for_its_parents(oq: OmniQ) -> None:
    parent = oq.enqueue(tasks.add, [2, 3])
    child = oq.enqueue(tasks.add, [4, 5], depends_on=parent)
    assert oq.get_task(child).state is TaskState.WAITING
    oq.start_worker()
    assert oq.get_result(child, timeout=10) == 9
    assert oq.get_task(parent).state is TaskState.SUCCESS
