"""Many tasks at once: pages, dead letters with their errors, and changes of all that meet some conditions."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, TaskNotFound
from omniq.models import DeadLetter, TaskState
from omniq.queue import many
from omniq.queue.options import TaskCall
from omniq.testing import VirtualClock

from tests.core import oddities, tasks
from tests.core.support import (
    KINDS,
    SOON,
    Place,
    blocking_door,
    front_door,
    lines,
    states_of,
    until,
    until_states,
    working,
)

FAIL = "tests.core.tasks:fail"


@pytest.fixture(params=[500, 2], ids=["one-page", "pages-of-two"])
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many tasks are looked at in one call: no answer depends on it."""
    monkeypatch.setattr(many, "PAGE", request.param)
    size: int = request.param
    return size


async def failed(oq: AsyncOmniQ, clock: VirtualClock) -> list[str]:
    """Dead letters, a minute apart."""
    ids: list[str] = []
    calls: list[tuple[Callable[..., Any], list[Any]]] = [
        (tasks.fail, ["one"]),
        (oddities.fail_with_a_timeout, []),
        (tasks.fail_async, ["two"]),
        (tasks.fail, ["three"]),
    ]
    async with working(oq, "async"):
        for func, args in calls:
            ids.append(await oq.enqueue(func, args))
            await until_states(oq, ids, TaskState.ERROR)
            clock.advance(60)
    return ids


class TestLists:
    async def test_pages_bring_every_task_once_whatever_happens_meanwhile(self, oq: AsyncOmniQ, page: int) -> None:
        ids = [await oq.enqueue(tasks.nothing, task_id=f"t{n}") for n in range(7)]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            found = await oq.list_tasks(newest_first=True, limit=2, cursor=cursor)
            seen += [task.id for task in found]
            await oq.enqueue(tasks.nothing, task_id=f"x{len(seen)}")
            if (cursor := found.cursor) is None:
                break
        assert seen == ids[::-1]
        assert (await oq.list_tasks(limit=100)).cursor is None

    async def test_states_are_one_or_several(self, oq: AsyncOmniQ) -> None:
        due, later = await oq.enqueue(tasks.nothing), await oq.enqueue(tasks.nothing, run_in=60)
        assert [task.id for task in await oq.list_tasks(state="pending")] == [due]
        assert [task.id for task in await oq.list_tasks(state=["pending", TaskState.SCHEDULED])] == sorted([due, later])

    async def test_time_is_that_of_the_end_or_else_of_the_beginning(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, page: int
    ) -> None:
        began = dt.datetime.fromtimestamp(virtual_clock.now(), dt.UTC)
        old = await oq.enqueue(tasks.nothing)
        ends = await oq.enqueue(tasks.nothing)
        virtual_clock.advance(3600)
        await oq.cancel(ends)
        new = await oq.enqueue(tasks.nothing)
        middle = began + dt.timedelta(minutes=30)
        assert [task.id for task in await oq.list_tasks(since=middle)] == sorted([ends, new])
        assert [task.id for task in await oq.list_tasks(until=middle)] == [old]

    @pytest.mark.parametrize(
        ("condition", "said"),
        [
            ({"state": "sideways"}, "state: expected one of .*, got 'sideways'"),
            ({"state": ["error", 3]}, "state: "),
            ({"state": 3}, "state: "),
            ({"since": dt.datetime(2026, 1, 1)}, "since: expected a datetime with a time zone"),
            ({"until": "now"}, "until: expected a datetime, got str"),
            ({"name": ""}, "name: "),
            ({"error": 7}, "error: expected text"),
            ({"cursor": 5}, "cursor: expected that of a page, got 5"),
            ({"cursor": "\ud800"}, "cursor: "),
            ({"cursor": "a\0b"}, "cursor: "),
            ({"queue": "low"}, "queue: no such condition, did you mean 'queue_name'?"),
        ],
    )
    async def test_a_condition_that_is_none_is_refused_by_its_name(
        self, oq: AsyncOmniQ, condition: dict[str, Any], said: str
    ) -> None:
        changes = (oq.cancel_many, oq.requeue_many, oq.purge_dead) if "cursor" not in condition else ()
        for call in (oq.list_tasks, oq.list_dead, *changes):
            method: Callable[..., Any] = call
            with pytest.raises(InvalidTask, match=said):
                await method(**condition)


