"""What is tried before it is relied on: a program on what is queued, a store's speed; and how commands end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omniq import AsyncOmniQ

from tests.core.cli.process import ROOT
from tests.core.cli.support import TASKS, Cli, run

BEFORE = """
import os
from omniq import OmniQ

def sell(item, number=1): ...
def gone(): ...
def told(result): ...
def sum_up(first, second): ...

oq = OmniQ(task_queue=os.environ["URL"])
"""
AFTER = BEFORE.replace("item, number=1", "item, *, price").replace("def gone", "def renamed").replace("told", "heard")
QUEUED = """
from omniq import chain, result_of
from shopfront import gone, oq, sell, sum_up, told

with oq:
    oq.enqueue(sell, ["tea"], task_id="t-sell")
    oq.enqueue(gone, task_id="t-gone", run_in=60)
    oq.enqueue(sum_up, [1, 2], task_id="t-fits")
    oq.enqueue(sum_up, [1, result_of("t-fits")], task_id="t-child")
    oq.enqueue(sum_up, [1, 2], task_id="t-told", on_success=told)
    oq.schedule(gone, cron="0 3 * * *", schedule_id="nightly")
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


def in_shop(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the program is."""
    environ = {**os.environ, "URL": f"sqlite:///{directory}/jobs.db", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False)


# ── preflight ────────────────────────────────────────────────────────────────


def test_what_a_new_version_can_not_run_is_listed(tmp_path: Path) -> None:
    program = tmp_path / "shopfront.py"
    program.write_text(BEFORE)
    (tmp_path / "fill.py").write_text(QUEUED)
    assert in_shop(tmp_path, "fill.py").stderr == ""
    fits = in_shop(tmp_path, "-m", "omniq", "preflight", "shopfront:oq")
    assert (fits.returncode, fits.stdout) == (0, "")
    assert fits.stderr == "6 tasks and schedules checked, 0 can't be run\n"

    program.write_text(AFTER)
    found = in_shop(tmp_path, "-m", "omniq", "preflight", "shopfront:oq", "--json")
    assert found.returncode == 1
    reasons = {each["id"]: each["reason"] for each in json.loads(found.stdout)}
    assert reasons.keys() == {"t-sell", "t-gone", "t-told", "nightly"}
    assert reasons["t-sell"] == "func_args: sell(item, *, price): missing a required argument: 'price'"
    assert reasons["t-gone"] == reasons["nightly"] == "shopfront:gone: 'shopfront' has no 'gone'"
    assert "has no 'told'" in reasons["t-told"]
    table = in_shop(tmp_path, "-m", "omniq", "preflight", "shopfront:oq").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["task", "t-gone"],
        ["task", "t-sell"],
        ["task", "t-told"],
        ["schedule", "nightly"],
    ]


def test_a_program_that_is_not_there_is_no_preflight() -> None:
    result = run("preflight", "nowhere:oq")
    assert (result.exit_code, result.stderr.startswith("error: APP: there is no module 'nowhere'")) == (2, True)


# ── bench ────────────────────────────────────────────────────────────────────


def test_a_store_is_measured_and_nothing_is_left(cli: Cli, tmp_path: Path) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:birthday")
    before = sorted(path.name for path in tmp_path.iterdir())
    found = cli.json("bench", "--tasks", "30")
    assert (found["tasks"], found["samples"]) == (30, 30)
    assert min(found["enqueued_per_second"], found["processed_per_second"]) > 1
    assert 0 < found["latency_p50"] <= found["latency_p99"] < 60
    assert cli.output("bench", "--tasks", "30").splitlines()[1].startswith("enqueued ")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert [task["id"] for task in cli.json("tasks", "list")] == [task_id]


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        (["SIGINT"], 130),
        (["SIGTERM"], 143),
        (["SIGHUP"], 129),
        (["SIGINT", "SIGINT"], 130),
        (["SIGTERM", "SIGTERM"], 143),
    ],
)
def test_whatever_stops_it_nothing_is_left(signals: list[str], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "omniq", "--url", f"sqlite:///{tmp_path}/omniq.db", "bench", "--tasks", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("omniq-bench-*.db")):
        assert process.poll() is None
        time.sleep(0.01)
    for name in signals:
        process.send_signal(getattr(signal, name))
    assert (*process.communicate(timeout=60), process.returncode) == ("", "\n" if code == 130 else "", code)
    assert [path.name for path in tmp_path.iterdir()] == []


# ── where there is nothing ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "sqlite:///jobs.db", "tasks", "list"], "jobs.db: it is relative to the working directory"),
        (["tasks", "list"], "it is relative to the working directory"),
        (["--config", "omniq.yaml", "tasks", "list"], "omniq.yaml: it is relative to the working directory"),
        (["enqueue", "builtins:print"], "the working directory, whose modules could be imported, is gone"),
        (["preflight", "shop:oq"], "the working directory, whose modules could be imported, is gone"),
    ],
)
def test_a_directory_that_is_gone_is_told_of(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = run(*arguments)
    assert (found.exit_code, found.stderr.count("\n"), told in found.stderr) == (2, 1, True), found.stderr


@pytest.mark.parametrize("arguments", [["--args", "{}"], ["n={}"], ["--metadata", "n={}"]], ids=lambda each: each[0])
def test_what_is_nested_too_deep_is_told_of(cli: Cli, arguments: list[str]) -> None:
    deep = "[" * 60_000 + "]" * 60_000
    found = cli("enqueue", f"{TASKS}:birthday", *(each.replace("{}", deep) for each in arguments))
    assert (found.exit_code, found.stderr.count("\n"), "nested too deep" in found.stderr) == (2, 1, True)


def test_a_migration_from_nowhere_says_so(cli: Cli, tmp_path: Path) -> None:
    found = run("migrate", "--from", f"sqlite:///{tmp_path}/mistyped.db", "--to", cli.url, "--dry-run")
    assert found.stdout == "would move no tasks, 0 schedules, 0 results\n"
    assert found.stderr == "there is nothing at the source: is that the right place, and the right --project?\n"


# ── migrate ──────────────────────────────────────────────────────────────────


def test_what_was_moved_and_what_is_left_is_told(cli: Cli, tmp_path: Path) -> None:
    there = f"sqlite:///{tmp_path}/there.db"
    move = ["migrate", "--from", cli.url, "--to", there]
    ids = [cli.output("enqueue", f"{TASKS}:birthday", "--unique-key", f"k{n}") for n in range(2)]
    holder = run("--url", there, "enqueue", f"{TASKS}:birthday", "--unique-key", "k1").stdout.strip()
    cli.output("queues", "pause", "default")
    assert run(*move, "--dry-run").stdout == "would move 2 tasks (2 pending), 0 schedules, 0 results\n"
    moved = run(*move)
    assert (moved.exit_code, moved.stdout) == (1, "moved 1 task (1 pending), 0 schedules, 0 results\n")
    reason = f"unique_key: task {holder} has it at sqlite:{tmp_path}/there.db"
    paused = "queue default is paused at the target, too, as it was at the source"
    assert moved.stderr.splitlines() == [paused, f"left: task {ids[1]}: {reason}"]
    run("--url", there, "tasks", "cancel", holder)
    again = json.loads(run(*move, "--json").stdout)
    assert (again["complete"], again["tasks"], again["left"]) == (True, {"pending": 1}, [])
    assert cli.json("tasks", "list") == []


# ── many at once ─────────────────────────────────────────────────────────────


def test_a_queue_is_purged_of_what_waits(cli: Cli) -> None:
    first = cli.output("enqueue", f"{TASKS}:birthday")
    cli.work_off()
    waits = cli.output("enqueue", f"{TASKS}:birthday", "--run-in", "1h")
    child = cli.output("enqueue", f"{TASKS}:birthday", "--depends-on", waits)
    assert cli.output("queues", "purge", "default", "--dry-run") == "2 tasks would be affected"
    assert cli.json("queues", "purge", "default") == {"tasks": 2, "dry_run": False}
    assert [task["id"] for task in cli.json("tasks", "list", "--state", "success")] == [first]
    assert cli("tasks", "show", waits).exit_code == 3
    assert "was cancelled" in cli("result", waits).stderr
    assert cli("result", child).exit_code == 1
    assert cli("queues", "purge", "nowhere").exit_code == 2


def test_tasks_are_requeued_by_conditions(cli: Cli) -> None:
    for name in ("fail", "fail", "birthday"):
        cli.output("enqueue", f"{TASKS}:{name}", "--max-retries", "0")
    cli.work_off()
    cancelled = cli.output("enqueue", f"{TASKS}:birthday", "--run-in", "1h")
    cli.output("tasks", "cancel", cancelled)
    assert cli.output("tasks", "requeue", "--name", f"{TASKS}:fail", "--dry-run") == "2 tasks would be affected"
    assert cli.json("tasks", "requeue", "--state", "cancelled") == {"tasks": 1, "dry_run": False}
    assert cli.json("tasks", "requeue", "--all") == {"tasks": 2, "dry_run": False}
    assert cli("tasks", "requeue", "--all", cancelled).exit_code == 2


def test_lists_have_filters_and_pages(cli: Cli) -> None:
    asyncio.run(_some(cli))
    assert [row[0] for row in cli.rows("queues", "list")] == ["default", "low"]
    assert [row[0] for row in cli.rows("queues", "list", "--paused")] == ["low"]
    first = cli("queues", "list", "--limit", "1")
    assert first.stderr == "there are more queues: see --cursor default\n"
    assert [queue["name"] for queue in cli.json("queues", "list", "--cursor", "default")] == ["low"]
    assert [each["id"] for each in cli.json("schedules", "list", "--state", "paused")] == ["b"]
    assert [each["id"] for each in cli.json("schedules", "list", "--queue", "default", "--limit", "1")] == ["a"]
    assert cli("schedules", "list", "--limit", "1").stderr == "there are more schedules: see --cursor a\n"
    assert cli.json("schedules", "pause", "a", "b") == ["a", "b"]
    assert cli("schedules", "resume", "a", "nobody").exit_code == 3
    assert cli.json("workers", "list", "--queue", "nowhere") == []
    assert cli.json("tasks", "list", "--until", "2000-01-01T00:00") == []


async def _some(cli: Cli) -> None:
    from tests.core.cli.tasks import birthday

    async with AsyncOmniQ(task_queue={"url": cli.url, "config": {"queues": ["default", "low"]}}) as oq:
        await oq.enqueue(birthday)
        await oq.schedule(birthday, interval=3600, schedule_id="a")
        await oq.schedule(birthday, interval=3600, schedule_id="b")
        await oq.pause_schedule("b")
        await oq.pause_queue("low")


# ── how commands end ─────────────────────────────────────────────────────────


def shell(cli: Cli, line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, in which `omniq` is this one."""
    program = f'"{sys.executable}" -m omniq --url "{cli.url}"'
    return subprocess.run(
        ["bash", "-c", line.replace("omniq", program)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_closed_pipe_ends_it_as_it_ends_others(cli: Cli) -> None:
    cli.output("enqueue", f"{TASKS}:birthday")
    ended = shell(cli, "omniq tasks list | sleep 0; echo ${PIPESTATUS[0]}")
    assert ended.stdout.strip() in ("0", "141")  # as the pipe was closed before, or after
    ended = shell(cli, "(sleep 2; omniq tasks list; echo $? >&2) | true")
    assert ended.stderr == "141\n"
    assert shell(cli, "(sleep 1; omniq --help; echo $? >&2) | true").stderr == "141\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["tasks list", "--help", "tasks list --json"])
def test_a_full_disk_is_one_line(cli: Cli, command: str) -> None:
    cli.output("enqueue", f"{TASKS}:birthday")
    ended = shell(cli, f"omniq {command} > /dev/full")
    assert (ended.returncode, ended.stderr) == (1, "error: what it prints can't be written: No space left on device\n")


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_any_locale_will_do(cli: Cli, locale: str) -> None:
    cli.output("enqueue", f"{TASKS}:birthday", "--task-id", "naïve-任务")
    for command, code in (("list", 0), ("list --json", 0), ("show naïve-任务", 0), ("show ничего", 3)):
        ended = shell(cli, f"omniq tasks {command}", LC_ALL=locale)
        assert ended.returncode == code, ended.stderr
    for command in ("list", "show x"):  # where Python doesn't take UTF-8 instead
        ended = shell(cli, f"omniq tasks {command}", LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert ended.returncode == (0 if command == "list" else 3), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tasks", "lsit"], "there is no command 'lsit', did you mean 'list'? See: omniq tasks --help"),
        (["tasks", "list", "--stat"], "No such option '--stat'. Did you mean '--state'? See: omniq tasks list --help"),
        (["tasks", "show"], "Missing argument 'TASK_ID'. See: omniq tasks show --help"),
        (
            ["enqueue", f"{TASKS}:birthday", "--worker", "procss"],
            "worker: unknown worker 'procss', did you mean 'process'?",
        ),
        (["migrate", "--from", "x"], "--url: --from and --to say where; leave it out. See: omniq migrate --help"),
    ],
)
def test_wrong_usage_is_one_line_and_2(cli: Cli, arguments: list[str], line: str) -> None:
    if arguments[0] == "migrate":
        arguments = [*arguments, "--to", "y"]
    result = cli(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {line}")
    assert len(result.stderr.splitlines()) == 1


# ── what is imported ─────────────────────────────────────────────────────────


HEAVY = (
    "asyncio",
    "dill",
    "omniq.core",
    "omniq.queue",
    "omniq.workers",
    "omniq_sqlite.queue",
    "rich",
    "sqlite3",
    "yaml",
)


@pytest.mark.parametrize("arguments", ["--help", "tasks --help", "tasks list --help", "worker --help", "--version"])
def test_help_imports_no_engine_and_no_store(arguments: str) -> None:
    script = f"""
import sys
from omniq.cli.app import omniq
try:
    omniq({arguments.split()!r}, prog_name="omniq")
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"
