"""`omniq workers`: who works, and what one of them is doing, from another process."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.storage.records import WorkerRecord

from tests.core.cli.process import WorkerProcess
from tests.core.cli.support import Cli
from tests.core.workers import stack_tasks


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def beat(cli: Cli, *workers: WorkerRecord) -> None:
    async def main() -> None:
        async with AsyncOmniQ(config=cli.config) as oq:
            for worker in workers:
                await oq.task_queue.store.beat(worker)

    asyncio.run(main())


def test_workers_are_listed(cli: Cli) -> None:
    assert cli("workers").stderr == "no workers\n"
    beat(cli, WorkerRecord(name="w", host="h", kind="async", queues=("a", "b"), slots=8, running=3, stacks="secret"))
    for command in (["workers"], ["workers", "list"]):
        (row,) = cli.rows(*command)
        assert row[:8] == ["w", "alive", "h", "async", "3/8", "0", "a", "b"]
        (worker,) = cli.json(*command)
        assert (worker["name"], worker["state"], worker["lease"]) == ("w", "alive", 30.0)
        assert "secret" not in json.dumps(worker)
    assert cli.json("status")["workers"][0]["name"] == "w"


def test_who_can_not_be_asked_is_told_at_once(cli: Cli) -> None:
    beat(cli, WorkerRecord(name="worker-1"), WorkerRecord(name="deaf", lease=60.0))
    result = cli("workers", "stack", "worker-2")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: there is no worker 'worker-2' in sqlite:")
    assert result.stderr.endswith(", did you mean 'worker-1'?\n")
    result = cli("workers", "stack", "deaf", "--timeout", "0.2s")
    assert result.exit_code == 1
    assert result.stderr == "error: worker deaf hasn't answered within 0.2 s; it does so every 20 s\n"
    assert cli("workers", "stack", "x\ny").exit_code == 2
    assert cli("workers", "stock", "w").exit_code == 2
    assert cli("workers", "stack", "deaf", "--timeout", "soon").exit_code == 2


# ── a worker's process ──────────────────────────────────────────────────────


@pytest.fixture
def worker(cli: Cli, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    started: list[WorkerProcess] = []

    def start(*arguments: str) -> WorkerProcess:
        started.append(WorkerProcess(cli.url, *arguments, directory=tmp_path))
        started[-1].greets()
        return started[-1]

    yield start
    for process in started:
        process.__exit__(None, None, None)


def enqueue(cli: Cli, function: str, *arguments: str) -> str:
    reference = f"{stack_tasks.__name__}:{function}"
    return cli.output("enqueue", reference, "--args", json.dumps(arguments))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["async", "process"])
def test_a_worker_tells_from_afar_and_on_sigquit_what_it_does_and_goes_on(
    cli: Cli, worker: Callable[..., WorkerProcess], tmp_path: Path, kind: str
) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    function = "block_the_loop" if kind == "async" else "wait"
    process = worker("--type", kind, "--lease", "3s")
    task_id = enqueue(cli, function, str(gate), str(started))
    wait_until(started.exists)
    (name,) = [row["name"] for row in cli.json("workers")]
    for _ in range(2):  # each answer is a new one
        text = cli.output("workers", "stack", name)
        assert f"task {task_id}: " in text
        assert ", in blocking_here\n" in text
        process.signal(signal.SIGQUIT)
        process.hears(f"worker {name}: 1 running")
        process.hears(f"task {task_id}: ")
        process.hears(", in blocking_here")
    assert cli.json("workers", "stack", name)["stacks"].startswith(f"worker {name}: 1 running")
    gate.touch()
    assert cli.output("result", task_id, "--wait") == '"done"'
    process.signal(signal.SIGTERM)
    assert process.ends() == 0


@pytest.mark.timeout(120)
def test_sigquit_is_heard_while_c_code_keeps_the_main_thread(
    cli: Cli, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    started = tmp_path / "started"
    process = worker()
    enqueue(cli, "block_in_c", str(started))
    wait_until(started.exists)
    process.signal(signal.SIGQUIT)
    assert process.hears(", in block_in_c")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_waits_for_a_result_on_the_command_line_is_told_that_nobody_works(cli: Cli) -> None:
    task_id = cli.output("enqueue", f"{stack_tasks.__name__}:wait", "--args", '["gate", "started"]')
    result = cli("result", task_id, "--timeout", "1s")
    assert result.exit_code == 4
    assert result.stderr.rstrip().endswith("is still pending after 1 s: no living worker serves queue 'default'")
