"""What the help says works: every command has examples, which are run here, and the page of the commands is fresh."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from omniq import AsyncOmniQ
from omniq.cli import reference
from omniq.cli.app import omniq
from omniq.cli.options import examples_of
from omniq.storage.records import WorkerRecord

from tests.core.cli.process import ROOT, WorkerProcess
from tests.core.cli.support import run

TASKS = """
def sell(item="tea"):
    return f"sold {item}"

def charge():
    raise ValueError("no money")

def add(x, y):
    return x + y

def report():
    return "all is well"
"""
APP = """
import os
from omniq import OmniQ
oq = OmniQ(task_queue=os.environ["OMNIQ_TASK_QUEUE_URL"], config={"worker": {"config": {"queues": ["default"]}}})
"""
COMMANDS = {path: command for path, command in reference.commands() if not isinstance(command, click.Group)}
EXAMPLES = [(path, line) for path, command in COMMANDS.items() for line in examples_of(command)]
ELSEWHERE = ("plugins", "verify")
"""It runs a whole suite for minutes: tests/conformance/test_verify.py does."""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a program, and a store in which there is something of everything."""
    package = tmp_path / "shop"
    package.mkdir()
    for name, text in {"__init__": "", "tasks": TASKS, "app": APP}.items():
        (package / f"{name}.py").write_text(text)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", f"sqlite:///{tmp_path}/jobs.db?synchronous=NORMAL")
    monkeypatch.setenv("OMNIQ_EVENT_STORAGE_URL", f"sqlite:///{tmp_path}/jobs.db?synchronous=NORMAL")
    monkeypatch.setenv("OMNIQ_QUEUES", "high,default,low")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


async def fill(oq: AsyncOmniQ) -> None:
    from shop.tasks import charge, report, sell  # type: ignore[import-not-found]  # written by the fixture

    async with oq, oq.worker_pool("async", queues=["default"]) as pool:
        await oq.enqueue(sell, task_id="order-17")
        await oq.enqueue(charge, task_id="order-18", max_retries=0)
        await pool.drain()
        await oq.enqueue(sell, task_id="order-19", queue_name="low")
        await oq.schedule(report, cron="0 3 * * *", schedule_id="nightly")
        await (await oq.task_queue.ready()).beat(WorkerRecord(name="worker-1", queues=("default",)))


# ── examples ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_has_an_example_in_its_help(path: tuple[str, ...]) -> None:
    examples = examples_of(COMMANDS[path])
    assert examples
    shown = run(*path, "--help").output
    for line in examples:
        assert f"  {line}\n" in shown
        assert f"omniq {' '.join(path)}" in line


@pytest.mark.parametrize(("path", "line"), [pytest.param(*each, id=each[1]) for each in EXAMPLES])
def test_each_example_works(path: tuple[str, ...], line: str, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(AsyncOmniQ()))
    words = shlex.split(line)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    if path == ELSEWHERE:
        parent = click.Context(omniq, info_name="omniq", **omniq.context_settings)
        assert COMMANDS[path].make_context("verify", words[1 + len(path) :], parent=parent).params["url"] is not None
    elif path in (("worker",), ("health",)):
        assert status_of(words, shop) == 0
    elif path == ("workers", "stack"):  # asked of nobody who could answer
        assert run(*words[1:-1], "0.1s").exit_code == 1
    else:
        result = run(*words[1:])
        assert result.exit_code == 0, result.output


def status_of(words: list[str], directory: Path) -> int:
    """The exit code of a command as a process of its own; of `health`, while a worker works."""
    command = [sys.executable, "-P", "-m", *words]
    if words[1] == "worker":
        return subprocess.run(command, cwd=directory, env=with_tests(), timeout=60, check=False).returncode
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with WorkerProcess(None, "--health-port", port, "--lease", "3", directory=directory) as worker:
        worker.greets()
        return subprocess.run(
            [word.replace("8080", port) for word in command], cwd=directory, env=with_tests(), timeout=60, check=False
        ).returncode


def with_tests() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.getcwd()}"}


# ── the page ─────────────────────────────────────────────────────────────────


def test_the_page_of_the_commands_is_as_the_commands_are() -> None:
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == reference.page(), "write it anew: python -m omniq.cli.reference > docs/cli.md"


@pytest.mark.parametrize("shell", reference.SHELLS)
def test_a_shell_learns_to_complete(shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_OMNIQ_COMPLETE" in script


def test_what_a_shell_asks_for_is_completed() -> None:
    environ = {**os.environ, "_OMNIQ_COMPLETE": "bash_complete", "COMP_WORDS": "omniq tasks ca", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "from omniq.cli.app import omniq; omniq(prog_name='omniq')"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["plain,cancel"]
