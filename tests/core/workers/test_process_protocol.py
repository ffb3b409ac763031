"""How a process worker and its children speak: everything arrives, of any size, and a death is a death only."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
from omniq.config.loader import Security
from omniq.errors import TaskFailed
from omniq.models.task import TaskState, new_id
from omniq.storage.base import SizeLimit
from omniq.storage.records import TaskRecord
from omniq.workers import messages
from omniq.workers.execution import Execution
from omniq.workers.jobs import InFlight, Job, RunStatus
from omniq.workers.process import ProcessRunner

from tests.core import tasks
from tests.core.support import SOON, front_door, lines, reference_place, results_of, until, working
from tests.core.workers import process_tasks
from tests.core.workers.process_sizes import run_all_sizes
from tests.loops import EACH_LOOP, run_on

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MIB = 2**20


@pytest.fixture(params=EACH_LOOP)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a test on each kind of event loop."""
    return partial(run_on, request.param)


def test_arguments_and_results_of_all_sizes_cross_and_nobody_is_charged(run: Run, log: Path) -> None:
    assert run(run_all_sizes(60, 4 * MIB, log)) == 60


@pytest.mark.parametrize("size", [0, 1, messages.SMALL - 20, messages.SMALL, messages.SMALL + 1, 64 * MIB])
def test_a_size_at_the_edge_crosses_both_ways(run: Run, size: int) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, lease=60.0):
            value = os.urandom(size)
            task_id = await oq.enqueue(tasks.echo, [value])
            assert await oq.get_result(task_id, timeout=3 * SOON) == value
            assert (await oq.get_task(task_id)).epoch == 1

    run(test())


def test_a_value_that_no_frame_holds_fails_its_task_alone(run: Run) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1):
            task_id = await oq.enqueue(process_tasks.return_more_than_may_be, max_retries=3)
            with pytest.raises(TaskFailed, match="bytes, and a process hands over 1000 at most") as failed:
                await oq.get_result(task_id, timeout=SOON)
            assert failed.value.error_type == "omniq.errors.SerializationError"
            task = await oq.get_task(task_id)
            assert (task.attempts, task.crashes) == (1, 0)

    run(test())


def test_a_child_that_does_not_read_blocks_neither_the_loop_nor_the_other_child(run: Run) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=2, lease=60.0):
            gate = await results_of(oq, [await oq.enqueue(tasks.process_id)])
            os.kill(gate[0], signal.SIGSTOP)
            ids = [await oq.enqueue(tasks.echo, [bytes(16 * MIB)]) for _ in range(6)]
            first = [asyncio.ensure_future(oq.get_result(id_, timeout=3 * SOON)) for id_ in ids]
            await until(lambda: sum(result.done() for result in first) == 5)
            os.kill(gate[0], signal.SIGCONT)
            assert all(len(value) == 16 * MIB for value in await asyncio.gather(*first))
            assert {(await oq.get_task(id_)).crashes for id_ in ids} == {0}

    run(test())


def test_a_child_that_is_killed_is_replaced_and_nobody_is_blamed(run: Run) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, lease=60.0):
            for _ in range(5):
                (pid,) = await results_of(oq, [await oq.enqueue(tasks.process_id)])
                os.kill(pid, signal.SIGKILL)
                task_id = await oq.enqueue(tasks.process_id)
                assert await oq.get_result(task_id, timeout=SOON) != pid
                assert (await oq.get_task(task_id)).crashes == 0

    run(test())


