"""SIGHUP: a worker reads its configuration file again, and lets hold what may change without a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest
from omniq import OmniQ

from tests.core import tasks
from tests.core.cli.process import WorkerProcess
from tests.core.support import lines

Starter = Callable[..., WorkerProcess]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration file."""
    return tmp_path / "omniq.yaml"


@pytest.fixture
def start(tmp_path: Path, file: Path) -> Starter:
    """Start a worker that is configured by the file."""

    def start(*arguments: str, **environ: str) -> WorkerProcess:
        return WorkerProcess(None, "--config", str(file), *arguments, directory=tmp_path, **environ)

    return start


def write(file: Path, *, slots: int = 1, level: str = "WARNING", lease: int = 30) -> None:
    """Write a configuration."""
    file.write_text(
        f"task_queue: sqlite:///{file.parent}/omniq.db\nlogging: {{level: {level}}}\n"
        f"worker: {{type: async, config: {{max_workers: {slots}, lease: {lease}}}}}\n"
    )


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
def test_more_slots_run_tasks_that_were_waiting(start: Starter, file: Path, tmp_path: Path, kind: str) -> None:
    write(file)
    log, gate = tmp_path / "log", tmp_path / "gate"
    with OmniQ.from_config_file(file) as oq, start("--type", kind) as worker:
        ids = [oq.enqueue(tasks.wait_for, [str(gate), str(log)]) for _ in range(2)]
        worker.greets()
        while not lines(log):
            oq.get_task(ids[0])
        write(file, slots=2, level="INFO", lease=20)
        worker.signal(SIGHUP)
        worker.hears("the configuration has changed: worker.config.max_workers: 1 → 2")
        worker.hears("the configuration has changed: logging.level: 'WARNING' → 'INFO'")
        worker.hears("which takes a restart: worker.config.lease: 30.0 → 20.0")
        while len(lines(log)) < 2:  # the first one goes on: it waits for the gate
            oq.get_task(ids[0])
        gate.touch()
        assert [oq.get_result(id_, timeout=20) for id_ in ids] == ["done", "done"]
        worker.signal(SIGTERM)
        assert worker.ends() == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("worker: {config: {max_workers: many}}", "worker.config.max_workers: expected int, got str (in "),
        ("worker: [", "expected the node content"),
        ("signing_key: ${NO_SUCH_KEY}", "signing_key: the variable NO_SUCH_KEY isn't set"),
    ],
)
def test_a_broken_file_changes_nothing_and_is_told(start: Starter, file: Path, text: str, reason: str) -> None:
    write(file, slots=3)
    with start() as worker:
        assert "3 slots" in worker.greets()
        file.write_text(text)
        worker.signal(SIGHUP)
        assert reason in worker.hears("the configuration stays as it is: ")
        write(file, slots=3)
        worker.signal(SIGHUP)
        worker.hears("was read again, and hasn't changed")
        worker.signal(SIGTERM)
        assert worker.ends() == 0


def test_what_an_option_says_wins_over_the_file_that_is_read_again(start: Starter, file: Path) -> None:
    write(file)
    with start("--concurrency", "4") as worker:
        assert "4 slots" in worker.greets()
        write(file, slots=2)
        worker.signal(SIGHUP)
        worker.hears("worker.config.max_workers: 1 → 2")
        worker.signal(SIGTERM)
        assert worker.ends() == 0


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    with WorkerProcess(f"sqlite:///{tmp_path}/omniq.db", directory=tmp_path) as worker:
        worker.greets()
        worker.signal(SIGHUP)
        worker.hears("the configuration stays as it is: config: no file was read")
        worker.signal(SIGTERM)
        assert worker.ends() == 0


def test_a_supervisor_passes_it_on_to_all_its_workers(start: Starter, file: Path) -> None:
    write(file)
    with start("--processes", "2") as worker:
        worker.greets()
        worker.greets()
        write(file, slots=2)
        worker.signal(SIGHUP)
        worker.hears("the workers are told to read their configuration again")
        for _ in range(2):
            worker.hears("worker.config.max_workers: 1 → 2")
        worker.signal(SIGTERM)
        assert worker.ends() == 0


def test_an_app_that_was_made_of_a_file_is_told_too(start: Starter, file: Path, tmp_path: Path) -> None:
    write(file)
    (tmp_path / "shop.py").write_text("from omniq import OmniQ\n\noq = OmniQ.from_config_file('omniq.yaml')\n")
    with WorkerProcess(None, "shop:oq", directory=tmp_path) as worker:
        worker.greets()
        write(file, slots=5)
        worker.signal(SIGHUP)
        worker.hears("worker.config.max_workers: 1 → 5")
        worker.signal(SIGTERM)
        assert worker.ends() == 0
