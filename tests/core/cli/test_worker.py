"""`omniq worker` as a process: how it starts, works, stops in order, and ends whatever its tasks do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any, Protocol

import pytest
from omniq import AsyncOmniQ
from omniq.models import TaskState

from tests.core import tasks
from tests.core.cli import tasks as cli_tasks
from tests.core.cli.process import WorkerProcess
from tests.core.support import front_door, lines, results_of, sqlite_place, states_of, until, until_states
from tests.core.workers import rude

NOISE = ("Traceback", "never awaited", "was destroyed", "Exception ignored", "unhandled exception")
WAITERS: list[tuple[str, Callable[..., Any]]] = [
    ("async", tasks.wait_for),
    ("async", tasks.wait_for_async),
    ("thread", tasks.wait_for),
    ("process", tasks.wait_for),
]


class Starter(Protocol):
    """Starts a worker at the test's place."""

    def __call__(self, *arguments: str, **environ: str) -> WorkerProcess: ...


@pytest.fixture
async def oq(tmp_path: Path) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ in the test's own process, on a file that the workers share."""
    async with front_door(sqlite_place(tmp_path)) as oq:
        yield oq


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    """Start a worker in the test's directory."""

    def start(*arguments: str, **environ: str) -> WorkerProcess:
        url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
        return WorkerProcess(url, *arguments, directory=tmp_path, **environ)

    return start


def configured(tmp_path: Path, text: str) -> Sequence[str]:
    """The option that gives a configuration."""
    file = tmp_path / "omniq.yaml"
    file.write_text(text)
    return ["--config", str(file)]


def assert_quiet(worker: WorkerProcess) -> None:
    """It ended without any of the noise that a process makes which is torn down in the wrong order."""
    assert not [line for line in worker.said if any(noise in line for noise in NOISE)]


async def assert_uncharged(oq: AsyncOmniQ, task_ids: Sequence[str]) -> None:
    """They are in line as if nobody had ever claimed them."""
    found = [await oq.get_task(id_) for id_ in task_ids]
    assert {(task.state, task.attempts, task.crashes) for task in found} == {(TaskState.PENDING, 0, 0)}


def let_go(gate: Path) -> None:
    """Let the tasks end that wait for the gate."""
    gate.touch()


# ── starting ─────────────────────────────────────────────────────────────────


