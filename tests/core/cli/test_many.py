"""Commands for many tasks: dead letters, cancelling by conditions, queues; what they print and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.cli.support import TASKS, Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


def test_dead_letters_are_shown_requeued_and_purged(cli: Cli) -> None:
    one, two, three = (cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0") for _ in range(3))
    cli.work_off()
    shown = cli.output("dead", "show", one)
    assert "Traceback (most recent call last)" in shown
    letter = json.loads(cli.output("dead", "show", one, "--json", "--arguments"))
    assert (letter["error_type"], letter["args"], letter["kwargs"]) == ("ValueError", [], {})
    assert cli("dead", "show", "nobody").exit_code == 3
    assert cli.output("dead", "requeue", one) == one
    refused = cli("dead", "requeue", one, two)
    assert (refused.exit_code, refused.stdout) == (1, f"{two}\n")
    assert cli.output("dead", "purge", "--error", "ValueError", "--dry-run") == "1 task would be affected"
    assert cli.json("dead", "purge", "--since", "1h", "--yes") == {"tasks": 1, "dry_run": False}
    assert cli.json("dead", "list") == []
    assert cli("dead", "purge", three).exit_code == 1


def test_dead_letters_come_in_pages(cli: Cli) -> None:
    ids = [cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0", "--task-id", f"t{n}") for n in range(3)]
    cli.work_off()
    first = cli("dead", "list", "--limit", "2")
    assert [line.split()[0] for line in first.stdout.splitlines()[1:]] == ids[:0:-1]
    assert first.stderr == "there are more dead letters: see --cursor t1\n"
    assert [row[0] for row in cli.rows("dead", "list", "--cursor", "t1")] == ["t0"]
    assert [row[0] for row in cli.rows("dead", "list", "--oldest-first")] == ids
    assert cli("dead", "list", "--error", "KeyError").stderr == "no dead letters\n"


def test_tasks_are_cancelled_by_conditions(cli: Cli) -> None:
    for name in ("birthday", "birthday", "fail"):
        cli.output("enqueue", f"{TASKS}:{name}")
    assert cli.output("tasks", "cancel", "--name", f"{TASKS}:birthday", "--dry-run") == "2 tasks would be affected"
    assert cli.output("tasks", "cancel", "--name", f"{TASKS}:birthday", "--state", "pending") == "2 tasks"
    assert cli.json("tasks", "cancel", "--all") == {"tasks": 1, "dry_run": False}
    assert {task["state"] for task in cli.json("tasks", "list")} == {"cancelled"}


def test_it_must_be_said_which_tasks(cli: Cli) -> None:
    for command in (["tasks", "cancel"], ["dead", "requeue"], ["dead", "purge"]):
        result = cli(*command)
        assert (result.exit_code, "Give task ids, a condition such as --name, or --all." in result.stderr) == (2, True)
        assert cli(*command, "t1", "--all").exit_code == 2
    assert cli("tasks", "requeue").exit_code == 2


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
@pytest.mark.parametrize("command", ["tasks cancel --all", "result t --wait"])
def test_standard_streams_may_be_closed(cli: Cli, command: str, closed: str) -> None:
    cli.output("enqueue", f"{TASKS}:birthday", "--task-id", "t")
    cli.output("tasks", "cancel", "t")
    program = f'"{sys.executable}" -m omniq --url "{cli.url}" {command} {closed}'
    ended = subprocess.run(program, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == ((1, "") if "result" in command else (0, "0 tasks\n"))
    assert "AttributeError" not in ended.stderr


def test_queues_are_paused_and_resumed(cli: Cli) -> None:
    assert cli("queues", "list").stderr == "no queues\n"
    cli.output("queues", "pause", "default")
    assert cli.rows("queues", "list")[0][:2] == ["default", "yes"]
    cli.output("queues", "resume", "default")
    assert cli.json("queues", "list") == []
    refused = cli("queues", "pause", "nowhere")
    assert (refused.exit_code, "isn't one of the declared queues" in refused.stderr) == (2, True)