class TestDeadLetters:
    async def test_they_come_with_their_errors_the_newest_first(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, page: int
    ) -> None:
        ids = await failed(oq, virtual_clock)
        found = await oq.list_dead()
        assert [letter.id for letter in found] == ids[::-1]
        assert (found[0].error_type, found[0].error_message) == ("ValueError", "three")
        assert all(letter.traceback is None and letter.args is None for letter in found)
        told = (await oq.list_dead(tracebacks=True))[0].traceback
        assert told is not None
        assert told.endswith("ValueError: three\n")

    async def test_they_are_found_by_name_error_and_time_in_pages(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, page: int
    ) -> None:
        began = dt.datetime.fromtimestamp(virtual_clock.now(), dt.UTC)
        one, key, two, three = await failed(oq, virtual_clock)
        assert [letter.id for letter in await oq.list_dead(name=FAIL)] == [three, one]
        assert [letter.id for letter in await oq.list_dead(error="ValueError")] == [three, two, one]
        assert [letter.id for letter in await oq.list_dead(error="TimeoutError")] == [key]
        assert await oq.list_dead(error="Error") == []
        assert [letter.id for letter in await oq.list_dead(since=began + dt.timedelta(minutes=1.5))] == [three, two]
        first = await oq.list_dead(error="ValueError", limit=2)
        assert [letter.id for letter in first] == [three, two]
        last = await oq.list_dead(error="ValueError", limit=2, cursor=first.cursor)
        assert ([letter.id for letter in last], last.cursor) == ([one], None)

    async def test_arguments_are_told_only_to_who_asks(self, oq: AsyncOmniQ) -> None:
        plain = await oq.enqueue(tasks.fail, {"message": "secret"})
        odd = await oq.enqueue(tasks.fail, [Exception("secret")])
        async with working(oq, "thread"):
            await until_states(oq, [plain, odd], TaskState.ERROR)
        assert "secret" not in repr(await oq.list_dead(arguments=True))
        letters = {letter.id: letter for letter in await oq.list_dead(arguments=True)}
        assert (letters[plain].args, letters[plain].kwargs) == ((), {"message": "secret"})
        assert repr(letters[odd].args) == repr((Exception("secret"),))
        letter = await oq.get_dead(letters[plain])
        assert (type(letter), letter.args) == (DeadLetter, None)
        assert letter.traceback is not None

    async def test_what_is_no_dead_letter_is_told_so(self, oq: AsyncOmniQ) -> None:
        for task_id in ("nobody", await oq.enqueue(tasks.nothing)):
            with pytest.raises(TaskNotFound, match=f"no dead letter {task_id}"):
                await oq.get_dead(task_id)


