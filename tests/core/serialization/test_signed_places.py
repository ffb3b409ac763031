"""What signatures protect where somebody else can write to the store: rows that are changed, moved or planted."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.config.loader import Security
from omniq.errors import (
    ResultExpired,
    SerializationError,
    SignatureError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from omniq.models.result import Outcome
from omniq.models.task import TaskState
from omniq.serialization import DillSerializer
from omniq.storage.records import ResultRecord, TaskRecord
from omniq.testing import ReferenceSpace, VirtualClock

from tests.core import oddities, tasks
from tests.core.support import (
    SOON,
    front_door,
    lines,
    reference_place,
    result_storage,
    results_of,
    task_queue,
    until_states,
    working,
)

KEY, OLD = "k1:" + "s3cret" * 4, "k0:" + "an0ther" * 4
SIGNED = Security(signing_key=KEY)
ENDED = {
    "failed": TaskFailed,
    "cancelled": TaskCancelled,
    "expired": TaskExpired,
}


@pytest.fixture
def space() -> ReferenceSpace:
    """A store whose rows a test can change, as an attacker would."""
    return ReferenceSpace()


@pytest.fixture
async def oq(space: ReferenceSpace) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ with a key, at that store."""
    async with front_door(reference_place(space), security=SIGNED) as oq:
        yield oq


def tamper_task(space: ReferenceSpace, task_id: str, **fields: object) -> TaskRecord:
    """`update task set …`."""
    record = space.tasks.rows.get(task_id)
    assert record is not None
    return space.tasks.put(replace(record, **fields))


def tamper_result(space: ReferenceSpace, task_id: str, **fields: object) -> ResultRecord:
    """`update result set …`."""
    rows = space.results.rows
    rows[task_id] = replace(rows[task_id], **fields)
    return rows[task_id]


async def ended(oq: AsyncOmniQ, how: str) -> str:
    """A task that has ended without a value, for good."""
    if how == "failed":
        task_id = await oq.enqueue(tasks.fail)
        async with working(oq, "async"):
            await until_states(oq, [task_id], TaskState.ERROR)
        return task_id
    task_id = await oq.enqueue(tasks.add, [1, 2], ttl=0.0 if how == "expired" else None)
    if how == "cancelled":
        await oq.cancel(task_id)
    else:
        await oq.task_queue.ttl.expire()
    return task_id


# ── results ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", ["task", "result", "both"])
@pytest.mark.parametrize("how", ENDED)
async def test_a_failure_cannot_be_passed_off_as_a_success(
    oq: AsyncOmniQ, space: ReferenceSpace, how: str, rows: str
) -> None:
    task_id = await ended(oq, how)
    with pytest.raises(ENDED[how]):
        await oq.get_result(task_id, timeout=SOON)
    if rows in ("task", "both"):
        tamper_task(space, task_id, state=TaskState.SUCCESS)
    if rows in ("result", "both"):
        tamper_result(space, task_id, status=TaskState.SUCCESS)
    with pytest.raises(SignatureError):
        await oq.get_result(task_id, timeout=SOON)


async def test_no_status_can_be_passed_off_as_another(oq: AsyncOmniQ, space: ReferenceSpace) -> None:
    good = await oq.enqueue(tasks.add, [1, 2])
    async with working(oq, "async"):
        assert await oq.get_result(good, timeout=SOON) == 3
    ids = [good, *[await ended(oq, how) for how in ENDED]]
    states = (TaskState.SUCCESS, TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED)
    for task_id, state, status in itertools.product(ids, states, states):
        task, result = space.tasks.rows.get(task_id), space.results.rows[task_id]
        assert task is not None
        if (state, status) != (task.state, result.status):
            tamper_task(space, task_id, state=state)
            tamper_result(space, task_id, status=status)
            with pytest.raises(SignatureError):
                await oq.get_result(task_id, timeout=SOON)
            tamper_task(space, task_id, state=task.state)
            tamper_result(space, task_id, status=result.status)
    assert await oq.get_result(good, timeout=SOON) == 3


async def test_a_success_without_a_result_is_no_success(oq: AsyncOmniQ, space: ReferenceSpace) -> None:
    task_id = await ended(oq, "failed")
    tamper_task(space, task_id, state=TaskState.SUCCESS)
    del space.results.rows[task_id]
    with pytest.raises(ResultExpired):
        await oq.get_result(task_id, timeout=SOON)


async def test_the_end_of_a_junk_row_is_no_success_of_it(oq: AsyncOmniQ, space: ReferenceSpace) -> None:
    """A worker signs that it expired: that mustn't become a result with the value None."""
    async with front_door(reference_place(space)) as attacker:
        junk = await attacker.enqueue(tasks.add, [1, 2], ttl=0.0)
    async with working(oq, "async"):
        await until_states(oq, [junk], TaskState.EXPIRED, TaskState.ERROR)
    tamper_task(space, junk, state=TaskState.SUCCESS)
    tamper_result(space, junk, status=TaskState.SUCCESS)
    with pytest.raises(SignatureError):
        await oq.get_result(junk, timeout=SOON)