def test_a_timeout_ends_a_task_and_no_other(run: Run, log: Path) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1, lease=60.0):
            slow = await oq.enqueue(tasks.sleep_in_c, [str(log)], timeout=0.2)
            others = [await oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
            with pytest.raises(TaskFailed, match="ran longer"):
                await oq.get_result(slow, timeout=SOON)
            assert await results_of(oq, others) == [1, 2, 3, 4, 5]
            assert {(await oq.get_task(id_)).crashes for id_ in [slow, *others]} == {0}

    run(test())


def test_frames_are_found_wherever_the_stream_is_cut() -> None:
    random = Random(1)
    sent = [
        (random.randbytes(random.choice([0, 5, 300])), random.randbytes(random.choice([0, 9, 70_000, 200_000])))
        for _ in range(60)
    ]
    stream = b"".join(part for frame in sent for part in messages.parts(*frame))
    assert b"".join(messages.coalesced(messages.parts(*frame) for frame in sent)) == stream
    received: list[tuple[bytes, bytes]] = []
    protocol = messages.FrameProtocol(lambda head, body: received.append((head, body)), lambda: None)
    while stream:
        buffer = protocol.get_buffer(-1)
        count = min(len(stream), len(buffer), random.choice([1, 7, 5_000, 100_000]))
        buffer[:count] = stream[:count]
        protocol.buffer_updated(count)
        stream = stream[count:]
    assert received == sent


class Bench:
    """A runner with one child, a desk, and nothing else of a worker."""

    async def __aenter__(self) -> Self:
        self.in_flight = InFlight(60.0)
        self._runner = ProcessRunner(
            self.in_flight.main, Execution(Security(), SizeLimit(sys.maxsize, "nothing")), max_workers=1
        )
        await self._runner.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.close()

    async def run(self, func: Callable[..., Any], *arguments: Any) -> Any:
        """The task's value."""
        self.in_flight.accept([a_job(func, *arguments)])
        self._runner.wake()
        await asyncio.wait_for(self.in_flight.has_done.wait(), SOON)
        ((job, ran),) = self.in_flight.collect(1, sys.maxsize)
        assert ran.end is RunStatus.SUCCESS
        self.in_flight.settled([job])
        return Security().manager().load_value(ran.value_format, ran.value)


def a_job(func: Callable[..., Any], *arguments: Any) -> Job:
    record = TaskRecord(
        id=new_id(), queue_name="default", body=b"", state=TaskState.RUNNING, priority=0, created_at=0.0, run_at=0.0
    )
    return Job(record, Security().manager().build_call(func, arguments, {}))


def test_nothing_of_a_task_is_kept_after_its_end(run: Run) -> None:
    async def test() -> None:
        async with Bench() as bench:
            before = await bench.run(process_tasks.resident)
            tracemalloc.start()
            try:
                assert len(await bench.run(tasks.echo, bytes(48 * MIB))) == 48 * MIB
                await asyncio.sleep(0)
                assert tracemalloc.get_traced_memory()[0] < 4 * MIB
            finally:
                tracemalloc.stop()
            assert await bench.run(process_tasks.resident) < before + 24 * MIB

    run(test())


# ── what waits behind a long one ─────────────────────────────────────────────


def test_short_tasks_do_not_wait_behind_a_long_one_while_a_child_is_idle(run: Run, log: Path, gate: Path) -> None:
    async def test() -> None:
        async with front_door(reference_place()) as oq, working(oq, "process", max_workers=2, prefetch=100):
            await warm_up(oq, log)
            await oq.task_queue.pause_queue()
            long = await oq.enqueue(tasks.wait_if, [str(log), str(gate)], priority=1)
            short = [await oq.enqueue(tasks.wait_if, [str(log), ""]) for _ in range(60)]
            await oq.task_queue.resume_queue()
            await results_of(oq, short)
            assert (await oq.get_task(long)).state is TaskState.RUNNING
            gate.touch()
            await results_of(oq, [long])
            assert {(await oq.get_task(id_)).epoch for id_ in [long, *short]} == {1}
        assert len(lines(log)) == 100 + 61

    run(test())


def test_short_tasks_behind_a_long_one_go_to_another_worker(run: Run, log: Path, gate: Path) -> None:
    async def test() -> None:
        place = reference_place()
        async with front_door(place) as oq, working(oq, "process", max_workers=1, lease=60.0):
            await warm_up(oq, log)
            await oq.task_queue.pause_queue()
            long = await oq.enqueue(tasks.wait_if, [str(log), str(gate)], priority=1)
            short = [await oq.enqueue(tasks.wait_if, [str(log), ""]) for _ in range(20)]
            await oq.task_queue.resume_queue()
            await until(lambda: str(gate) in lines(log))
            async with front_door(place) as other, working(other, "thread"):
                await results_of(oq, short)
            assert (await oq.get_task(long)).state is TaskState.RUNNING
            gate.touch()
            await results_of(oq, [long])
        assert len(lines(log)) == 100 + 21

    run(test())


async def warm_up(oq: Any, log: Path) -> None:
    """Let the worker learn that the function is a short one."""
    await results_of(oq, [await oq.enqueue(tasks.wait_if, [str(log), ""]) for _ in range(100)])