class TestChanges:
    async def test_dead_letters_are_requeued_as_far_as_they_match(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, page: int
    ) -> None:
        one, key, two, three = await failed(oq, virtual_clock)
        assert await oq.requeue_many(error="ValueError", name=FAIL, dry_run=True) == 2
        assert await states_of(oq, [one, three]) == [TaskState.ERROR] * 2
        assert await oq.requeue_many(error="ValueError", name=FAIL) == 2
        assert await oq.requeue_many(error="ValueError", name=FAIL) == 0
        assert await states_of(oq, [one, key, two, three]) == ["pending", "error", "error", "pending"]

    async def test_others_are_requeued_where_that_is_said(self, oq: AsyncOmniQ) -> None:
        ids = [await oq.enqueue(tasks.nothing) for _ in range(3)]
        assert await oq.cancel_many(ids) == 3
        assert await oq.requeue_many(all=True) == 0
        assert await oq.requeue_many(state="cancelled", name="tests.core.tasks:nothing") == 3

    async def test_dead_letters_are_purged_with_their_errors(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, page: int
    ) -> None:
        one, key, two, three = await failed(oq, virtual_clock)
        assert await oq.purge_dead([one, key, "nobody"], error="TimeoutError") == 1
        assert await oq.purge_dead(all=True, dry_run=True) == 3
        assert await oq.purge_dead(all=True) == 3
        assert await oq.list_dead() == []
        assert {await oq.result_store.get(id_) for id_ in (one, key, two, three)} == {None}
        assert await oq.purge_dead(all=True) == 0

    async def test_a_dead_letter_that_is_waited_for_stays(self, oq: AsyncOmniQ) -> None:
        parent = await oq.enqueue(tasks.fail)
        await oq.enqueue(tasks.nothing, depends_on=parent, on_parent_failure="hold")
        async with working(oq, "async"):
            await until_states(oq, [parent], TaskState.ERROR)
        assert await oq.purge_dead([parent]) == 0
        assert await states_of(oq, [parent]) == [TaskState.ERROR]

    async def test_tasks_are_cancelled_as_far_as_they_match(self, oq: AsyncOmniQ, page: int) -> None:
        parent = await oq.enqueue(tasks.nothing, queue_name="low")
        child = await oq.enqueue(tasks.nothing, depends_on=parent, queue_name="low")
        later = await oq.enqueue(tasks.nothing, run_in=60, queue_name="low")
        other = await oq.enqueue(tasks.nothing)
        assert await oq.cancel_many(queue_name="low", dry_run=True) == 3
        assert await oq.cancel_many(queue_name="low", state="scheduled") == 1
        assert await oq.cancel_many(queue_name="low") == 2
        assert await states_of(oq, [parent, child, later, other]) == [*["cancelled"] * 3, "pending"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_runs_is_asked_to_stop(self, oq: AsyncOmniQ, kind: str, gate: Path, log: Path) -> None:
        funcs: dict[str, Callable[..., Any]] = {"thread": tasks.fail_once_cancelled}
        func, args = funcs.get(kind, tasks.wait_for_async), [str(gate), str(log)]
        ids = [await oq.enqueue(func, args[-1:] if kind == "thread" else args) for _ in range(3)]
        async with working(oq, kind, max_workers=2, prefetch=0, lease=1.0):
            await until(lambda: len(lines(log)) == 2)
            assert await oq.cancel_many(all=True) == 3
            await until_states(oq, ids, TaskState.CANCELLED, TaskState.ERROR)

    async def test_no_condition_is_not_all_of_them(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        for method in (oq.cancel_many, oq.requeue_many, oq.purge_dead):
            with pytest.raises(InvalidTask, match="conditions: none is given; say all=True"):
                await method()
            with pytest.raises(InvalidTask, match="conditions: none is given; say all=True"):
                await method(name=None)
            assert await method([]) == 0
        assert await states_of(oq, [task_id]) == [TaskState.PENDING]

    @pytest.mark.parametrize("ids", ["t", b"t", 5])
    async def test_a_single_id_is_no_list_of_them(self, oq: AsyncOmniQ, ids: Any) -> None:
        for method in (oq.cancel_many, oq.requeue_many, oq.purge_dead):
            with pytest.raises(
                InvalidTask, match=f"^ids: expected a list of task ids or tasks, got {type(ids).__name__}"
            ):
                await method(ids)

    async def test_an_id_given_twice_is_one_task(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        assert await oq.cancel_many([task_id, task_id], dry_run=True) == 1
        assert await oq.cancel_many([task_id, task_id]) == 1

    async def test_it_ends_while_others_go_on_enqueueing(self, oq: AsyncOmniQ, page: int) -> None:
        await oq.enqueue_many([TaskCall(func=tasks.nothing) for _ in range(20)])

        async def enqueue() -> None:
            while True:
                await oq.enqueue(tasks.nothing)

        producer = asyncio.ensure_future(enqueue())
        try:
            async with asyncio.timeout(SOON):
                assert await oq.cancel_many(all=True) >= 20
        finally:
            producer.cancel()


def test_blocking_doors_have_it_all(place: Place) -> None:
    with blocking_door(place) as oq:
        task_id = oq.enqueue(tasks.fail, ["no luck"])
        oq.pause_queue()
        assert [queue.paused for queue in oq.stats()] == [True]
        oq.resume_queue()
        oq.start_worker("thread")
        with pytest.raises(Exception, match="no luck"):
            oq.get_result(task_id, timeout=SOON)
        assert oq.get_dead(task_id).error_message == "no luck"
        oq.stop_worker()
        assert oq.requeue_many(all=True) == 1
        assert oq.cancel_many(name=FAIL) == 1
        assert oq.purge_dead(all=True) == 0
        assert oq.list_tasks(state="cancelled", limit=1).cursor is None


@pytest.mark.parametrize("cursor", [5, b"t", "\ud800", ""])
async def test_what_no_page_has_had_is_no_cursor(oq: AsyncOmniQ, cursor: Any) -> None:
    for method in (oq.list_tasks, oq.list_dead):
        with pytest.raises(InvalidTask, match="cursor: expected that of a page, got "):
            await method(cursor=cursor)


async def test_a_page_begins_after_any_id(place: Place) -> None:
    async with front_door(place) as oq:
        for name in ("a", "c", "e"):
            await oq.enqueue(tasks.nothing, task_id=name)
        assert [task.id for task in await oq.list_tasks(cursor="b")] == ["c", "e"]
        assert [task.id for task in await oq.list_tasks(cursor="d", newest_first=True)] == ["c", "a"]
