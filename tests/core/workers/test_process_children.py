"""What a child process of a worker is like: its modules, environment, input, output, options and logging."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from omniq.config.loader import Security
from omniq.workers.execution import LogSettings

from tests.core import tasks
from tests.core.cli.process import ROOT, WorkerProcess
from tests.core.support import SOON, front_door, reference_place, results_of, sqlite_place, working
from tests.core.workers import process_tasks

KEY = "a secret of enough bytes"


def program(what: str, directory: Path, *options: str, given: str = "") -> str:
    """What one of the programs prints."""
    command = [sys.executable, *options, "-m", "tests.core.workers.process_programs", what, str(directory)]
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def from_child(func: Any, *arguments: Any, security: Security | None = None) -> Any:
    """What a task returns that runs in a child of a new worker."""
    async with front_door(reference_place(), security=security) as oq, working(oq, "process", max_workers=1):
        return await oq.get_result(await oq.enqueue(func, list(arguments)), timeout=SOON)


# ── modules ──────────────────────────────────────────────────────────────────

SHADOWS = ("token", "omniq", "msgspec", "socket", "dill")


def shadow(directory: Path, *names: str) -> None:
    """Put modules there that must not be executed."""
    for name in names:
        (directory / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")


async def test_modules_of_the_working_directory_are_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(tmp_path, *SHADOWS)
    monkeypatch.chdir(tmp_path)
    files = await from_child(process_tasks.imported_from, *SHADOWS)
    assert not [file for file in files if file is not None and Path(file).is_relative_to(tmp_path)]


async def test_modules_of_a_later_python_path_are_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow(tmp_path, *SHADOWS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for programs that this process starts
    files = await from_child(process_tasks.imported_from, *SHADOWS)
    assert not [file for file in files if file is not None and Path(file).is_relative_to(tmp_path)]


async def test_a_worker_in_a_directory_with_modules_of_our_names_works(tmp_path: Path) -> None:
    shadow(tmp_path, "token", "omniq", "msgspec")
    async with front_door(sqlite_place(tmp_path)) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
        with WorkerProcess(url, "--type", "process", "--concurrency", "1", "--burst", directory=tmp_path) as worker:
            assert worker.ends() == 0, worker.said
        assert await results_of(oq, [task_id]) == [3]


async def test_entries_of_the_path_that_are_not_text_are_skipped_as_python_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: list[Any] = [tmp_path, os.fsencode(tmp_path), None]
    monkeypatch.setattr(sys, "path", [*odd, *sys.path, "/half-\udc80"])
    assert await from_child(process_tasks.import_path) == sys.path[len(odd) :]


# ── environment ──────────────────────────────────────────────────────────────


async def test_programs_of_a_task_get_the_environment_as_the_user_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", "lib:src")
    monkeypatch.setenv("SHOP", "open")
    assert await from_child(process_tasks.environment) == dict(os.environ)
    monkeypatch.delenv("PYTHONPATH")
    assert await from_child(process_tasks.environment) == dict(os.environ)


async def test_a_task_can_sign_but_programs_that_it_starts_do_not_get_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=1):
        values = await results_of(oq, [await oq.enqueue(process_tasks.signing_key)])
        (environment,) = await results_of(oq, [await oq.enqueue(process_tasks.environment)])
        (child,) = [psutil.Process(pid) for pid in await results_of(oq, [await oq.enqueue(tasks.process_id)])]
        assert KEY not in str(child.environ()) + str(child.cmdline())
    assert values == [KEY]
    assert environment == {name: text for name, text in os.environ.items() if name != "OMNIQ_SIGNING_KEY"}


async def test_a_task_of_a_signing_worker_enqueues_signed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNIQ_SIGNING_KEY", KEY)
    async with front_door(sqlite_place(tmp_path)) as oq, working(oq, "process", max_workers=1):
        outer = await oq.enqueue(tasks.enqueue_another, [str(tmp_path)])
        inner = await oq.get_result(outer, timeout=SOON)
        assert await oq.get_result(inner, timeout=SOON) == 3


async def test_a_key_that_only_the_configuration_names_reaches_the_children_too() -> None:
    security = Security(signing_key=KEY)
    assert await from_child(tasks.add, 1, 2, security=security) == 3
    assert await from_child(process_tasks.signing_key, security=security) is None


async def test_a_default_timeout_for_sockets_does_not_reach_those_to_children(monkeypatch: pytest.MonkeyPatch) -> None:
    socket.setdefaulttimeout(0.05)
    try:
        assert await from_child(tasks.sleep, 0.3) is None
    finally:
        socket.setdefaulttimeout(None)


# ── input and output ─────────────────────────────────────────────────────────


def test_what_tasks_print_is_put_out_before_the_worker_has_stopped(tmp_path: Path) -> None:
    assert program("printing", tmp_path) == "line 0\nline 1\nline 2\nrestline 0\nline 1\nrest"


def test_what_a_task_prints_is_put_out_though_it_takes_its_process_along(tmp_path: Path) -> None:
    assert program("printing_and_dying", tmp_path).startswith("last words\n")


def test_a_task_leaves_the_input_to_the_program(tmp_path: Path) -> None:
    assert json.loads(program("reading", tmp_path, given="for the program")) == ["", "for the program"]


def test_what_is_to_be_done_at_the_exit_of_a_process_is_done(tmp_path: Path) -> None:
    assert program("exiting", tmp_path) == "at the exit\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_worker_without_standard_streams_runs_tasks(tmp_path: Path, closed: str) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError")  # libuv can't close what has taken those places
    worker = f"{sys.executable} -P -m omniq --url sqlite:///{tmp_path}/omniq.db worker --type process --burst"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    async with front_door(sqlite_place(tmp_path)) as oq:
        ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(3)]
        command = f"exec {worker} --concurrency 2 {closed}"
        process = await asyncio.create_subprocess_shell(command, env=environ, cwd=tmp_path)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        assert await results_of(oq, ids) == [1, 2, 3]


# ── options and logging ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        ["-O"],
        ["-OO", "-W", "error"],
        ["-X", "dev", "-W", "error::UserWarning", "-W", "ignore::DeprecationWarning"],
        ["-X", "utf8", "-X", "int_max_str_digits=5000", "-s"],
    ],
)
def test_children_are_started_with_the_options_of_the_interpreter(tmp_path: Path, options: list[str]) -> None:
    ours, theirs = json.loads(program("flags", tmp_path, *options))
    assert theirs == ours
    assert ours != process_tasks.flags()


async def test_what_tasks_log_is_shown_from_the_workers_level_on(tmp_path: Path) -> None:
    async with front_door(sqlite_place(tmp_path)) as oq:
        for level in (logging.DEBUG, logging.INFO):
            await oq.enqueue(process_tasks.log_at, [level, f"at {logging.getLevelName(level)}"])
        url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
        options = ["--type", "process", "--concurrency", "1", "--burst", "--log-level", "INFO"]
        with WorkerProcess(url, *options, directory=tmp_path) as worker:
            assert worker.ends() == 0
    assert [line for line in worker.said if line.endswith(" INFO shop: at INFO")]
    assert not [line for line in worker.said if "at DEBUG" in line]


def test_levels_of_loggers_and_handlers_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, handler = logging.getLogger("tests.shop"), logging.StreamHandler()
    for known in list(logging.root.manager.loggerDict.values()):  # some libraries bring handlers
        if isinstance(known, logging.Logger):
            monkeypatch.setattr(known, "handlers", [])
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(shop, "level", logging.DEBUG)
    assert LogSettings.of_this_process().shown is None
    handler.setLevel(logging.INFO)
    monkeypatch.setattr(shop, "handlers", [handler])
    settings = LogSettings.of_this_process()
    assert (settings.shown, settings.levels["tests.shop"]) == (logging.INFO, logging.DEBUG)
    assert settings.levels[""] == logging.root.level