async def test_it_says_what_it_does_and_stops_when_it_is_told(start: Starter, tmp_path: Path) -> None:
    options = ["--type", "thread", "--concurrency", "3", "--queues", "high,low"]
    with start(*options, OMNIQ_QUEUES="high,low") as worker:
        place = f"sqlite:{tmp_path}/omniq.db"
        assert worker.greets().endswith(f" (thread, 3 slots) serves high, low in {place}")
        worker.signal(SIGTERM)
        assert worker.hears("stopping") == "stopping, waiting up to 10 s for 0 running tasks; again to stop at once"
        assert worker.ends() == 0
    assert " has stopped after " in worker.said[-1]
    assert_quiet(worker)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--type", "tread"], "worker_type: unknown kind of worker, did you mean 'thread'?"),
        (["--queues", "no spaces"], "AsyncWorker.queues[0]: expected a name"),
        (["--queues", "defualt"], "queues: there is no queue 'defualt', did you mean 'default'?"),
        (["--import", "nowhere"], "--import: there is no module 'nowhere' here; is it installed, or on sys.path?"),
        (["--import", "shop", "--import", "shpo"], "--import: there is no module 'shpo' here, did you mean 'shop'?"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--url", "nowhere://x"], "unknown backend 'nowhere'"),
        (["--url", "sqlite:/x"], "task_queue.url: expected a URL such as sqlite:///path/to/file.db"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    start: Starter, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "shop.py").touch()
    with start(*arguments) as worker:
        assert worker.ends() == 2
    (line,) = worker.said
    assert line.startswith("error: ")
    assert complaint in line


def test_a_store_that_cannot_be_had_is_one_line(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with start("--url", "sqlite:///a-file/omniq.db") as worker:
        assert worker.ends() == 1
    (line,) = worker.said
    assert "/a-file: the directory can't be made: File exists" in line


async def test_modules_of_the_working_directory_are_imported_first(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import sys; print('app is here', file=sys.stderr)")
    with start("--import", "app", "--burst") as worker:
        assert worker.ends() == 0
    assert worker.said[0] == "app is here"


def test_a_module_that_fails_has_its_traceback_shown_on_request(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import nowhere")
    with start("--import", "app", "--debug") as worker:
        assert worker.ends() == 1
    assert "Traceback" in worker.said[0]
    assert worker.said[-2] == "ModuleNotFoundError: No module named 'nowhere'"
    assert worker.said[-1].startswith("error: --import: app can't be imported: ModuleNotFoundError: ")


def test_it_logs_what_it_is_asked_to(start: Starter) -> None:
    with start("--burst", "--log-level", "info", OMNIQ_TSAK_TTL="1") as worker:
        assert worker.ends() == 0
    assert any(" WARNING omniq.config: unknown environment variable OMNIQ_TSAK_TTL" in line for line in worker.said)
    assert any(" INFO omniq.worker: " in line for line in worker.said)


# ── working until nothing is due ─────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_in_burst_mode_it_stops_when_all_is_done(oq: AsyncOmniQ, start: Starter, kind: str) -> None:
    ids = [await oq.enqueue(tasks.add, [n, n]) for n in range(30)]
    bad = await oq.enqueue(tasks.fail)
    later = await oq.enqueue(tasks.add, [1, 1], run_in=3600)
    with start("--type", kind, "--concurrency", "2", "--burst") as worker:
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await results_of(oq, ids) == [2 * n for n in range(30)]
    assert await states_of(oq, [bad, later]) == [TaskState.ERROR, TaskState.SCHEDULED]


async def test_it_serves_the_queues_that_it_is_given(oq: AsyncOmniQ, start: Starter) -> None:
    ids = [await oq.enqueue(tasks.add, [1, 1], queue_name=name) for name in ("high", "default", "low")]
    with start("--queues", "low,high", "--burst", OMNIQ_QUEUES="high,low") as worker:
        assert worker.ends() == 0
    assert await states_of(oq, ids) == [TaskState.SUCCESS, TaskState.PENDING, TaskState.SUCCESS]


async def test_a_worker_that_can_not_go_on_ends_with_1(oq: AsyncOmniQ, start: Starter, tmp_path: Path) -> None:
    ending = "import os, sys; any('bootstrap' in argument for argument in sys.orig_argv) and os._exit(7)"
    (tmp_path / "sitecustomize.py").write_text(ending)
    waiting = await oq.enqueue(tasks.nothing)
    options = ["--type", "process", "--concurrency", "1", "--grace-period", "0"]
    with start(*options, PYTHONPATH=str(tmp_path)) as worker:
        assert worker.ends() == 1
    complaint = "error: the worker can't go on: no child process can be started: a child died before it was ready"
    assert any(line.startswith(complaint) and "(exit code 7)" in line for line in worker.said)
    await assert_uncharged(oq, [waiting])


# ── stopping in order ────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "func"), WAITERS)
async def test_what_runs_is_finished_and_what_was_prefetched_is_handed_back(
    oq: AsyncOmniQ, start: Starter, tmp_path: Path, log: Path, gate: Path, kind: str, func: Callable[..., Any]
) -> None:
    running = await oq.enqueue(func, [str(gate), str(log)])
    ahead = [await oq.enqueue(tasks.append, [str(log), f"t{n}"]) for n in range(3)]
    config = configured(tmp_path, "worker: {config: {prefetch: 3}}")
    with start("--type", kind, "--concurrency", "1", "--grace-period", "1m", *config) as worker:
        await until_states(oq, [running, *ahead], TaskState.RUNNING)
        await until(lambda: len(lines(log)) == 1)
        worker.signal(SIGTERM)
        assert worker.hears("stopping") == "stopping, waiting up to 60 s for 1 running task; again to stop at once"
        await until_states(oq, ahead, TaskState.PENDING)
        assert await states_of(oq, [running]) == [TaskState.RUNNING]
        let_go(gate)
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await results_of(oq, [running]) == ["done"]
    assert len(lines(log)) == 1
    await assert_uncharged(oq, ahead)


async def test_a_terminal_that_hangs_up_stops_it_in_order(
    oq: AsyncOmniQ, start: Starter, log: Path, gate: Path, tmp_path: Path
) -> None:
    (tmp_path / "no_nohup.py").write_text("import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)")
    running = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
    master, slave = os.openpty()
    options = ["--type", "async", "--concurrency", "1", "--import", "no_nohup"]
    with start(*options, terminal=os.ttyname(slave)) as worker:
        await until(lambda: len(lines(log)) == 1)
        os.close(slave)
        os.close(master)
        worker.hears("stopping")
        let_go(gate)
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await results_of(oq, [running]) == ["done"]


async def test_a_hang_up_that_is_ignored_stays_so(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "nohup.py").write_text("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    with start("--import", "nohup") as worker:
        worker.greets()
        worker.signal(SIGHUP)
        worker.signal(SIGTERM)
        assert worker.ends() == 0
    assert "again to stop at once" in worker.said[-2]


async def test_a_child_that_exits_does_not_end_the_process(oq: AsyncOmniQ, start: Starter, log: Path) -> None:
    exiting = await oq.enqueue(rude.exit_in_a_child, [str(log)], priority=1)
    others = [await oq.enqueue(tasks.add_async, [n, 1]) for n in range(5)]
    with start("--type", "async", "--burst") as worker:
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await states_of(oq, [exiting, *others]) == [TaskState.ERROR] + [TaskState.SUCCESS] * 5


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_worker_one_of_whose_parts_fails_hands_back_and_ends_with_1(
    oq: AsyncOmniQ, start: Starter, tmp_path: Path, log: Path, gate: Path, kind: str
) -> None:
    (tmp_path / "broken.py").write_text(
        "import os\n"
        "from omniq.workers.leases import Upkeep\n"
        "async def look(self):\n"
        f"    if os.path.exists({str(log)!r}): raise LookupError('a bug')\n"
        "Upkeep._look = look\n"
    )
    ids = [await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)]) for _ in range(3)]
    config = configured(tmp_path, "worker: {config: {prefetch: 2, reap_interval: 0.1}}")
    with start("--type", kind, "--import", "broken", "--concurrency", "1", "--lease", "1h", *config) as worker:
        assert worker.ends() == 1
    assert worker.said[-1] == "error: the worker can't go on: a bug"
    await assert_uncharged(oq, ids)


async def test_it_stops_in_order_without_uvloop(
    oq: AsyncOmniQ, start: Starter, tmp_path: Path, log: Path, gate: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    running = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
    with start(PYTHONPATH=str(tmp_path)) as worker:
        await until(lambda: len(lines(log)) == 1)
        worker.signal(SIGTERM)
        worker.hears("stopping")
        let_go(gate)
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await results_of(oq, [running]) == ["done"]


@pytest.mark.starvable
@pytest.mark.parametrize(("kind", "func"), WAITERS)
async def test_after_the_grace_period_running_tasks_are_handed_back(
    oq: AsyncOmniQ, start: Starter, log: Path, gate: Path, kind: str, func: Callable[..., Any]
) -> None:
    ids = [await oq.enqueue(func, [str(gate), str(log)]) for _ in range(2)]
    with start("--type", kind, "--concurrency", "2", "--grace-period", "100ms") as worker:
        await until(lambda: len(lines(log)) == 2)
        worker.signal(SIGTERM)
        assert worker.ends(within=2.0) == 0
    assert_quiet(worker)
    await assert_uncharged(oq, ids)


@pytest.mark.parametrize("kind", ["async", "process"])
async def test_ctrl_c_reaches_the_whole_group_and_stops_in_order(
    oq: AsyncOmniQ, start: Starter, log: Path, gate: Path, kind: str
) -> None:
    ids = [await oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(2)]
    with start("--type", kind, "--concurrency", "2") as worker:
        await until(lambda: len(lines(log)) == 2)
        worker.signal(SIGINT, group=True)
        worker.hears("stopping")
        let_go(gate)
        assert worker.ends() == 0
    assert_quiet(worker)
    assert await results_of(oq, ids) == ["done", "done"]
    assert len(lines(log)) == 2


# ── stopping at once ─────────────────────────────────────────────────────────


@pytest.mark.starvable
@pytest.mark.parametrize(("kind", "func"), WAITERS)
async def test_a_second_signal_hands_back_at_once(
    oq: AsyncOmniQ, start: Starter, log: Path, gate: Path, kind: str, func: Callable[..., Any]
) -> None:
    ids = [await oq.enqueue(func, [str(gate), str(log)]) for _ in range(2)]
    with start("--type", kind, "--concurrency", "2", "--grace-period", "1h") as worker:
        await until(lambda: len(lines(log)) == 2)
        worker.signal(SIGTERM)
        worker.hears("stopping, waiting up to 3600 s")
        worker.signal(SIGTERM)
        assert worker.ends(within=1.0) == 128 + SIGTERM
    assert "stopping at once" in worker.said
    assert_quiet(worker)
    await assert_uncharged(oq, ids)


@pytest.mark.starvable
async def test_ctrl_c_twice_ends_with_130(oq: AsyncOmniQ, start: Starter, log: Path, gate: Path) -> None:
    task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)])
    with start("--type", "process", "--concurrency", "1") as worker:
        await until(lambda: len(lines(log)) == 1)
        worker.signal(SIGINT, group=True)
        worker.hears("stopping")
        worker.signal(SIGINT, group=True)
        assert worker.ends(within=1.0) == 130
    assert_quiet(worker)
    await assert_uncharged(oq, [task_id])


