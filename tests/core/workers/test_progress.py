"""What running tasks say of themselves: progress that others see, and signs of life that their worker waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, SignatureError, StoreUnavailable, TaskFailed
from omniq.models import Progress, ResultStatus, TaskResult, TaskState
from omniq.models.result import MAX_PROGRESS_MESSAGE
from omniq.storage.records import ResultRecord
from omniq.testing import ReferenceResultStore, ReferenceSpace
from omniq.workers import progress as reports

from tests.core import tasks
from tests.core.support import KINDS, SOON, Place, front_door, lines, reference_place, results_of, until, working
from tests.core.workers import progress_tasks


class CountingResults(ReferenceResultStore):
    """Notes what it is told, unless it is away or silent."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.told: list[list[ResultRecord]] = []
        self.away = False
        self.silent = False

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise StoreUnavailable("away")
        self.told.append(list(records))
        return await super().put(records)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is stored without much delay."""
    monkeypatch.setattr(reports, "STORE_INTERVAL", 0.02)


@pytest.fixture
def place() -> Place:
    """One kind of place: what stores do with progress is the conformance suite's."""
    return reference_place()


@pytest.fixture
def counted() -> CountingResults:
    """A result store that notes what it is told."""
    return CountingResults(ReferenceSpace())


@pytest.fixture
async def counting(counted: CountingResults) -> AsyncIterator[AsyncOmniQ]:
    async with front_door(reference_place(counted.space, results=lambda _: counted)) as oq:
        yield oq


async def until_told(oq: AsyncOmniQ, task_id: str, fraction: float) -> TaskResult:
    """Wait until the task has come so far."""
    async with asyncio.timeout(SOON):
        while True:
            result = await oq.peek_result(task_id)
            if result.progress is not None and result.progress.fraction == fraction:
                return result
            await asyncio.sleep(0.005)


