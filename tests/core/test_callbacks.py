"""Callbacks for all tasks of a program: what they are told, in which order, and that they hurt nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, CallbackManager
from omniq.callbacks import TaskUpdate
from omniq.errors import ConfigError, InvalidTask
from omniq.models import ResultStatus
from omniq.testing import VirtualClock
from omniq.workers import AsyncWorker
from omniq.workers import callbacks as task_callbacks

from tests.core import oddities, tasks
from tests.core.support import (
    FAST,
    KINDS,
    SOON,
    Place,
    blocking_door,
    reference_place,
    results_of,
    task_queue,
    until,
    working,
)
from tests.core.workers import progress_tasks


@pytest.fixture
def place() -> Place:
    return reference_place()


@pytest.fixture
def told(oq: AsyncOmniQ) -> list[TaskUpdate]:
    """All that callbacks are told."""
    told: list[TaskUpdate] = []
    for register in (oq.callbacks.on_enqueued, oq.callbacks.on_started, oq.callbacks.on_retried, oq.callbacks.on_ended):
        register(told.append)
    return told


class TestWhatIsTold:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_is_told_of_from_its_enqueueing_to_its_end(
        self, oq: AsyncOmniQ, told: list[TaskUpdate], kind: str
    ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], queue_name="high")
        async with working(oq, kind) as pool:
            await until(lambda: len(told) == 3)
            worker = pool.name
        assert [(update.kind, update.worker, update.attempt) for update in told] == [
            ("enqueued", None, None),
            ("started", worker, 1),
            ("ended", worker, 1),
        ]
        named = {(update.task_id, update.name, update.queue_name) for update in told}
        assert named == {(task_id, "tests.core.tasks:add", "high")}
        assert told[0].at <= told[1].at <= told[2].at
        result = told[2].result
        assert result is not None
        assert (result.status, result.value, told[2].error_type) == (ResultStatus.SUCCESS, 3, None)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_each_attempt_is_told_of(self, oq: AsyncOmniQ, told: list[TaskUpdate], kind: str) -> None:
        await oq.enqueue(tasks.fail, ["no luck"], max_retries=1, retry_delay=0.01)
        async with working(oq, kind):
            await until(lambda: len(told) == 5)
        assert [(update.kind, update.attempt, update.error_type, update.error_message) for update in told[1:]] == [
            ("started", 1, None, None),
            ("retried", 1, "ValueError", "no luck"),
            ("started", 2, None, None),
            ("ended", 2, "ValueError", "no luck"),
        ]
        assert told[2].retry_in is not None
        assert 0 <= told[2].retry_in <= 0.01
        assert "no luck" not in repr(told)

    async def test_a_timeout_a_cancel_and_a_crash_are_ends(
        self, oq: AsyncOmniQ, told: list[TaskUpdate], log: Path, gate: Path
    ) -> None:
        late = await oq.enqueue(tasks.wait_for, [str(gate), str(log)], timeout=0.1)
        killed = await oq.enqueue(oddities.die, [str(log), "exit"])
        stopped = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
        async with working(oq, "process", max_crashes=1):
            await until(lambda: {killed, late} <= {update.task_id for update in told if update.kind == "ended"})
            await until(lambda: stopped in {update.task_id for update in told if update.kind == "started"})
            await oq.cancel(stopped)
            await until(lambda: len([update for update in told if update.kind == "ended"]) == 3)
        ended = {update.task_id: update for update in told if update.kind == "ended"}
        assert ended[late].error_type == "omniq.errors.TaskTimeout"
        assert ended[killed].error_type == "omniq.errors.WorkerCrashed"
        assert _status(ended[stopped]) is ResultStatus.CANCELLED

    async def test_an_end_without_a_run_is_told_where_it_is_made(
        self, oq: AsyncOmniQ, told: list[TaskUpdate], virtual_clock: VirtualClock
    ) -> None:
        cancelled = await oq.enqueue(tasks.nothing)
        child = await oq.enqueue(tasks.nothing, depends_on=cancelled)
        await oq.cancel(cancelled)
        await oq.enqueue(tasks.nothing, ttl=5)
        virtual_clock.advance(6)
        await oq.task_queue.ttl.expire()
        await until(lambda: len(told) == 6)
        ended = [(update.task_id, _status(update), update.worker) for update in told if update.kind == "ended"]
        assert ended[:2] == [(cancelled, "cancelled", None), (child, "cancelled", None)]
        assert ended[2][1] == "expired"

    async def test_success_and_failure_are_kinds_of_ends(self, oq: AsyncOmniQ) -> None:
        succeeded: list[str] = []
        failed: list[str] = []

        @oq.callbacks.on_success
        def note_success(task: TaskUpdate) -> None:
            succeeded.append(task.task_id)

        @oq.callbacks.on_failure
        async def note_failure(task: TaskUpdate) -> None:
            failed.append(task.task_id)

        good, bad = await oq.enqueue(tasks.nothing), await oq.enqueue(tasks.fail, ["x"])
        async with working(oq, "async"):
            await until(lambda: bool(succeeded) and bool(failed))
        assert (succeeded, failed) == ([good], [bad])
        assert note_success.__name__ == "note_success"

    async def test_an_async_function_may_be_wrapped(self, oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture) -> None:
        ended: list[str] = []

        async def note(task: TaskUpdate) -> None:
            await asyncio.sleep(0)
            ended.append(task.task_id)

        async def fail(task: TaskUpdate) -> None:
            raise SystemExit(3)

        oq.callbacks.on_ended(lambda task: fail(task))
        oq.callbacks.on_ended(lambda task: note(task))
        progress_tasks.ends.clear()
        ids = [await oq.enqueue(tasks.nothing, on_success=progress_tasks.note_end_later) for _ in range(2)]
        async with working(oq, "async"):
            await until(lambda: len(ended) == len(progress_tasks.ends) == 2)
        assert sorted(ended) == sorted(ids) == sorted(result.task_id for result in progress_tasks.ends)
        assert caplog.text.count("(ended) raised SystemExit") == 2

    async def test_a_duplicate_is_not_enqueued(self, oq: AsyncOmniQ, told: list[TaskUpdate]) -> None:
        for _ in range(2):
            await oq.enqueue(tasks.nothing, task_id="t")
            await oq.enqueue(tasks.nothing, unique_key="key")
        await oq.callbacks.close()
        assert len(told) == 2

    async def test_a_schedules_task_is_enqueued(
        self, oq: AsyncOmniQ, told: list[TaskUpdate], virtual_clock: VirtualClock
    ) -> None:
        schedule_id = await oq.schedule(tasks.nothing, interval=60)
        virtual_clock.advance(61)
        await oq.task_queue.scheduler.fire_due()
        await until(lambda: len(told) == 1)
        assert (told[0].kind, told[0].schedule_id) == ("enqueued", schedule_id)


def _status(update: TaskUpdate) -> ResultStatus | None:
    return None if update.result is None else update.result.status


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_of_its_own_callback_is_told_of_every_end_of_a_run(
    oq: AsyncOmniQ, log: Path, gate: Path, kind: str
) -> None:
    async def enqueue(func: Callable[..., Any], *args: str, **options: Any) -> str:
        return await oq.enqueue(func, args, on_failure=progress_tasks.note_end, **options)

    progress_tasks.ends.clear()
    late = await enqueue(tasks.wait_for_async, str(gate), str(log), timeout=0.1)
    silent = await enqueue(tasks.wait_for_async, str(gate), str(log), heartbeat_timeout=0.1)
    stopped = await enqueue(tasks.wait_for_async, str(gate), str(log))
    wanted = {late: "error", silent: "error", stopped: "cancelled"}
    if kind == "process":
        wanted[await enqueue(oddities.die, str(log), "exit")] = "error"
    async with working(oq, kind, max_workers=4, max_crashes=1):
        async with asyncio.timeout(SOON):
            while (await oq.peek_result(stopped)).status is not ResultStatus.RUNNING:
                await asyncio.sleep(0.005)
        await oq.cancel(stopped)
        await until(lambda: len(progress_tasks.ends) == len(wanted))
    assert {result.task_id: result.status for result in progress_tasks.ends} == wanted


async def test_one_that_hangs_is_left_alone(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(task_callbacks, "CALLBACK_TIMEOUT", 0.1)
    monkeypatch.setattr(task_callbacks, "MAX_CALLBACK_THREADS", 1)
    progress_tasks.released.clear()
    progress_tasks.ends.clear()
    callbacks = [progress_tasks.hang_after_end, progress_tasks.hang_after_end_async, progress_tasks.time_out_after_end]
    ids = [await oq.enqueue(tasks.nothing, on_success=callback) for callback in callbacks]
    async with working(oq, "async"):
        assert await results_of(oq, ids) == [None] * 3
        await until(lambda: caplog.text.count("takes too long and is given up") == 2)
        ids += [await oq.enqueue(tasks.nothing, on_success=progress_tasks.note_end)]
        await until(lambda: {result.task_id for result in progress_tasks.ends} == {*ids[1:]})
    progress_tasks.released.set()


class TestWhoseTheyAre:
    async def test_they_may_be_brought_along(self, place: Place) -> None:
        mine, told = CallbackManager(), list[str]()
        mine.on_ended(lambda task: told.append(task.task_id))
        async with AsyncOmniQ(task_queue=task_queue(place), callbacks=mine) as oq:
            assert oq.callbacks is mine
            async with working(oq, "async"):
                task_id = await oq.enqueue(tasks.nothing)
                await until(lambda: told == [task_id])

    async def test_a_worker_has_those_of_its_queue_or_its_own(self, place: Place) -> None:
        queue, told = task_queue(place), list[str]()
        queue.callbacks.on_ended(lambda task: told.append("queue"))
        own = CallbackManager()
        own.on_ended(lambda task: told.append("own"))
        for worker in (AsyncWorker(queue, **FAST), AsyncWorker(queue, callbacks=own, **FAST)):
            async with worker:
                await queue.enqueue(tasks.nothing)
                async with asyncio.timeout(SOON):
                    while not await _all_ended(queue):
                        await asyncio.sleep(0.005)
        assert told == ["queue", "own"]
        await queue.close()

    async def test_a_queue_that_is_given_stays_as_it_was(self, place: Place) -> None:
        queue, told = task_queue(place), list[str]()
        queue.callbacks.on_enqueued(lambda task: told.append("queue's"))
        async with AsyncOmniQ(task_queue=queue) as oq, AsyncOmniQ(task_queue=queue) as other:
            oq.callbacks.on_enqueued(lambda task: told.append("own"))
            for each in (oq, other):
                await each.enqueue(tasks.nothing)
                await each.callbacks.close()
        assert told == ["queue's", "own", "queue's"]
        assert len(queue.callbacks.enqueued) == 1

    def test_with_methods_that_block(self, place: Place) -> None:
        with blocking_door(place) as oq:
            told: list[str] = []
            oq.callbacks.on_enqueued(lambda task: told.append(task.kind))
            oq.callbacks.on_ended(lambda task: told.append(task.kind))
            oq.start_worker()
            oq.get_result(oq.enqueue(tasks.nothing))
        assert sorted(told) == ["ended", "enqueued"]

    @pytest.mark.parametrize("wrong", [None, 3, "print"])
    def test_what_cannot_be_called_is_refused(self, wrong: Any) -> None:
        manager = CallbackManager()
        for register in (manager.on_enqueued, manager.on_started, manager.on_success, manager.on_failure):
            with pytest.raises(ConfigError, match=f"{register.__name__}: expected a function"):
                register(wrong)

    @pytest.mark.parametrize("wrong", [0, -1, float("nan"), "3"])
    def test_so_is_a_timeout_that_is_none(self, wrong: Any) -> None:
        with pytest.raises(InvalidTask, match="timeout: "):
            CallbackManager(timeout=wrong)

    def test_and_what_is_no_manager(self, place: Place) -> None:
        with pytest.raises(ConfigError, match="callbacks: expected a CallbackManager, got function"):
            AsyncOmniQ(task_queue=task_queue(place), callbacks=_all_ended)  # type: ignore[arg-type]


async def _all_ended(queue: Any) -> bool:
    return {state for stats in await queue.stats() for state, count in stats.counts.items() if count} == {"success"}


class TestThatTheyHurtNobody:
    @pytest.fixture
    async def impatient(self, place: Place) -> AsyncIterator[AsyncOmniQ]:
        """OmniQ whose callbacks have little time."""
        async with AsyncOmniQ(task_queue=task_queue(place), callbacks=CallbackManager(timeout=0.2)) as oq:
            yield oq

    @pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), asyncio.CancelledError(), StopIteration()])
    async def test_one_that_raises_is_logged(
        self, oq: AsyncOmniQ, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[str] = []

        def fail(task: TaskUpdate) -> None:
            raise error

        async def fail_async(task: TaskUpdate) -> None:
            raise error

        async def takes_nothing() -> None:
            pass

        wrong: Any = takes_nothing
        for callback in (fail, fail_async, wrong, lambda task: told.append(task.task_id)):
            oq.callbacks.on_ended(callback)
        ids = [await oq.enqueue(tasks.nothing) for _ in range(2)]
        async with working(oq, "async"):
            await results_of(oq, ids)
            await until(lambda: caplog.text.count("fail (ended) raised") == 2)
            await until(lambda: caplog.text.count("fail_async (ended) raised") == 2)
            await until(lambda: caplog.text.count("takes_nothing (ended) raised TypeError") == 2)
        assert sorted(told) == sorted(ids)
        assert "secret" not in caplog.text

    async def test_one_that_hangs_keeps_neither_its_task_nor_the_others(
        self, impatient: AsyncOmniQ, caplog: pytest.LogCaptureFixture, released: threading.Event
    ) -> None:
        told: list[str] = []
        impatient.callbacks.on_started(lambda task: released.wait(SOON))
        impatient.callbacks.on_ended(lambda task: told.append(task.task_id))

        @impatient.callbacks.on_started
        async def hang(task: TaskUpdate) -> None:
            await asyncio.Event().wait()

        ids = [await impatient.enqueue(tasks.nothing) for _ in range(2)]
        async with working(impatient, "async"):
            assert await results_of(impatient, ids) == [None, None]
            await until(lambda: sorted(told) == sorted(ids))
            await until(lambda: caplog.text.count("takes too long") == 4)

    @pytest.fixture
    def released(self) -> Iterator[threading.Event]:
        """Lets callbacks end that hang."""
        event = threading.Event()
        yield event
        event.set()

    async def test_a_slow_one_does_not_keep_the_loop(self, oq: AsyncOmniQ, released: threading.Event) -> None:
        oq.callbacks.on_ended(lambda task: released.wait(SOON))
        ids = [await oq.enqueue(tasks.nothing_async) for _ in range(50)]
        async with working(oq, "async"):
            async with asyncio.timeout(SOON / 2):
                await results_of(oq, ids)
            assert not released.is_set()
            released.set()

    async def test_too_many_are_dropped_and_counted(
        self, oq: AsyncOmniQ, released: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("omniq.callbacks.CAPACITY", 10)
        oq.callbacks.on_enqueued(lambda task: released.wait(SOON))
        for _ in range(30):
            await oq.enqueue(tasks.nothing)
        assert oq.callbacks.dropped == 20
        released.set()

    async def test_what_nobody_wants_to_hear_costs_nothing(self, oq: AsyncOmniQ) -> None:
        before = threading.active_count()
        async with working(oq, "async"):
            await oq.get_result(await oq.enqueue(tasks.nothing_async), timeout=SOON)
        assert threading.active_count() <= before

    def test_nobody_waits_for_one_that_hangs_at_the_end(self, tmp_path: Path) -> None:
        program = tmp_path / "program.py"
        program.write_text(HANGING)
        (tmp_path / "hanging.py").write_text(HANG)
        ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=SOON, cwd=tmp_path)
        assert (ran.returncode, ran.stdout) == (0, "3\n"), ran.stderr


HANG = """
import threading

begun = threading.Semaphore(0)

def hang(told):
    begun.release()
    threading.Event().wait()
"""
HANGING = """
from hanging import begun, hang
from omniq import CallbackManager, OmniQ

callbacks = CallbackManager(timeout=0.1)
callbacks.on_ended(hang)
oq = OmniQ(config={"task_queue": "memory://hanging"}, callbacks=callbacks, worker_config={"grace_period": 0.1})
oq.start_worker()
print(oq.get_result(oq.enqueue(max, [1, 3], on_success=hang)))
begun.acquire(), begun.acquire()
"""
