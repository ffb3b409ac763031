"""Looking at tasks and watching them: how things stand, whenever that changes, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, outcomes
from omniq.errors import Closed, InvalidTask, ResultExpired, ResultTimeout, StoreUnavailable, TaskFailed, TaskNotFound
from omniq.models import ResultStatus, TaskResult, TaskState
from omniq.storage.records import ResultRecord, TaskRecord
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, ReferenceSpace, VirtualClock
from omniq.testing.builders import result_of
from omniq.workers import progress as reports

from tests.core import tasks
from tests.core.support import KINDS, SOON, Place, blocking_door, front_door, reference_place, until, working
from tests.core.workers import progress_tasks


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is stored, and looked for, without much delay."""
    monkeypatch.setattr(reports, "STORE_INTERVAL", 0.02)
    monkeypatch.setattr(outcomes, "WATCH_INTERVAL", 0.02)


def seen(result: TaskResult) -> tuple[str, float | None]:
    """What matters of a snapshot."""
    return result.status.value, None if result.progress is None else result.progress.fraction


async def watched(oq: AsyncOmniQ, task_id: str) -> list[tuple[str, float | None]]:
    """What is seen of a task to its end, without what is merely said again."""
    found: list[tuple[str, float | None]] = []
    async for result in oq.watch(task_id, timeout=SOON):
        if seen(result) not in found:
            found.append(seen(result))
    return found