# ── tasks that won't stop ────────────────────────────────────────────────────


@pytest.mark.starvable
@pytest.mark.parametrize("func", [cli_tasks.stay_awake, cli_tasks.leave_a_thread_behind])
async def test_a_task_that_will_not_stop_does_not_keep_the_process(
    oq: AsyncOmniQ, start: Starter, log: Path, func: Callable[..., Any]
) -> None:
    await oq.enqueue(func, [str(log)])
    with start("--grace-period", "0.1") as worker:
        await until(lambda: len(lines(log)) == 1)
        worker.signal(SIGTERM)
        assert worker.ends(within=3.0) == 0
    assert " has stopped after " in worker.said[-1]
    assert_quiet(worker)


@pytest.mark.starvable
@pytest.mark.parametrize(("signals", "seconds"), [([SIGTERM], 4.0), ([SIGINT, SIGTERM], 1.5)])
async def test_a_loop_that_is_blocked_does_not_keep_the_process(
    oq: AsyncOmniQ, start: Starter, log: Path, signals: Sequence[Any], seconds: float
) -> None:
    await oq.enqueue(cli_tasks.block_the_loop, [str(log)])
    with start("--grace-period", "0.1") as worker:
        await until(lambda: len(lines(log)) == 1)
        for number in signals:
            worker.signal(number)
        # Signals that come together are delivered in any order.
        assert worker.ends(within=seconds) in {128 + number for number in signals}
    assert worker.said[-1].startswith("error: the worker didn't stop in time and is ended; ")
