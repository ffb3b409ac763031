"""The commands that list and change what is there: tasks, schedules and events."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import OmniQ
from omniq.config import ConfigProvider

from tests.core.cli import tasks as cli_tasks
from tests.core.cli.support import TASKS, Cli, run


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


def with_events(cli: Cli, tmp_path: Path) -> list[str]:
    """The option by which a command finds the events, too."""
    file = tmp_path / "omniq.yaml"
    file.write_text(f"task_queue: {cli.url}\nevent_store: {cli.url}\n")
    return ["--config", str(file)]


# ── tasks ────────────────────────────────────────────────────────────────────


def test_tasks_are_listed_the_oldest_first(cli: Cli) -> None:
    first = cli.output("enqueue", f"{TASKS}:birthday", "--priority", "-5")
    second = cli.output("enqueue", f"{TASKS}:greet", "name=secret", "--run-at", "2100-01-01T00:00Z")
    assert cli.rows("tasks", "list") == [
        [first, "pending", "default", f"{TASKS}:birthday", cli.rows("tasks", "list")[0][4], "-5", "0"],
        [second, "scheduled", "default", f"{TASKS}:greet", "2100-01-01T00:00:00Z", "0", "0"],
    ]
    assert [row[0] for row in cli.rows("tasks", "list", "--state", "scheduled")] == [second]
    assert [task["id"] for task in cli.json("tasks", "list", "--queue", "default")] == [first, second]
    assert cli("tasks", "list", "--queue", "other").stderr == "no tasks\n"
    assert cli("tasks", "list", "--state", "runing").exit_code == 2


def test_columns_are_aligned_and_without_colour(cli: Cli) -> None:
    cli.output("enqueue", f"{TASKS}:birthday", "--task-id", "x")
    cli.output("enqueue", f"{TASKS}:greet", "name=Tom", "--task-id", "a-longer-one")
    head, *rows = cli("tasks", "list").stdout.splitlines()
    assert [line.index(word) for line, word in zip([head, *rows], ["STATE", "pending", "pending"], strict=True)] == [
        14
    ] * 3
    assert "\x1b" not in head


def test_a_limit_is_told_of(cli: Cli) -> None:
    ids = [cli.output("enqueue", f"{TASKS}:birthday") for _ in range(3)]
    result = cli("tasks", "list", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == f"there are more tasks: see --cursor {ids[1]}\n"
    assert [row[0] for row in cli.rows("tasks", "list", "--limit", "2", "--cursor", ids[1])] == ids[2:]


def test_the_next_page_is_had_by_what_is_told(cli: Cli) -> None:
    """By a shell, too, whatever ids are made of."""
    ids = ["$(echo x) `y`", 'it\'s "1"', "z"]
    for id_ in ids:
        cli.output("enqueue", f"{TASKS}:birthday", "--task-id", id_)
    hint = cli("tasks", "list", "--limit", "2").stderr
    assert hint.startswith("there are more tasks: see --cursor ")
    command = ["sh", "-c", f'"$0" -m omniq --url "$1" tasks list --json {hint.partition(": see ")[2]}']
    found = subprocess.run([*command, sys.executable, cli.url], check=True, capture_output=True)
    assert [task["id"] for task in json.loads(found.stdout)] == ids[2:]


def test_arguments_are_never_shown(cli: Cli) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:greet", "name=secret")
    for command in (["show", task_id], ["show", task_id, "--json"], ["list"], ["list", "--json"]):
        assert "secret" not in cli.output("tasks", *command)
    shown = dict(line.split(maxsplit=1) for line in cli.output("tasks", "show", task_id).splitlines())
    assert (shown["id"], shown["func"], shown["worker"]) == (task_id, f"{TASKS}:greet", "-")


def test_tasks_are_cancelled_and_requeued(cli: Cli) -> None:
    one, two = cli.output("enqueue", f"{TASKS}:birthday"), cli.output("enqueue", f"{TASKS}:birthday")
    assert cli.output("tasks", "cancel", one) == one
    again = cli("tasks", "cancel", one, "nothing", two)
    assert (again.exit_code, again.stdout) == (3, f"{two}\n")
    assert f"error: task {one} has ended already\nerror: no task nothing in " in again.stderr
    assert cli.output("tasks", "requeue", one) == one
    refused = cli("tasks", "requeue", one)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"error: task {one} neither failed, was cancelled nor expired\n"
    assert [row[:3] for row in cli.rows("queues", "list")] == [["default", "no", "1"]]
    (stats,) = cli.json("queues", "list")
    assert stats.pop("oldest_due") == cli.json("tasks", "show", one)["run_at"]
    assert stats == {"name": "default", "paused": False, "counts": {"pending": 1, "cancelled": 1}}


def test_dead_letters_are_listed_with_their_errors(cli: Cli) -> None:
    assert cli("dead", "list").stderr == "no dead letters\n"
    task_id = cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0")
    cli.work_off()
    (row,) = cli.rows("dead", "list")
    assert (row[0], row[4:]) == (task_id, ["1", "ValueError:", "one", "two"])
    (letter,) = cli.json("dead", "list")
    assert (letter["id"], letter["error_type"], letter["error_message"]) == (task_id, "ValueError", "one\ntwo")
    cli.output("tasks", "requeue", task_id)
    assert cli.json("dead", "list") == []


# ── schedules ────────────────────────────────────────────────────────────────


def test_schedules_are_listed_paused_resumed_and_deleted(cli: Cli) -> None:
    assert cli("schedules", "list").stderr == "no schedules\n"
    with OmniQ(config=cli.config) as oq:
        oq.schedule(cli_tasks.birthday, interval=dt.timedelta(minutes=90), schedule_id="parties")
    (row,) = cli.rows("schedules", "list")
    assert (row[:3], row[-2:]) == (["parties", "active", "interval=5400.0"], ["default", f"{TASKS}:birthday"])
    cli.output("schedules", "pause", "parties")
    assert [schedule["paused"] for schedule in cli.json("schedules", "list")] == [True]
    cli.output("schedules", "resume", "parties")
    assert cli.rows("schedules", "list")[0][1] == "active"
    cli.output("schedules", "delete", "parties")
    assert cli.json("schedules", "list") == []
    assert cli("schedules", "delete", "parties").exit_code == 3


# ── events ───────────────────────────────────────────────────────────────────


def test_events_need_a_store(cli: Cli) -> None:
    result = cli("events", "list")
    assert (result.exit_code, result.stderr) == (2, "error: event_store: none is configured, so no events are kept\n")


def test_events_are_listed(cli: Cli, tmp_path: Path) -> None:
    options = with_events(cli, tmp_path)
    task_id = run(*options, "enqueue", f"{TASKS}:birthday").stdout.strip()
    other = run(*options, "enqueue", f"{TASKS}:birthday").stdout.strip()
    cli.work_off()
    rows = [line.split() for line in run(*options, "events", "list", "--task", task_id).stdout.splitlines()]
    assert [row[1] for row in rows] == ["TYPE", "COMPLETE", "EXECUTING", "ENQUEUED"]
    assert {(row[2], row[3]) for row in rows[1:]} == {(task_id, f"{TASKS}:birthday")}
    some = run(*options, "events", "list", "--type", "complete", "--type", "ENQUEUED", "--json").stdout
    assert (some.count(f'"{task_id}"'), some.count(f'"{other}"'), some.count("EXECUTING")) == (2, 2, 0)
    assert run(*options, "events", "list", "--since", "0").stderr == "no events\n"
    assert run(*options, "events", "list", "--until", "1h").stderr == "no events\n"
    assert run(*options, "events", "list", "--name", "nobody").stderr == "no events\n"
    assert (
        run(*options, "events", "list", "--since", "1h", "--type", "complete", "--limit", "1").stdout.count("COM") == 1
    )


def test_events_are_listed_page_by_page(cli: Cli, tmp_path: Path) -> None:
    options = with_events(cli, tmp_path)
    ids = [run(*options, "enqueue", f"{TASKS}:birthday").stdout.strip() for _ in range(5)]
    found: list[str] = []
    more: list[str] = []
    while True:
        page = run(*options, "events", "list", "--oldest-first", "--limit", "2", *more)
        found += [line.split()[2] for line in page.stdout.splitlines()[1:]]
        if "there are more events" not in page.stderr:
            break
        more = page.stderr.split()[-2:]
        assert more[0] == "--cursor"
    assert found == ids
    assert run(*options, "events", "list", "--cursor", "x").exit_code == 2


def test_the_last_events_are_printed(cli: Cli, tmp_path: Path) -> None:
    options = with_events(cli, tmp_path)
    ids = [run(*options, "enqueue", f"{TASKS}:birthday").stdout.strip() for _ in range(12)]
    lines = run(*options, "events", "tail").stdout.splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["ENQUEUED", f"task={task_id}", f"function={TASKS}:birthday"] for task_id in ids[2:]
    ]
    last = [json.loads(line) for line in run(*options, "events", "tail", "--json", "-n", "3").stdout.splitlines()]
    assert [event["task_id"] for event in last] == ids[9:]
    after = run(*options, "events", "tail", "--after", last[0]["cursor"], "--json").stdout.splitlines()
    assert [json.loads(line) for line in after] == last[1:]
    assert run(*options, "events", "tail", "-n", "0").stdout == ""
    assert run(*options, "events", "tail", "-n", "1", "--after", "x").exit_code == 2


def test_events_are_followed_until_they_are_read_no_more(cli: Cli, tmp_path: Path) -> None:
    options = with_events(cli, tmp_path)
    run(*options, "enqueue", f"{TASKS}:birthday", "--task-id", "before")
    command = [sys.executable, "-m", "omniq", *options, "events", "tail", "-f", "--json", "--type", "ENQUEUED"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["task_id"] == "before"
        run(*options, "enqueue", f"{TASKS}:birthday", "--task-id", "then")
        assert json.loads(tail.stdout.readline())["task_id"] == "then"
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=30) == ("", "\n")
        assert tail.returncode == 130
    with subprocess.Popen([*command, "-n", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        tail.stdout.readline()
        tail.stdout.close()
        run(*options, "enqueue", f"{TASKS}:birthday")
        assert tail.wait(30) == 141
        assert tail.stderr.read() == ""


def test_tasks_are_found_by_function_and_the_newest_first(cli: Cli) -> None:
    first = cli.output("enqueue", f"{TASKS}:birthday")
    other = cli.output("enqueue", f"{TASKS}:greet", "name=Tom")
    second = cli.output("enqueue", f"{TASKS}:birthday")
    assert [row[0] for row in cli.rows("tasks", "list", "--name", f"{TASKS}:birthday")] == [first, second]
    assert [row[0] for row in cli.rows("tasks", "list", "--newest-first")] == [second, other, first]
    assert cli("tasks", "list", "--name", "nobody").stderr == "no tasks\n"


@pytest.mark.parametrize(
    "command",
    ["enqueue builtins:print --args [1]", "tasks list", "dead list", "schedules list", "events list", "resign"],
)
def test_a_command_resolves_its_configuration_once(
    cli: Cli, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text(f"task_queue: {cli.url}\nevent_store: {cli.url}\nsigning_key: {'k' * 32}\n")
    loads: list[str] = []
    for counted in (ConfigProvider.load, ConfigProvider.layers):
        monkeypatch.setattr(ConfigProvider, counted.__name__, _counting(counted, loads))
    result = run("--config", str(file), *command.split())
    assert result.exit_code == 0, result.output
    assert loads == ["load", "layers"]


def _counting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return counted
