"""Switching signing on and replacing keys, with tasks, schedules and results in the store."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.config.loader import Security
from omniq.errors import ConfigError, KeyMissing, SerializationError, SignatureError, TaskFailed
from omniq.models.task import TaskState
from omniq.queue.adding import Report, Tally
from omniq.serialization import SerializationManager, Signer
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.cli.support import TASKS, Cli
from tests.core.support import SOON, Place, front_door, results_of, until_states, working

OLD, NEW = "an0ther" * 4, "s3cret" * 4
ONLY_OLD = Security(signing_key=f"old:{OLD}")
BOTH_OLD_FIRST = Security(signing_key=f"old:{OLD},new:{NEW}")
BOTH_NEW_FIRST = Security(signing_key=f"new:{NEW},old:{OLD}")
ONLY_NEW = Security(signing_key=f"new:{NEW}")


async def resign(oq: AsyncOmniQ, **options: Any) -> Report:
    """What `omniq resign` does."""
    return await oq.task_queue.resigner(**options).run()


async def fill(oq: AsyncOmniQ) -> dict[str, str]:
    """A schedule, and a task in every state that a key has to outlive."""
    done, failed = await oq.enqueue(tasks.add, [1, 2]), await oq.enqueue(tasks.fail)
    async with working(oq, "async"):
        await until_states(oq, [done, failed], TaskState.SUCCESS, TaskState.ERROR)
    return {
        "done": done,
        "failed": failed,
        "pending": await oq.enqueue(tasks.add, [3, 4]),
        "scheduled": await oq.enqueue(tasks.add, [5, 6], run_in=60),
        "waiting": await oq.enqueue(tasks.add, [7, 8], depends_on=await oq.enqueue(tasks.add, [0, 0], run_in=60)),
        "schedule": await oq.schedule(tasks.add, [9, 10], interval=60),
    }


# ── replacing a key ──────────────────────────────────────────────────────────


async def test_a_key_is_replaced_step_by_step_while_workers_run(place: Place, virtual_clock: VirtualClock) -> None:
    async with front_door(place, security=ONLY_OLD) as oq:
        ids = await fill(oq)
    async with front_door(place, security=BOTH_OLD_FIRST) as oq:
        assert (await resign(oq)).left == 0
        assert (await oq.get_task(ids["pending"])).func == "tests.core.tasks:add"
    async with front_door(place, security=BOTH_NEW_FIRST) as oq:
        report = await resign(oq)
        assert report == Report(tasks=Tally(signed=6), schedules=Tally(signed=1), results=Tally(signed=2))
        again = await resign(oq)
        assert again == Report(tasks=Tally(current=6), schedules=Tally(current=1), results=Tally(current=2))
    async with front_door(place, security=ONLY_NEW) as oq, working(oq, "async"):
        assert await results_of(oq, [ids["done"], ids["pending"]]) == [3, 7]
        with pytest.raises(TaskFailed):
            await oq.get_result(ids["failed"], timeout=SOON)
        virtual_clock.advance(61)
        assert await results_of(oq, [ids["scheduled"], ids["waiting"]]) == [11, 15]
        assert await oq.get_result(schedule_id=ids["schedule"], timeout=SOON) == 19
        assert await oq.requeue(ids["failed"])
        await until_states(oq, [ids["failed"]], TaskState.ERROR)


async def test_a_task_that_runs_is_signed_again_too(place: Place, gate: Path, log: Path) -> None:
    async with front_door(place, security=ONLY_OLD) as oq, front_door(place, security=BOTH_NEW_FIRST) as other:
        task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
        async with working(oq, "thread"):
            await until_states(oq, [task_id], TaskState.RUNNING)
            assert (await resign(other)).tasks == Tally(signed=1)
            gate.touch()
            await until_states(other, [task_id], TaskState.SUCCESS)


async def test_what_does_not_verify_is_left_as_it_is(place: Place) -> None:
    async with front_door(place) as anybody, front_door(place, security=ONLY_OLD) as oq:
        theirs, mine = await anybody.enqueue(tasks.add, [1, 2]), await oq.enqueue(tasks.add, [1, 2])
        before = await oq.task_queue.store.get([theirs, mine])
        async with front_door(place, security=ONLY_NEW) as stranger:
            assert (await resign(stranger)).tasks == Tally(refused=2)
        assert (await resign(oq)).tasks == Tally(refused=1, current=1)
        assert await oq.task_queue.store.get([theirs, mine]) == before


async def test_signing_again_takes_a_key(place: Place) -> None:
    async with front_door(place) as oq:
        with pytest.raises(ConfigError, match="signing_key: none is set"):
            await resign(oq)


# ── switching signing on ─────────────────────────────────────────────────────


async def test_signing_is_switched_on_with_a_live_queue(place: Place, virtual_clock: VirtualClock) -> None:
    async with front_door(place) as oq:
        ids = await fill(oq)
    later = dt.datetime.now(dt.UTC).timestamp() + 3600
    async with front_door(place, security=Security(signing_key=NEW, accept_unsigned_until=later)) as oq:
        assert await oq.get_result(ids["done"], timeout=SOON) == 3
        async with working(oq, "async"):
            assert await oq.get_result(ids["pending"], timeout=SOON) == 7
        report = await resign(oq, accept_unsigned=True)
        assert (report.left, report.tasks.signed, report.schedules.signed) == (0, 6, 1)
    async with front_door(place, security=Security(signing_key=NEW)) as oq, working(oq, "async"):
        virtual_clock.advance(61)
        assert await results_of(oq, [ids["scheduled"], ids["waiting"], ids["pending"]]) == [11, 15, 7]
        assert await oq.get_result(schedule_id=ids["schedule"], timeout=SOON) == 19


async def test_what_is_unsigned_is_refused_from_that_time_on(
    place: Place, virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    until = dt.datetime.now(dt.UTC).timestamp() + 3600
    async with front_door(place) as oq:
        early, late = await oq.enqueue(tasks.echo, [{1}]), await oq.enqueue(tasks.echo, [{2}], run_in=7200)
    async with front_door(place, security=Security(signing_key=NEW, accept_unsigned_until=until)) as oq:
        async with working(oq, "async"):
            assert await oq.get_result(early, timeout=SOON) == {1}
            virtual_clock.advance(7201)
            with pytest.raises(TaskFailed, match="it is unsigned"):
                await oq.get_result(late, timeout=SOON)
        assert [task.id for task in await oq.list_dead()] == [late]
    warnings = [r.getMessage() for r in caplog.records if r.name == "omniq.serialization"]
    assert len(warnings) == 1
    assert "unsigned payloads are accepted until" in warnings[0]


def test_unsigned_dill_stays_refused_where_modules_are_limited() -> None:
    """Before there was a key, it was refused too: allowed_modules can't hold it."""
    accepts = SerializationManager(signer=Signer(NEW), allowed_modules=["tests"], unsigned_until=2e9 * 10)
    anybody = SerializationManager()
    place: dict[str, Any] = {"task_id": "t", "queue_name": "q"}
    for value, accepted in ((1, True), (range(3), False)):
        data = anybody.pack_call(tasks.echo, (value,), {}, **place)
        if accepted:
            assert accepts.read_call(data, **place).func == "tests.core.tasks:echo"
        else:
            with pytest.raises(SignatureError, match="unsigned dill"):
                accepts.read_call(data, **place)


