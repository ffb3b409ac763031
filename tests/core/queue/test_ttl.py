"""What ends by the clock, and without a run: TTLs before each try, results and callbacks as tasks say, retention."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.config.loader import ConfigProvider, OmniQConfig
from omniq.errors import ConfigError, TaskExpired
from omniq.models import TaskResult, TaskState
from omniq.models.config import WorkerConfig
from omniq.queue import policies
from omniq.testing import VirtualClock
from omniq.testing.builders import claim

from tests.core import oddities, tasks
from tests.core.support import KINDS, SOON, until, until_states, working

DAY = 86_400.0


@pytest.fixture(autouse=True)
def told() -> list[TaskResult]:
    """The results that callbacks were told."""
    tasks.told.clear()
    return tasks.told


class TestRetries:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_no_retry_is_due_after_the_ttl(self, oq: AsyncOmniQ, kind: str, told: list[TaskResult]) -> None:
        task_id = await oq.enqueue(
            tasks.fail, ["no luck"], ttl=60, max_retries=9, retry_delay=3600, retry_jitter=0, on_failure=tasks.tell
        )
        async with working(oq, kind):
            with pytest.raises(TaskExpired, match="before it could be tried again after ValueError: no luck"):
                await oq.get_result(task_id, timeout=SOON)
            await until(lambda: len(told) == 1)
        task = await oq.get_task(task_id)
        assert (task.state, task.attempts) == (TaskState.EXPIRED, 1)
        assert (told[0].status, told[0].error_type, told[0].attempts) == ("expired", "ValueError", 1)

    async def test_a_retry_within_the_ttl_takes_place(self, oq: AsyncOmniQ, log: Path) -> None:
        task_id = await oq.enqueue(oddities.fail_until, [str(log), 2], ttl=600, max_retries=3, retry_delay=0.01)
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == 2

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_retry_that_is_late_is_not_started(
        self, oq: AsyncOmniQ, kind: str, virtual_clock: VirtualClock, log: Path
    ) -> None:
        args = [str(log.with_name("nowhere")), str(log)]
        task_id = await oq.enqueue(tasks.fail_without, args, ttl=600, max_retries=3, retry_delay=60)
        async with working(oq, kind):
            await until_states(oq, [task_id], TaskState.SCHEDULED)
            virtual_clock.advance(601)
            with pytest.raises(TaskExpired):
                await oq.get_result(task_id, timeout=SOON)
        assert len(log.read_text().split()) == 1

    async def test_a_requeue_forgets_the_ttl(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], ttl=1)
        virtual_clock.advance(2)
        await oq.task_queue.ttl.expire()
        assert await oq.requeue(task_id)
        assert (await oq.get_task(task_id)).expires_at is None
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == 3


class TestInLine:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_was_claimed_ahead_is_not_started_late(
        self, oq: AsyncOmniQ, kind: str, gate: Path, log: Path, told: list[TaskResult]
    ) -> None:
        """A slot may be free for it long after the claim."""
        async with working(oq, kind, max_workers=1, prefetch=5):
            await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
            await until(log.exists)
            late = await oq.enqueue(tasks.append, [str(log), "late"], ttl=1, on_failure=tasks.tell)
            await until_states(oq, [late], TaskState.RUNNING, TaskState.EXPIRED)
            await asyncio.sleep(1.1)
            gate.touch()
            with pytest.raises(TaskExpired):
                await oq.get_result(late, timeout=SOON)
            await until(lambda: len(told) == 1)
        assert "late" not in log.read_text()
        assert (await oq.get_task(late)).attempts == 0


class TestEndsWithoutARun:
    """Their results are kept, and their callbacks called, as the tasks themselves say."""

    async def test_those_that_expire(self, oq: AsyncOmniQ, virtual_clock: VirtualClock, told: list[TaskResult]) -> None:
        ids = [
            await oq.enqueue(tasks.nothing, ttl=1, run_in=run_in, result_ttl=DAY * 7, on_failure=tasks.tell)
            for run_in in (0, 0.5)
        ]
        virtual_clock.advance(2)
        async with working(oq, "async"):
            await until(lambda: len(told) == 2)
        assert {(result.task_id, result.status) for result in told} == {(id_, "expired") for id_ in ids}
        assert {await kept_for(oq, id_) for id_ in ids} == {7 * DAY}

    async def test_who_waits_for_a_result_leaves_the_callback_to_a_worker(
        self, oq: AsyncOmniQ, told: list[TaskResult]
    ) -> None:
        task_id = await oq.enqueue(tasks.nothing, ttl=0.01, run_in=0.01, on_failure=tasks.tell)
        waiting = asyncio.ensure_future(oq.get_result(task_id, timeout=SOON))
        await asyncio.sleep(0.1)
        assert (await oq.get_task(task_id)).state is not TaskState.EXPIRED
        async with working(oq, "async"):
            with pytest.raises(TaskExpired):
                await waiting
            await until(lambda: len(told) == 1)

    async def test_those_whose_parent_fails(self, oq: AsyncOmniQ, told: list[TaskResult]) -> None:
        parent = await oq.enqueue(tasks.fail)
        child = await oq.enqueue(
            tasks.nothing, depends_on=parent, result_ttl=None, on_failure=tasks.tell, on_success=tasks.fail_as_callback
        )
        async with working(oq, "async"):
            await until(lambda: len(told) == 1)
        assert (told[0].task_id, told[0].status) == (child, "cancelled")
        assert await kept_for(oq, child) is None

    async def test_those_that_crash_too_often(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, told: list[TaskResult]
    ) -> None:
        task_id = await oq.enqueue(tasks.nothing, result_ttl=90 * DAY, on_failure=tasks.tell)
        await claim(oq.task_queue.store, "default", lease=1.0, worker="dead")
        virtual_clock.advance(3600)
        async with working(oq, "async", max_crashes=1):
            await until(lambda: len(told) == 1)
        assert (told[0].task_id, told[0].status, told[0].error_type) == (task_id, "error", "omniq.errors.WorkerCrashed")
        assert await kept_for(oq, task_id) == 90 * DAY

    async def test_a_cancel_from_outside_calls_nobody_and_keeps_the_result_as_said(
        self, oq: AsyncOmniQ, told: list[TaskResult]
    ) -> None:
        task_id = await oq.enqueue(tasks.nothing, result_ttl=5, on_failure=tasks.tell)
        assert await oq.cancel(task_id)
        assert await kept_for(oq, task_id) == 5
        async with working(oq, "async") as pool:
            await pool.drain()
        assert told == []


async def kept_for(oq: AsyncOmniQ, task_id: str) -> float | None:
    """Seconds for which the task's result is kept from its end on."""
    result = await oq.result_store.get(task_id)
    assert result is not None
    if result.expires_at is None or result.finished_at is None:
        return None
    return round((result.expires_at - result.finished_at).total_seconds(), 3)