class TestProgress:
    @pytest.mark.parametrize(
        "func", [progress_tasks.tell, progress_tasks.tell_async, progress_tasks.tell_from_a_thread]
    )
    @pytest.mark.parametrize("kind", KINDS)
    async def test_it_is_seen_while_the_task_is_running(
        self, oq: AsyncOmniQ, log: Path, gate: Path, kind: str, func: Callable[..., Any]
    ) -> None:
        task_id = await oq.enqueue(func, [str(log), str(gate)])
        assert (await oq.peek_result(task_id)).status is ResultStatus.PENDING
        async with working(oq, kind) as pool:
            result = await until_told(oq, task_id, 0.4)
            assert (result.status, result.worker, result.attempts, result.epoch) == ("running", pool.name, 1, 1)
            assert result.progress is not None
            assert result.progress.message == "reading"
            assert result.started_at is not None
            assert abs(result.progress.at - result.started_at).total_seconds() < SOON
            assert result.value is None
            assert await oq.result_store.get(task_id) is None
            gate.touch()
            assert await oq.get_result(task_id, timeout=SOON) == "done"
        ended = await oq.peek_result(task_id)
        assert (ended.status, ended.value, ended.progress) == (ResultStatus.SUCCESS, "done", None)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_last_word_counts_however_late(self, oq: AsyncOmniQ, log: Path, gate: Path, kind: str) -> None:
        ids = [await oq.enqueue(progress_tasks.tell, [str(log), str(gate), n / 10]) for n in range(1, 3)]
        async with working(oq, kind):
            await asyncio.gather(until_told(oq, ids[0], 0.1), until_told(oq, ids[1], 0.2))
            gate.touch()
            assert await results_of(oq, ids) == ["done", "done"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_that_ends_at_once_ends_as_any_other(self, oq: AsyncOmniQ, kind: str) -> None:
        ids = [await oq.enqueue(progress_tasks.tell_and_end, [n / 100]) for n in range(100)]
        async with working(oq, kind):
            assert await results_of(oq, ids) == ["done"] * 100
            assert {(await oq.peek_result(id_)).status for id_ in ids} == {ResultStatus.SUCCESS}

    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_is_none_is_refused_where_it_is_told(self, kind: str) -> None:
        wrong = {
            "fraction: expected a number from 0 to 1, got 1.5": (1.5, ""),
            "fraction: expected a number from 0 to 1, got -0.1": (-0.1, ""),
            "fraction: expected a number from 0 to 1, got nan": (float("nan"), ""),
            "fraction: expected a number from 0 to 1, got inf": (float("inf"), ""),
            "fraction: expected a number from 0 to 1, got True": (True, ""),
            "fraction: expected a number from 0 to 1, got None": (None, ""),
            "fraction: expected a number from 0 to 1, got '0.5'": ("0.5", ""),
            "message: expected text, got int": (0.5, 3),
            "message: expected text, got NoneType": (0.5, None),
        }
        async with front_door(reference_place()) as oq, working(oq, kind):
            ids = [await oq.enqueue(progress_tasks.tell_nonsense, given) for given in wrong.values()]
            assert await results_of(oq, ids) == list(wrong)

    def test_a_long_message_is_cut_and_odd_ones_are_carried(self) -> None:
        for char in "xü\ud800":
            assert 1000 < len(Progress.of(1, char * 1_000_000).message) <= MAX_PROGRESS_MESSAGE
        assert Progress.of(0, "a\nb\x1b[31m \ud800 ü").message == "a\nb\x1b[31m \\ud800 ü"
        assert "secret" not in repr(Progress.of(0.5, "secret"))
        with pytest.raises(InvalidTask):
            Progress.of(1.0000001)

    async def test_many_who_tell_much_cost_the_store_one_call_a_time(
        self, counting: AsyncOmniQ, counted: CountingResults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reports, "STORE_INTERVAL", 0.5)
        ids = [await counting.enqueue(progress_tasks.tell_often, [1.2, 0.01]) for _ in range(100)]
        async with working(counting, "async", max_workers=100):
            told = sum(await results_of(counting, ids))
        assert told > 1000
        assert 2 <= len(counted.told) <= 4
        assert max(map(len, counted.told)) == 100

    async def test_tasks_that_tell_nothing_cost_no_call(self, counting: AsyncOmniQ, counted: CountingResults) -> None:
        ids = [await counting.enqueue(tasks.add, [n, 1]) for n in range(20)]
        async with working(counting, "async"):
            await results_of(counting, ids)
        assert counted.told == []

    async def test_a_store_that_is_away_gets_the_latest_when_it_is_back(
        self, counting: AsyncOmniQ, counted: CountingResults, log: Path, gate: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        counted.away = True
        task_id = await counting.enqueue(progress_tasks.tell, [str(log), str(gate)])
        async with working(counting, "async"):
            await until(lambda: "progress can't be stored" in caplog.text)
            counted.away = False
            await until_told(counting, task_id, 0.4)
            gate.touch()
            assert await counting.get_result(task_id, timeout=SOON) == "done"
        assert caplog.text.count("progress can't be stored") == 1

    async def test_a_store_that_is_silent_keeps_nobody(
        self, counting: AsyncOmniQ, counted: CountingResults, log: Path, gate: Path
    ) -> None:
        counted.silent = True
        ids = [await counting.enqueue(progress_tasks.tell_and_end, [0.5]) for _ in range(20)]
        gate.touch()
        ids.append(await counting.enqueue(progress_tasks.tell, [str(log), str(gate)]))
        async with asyncio.timeout(SOON), working(counting, "async"):
            assert await results_of(counting, ids) == ["done"] * 21

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_task_that_is_tried_again_starts_afresh(self, oq: AsyncOmniQ, log: Path, kind: str) -> None:
        task_id = await oq.enqueue(
            progress_tasks.be_silent, [str(log)], heartbeat_timeout=0.2, max_retries=1, retry_delay=3600
        )
        async with working(oq, kind):
            await until(lambda: bool(lines(log)))
            async with asyncio.timeout(SOON):
                while (await oq.peek_result(task_id)).status is ResultStatus.RUNNING:
                    await asyncio.sleep(0.005)
            waiting = await oq.peek_result(task_id)
            assert (waiting.status, waiting.progress, waiting.attempts) == (ResultStatus.PENDING, None, 1)

    async def test_progress_that_somebody_has_forged_is_refused(self, oq: AsyncOmniQ) -> None:
        """Signed stores: what isn't signed for this claim isn't shown."""
        signed = front_door(reference_place(), security=replace(oq.task_queue.security, signing_key="k" * 16))
        async with signed:
            task_id = await signed.enqueue(tasks.nothing)
            await signed.task_queue.store.claim(["default"], limit=1, lease=60, worker="w")
            plain = oq.task_queue.serialization.pack_outcome(
                progress_tasks.outcome(0.5), task_id=task_id, epoch=1, status=TaskState.RUNNING, schedule_id=None
            )
            record = ResultRecord(task_id=task_id, epoch=1, status=TaskState.RUNNING, body=plain)
            await signed.result_store.store.put([record])
            with pytest.raises(SignatureError):
                await signed.peek_result(task_id)


@pytest.mark.starvable
class TestHeartbeats:
    async def test_one_that_ignores_its_end_is_given_up(
        self, oq: AsyncOmniQ, log: Path, gate: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        task_id = await oq.enqueue(progress_tasks.be_stubborn, [str(log), str(gate)], heartbeat_timeout=0.1)
        async with working(oq, "async", max_workers=1):
            with pytest.raises(TaskFailed, match="no sign of life"):
                await oq.get_result(task_id, timeout=SOON)
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
            gate.touch()
            await until(lambda: "goes on running though it was cancelled" in caplog.text)

    async def test_a_loop_that_stood_still_is_no_fault_of_its_tasks(self, log: Path) -> None:
        async with front_door(reference_place()) as oq:
            alive = await oq.enqueue(progress_tasks.beat_async, [str(log), 1.2, 0.02], heartbeat_timeout=0.5)
            async with working(oq, "async"):
                await until(lambda: bool(lines(log)))
                await oq.get_result(await oq.enqueue(progress_tasks.compute, [0.9]), timeout=SOON)
                assert await oq.get_result(alive, timeout=SOON) == "done"

    async def test_the_process_of_a_silent_task_is_killed(self, oq: AsyncOmniQ, log: Path) -> None:
        task_id = await oq.enqueue(tasks.sleep_in_c, [str(log)], heartbeat_timeout=0.3)
        async with working(oq, "process", max_workers=1):
            with pytest.raises(TaskFailed, match="no sign of life"):
                await oq.get_result(task_id, timeout=SOON)
            (pid,) = map(int, lines(log))
            assert not psutil.pid_exists(pid)

    @pytest.mark.parametrize("wrong", [0, -1, float("nan"), "5", True])
    async def test_a_timeout_that_is_none_is_refused(self, oq: AsyncOmniQ, wrong: Any) -> None:
        with pytest.raises(InvalidTask, match="heartbeat_timeout: "):
            await oq.enqueue(tasks.nothing, heartbeat_timeout=wrong)