def test_a_wrong_signature_stays_refused_while_unsigned_is_accepted() -> None:
    accepts = SerializationManager(signer=Signer(NEW), unsigned_until=2e9 * 10)
    place: dict[str, Any] = {"task_id": "t", "queue_name": "q"}
    for keys, error in ((f"default:{OLD}", SignatureError), (f"old:{OLD}", KeyMissing)):
        data = SerializationManager(signer=Signer(keys)).pack_call(tasks.echo, (1,), {}, **place)
        with pytest.raises(SerializationError) as raised:
            accepts.read_call(data, **place)
        assert type(raised.value) is error


# ── the command line ─────────────────────────────────────────────────────────


def test_the_command_signs_again_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cli = Cli(tmp_path)
    cli.output("enqueue", f"{TASKS}:birthday")
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", f"new:{NEW}")
    refused = cli("resign")
    assert refused.exit_code == 1
    assert "it is unsigned, and OMNIQ_SIGNING_KEY is set" in caplog.text
    assert refused.stderr.endswith("error: 1 payload not signed with the first key\n")
    assert cli.rows("resign", "--accept-unsigned") == [
        ["tasks", "1", "0", "0", "0"],
        ["schedules", "0", "0", "0", "0"],
        ["results", "0", "0", "0", "0"],
    ]
    assert cli.json("resign")["tasks"] == {"signed": 0, "current": 1, "changed": 0, "refused": 0}


def test_dead_letters_are_listed_without_being_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path)
    task_id = cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0")
    cli.work_off()
    decoded: list[object] = []
    monkeypatch.setattr(SerializationManager, "load_value", lambda *given: decoded.append(given))
    monkeypatch.setattr(SerializationManager, "load_call", lambda *given: decoded.append(given))
    for command in (["dead", "list"], ["dead", "list", "--json"], ["tasks", "list"], ["tasks", "show", task_id]):
        assert task_id in cli.output(*command)
    assert cli("result", task_id).exit_code == 1
    assert decoded == []


async def test_tasks_whose_key_is_missing_keep_no_other_waiting(place: Place) -> None:
    async with front_door(place, security=Security(signing_key="new:" + "n" * 32)) as new:
        for _ in range(60):
            await new.enqueue(tasks.add, [1, 1], priority=1)
    old = front_door(place, security=Security(signing_key="old:" + "o" * 32))
    async with old, working(old, "thread", max_workers=2):
        assert await old.get_result(await old.enqueue(tasks.add, [20, 22]), timeout=SOON) == 42