class TestRetention:
    async def test_a_dead_letters_error_is_kept_as_long_as_it_is(self, oq: AsyncOmniQ) -> None:
        short, long = await oq.enqueue(tasks.fail, result_ttl=1), await oq.enqueue(tasks.fail, result_ttl=None)
        async with working(oq, "async", dead_letter_retention=9 * DAY):
            await until_states(oq, [short, long], TaskState.ERROR)
        assert [await kept_for(oq, short), await kept_for(oq, long)] == [9 * DAY, None]

    async def test_dead_letters_are_kept_for_longer_or_for_ever(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        dead, done = await oq.enqueue(tasks.fail), await oq.enqueue(tasks.nothing)
        async with working(oq, "async"):
            await until_states(oq, [dead, done], TaskState.ERROR, TaskState.SUCCESS)
        virtual_clock.advance(2 * DAY)
        assert await oq.task_queue.ttl.purge(retention=DAY) == 2  # the task that has succeeded, and its result
        virtual_clock.advance(365 * DAY)
        assert await oq.task_queue.ttl.purge(retention=DAY, dead_letter_retention=None) == 1  # a result
        assert [task.id for task in await oq.list_dead()] == [dead]
        assert await oq.task_queue.ttl.purge(retention=DAY) == 1
        assert await oq.list_dead() == []

    async def test_any_number_is_purged_in_batches(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(policies, "PURGED_AT_ONCE", 3)
        for _ in range(10):
            await oq.cancel(await oq.enqueue(tasks.nothing, result_ttl=1))
        virtual_clock.advance(DAY)
        assert await oq.task_queue.ttl.purge(retention=60) == 20

    @pytest.mark.parametrize(("text", "seconds"), [("3600", 3600.0), ("null", None)])
    def test_it_can_be_configured_everywhere(
        self, text: str, seconds: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMNIQ_DEAD_LETTER_RETENTION", text)
        monkeypatch.setenv("OMNIQ_RETENTION", "60")
        config = ConfigProvider().load()
        assert (config.worker.config.retention, config.worker.config.dead_letter_retention) == (60.0, seconds)
        file = tmp_path / "omniq.yaml"
        file.write_text("worker: {config: {retention: 5, dead_letter_retention: null}}")
        monkeypatch.delenv("OMNIQ_DEAD_LETTER_RETENTION")
        monkeypatch.delenv("OMNIQ_RETENTION")
        config = ConfigProvider(file).load()
        assert (config.worker.config.retention, config.worker.config.dead_letter_retention) == (5.0, None)
        assert WorkerConfig().dead_letter_retention == OmniQConfig().worker.config.dead_letter_retention == 30 * DAY

    def test_nonsense_is_refused_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OMNIQ_DEAD_LETTER_RETENTION", "soon")
        with pytest.raises(ConfigError, match="OMNIQ_DEAD_LETTER_RETENTION: expected float"):
            ConfigProvider().load()
