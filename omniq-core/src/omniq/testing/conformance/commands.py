"""What random walks do: Hypothesis strategies for the arguments of the contract's verbs.

Durations are multiples of 1000 seconds and the clock moves a little further than that (`STEP`), so that no
decision hangs on the moment at which a store reads its clock.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import Change
from omniq.testing.conformance.builders import IN_LINE, new_task

TASK_IDS = [f"t{n}" for n in range(6)]
SLOT_IDS = ["s-slot-0", "s-slot-1"]
QUEUES = ["first", "second"]
SCHEDULE_IDS = ["r", "s"]
STEP = 1003.0

IDS = st.sampled_from(TASK_IDS)
NUMBERS = st.integers(0, 11)
"""Which of the tasks that there are."""
OFFSETS = st.sampled_from([0, 0, 0, -1, 1])
"""How far an epoch or a version is from the right one: mostly not at all."""
SECONDS = st.sampled_from([0.0, 1000.0, 2000.0])
SLOTS = st.sampled_from([None, -500.0, 500.0, 1500.0])
"""Seconds from now to a schedule's next slot, if it has one."""
LEASES = st.sampled_from([1000.0, 3000.0])
LIMITS = st.integers(1, 4)
ENDS = st.sampled_from(sorted(TERMINAL))
FROM_STATES = st.just(()) | st.sampled_from(
    [
        (TaskState.RUNNING,),
        IN_LINE,
        (*IN_LINE, TaskState.WAITING),
        (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED),
        tuple(TaskState),
    ]
)
"""Empty for the state that the task is in."""

TASKS = st.builds(
    new_task,
    IDS,
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 1),
    delay=st.just(0.0) | SECONDS,
    ttl=st.sampled_from([None, 1000.0, 3000.0]),
    parents=st.just(()) | st.lists(IDS, max_size=2, unique=True).map(tuple),
    unique=st.sampled_from([None, None, "key"]),
)


class Wish(Struct, frozen=True):
    """A change to one of the tasks that there are; epoch and `from_states` are still relative to that task."""

    number: int
    change: Change


def _changes(to: SearchStrategy[TaskState], **effects: SearchStrategy[object]) -> SearchStrategy[Change]:
    return st.builds(Change, task_id=st.just(""), to=to, from_states=FROM_STATES, epoch=st.none() | OFFSETS, **effects)


CHANGES = st.one_of(
    _changes(ENDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), delay=st.none() | SECONDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), fresh=st.just(True)),
    _changes(st.just(TaskState.EXPIRED), if_expired=st.just(True)),
    _changes(st.just(TaskState.CANCELLED), request_cancel=st.just(True)),
)
WISHES = st.builds(Wish, NUMBERS, CHANGES)
