"""A task that fails is tried again as often as it may be, later each time, and then parked."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.config.loader import TaskDefaults
from omniq.errors import InvalidTask, TaskFailed
from omniq.models import TaskState
from omniq.models.task import Call, RetryRule
from omniq.queue import RetryManager
from omniq.testing import VirtualClock

from tests.core import oddities, tasks
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    front_door,
    lines,
    reference_place,
    until,
    until_states,
    working,
)


@pytest.mark.parametrize("delay", [3600, 3600.0, dt.timedelta(hours=1)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_may_say_when_it_wants_to_be_run_again(
    log: Path, virtual_clock: VirtualClock, kind: str, delay: float | dt.timedelta
) -> None:
    async with front_door(reference_place()) as oq:
        task_id = await oq.enqueue(oddities.ask_for_a_retry, [str(log), delay], max_retries=1, retry_delay=0.01)
        async with working(oq, kind):
            await until_states(oq, [task_id], TaskState.SCHEDULED)
            left = (await oq.get_task(task_id)).run_at.timestamp() - virtual_clock.now()
            assert 3590 < left <= 3600
            virtual_clock.advance(3601)
            assert await oq.get_result(task_id, timeout=SOON) == "done"
    assert len(lines(log)) == 2


async def test_a_delay_beyond_all_measure_is_cut(place: Place, log: Path) -> None:
    async with front_door(place) as oq, working(oq, "async"):
        task_id = await oq.enqueue(oddities.ask_for_a_retry, [str(log), 1e300], max_retries=1)
        await until_states(oq, [task_id], TaskState.SCHEDULED)
        assert (await oq.get_task(task_id)).run_at.year < 2100


async def test_a_retry_that_is_asked_for_too_often_is_an_error(oq: AsyncOmniQ, log: Path) -> None:
    task_id = await oq.enqueue(oddities.ask_for_a_retry, [str(log), 0], max_retries=0)
    async with working(oq, "async"):
        with pytest.raises(TaskFailed, match="come back") as failed:
            await oq.get_result(task_id, timeout=SOON)
    assert failed.value.error_type == "omniq.errors.Retry"


async def test_what_a_task_does_not_say_comes_from_the_defaults(place: Place, log: Path) -> None:
    async with front_door(place, defaults=TaskDefaults(max_retries=2, retry_delay=0.01, timeout=9, ttl=60)) as oq:
        task_id = await oq.enqueue(oddities.fail_until, [str(log), 99])
        task = await oq.get_task(task_id)
        assert (task.max_retries, task.retry_delay, task.timeout) == (2, 0.01, 9.0)
        assert task.expires_at == task.run_at + dt.timedelta(seconds=60)
        async with working(oq, "async"):
            with pytest.raises(TaskFailed):
                await oq.get_result(task_id, timeout=SOON)
    assert len(lines(log)) == 3


async def test_each_retry_waits_longer_than_the_last(log: Path, virtual_clock: VirtualClock) -> None:
    async with front_door(reference_place()) as oq, working(oq, "async"):
        task_id = await oq.enqueue(oddities.fail_until, [str(log), 99], max_retries=4, retry_delay=100)
        for runs, delay in enumerate((100, 200, 400, 800), 1):
            await until(lambda: len(lines(log)) == runs)  # noqa: B023 (awaited at once)
            await until_states(oq, [task_id], TaskState.SCHEDULED)
            left = (await oq.get_task(task_id)).run_at.timestamp() - virtual_clock.now()
            assert delay / 2 - 5 < left <= delay
            virtual_clock.advance(delay + 1)
        await until_states(oq, [task_id], TaskState.ERROR)


ERRORS: dict[str, tuple[dict[str, Any], int]] = {
    "named": ({"retry_on": ConnectionResetError}, 3),
    "by its base": ({"retry_on": [OSError]}, 3),
    "another": ({"retry_on": [ValueError]}, 1),
    "given up": ({"give_up_on": ConnectionError}, 1),
    "another given up": ({"give_up_on": (ValueError, KeyError)}, 3),
    "both": ({"retry_on": OSError, "give_up_on": ConnectionResetError}, 1),
}


@pytest.mark.parametrize("case", ERRORS)
async def test_which_errors_are_worth_another_try(place: Place, log: Path, case: str) -> None:
    options, runs = ERRORS[case]
    async with front_door(place) as oq, working(oq, "async"):
        task_id = await oq.enqueue(oddities.reset, [str(log)], max_retries=2, retry_delay=0.0, **options)
        with pytest.raises(TaskFailed):
            await oq.get_result(task_id, timeout=SOON)
    assert len(lines(log)) == runs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retry_on": "ValueError"}, "retry_on: expected exception classes, got 'ValueError'"),
        ({"retry_on": [int]}, "retry_on: expected exception classes, got <class 'int'>"),
        ({"give_up_on": [ValueError()]}, "give_up_on: expected exception classes"),
        ({"give_up_on": 5}, "give_up_on: expected exception classes, got 5"),
        ({"retry_factor": 0.5}, "retry_factor: expected a number from 1 to 1000, got 0.5"),
        ({"retry_factor": "2"}, "retry_factor: "),
        ({"retry_jitter": 1.5}, "retry_jitter: expected a number from 0 to 1, got 1.5"),
        ({"retry_jitter": float("nan")}, "retry_jitter: "),
        ({"retry_max_delay": -1}, "retry_max_delay: "),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(oq: AsyncOmniQ, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        await oq.enqueue(tasks.nothing, **options)
    assert words in str(caught.value)


def call(delay: float, **rule: Any) -> Call:
    return Call(func="f", args=b"", args_format="m", retry_delay=delay, retry=RetryRule(**rule) if rule else None)


class TestBackoff:
    def test_it_doubles_within_its_upper_half(self) -> None:
        retries = RetryManager(seed=1)
        for attempt, full in enumerate([1.5, 3.0, 6.0, 12.0], 1):
            delays = [retries.delay(call(1.5), attempt) for _ in range(200)]
            assert full / 2 <= min(delays) < max(delays) <= full

    def test_it_has_an_upper_bound_however_often_it_fails(self) -> None:
        retries = RetryManager(seed=1)
        assert all(30 <= retries.delay(call(1.0, maximum=60), attempt) <= 60 for attempt in (10, 100, 10_000))

    def test_factor_and_jitter_are_the_tasks_own(self) -> None:
        retries = RetryManager(seed=1)
        steady = call(2.0, factor=1, jitter=0)
        assert [retries.delay(steady, attempt) for attempt in range(1, 5)] == [2.0] * 4
        assert retries.delay(call(2.0, factor=3, jitter=0), 3) == 18.0
        delays = [retries.delay(call(8.0, jitter=1), 1) for _ in range(200)]
        assert min(delays) < 1
        assert max(delays) > 7

    def test_nothing_stays_nothing(self) -> None:
        assert RetryManager().delay(call(0.0), 50) == 0.0