async def test_a_result_cannot_be_moved_to_another_schedule(oq: AsyncOmniQ, space: ReferenceSpace) -> None:
    schedule_id = await oq.schedule(tasks.add, [1, 2], interval=3600)
    mine = await oq.enqueue(tasks.add, [3, 4])
    async with working(oq, "async"):
        assert await oq.get_result(mine, timeout=SOON) == 7
    space.results.write(mine, replace(space.results.rows[mine], schedule_id=schedule_id))
    with pytest.raises(SignatureError):
        await oq.get_result(schedule_id=schedule_id, timeout=SOON)


async def test_a_task_cannot_be_made_one_of_a_schedule(oq: AsyncOmniQ, space: ReferenceSpace) -> None:
    task_id = await oq.enqueue(tasks.add, [1, 2])
    tamper_task(space, task_id, schedule_id="nightly")
    async with working(oq, "async"):
        with pytest.raises(TaskFailed, match="signature is wrong"):
            await oq.get_result(task_id, timeout=SOON)


# ── projects and queues ──────────────────────────────────────────────────────


async def test_what_is_copied_to_another_project_does_not_run_there(space: ReferenceSpace) -> None:
    here, elsewhere = reference_place(space), ReferenceSpace()
    async with front_door(here, security=SIGNED) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        schedule_id = await oq.schedule(tasks.add, [1, 2], interval=3600)
        done = await oq.enqueue(tasks.add, [3, 4])
    other = AsyncOmniQ(
        project_name="other",
        task_queue=task_queue(reference_place(elsewhere), security=SIGNED),
        result_store=result_storage(reference_place(elsewhere)),
    )
    async with other, front_door(here, security=SIGNED) as oq:
        async with working(oq, "async"):
            assert await results_of(oq, [task_id, done]) == [3, 7]
        copied = space.tasks.rows.get(task_id)
        assert copied is not None
        elsewhere.tasks.put(replace(copied, state=TaskState.PENDING, finished_at=None))
        elsewhere.results.write(done, space.results.rows[done])
        elsewhere.schedules.rows |= {schedule_id: replace(space.schedules.rows[schedule_id], next_run=1.0)}
        assert await other.task_queue.scheduler.fire_due() == 0
        async with working(other, "async"):
            with pytest.raises(TaskFailed, match="signature is wrong"):
                await other.get_result(task_id, timeout=SOON)
        with pytest.raises(SignatureError):
            await other.result_store.get(done)


async def test_a_schedule_does_not_fire_in_a_queue_that_it_was_moved_to(
    oq: AsyncOmniQ, space: ReferenceSpace, virtual_clock: VirtualClock
) -> None:
    moved = await oq.schedule(tasks.add, [1, 2], interval=10, queue_name="low")
    stays = await oq.schedule(tasks.add, [1, 2], interval=10, queue_name="low")
    space.schedules.rows[moved] = replace(space.schedules.rows[moved], queue_name="high")
    virtual_clock.advance(11)
    assert await oq.task_queue.scheduler.fire_due() == 1
    (task,) = await oq.list_tasks()
    assert (task.schedule_id, task.queue_name) == (stays, "low")


# ── values ───────────────────────────────────────────────────────────────────


def planted(task_id: str, oq: AsyncOmniQ, canary: object, status: TaskState) -> ResultRecord:
    """A result in dill's format, as somebody may write it who knows no key."""
    outcome = Outcome(value=DillSerializer().dumps(canary), value_format="d", error_type="ValueError")
    body = oq.task_queue.serialization.pack_outcome(outcome, task_id=task_id, epoch=1, status=status, schedule_id=None)
    return ResultRecord(task_id=task_id, epoch=1, status=status, body=body)


@pytest.mark.parametrize("status", [TaskState.SUCCESS, TaskState.ERROR])
async def test_a_result_is_decoded_only_where_its_value_is_asked_for(
    space: ReferenceSpace, log: Path, status: TaskState
) -> None:
    async with front_door(reference_place(space)) as oq:
        await oq.result_store.store.put([planted("t", oq, oddities.Canary(str(log)), status)])
        result, again = await oq.result_store.get("t"), await oq.result_store.get("t")
        assert result is not None
        assert result == again
        assert hash(result) == hash(again)
        assert "Canary" not in repr(result)
        assert result.error_type == "ValueError"
        assert lines(log) == []
        if status is TaskState.SUCCESS:
            assert result.value is result.unwrap()
            assert lines(log) != []
        else:
            assert result.value is None
            with pytest.raises(TaskFailed):
                result.unwrap()
            assert lines(log) == []


async def test_a_value_that_cannot_be_decoded_is_an_error_of_who_asks_for_it(space: ReferenceSpace) -> None:
    async with front_door(reference_place(space), security=Security(serializer="msgspec")) as oq:
        await oq.result_store.store.put([planted("t", oq, {1}, TaskState.SUCCESS)])
        result = await oq.result_store.get("t")
        assert result is not None
        assert result.status == "success"
        for _ in range(2):
            with pytest.raises(SerializationError, match="was not decoded"):
                result.unwrap()
