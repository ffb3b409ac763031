"""The command line: what it takes, what it prints, and how it exits."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.cli.app import COMMANDS, CommandGroup, omniq
from omniq.cli.options import Place, duration, names, since, time
from omniq.cli.output import value_text
from omniq.plugins.registry import load_object
from omniq.plugins.specs import CommandSpec

from tests.core.cli.process import ROOT
from tests.core.cli.support import TASKS, Cli, run


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


# ── the commands themselves ──────────────────────────────────────────────────


@pytest.mark.parametrize("spec", COMMANDS, ids=lambda spec: spec.name)
def test_each_command_is_where_its_spec_says(spec: CommandSpec) -> None:
    command = load_object(spec.command)
    assert isinstance(command, click.Command)
    assert command.name == spec.name


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands below a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, CommandGroup):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(omniq)), ids=" ".join)
def test_each_command_explains_itself(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: omniq {' '.join(path)} ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["wrker"], "there is no command 'wrker', did you mean 'worker'?"),
        (["tasks", "lsit"], "there is no command 'lsit', did you mean 'list'?"),
        (["xyz"], "there is no command 'xyz'"),
        (["worker", "--concurency", "3"], "--concurrency"),
        (["worker", "--lease", "soon"], "'soon' isn't a duration such as 90, 1.5, 10m, 2h or 1d."),
        (["worker", "--queues", "a,,b"], "isn't a list such as high,default,low."),
        (["events", "list", "--since", "lately"], "isn't a time such as 2030-12-31T08:30."),
        (["enqueue", "myapp.tasks.send"], "did you mean myapp.tasks:send?"),
        (["enqueue", "send"], "isn't of the form module:function, such as myapp.tasks:send."),
        (["enqueue", "a:b", "x"], "'x' isn't of the form key=value."),
        (["enqueue", "a:b", "x=1", "x=2"], "'x' is given twice."),
        (["enqueue", "a:b", "--args", "[1"], "it isn't JSON"),
        (["enqueue", "a:b", "--args", "1"], "expected a JSON list or object"),
        (["enqueue", "a:b", "x=1", "--args", "[1]"], "not both"),
    ],
)
def test_a_misspelt_command_exits_with_2_and_a_hint(cli: Cli, arguments: list[str], complaint: str) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("250ms", 0.25), ("30s", 30), ("10m", 600), ("2H", 7200), ("1d", 86_400), ("0", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1w", "1h30m", "nan", "inf", "1e3", "9" * 400, "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


def test_times_and_names() -> None:
    assert time("2030-01-02T03:04:05Z") == dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert time("2030-01-02T03:04").utcoffset() is not None
    assert abs(dt.datetime.now(dt.UTC) - since("1h") - dt.timedelta(hours=1)) < dt.timedelta(seconds=5)
    assert names("high, low") == ["high", "low"]


# ── where ────────────────────────────────────────────────────────────────────


def location(**options: str) -> str:
    """Where a command with these options looks."""
    return Place(**options).open().task_queue.store.location


def test_the_options_win_over_the_environment_which_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text(f"task_queue: sqlite:///{tmp_path}/file.db\nproject_name: filed\n")
    assert location(config=str(file)) == f"sqlite:{tmp_path}/file.db"
    monkeypatch.setenv("OMNIQ_CONFIG", str(file))
    assert location() == f"sqlite:{tmp_path}/file.db"
    monkeypatch.setenv("OMNIQ_TASK_QUEUE_URL", f"sqlite:///{tmp_path}/variable.db")
    assert location() == f"sqlite:{tmp_path}/variable.db"
    assert location(url=f"sqlite:///{tmp_path}/option.db") == f"sqlite:{tmp_path}/option.db"
    assert Place().configuration.project_name == "filed"
    assert Place(project="mine").open().config.project_name == "mine"


def test_the_place_may_be_given_after_the_command(cli: Cli, tmp_path: Path) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:greet", "name=Tom")
    result = run("--url", f"sqlite:///{tmp_path}/x.db", "tasks", "show", task_id, "--url", cli.url)
    assert result.exit_code == 0
    assert task_id in result.stdout


def test_errors_of_the_configuration_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "omniq.yaml"
    file.write_text("task_queue:\n  typ: sqlite\n")
    result = run("--config", str(file), "tasks", "list")
    assert result.exit_code == 2
    assert result.stderr == f"error: task_queue.typ: unknown name, did you mean 'type'? (in {file})\n"


def test_other_errors_keep_their_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Place) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Place, "open", broken)
    with pytest.raises(ZeroDivisionError):
        cli("tasks", "list")


# ── adding tasks and their results ───────────────────────────────────────────


def test_a_task_is_added_and_its_result_printed(cli: Cli) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:greet", "name=Tom", "times=2")
    waiting = cli("result", task_id)
    assert (waiting.exit_code, waiting.stderr) == (4, f"error: task {task_id} hasn't ended: it is pending\n")
    cli.work_off()
    assert cli.output("result", task_id) == '"hello Tom hello Tom "'
    told = cli.json("result", task_id)
    assert (told["task_id"], told["status"], told["value"]) == (task_id, "success", "hello Tom hello Tom ")


def test_arguments_may_be_given_as_json(cli: Cli) -> None:
    positional = cli.output("enqueue", f"{TASKS}:greet", "--args", '["Tom"]')
    keyword = cli.output("enqueue", f"{TASKS}:greet", "--args", '{"name": "3"}')
    text = cli.output("enqueue", f"{TASKS}:greet", 'name="3"')
    cli.work_off()
    assert [cli.output("result", id_) for id_ in (positional, keyword, text)] == [
        '"hello Tom "',
        '"hello 3 "',
        '"hello 3 "',
    ]


def test_what_json_does_not_know_is_shown_as_python_does(cli: Cli) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:birthday")
    cli.work_off()
    assert cli.output("result", task_id) == "datetime.date(2020, 2, 29)"
    assert cli.json("result", task_id)["value"] == "datetime.date(2020, 2, 29)"
    assert [value_text(value) for value in (float("nan"), b"x", {1})] == ["nan", "b'x'", "{1}"]


def test_a_failure_exits_with_1_and_its_traceback(cli: Cli) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0")
    cli.work_off()
    result = cli("result", task_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "tasks.py" in result.stderr
    assert f"error: task {task_id} failed: ValueError: one two\n" in result.stderr
    as_json = cli("result", task_id, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["error_type"] == "ValueError"


def test_the_options_of_a_task(cli: Cli) -> None:
    parent = cli.output("enqueue", f"{TASKS}:birthday")
    told = cli.json(
        *("enqueue", f"{TASKS}:greet", "name=Tom", "--task-id", "mine", "--priority", "7", "--timeout", "1m"),
        *("--max-retries", "5", "--retry-delay", "2", "--run-at", "2100-01-01T00:00Z", "--ttl", "1h"),
        *("--result-ttl", "1d", "--metadata", "customer=7", "--metadata", "tag=x", "--depends-on", parent),
    )
    expected = {"id": "mine", "priority": 7, "timeout": 60, "max_retries": 5, "retry_delay": 2, "depends_on": [parent]}
    expected |= {"run_at": "2100-01-01T00:00:00Z", "expires_at": "2100-01-01T01:00:00Z", "result_ttl": 86_400}
    expected |= {"metadata": {"customer": 7, "tag": "x"}, "state": "waiting", "func": f"{TASKS}:greet"}
    assert told.items() >= expected.items()
    assert cli.json("enqueue", f"{TASKS}:birthday", "--run-in", "10m")["state"] == "scheduled"


def test_the_kind_of_worker_that_a_task_is_for(cli: Cli) -> None:
    refused = cli("enqueue", f"{TASKS}:birthday", "--worker", "procss")
    assert refused.stderr.startswith("error: worker: unknown worker 'procss', did you mean 'process'?")
    task_id = cli.output("enqueue", f"{TASKS}:birthday", "--worker", "process")
    cli.work_off()
    assert cli.output("result", task_id) == "datetime.date(2020, 2, 29)"


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("nowhere:f", "nowhere:f: there is no module 'nowhere' here; is it installed, or on sys.path?"),
        (f"{TASKS}:gret", f"{TASKS}:gret: '{TASKS}' has no 'gret', did you mean 'greet'?"),
        (f"{TASKS}:LONG", f"{TASKS}:LONG: it isn't callable but of type float"),
        (f"{TASKS}:note", f"{TASKS}:note: that module doesn't define it, it only holds tests.core.tasks:note"),
    ],
)
def test_a_function_that_a_worker_could_not_import_is_refused(cli: Cli, reference: str, complaint: str) -> None:
    result = cli("enqueue", reference)
    assert (result.exit_code, result.stderr) == (2, f"error: {complaint}\n")
    assert cli("tasks", "list").stderr == "no tasks\n"


def test_waiting_for_the_result(cli: Cli) -> None:
    with OmniQ(config=cli.config) as oq:
        oq.start_worker(max_workers=2)
        result = cli("enqueue", f"{TASKS}:greet", "name=Tom", "--wait")
        assert (result.exit_code, result.stdout) == (0, '"hello Tom "\n')
        task_id = result.stderr.strip()
        assert cli.output("result", task_id, "--wait") == '"hello Tom "'
        assert cli("enqueue", f"{TASKS}:fail", "--max-retries", "0", "--wait").exit_code == 1
    late = cli("enqueue", f"{TASKS}:greet", "name=Tom", "--timeout-wait", "0.05")
    assert late.exit_code == 4
    assert "is still pending after 0.05 s" in late.stderr
    assert cli("result", late.stderr.split()[0], "--timeout", "50ms").exit_code == 4


def test_a_result_that_is_not_there(cli: Cli) -> None:
    for command in (["result", "nothing"], ["tasks", "show", "nothing"], ["schedules", "pause", "nothing"]):
        result = cli(*command)
        assert result.exit_code == 3
        assert result.stderr.startswith("error: no ")
    cancelled = cli.output("enqueue", f"{TASKS}:birthday")
    cli.output("tasks", "cancel", cancelled)
    result = cli("result", cancelled)
    assert (result.exit_code, result.stderr) == (1, f"error: task {cancelled} was cancelled\n")


def test_a_result_outlives_its_task_but_not_a_requeue(cli: Cli) -> None:
    done = cli.output("enqueue", f"{TASKS}:greet", "name=Tom")
    failed = cli.output("enqueue", f"{TASKS}:fail", "--max-retries", "0")
    cli.work_off()
    cli.output("tasks", "requeue", failed)
    assert cli("result", failed).exit_code == 4
    asyncio.run(purge(cli))
    assert cli("tasks", "show", done).exit_code == 3
    assert cli.output("result", done) == '"hello Tom "'


async def purge(cli: Cli) -> None:
    """Delete the tasks that have ended."""
    async with AsyncOmniQ(config=cli.config) as oq:
        assert await oq.task_queue.store.purge(older_than=0.0) == 1


def test_ctrl_c_while_waiting_exits_with_130(cli: Cli) -> None:
    command = [sys.executable, "-m", "omniq", "--url", cli.url, "enqueue", f"{TASKS}:birthday", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        task_id = process.stderr.readline().strip()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "", "\n")
    assert cli.json("tasks", "show", task_id)["state"] == "pending"