class TestWatching:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_is_seen_from_its_wait_to_its_end(
        self, oq: AsyncOmniQ, log: Path, gate: Path, kind: str
    ) -> None:
        task_id = await oq.enqueue(progress_tasks.tell, [str(log), str(gate)])
        found: list[tuple[str, float | None]] = []
        watching = oq.watch(task_id, timeout=SOON)
        found.append(seen(await anext(watching)))
        async with working(oq, kind):
            async for result in watching:
                found.append(seen(result))
                if result.progress is not None:
                    gate.touch()
        assert found[0] == ("pending", None)
        assert found[-2:] == [("running", 0.4), ("success", None)]
        assert result.value == "done"

    async def test_whoever_watches_is_woken(
        self, oq: AsyncOmniQ, log: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin = gate.with_name("begin")
        task_id = await oq.enqueue(progress_tasks.tell_when_asked, [str(log), str(begin), str(gate)])
        async with working(oq, "async"):
            await until(lambda: log.exists())
            monkeypatch.setattr(outcomes, "WATCH_INTERVAL", 2 * SOON)
            async with asyncio.timeout(SOON):
                watching = oq.watch(task_id)
                assert seen(await anext(watching)) == ("running", None)
                begin.touch()
                assert seen(await anext(watching)) == ("running", 0.4)
                gate.touch()
                assert seen(await anext(watching)) == ("success", None)

    async def test_an_attempt_that_fails_is_seen(self, oq: AsyncOmniQ, log: Path, gate: Path) -> None:
        task_id = await oq.enqueue(tasks.fail_without, [str(gate), str(log)], max_retries=1, retry_delay=0.3)
        async with working(oq, "async"):
            attempts = [(result.status, result.attempts) async for result in oq.watch(task_id, timeout=SOON)]
        assert ("pending", 1) in attempts
        assert attempts[-1] == ("error", 2)

    async def test_a_task_that_no_worker_starts_in_time_expires(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing, ttl=0.1)
        assert [result.status async for result in oq.watch(task_id, timeout=SOON)] == ["pending", "expired"]

    async def test_many_watch_one_task(self, oq: AsyncOmniQ, log: Path, gate: Path) -> None:
        task_id = await oq.enqueue(progress_tasks.tell_async, [str(log), str(gate)])
        watching = [asyncio.create_task(watched(oq, task_id)) for _ in range(30)]
        waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
        async with working(oq, "async"):
            await until(lambda: log.exists())
            async with asyncio.timeout(SOON):
                while (await oq.peek_result(task_id)).progress is None:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            gate.touch()
            found = await asyncio.gather(*watching)
            assert await waiting == "done"
        assert [each[-2:] for each in found] == [[("running", 0.4), ("success", None)]] * 30

    async def test_what_is_no_task_is_not_watched(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(TaskNotFound, match="nobody"):
            await anext(oq.watch("nobody"))
        with pytest.raises(TaskNotFound, match="nobody"):
            await oq.peek_result("nobody")
        with pytest.raises(InvalidTask, match="task_id: "):
            oq.watch("")  # at once, and not when it is first asked
        with pytest.raises(InvalidTask, match="timeout: "):
            oq.watch("t", timeout=-1)

    @pytest.mark.parametrize("timeout", [0, 0.05])
    async def test_it_is_watched_no_longer_than_it_may(self, oq: AsyncOmniQ, timeout: float) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        watching = oq.watch(task_id, timeout=timeout)
        assert (await anext(watching)).status == "pending"
        with pytest.raises(ResultTimeout, match="is still pending"):
            await anext(watching)

    async def test_closing_ends_it(self, place: Place) -> None:
        async with front_door(place) as oq:
            watching = oq.watch(await oq.enqueue(tasks.nothing))
            await anext(watching)
            ending = asyncio.ensure_future(anext(watching))
            await asyncio.sleep(0.05)
        with pytest.raises(Closed):
            await ending

    async def test_a_store_that_is_away_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outcomes, "RETRY_PAUSE", 0.01)
        away = [False]

        class Away(ReferenceQueueStore):
            async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
                if away[0]:
                    away[0] = False
                    raise StoreUnavailable("away")
                return await super().get(ids, bodies=bodies)

        async with front_door(reference_place(queue=Away)) as oq:
            task_id = await oq.enqueue(tasks.add, [1, 2])
            watching = oq.watch(task_id, timeout=SOON)
            await anext(watching)
            away[0] = True
            async with working(oq, "async"):
                assert [result.status async for result in watching][-1] == "success"

    async def test_who_looks_away_is_forgotten(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        async for _ in oq.watch(task_id):
            break
        watching = asyncio.ensure_future(watched(oq, task_id))
        await until(lambda: oq.result_store.store.wakeups.awaited_tasks == [task_id])
        watching.cancel()
        await until(lambda: oq.result_store.store.wakeups.awaited_tasks == [])

    def test_with_a_plain_for(self, place: Place) -> None:
        with blocking_door(place) as oq:
            task_id = oq.enqueue(progress_tasks.tell_and_end, [0.5])
            oq.start_worker()
            found = [result.status for result in oq.watch(task_id, timeout=SOON)]
            assert found[-1] == "success"
            assert oq.peek_result(task_id).value == "done"
            for result in oq.watch(task_id):
                assert result.is_final
                break


class TestPeeking:
    @pytest.mark.parametrize(
        ("options", "status"), [({"run_in": 3600}, "pending"), ({}, "pending"), ({"depends_on": "parent"}, "pending")]
    )
    async def test_what_has_not_begun_is_pending(self, oq: AsyncOmniQ, options: dict[str, object], status: str) -> None:
        await oq.enqueue(tasks.nothing, task_id="parent")
        result = await oq.peek_result(await oq.enqueue(tasks.nothing, **options))  # type: ignore[arg-type]
        assert (result.status, result.attempts, result.worker, result.finished_at) == (status, 0, None, None)
        with pytest.raises(ResultTimeout, match="hasn't ended: it is pending"):
            result.unwrap()

    async def test_an_end_is_told_as_it_is(self, oq: AsyncOmniQ) -> None:
        failed = await oq.enqueue(tasks.fail, ["no luck"])
        cancelled = await oq.enqueue(tasks.nothing)
        await oq.cancel(cancelled)
        async with working(oq, "async") as pool:
            await pool.drain()
        result = await oq.peek_result(failed)
        assert (result.status, result.error_type, result.error_message) == ("error", "ValueError", "no luck")
        with pytest.raises(TaskFailed, match="no luck"):
            result.unwrap()
        assert (await oq.peek_result(cancelled)).status is ResultStatus.CANCELLED

    async def test_a_result_that_is_no_longer_kept(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        succeeded = await oq.enqueue(tasks.nothing, result_ttl=10)
        failed = await oq.enqueue(tasks.fail, ["x"])
        async with working(oq, "async") as pool:
            await pool.drain()
        virtual_clock.advance(31 * 86_400)  # as long as a dead letter keeps its error
        with pytest.raises(ResultExpired):
            await oq.peek_result(succeeded)
        result = await oq.peek_result(failed)
        assert (result.status, result.error_type) == ("error", None)
        assert result.finished_at is not None

    async def test_a_task_that_runs_again_is_running(self, oq: AsyncOmniQ, log: Path, gate: Path) -> None:
        task_id = await oq.enqueue(tasks.fail_without, [str(gate), str(log)])
        async with working(oq, "async") as pool:
            await pool.drain()
        assert (await oq.peek_result(task_id)).status is ResultStatus.ERROR
        await oq.requeue(task_id)
        assert (await oq.peek_result(task_id)).status is ResultStatus.PENDING
        await oq.task_queue.store.claim(["default"], limit=1, lease=60, worker="w")
        assert (await oq.peek_result(task_id)).status is ResultStatus.RUNNING

    async def test_progress_of_another_claim_is_not_shown(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        await oq.task_queue.store.claim(["default"], limit=1, lease=60, worker="w")
        for epoch in (0, 1, 7):
            body = oq.task_queue.serialization.pack_outcome(
                progress_tasks.outcome(epoch / 10),
                task_id=task_id,
                epoch=epoch,
                status=TaskState.RUNNING,
                schedule_id=None,
            )
            record = ResultRecord(task_id=task_id, epoch=epoch, status=TaskState.RUNNING, body=body)
            await oq.result_store.store.put([record])
            assert seen(await oq.peek_result(task_id)) == ("running", 0.1 if epoch == 1 else None)

    async def test_a_result_without_its_task_is_told(self) -> None:
        space = ReferenceSpace()
        async with front_door(reference_place(space)) as oq:
            body = oq.task_queue.serialization.pack_outcome(
                progress_tasks.outcome(None), task_id="gone", epoch=1, status=TaskState.ERROR, schedule_id=None
            )
            await ReferenceResultStore(space).put([result_of("gone", 1, status=TaskState.ERROR, body=body)])
            assert (await oq.peek_result("gone")).status is ResultStatus.ERROR
