"""What users test their programs with: what is enqueued is seen, runs when it is told to, and time is moved."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from omniq import OmniQ, call, chain, result_of
from omniq.errors import (
    BlockingCallInLoop,
    Closed,
    ConfigError,
    InvalidTask,
    TaskFailed,
    TaskNotFound,
    TaskTimeout,
    WorkerError,
)
from omniq.models import EventType, TaskState
from omniq.sync import portal
from omniq.testing import AsyncSandbox, Sandbox

from tests.core.testing.program import (
    SENT,
    THREADS,
    add,
    aoq,
    attempt,
    count_down,
    go_on,
    interrupt,
    look_up,
    oq,
    refuse,
    send_mail,
    sign_up,
    too_slow,
    wait_for_another,
)


@pytest.fixture
def app() -> Iterator[Sandbox]:
    SENT.clear()
    THREADS.clear()
    with Sandbox(oq, aoq) as sandbox:
        yield sandbox


# ── what is enqueued ─────────────────────────────────────────────────────────


def test_what_a_program_enqueues_is_seen_and_not_run(app: Sandbox) -> None:
    task_id = sign_up("tom")
    (seen,) = app.assert_enqueued(func=send_mail, args=["tom"], queue="mail", count=1)
    assert (seen.task.id, seen.args, seen.kwargs, seen.task.state) == (task_id, ("tom",), {}, TaskState.PENDING)
    assert seen.func is send_mail.function
    assert SENT == []


@pytest.mark.parametrize(
    "conditions",
    [
        {"name": "tests.core.testing.program:send_mail"},
        {"name": "send_mail"},
        {"func": send_mail},
        {"func": send_mail.function},
        {"args": ["tom", "Hello"]},
        {"kwargs": {"to": "tom", "subject": "Hello"}},
        {"args": ["tom"], "kwargs": {"subject": "Hello"}},
        {"args": [ANY, "Hello"]},
        {"queue": "mail"},
        {"state": "scheduled"},
        {"state": TaskState.SCHEDULED},
        {},
    ],
)
def test_a_task_is_found_by_what_is_given(app: Sandbox, conditions: dict[str, object]) -> None:
    send_mail.options(run_in=60).enqueue("tom", subject="Hello")
    assert len(app.assert_enqueued(**conditions)) == 1  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="expected no task of"):
        app.refute_enqueued(**conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "conditions",
    [
        {"name": "mail"},
        {"name": "program:send"},
        {"func": add},
        {"args": []},
        {"args": ["tim", "Hello"]},
        {"args": ["tom"]},
        {"kwargs": {"subject": "Hello"}},
        {"queue": "reports"},
        {"state": "pending"},
        {"name": "send_mail", "queue": "default"},
    ],
)
def test_and_not_by_anything_else(app: Sandbox, conditions: dict[str, object]) -> None:
    send_mail.options(run_in=60).enqueue("tom", subject="Hello")
    app.refute_enqueued(**conditions)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="found none"):
        app.assert_enqueued(**conditions)  # type: ignore[arg-type]


def test_a_failure_shows_what_was_enqueued_and_how_it_differs(app: Sandbox) -> None:
    sign_up("tom")
    oq.enqueue(add, {"x": 1})
    with pytest.raises(AssertionError) as failed:
        app.assert_enqueued(func=send_mail, args=["tim"], kwargs={"subject": "Hello"})
    assert str(failed.value).splitlines() == [
        "expected at least one task of tests.core.testing.program:send_mail('tim', subject='Hello'), found none",
        "enqueued were 2 tasks:",
        "  1. tests.core.testing.program:send_mail('tom') in queue 'mail', pending",
        "       differs in to: 'tom', expected 'tim'; subject: 'Welcome', expected 'Hello'",
        "  2. tests.core.testing.program:add(x=1) in queue 'default', pending",
        "       differs in func: tests.core.testing.program:add",
    ]
    with pytest.raises(AssertionError, match="expected 3 tasks of send_mail.*found 1"):
        app.assert_enqueued(name="send_mail", count=3)


def test_long_arguments_and_long_lists_are_cut_in_a_failure(app: Sandbox) -> None:
    oq.enqueue_many([call(send_mail, ["x" * 10_000]) for _ in range(25)])
    with pytest.raises(AssertionError) as failed:
        app.assert_enqueued(name="add")
    assert "… and 5 more" in str(failed.value)
    assert len(str(failed.value)) < 20 * 500


def test_what_has_ended_or_is_gone_was_enqueued_all_the_same(app: Sandbox) -> None:
    sign_up("tom")
    app.drain()
    app.assert_enqueued(func=send_mail, state="success", count=1)
    app.advance(days=3)
    oq.enqueue(add, [1])
    app.drain()  # a worker also purges what is old
    app.assert_enqueued(func=send_mail, args=["tom"], count=1)


def test_results_of_other_tasks_are_seen_as_such(app: Sandbox) -> None:
    first = oq.enqueue(add, [1])
    oq.enqueue(add, [result_of(first), 2])
    app.assert_enqueued(func=add, args=[result_of(first), 2], count=1)
    app.refute_enqueued(func=add, args=[result_of("another"), 2])
    assert [run.value for run in app.drain()] == [1, 3]


def test_a_function_without_a_module_is_seen_too(app: Sandbox) -> None:
    oq.enqueue(lambda x: x + 1, [1])
    app.assert_enqueued(name="<lambda>", args=[1])
    assert [run.value for run in app.drain()] == [2]


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        ({"name": send_mail}, "name: expected str, got TaskFunction"),
        ({"func": "send_mail"}, "func: expected a function, got str"),
        ({"args": "tom"}, "args: expected a sequence of arguments, got str"),
        ({"args": 3}, "args: expected a sequence"),
        ({"kwargs": ["to"]}, "kwargs: expected mapping, got list"),
        ({"queue": 1}, "queue: expected str, got int"),
        ({"state": "done"}, "state: expected one of pending, .*got 'done'"),
    ],
)
def test_wrong_conditions_are_refused(app: Sandbox, conditions: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidTask, match=problem):
        app.refute_enqueued(**conditions)  # type: ignore[arg-type]


# ── running ──────────────────────────────────────────────────────────────────


def test_drain_runs_what_is_due_on_this_thread(app: Sandbox) -> None:
    sign_up("tom")
    looked_up = look_up.enqueue("tom")
    drained = app.drain()
    assert [run.value for run in drained] == [1, "Tom"]
    assert [run.task.id for run in drained.succeeded][-1] == looked_up
    assert (len(drained), drained.failed, drained.unrun) == (2, [], ())
    assert drained.raise_failed() is drained
    assert [threading.get_ident()] * 2 == THREADS
    assert (SENT, look_up.result(looked_up)) == ([("tom", "Welcome")], "Tom")
    assert len(app.drain()) == 0


def test_drain_runs_what_its_tasks_enqueue(app: Sandbox) -> None:
    oq.enqueue(count_down, [5])
    assert [run.value for run in app.drain()] == [5, 4, 3, 2, 1, 0]


def test_drain_runs_workflows_in_their_order(app: Sandbox) -> None:
    first = call(add, [1, 2])
    workflow = oq.enqueue_workflow(chain(first, call(add, [result_of(first), 10])))
    assert [run.value for run in app.drain()] == [3, 13]
    assert workflow.result() == 13


def test_a_chain_without_an_end_is_ended(app: Sandbox) -> None:
    oq.enqueue(go_on)
    with pytest.raises(WorkerError, match=r"drain: 20 runs, and more tasks are due, such as tests\.\S+:go_on"):
        app.drain(limit=20)
    app.assert_enqueued(func=go_on, count=21)


def test_a_task_that_waits_for_another_is_ended_and_told_of(app: Sandbox) -> None:
    oq.enqueue(wait_for_another)
    with pytest.raises(
        WorkerError, match=r"drain: after 0.5 s, tests\.\S+:wait_for_another \(.*depends_on or result_of"
    ):
        app.drain(timeout=0.5)


def test_a_failure_is_told_and_tried_again_in_time(app: Sandbox) -> None:
    task_id = sign_up("nobody")
    (run,) = app.drain()
    assert (run.failed, run.attempt, run.error_type) == (True, 1, "ConnectionError")
    assert run.task.state is TaskState.SCHEDULED
    assert len(app.drain()) == 0
    app.advance(hours=3)
    (run,) = app.drain()
    assert (run.attempt, run.task.state) == (2, TaskState.SCHEDULED)
    app.advance(hours=6)
    drained = app.drain()
    assert drained.failed[0].task.state is TaskState.ERROR
    with pytest.raises(TaskFailed, match="no such mailbox"):
        drained.raise_failed()
    with pytest.raises(TaskFailed, match="no such mailbox"):
        oq.get_result(task_id)


def test_tasks_see_their_context(app: Sandbox) -> None:
    oq.enqueue(attempt)
    oq.enqueue(refuse, ["no"], max_retries=5)
    first, second = app.drain()
    assert first.value == 1
    assert (second.error_message, second.task.state) == ("no", TaskState.ERROR)


def test_a_task_that_is_over_its_time_has_failed(app: Sandbox) -> None:
    oq.enqueue(too_slow, timeout=0.01, max_retries=0)
    oq.enqueue(asyncio.sleep, [30], timeout=0.01, max_retries=0)
    assert [run.error_type for run in app.drain()] == [f"omniq.errors.{TaskTimeout.__name__}"] * 2


def test_what_ends_without_a_run_is_told_too(app: Sandbox) -> None:
    failing = oq.enqueue(refuse, ["no"])
    child = oq.enqueue(add, [1], depends_on=failing)
    expiring = oq.enqueue(add, [2], run_in=5, ttl=10)
    app.advance(minutes=1)
    drained = app.drain()
    assert [run.task.id for run in drained] == [failing]
    assert {task.id: task.state for task in drained.unrun} == {
        child: TaskState.CANCELLED,
        expiring: TaskState.EXPIRED,
    }


def test_what_is_meant_for_the_test_goes_there(app: Sandbox) -> None:
    oq.enqueue(interrupt)
    with pytest.raises(KeyboardInterrupt):
        app.drain()
    oq.enqueue(pytest.fail, ["seen"])
    with pytest.raises(pytest.fail.Exception, match="seen"):
        app.drain()


def test_paused_queues_are_left_alone(app: Sandbox) -> None:
    sign_up("tom")
    oq.pause_queue("mail")
    assert len(app.drain()) == 0
    oq.resume_queue("mail")
    assert len(app.drain()) == 1


def test_events_are_kept_where_the_program_keeps_some() -> None:
    with Sandbox() as app:
        task_id = app.enqueue(add, [1])
        app.drain()
        events = [event.type for event in app.list_events(task_id=task_id, oldest_first=True)]
        assert events == [EventType.ENQUEUED, EventType.EXECUTING, EventType.COMPLETE]
    with Sandbox(oq), pytest.raises(ConfigError, match="event"):
        oq.list_events()


def test_drain_inside_a_task_is_refused(app: Sandbox) -> None:
    oq.enqueue(drains_now)
    SANDBOXES[:] = [app]
    (run,) = app.drain()
    assert "a task can't wait for all that is due" in (run.error_message or "")


SANDBOXES: list[Sandbox] = []


def drains_now() -> None:
    SANDBOXES[0].drain()


# ── at once ──────────────────────────────────────────────────────────────────


def test_eager_tasks_run_within_enqueue() -> None:
    SENT.clear()
    THREADS.clear()
    with Sandbox(oq, eager=True) as app:
        task_id = sign_up("tom")
        assert ([("tom", "Welcome")], [threading.get_ident()]) == (SENT, THREADS)
        assert oq.get_result(task_id) == 1
        assert oq.get_task(oq.enqueue(count_down, [3])).state is TaskState.SUCCESS
        app.assert_enqueued(func=count_down, state="success", count=4)
        delayed = send_mail.options(run_in=60).enqueue("tim")
        assert oq.get_task(delayed).state is TaskState.SCHEDULED
        app.advance(minutes=1)
        assert SENT[-1] == ("tim", "Welcome")
        ids = oq.enqueue_many([call(add, [1]), call(add, [2])])
        assert [oq.get_result(id_) for id_ in ids] == [1, 2]
        schedule_id = oq.schedule(add, [5], interval=3600)
        assert oq.get_result(oq.run_schedule(schedule_id)) == 5
        app.eager = False
        assert oq.get_task(sign_up("late")).state is TaskState.PENDING


def test_eager_tasks_that_fail_say_so_when_they_are_asked() -> None:
    with Sandbox(eager=True) as app:
        task_id = app.enqueue(refuse, ["no"])
        with pytest.raises(TaskFailed, match="no"):
            app.get_result(task_id)


# ── time ─────────────────────────────────────────────────────────────────────


def test_schedules_fire_for_each_slot_on_the_way(app: Sandbox) -> None:
    oq.schedule(add, [1], interval=dt.timedelta(hours=1))
    paused = oq.schedule(add, [2], interval=dt.timedelta(hours=1))
    oq.pause_schedule(paused)
    app.advance(hours=3, minutes=1)
    app.assert_enqueued(func=add, count=3)
    assert [run.value for run in app.drain()] == [1, 1, 1]


def test_time_is_put_back(app: Sandbox) -> None:
    app.advance(days=400)
    assert app.clock.now() - dt.datetime.now().timestamp() > 399 * 86_400
    app.remove()
    assert abs(app.clock.now() - dt.datetime.now().timestamp()) < 60


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"by": -1}, "by: expected at least 0 seconds, got -1"),
        ({"hours": -1}, "hours: expected at least 0 seconds, got -1"),
        ({"by": dt.timedelta(seconds=-1)}, "by: expected at least 0 seconds"),
        ({"by": "3"}, "by: expected seconds or a timedelta, got str"),
        ({"days": float("nan")}, "days: expected at least 0 seconds, got nan"),
    ],
)
def test_time_goes_forward_only(app: Sandbox, step: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidTask, match=problem):
        app.advance(**step)  # type: ignore[arg-type]


def test_eager_tasks_run_at_their_times(app: Sandbox) -> None:
    app.eager = True
    seen: list[float] = []
    app.callbacks.on_ended(lambda update: seen.append(update.at.timestamp()))
    began = app.clock.now()
    send_mail.options(retry_jitter=0.0).enqueue("nobody")  # tried again after an hour, and after another
    oq.schedule(add, [1], interval=dt.timedelta(hours=2), max_running=1)
    app.advance(hours=7)
    app.assert_enqueued(func=add, state="success", count=3)
    app.assert_enqueued(func=send_mail, state="error", count=1)
    app.close()  # callbacks have been called by then
    assert [round((at - began) / 3600) for at in seen] == [2, 2, 4, 6]


def test_a_flood_of_slots_is_refused(app: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniq.testing.sandbox.STEPS", 10)
    oq.schedule(add, [1], interval=1)
    with pytest.raises(WorkerError, match="more than 10 times at which something is due until"):
        app.advance(hours=1)


# ── the program's own objects ────────────────────────────────────────────────


def test_a_program_gets_its_own_queue_back() -> None:
    before = {name: vars(oq.aio)[name] for name in ("task_queue", "_results", "event_store", "_worker")}
    with Sandbox(oq) as app:
        task_id = sign_up("tom")
        assert oq.aio.task_queue is app.aio.task_queue
        assert oq.aio.task_queue.queues == ("mail", "reports", "default")
        with Sandbox(oq), pytest.raises(TaskNotFound):
            oq.get_task(task_id)
        assert oq.get_task(task_id).id == task_id
    assert {name: vars(oq.aio)[name] for name in before} == before
    assert "_call" not in vars(oq)
    assert not Path("/nowhere").exists()


def test_what_a_test_registers_is_gone_with_it() -> None:
    with Sandbox(oq) as app:
        oq.callbacks.on_ended(print)
        assert app.callbacks.ended == [print]
    assert oq.callbacks.ended == []


def test_its_workers_are_stopped_with_it() -> None:
    with Sandbox(oq) as app:
        oq.start_worker("thread", max_workers=2)
        assert oq.get_result(sign_up("tom"), timeout=30) >= 1
        assert [worker.kind for worker in app.workers()] == ["thread"]
    assert [thread.name for thread in threading.enumerate() if "omniq-worker" in thread.name] == []


def test_sandboxes_leave_no_threads() -> None:
    with Sandbox(oq) as app:
        sign_up("tom")
        app.drain()
    before = threading.active_count()
    for _ in range(5):
        with Sandbox(oq) as app:
            sign_up("tom")
            oq.enqueue(look_up, ["tom"])
            app.drain()
    assert threading.active_count() <= before


@pytest.mark.parametrize("door", [None, "oq", 3, oq.aio.task_queue])
def test_what_is_no_omniq_is_refused(door: object) -> None:
    with pytest.raises(ConfigError, match="Sandbox: expected AsyncOmniQ or its blocking facade"):
        Sandbox(door)  # type: ignore[arg-type]


def test_a_sandbox_by_itself_is_an_omniq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", "postgresql://nowhere/none")
    with Sandbox() as app:
        task = app.task(retries=1)(len)
        assert isinstance(app, OmniQ)
        task_id = task.enqueue([1, 2])
        app.drain()
        assert app.get_result(task_id) == 2


# ── async ────────────────────────────────────────────────────────────────────


async def test_async_programs_are_tested_alike() -> None:
    THREADS.clear()
    async with AsyncSandbox(aoq, oq) as app:
        first = await aoq.enqueue(look_up.function, ["tom"])
        second = await aoq.enqueue(send_mail.function, ["tom"], run_in=60)
        app.assert_enqueued(name="look_up", count=1)
        assert [run.value for run in await app.drain()] == ["Tom"]
        assert [threading.get_ident()] == THREADS
        await app.advance(minutes=1)
        assert len(await app.drain()) == 1
        assert await aoq.get_result(first) == "Tom"
        assert isinstance(await aoq.get_result(second), int)
        app.eager = True
        assert await aoq.get_result(await aoq.enqueue(add, [1, 2])) == 3
    assert not Path("/nowhere").exists()


async def test_an_async_task_that_waits_for_another_is_ended() -> None:
    async with AsyncSandbox(aoq) as app:
        await aoq.enqueue(wait_async)
        with pytest.raises(WorkerError, match=r"drain: after 0.5 s, \S+:wait_async"):
            await app.drain(timeout=0.5)


async def wait_async() -> None:
    await aoq.get_result(await aoq.enqueue(add, [1]))


async def test_eager_tasks_of_many_callers_at_once() -> None:
    async with AsyncSandbox(aoq, eager=True):

        async def ask(number: int) -> int:
            value: int = await aoq.get_result(await aoq.enqueue(add, [number]), timeout=30)
            return value

        assert await asyncio.gather(*map(ask, range(20))) == list(range(20))


async def test_blocking_sandboxes_are_refused_in_a_loop() -> None:
    with Sandbox(oq) as app, pytest.raises(BlockingCallInLoop, match="Sandbox blocks"):
        app.drain()


async def test_workers_that_an_async_program_leaves_are_stopped() -> None:
    async with AsyncSandbox(aoq):
        await aoq.start_worker()
        assert await aoq.get_result(await aoq.enqueue(add, [1]), timeout=30) == 1
    assert vars(aoq)["_worker"] is None


def test_a_portal_that_ends_ends_the_call() -> None:
    with Sandbox() as app:
        app.enqueue(stop_portal)
        with pytest.raises(Closed):
            app.drain()
    assert portal().alive  # another one


def stop_portal() -> None:
    portal().stop()
