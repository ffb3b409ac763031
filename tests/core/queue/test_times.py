"""Times: what is beyond the calendar is refused where it comes in, and shown as its end where it is there already."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.clock import LATEST, as_datetime, due_time, utc
from omniq.errors import InvalidTask
from omniq.storage.records import NEW, NewTask, ScheduleRecord

from tests.core import tasks
from tests.core.cli.support import TASKS, Cli
from tests.core.support import plant

FAR = (1e12, 1e18, 1e300, -1e12, -1e300, 253_402_300_800.0)
WEST, EAST = dt.timezone(dt.timedelta(hours=-14)), dt.timezone(dt.timedelta(hours=14))
NO_TIMES = [
    dt.datetime.max.replace(tzinfo=dt.UTC),
    dt.datetime.max.replace(tzinfo=WEST),
    dt.datetime.min.replace(tzinfo=dt.UTC),
    dt.datetime.min.replace(tzinfo=EAST),
    dt.datetime(1969, 12, 31, tzinfo=dt.UTC),
]
NO_DURATIONS: list[Any] = [math.inf, math.nan, -math.inf, 1e300, 10**400, dt.timedelta.max, dt.timedelta.min, 3.2e8, -1]


@pytest.mark.parametrize("seconds", [*FAR, math.inf, -math.inf, math.nan])
def test_a_time_beyond_the_calendar_is_shown_as_its_end(seconds: float) -> None:
    assert as_datetime(seconds) == utc(seconds)
    assert utc(seconds) == (dt.datetime(1, 1, 1, tzinfo=dt.UTC) if seconds < 0 else LATEST)


def test_the_ends_of_the_calendar_are_told_exactly() -> None:
    assert due_time("run_at", LATEST) == LATEST.timestamp()
    assert utc(LATEST.timestamp()) == LATEST
    assert utc(0.25) == dt.datetime(1970, 1, 1, 0, 0, 0, 250_000, tzinfo=dt.UTC)


@pytest.mark.parametrize("at", NO_TIMES, ids=str)
async def test_a_task_cannot_be_due_beyond_the_calendar(oq: AsyncOmniQ, at: dt.datetime) -> None:
    with pytest.raises(InvalidTask, match="^run_at: expected a time from 1970-01-01 to 9999-12-31 UTC, got "):
        await oq.enqueue(tasks.nothing, run_at=at)
    assert await oq.list_tasks() == []


@pytest.mark.parametrize("name", ["run_in", "ttl", "result_ttl", "timeout", "retry_delay", "interval"])
@pytest.mark.parametrize("value", NO_DURATIONS, ids=lambda value: f"{value!r:.20}")
async def test_a_duration_has_bounds_that_are_told(oq: AsyncOmniQ, name: str, value: Any) -> None:
    options: Any = {name: value}
    call = oq.schedule(tasks.nothing, **options) if name == "interval" else oq.enqueue(tasks.nothing, **options)
    with pytest.raises(InvalidTask, match=f"^{name}: expected .* to 315576000 seconds, got "):
        await call


async def test_the_last_second_can_be_waited_for_and_outlived(oq: AsyncOmniQ) -> None:
    late = await oq.enqueue(tasks.nothing, run_at=LATEST, ttl=dt.timedelta(days=3650))
    (task,) = await oq.list_tasks()
    assert (task.id, task.run_at, task.expires_at) == (late, LATEST, LATEST)
    assert await oq.cancel(late)


async def test_one_row_with_an_odd_time_spoils_no_list(oq: AsyncOmniQ) -> None:
    store, body = oq.task_queue.store, b"x"
    good = await oq.enqueue(tasks.nothing)
    odd = [NewTask(id=f"odd{n}", queue_name="default", body=body, run_at=at, ttl=1e9) for n, at in enumerate(FAR)]
    assert await store.add(odd) == [NEW] * len(odd)
    assert await store.put_schedule(
        ScheduleRecord(id="s", queue_name="default", body=body, next_run=1e12), if_version=None
    )
    shown = {task.id: task for task in await oq.list_tasks()}
    assert shown.keys() == {good, *(task.id for task in odd)}
    # What a store finds beyond its bounds, it says to be damaged.
    assert {task.run_at.year for task in shown.values() if task.id != good and task.damage is None} == {1, 9999}
    assert [schedule.next_run for schedule in await oq.list_schedules()] == [LATEST]
    assert (await oq.get_task("odd1")).expires_at == LATEST


def test_the_command_line_lists_rows_with_odd_times(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with OmniQ(config=cli.config) as oq:
        store = oq.aio.task_queue.store

        async def plant_all() -> None:
            await store.add(
                [NewTask(id=f"odd{n}", queue_name="default", body=b"x", run_at=at) for n, at in enumerate(FAR)]
            )
            await plant(oq.aio)

        oq._call(plant_all())
    assert len(cli.rows("tasks", "list")) == len(FAR) + 1
    assert len(cli.json("tasks", "list")) == len(FAR) + 1
    assert "9999-12-31T23:59:59Z" in cli.output("tasks", "show", "odd1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run-at", "1969-12-31T00:00Z"], "error: run_at: expected a time from 1970-01-01 to 9999-12-31 UTC"),
        (["--run-in", "9" * 400], "isn't a duration"),
        (["--run-in", "99999d"], "error: run_in: expected 0 to 315576000 seconds"),
        (["--task-id", "a\nb"], "error: task_id: expected 1 to 255 printable characters"),
        (["--task-id", "\udcff"], "error: task_id: expected 1 to 255 printable characters"),
        (["--depends-on", ""], "error: depends_on: expected 1 to 255 printable characters"),
    ],
)
def test_the_command_line_refuses_them_in_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    result = Cli(tmp_path)("enqueue", f"{TASKS}:birthday", *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["tasks", "show"],
        ["tasks", "cancel"],
        ["tasks", "requeue"],
        ["result"],
        ["schedules", "pause"],
        ["schedules", "resume"],
        ["schedules", "delete"],
        ["tasks", "list", "--queue"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("bad", ["a\x00b", "\udcff", ""])
def test_a_name_that_cannot_be_one_is_told_on_the_command_line(tmp_path: Path, command: list[str], bad: str) -> None:
    result = Cli(tmp_path)(*command, bad)
    assert result.exit_code == 2
    assert "expected 1 to 255 printable characters" in result.stderr
