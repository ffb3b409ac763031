"""What is stored can neither move a terminal's cursor nor forge a line, on a terminal or in a log."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskResult, TaskState
from omniq.storage.records import NewTask
from omniq.texts import escaped, escaped_block, escaped_json, get_logger

from tests.core.cli.support import TASKS, Cli
from tests.core.support import FAST, front_door, reference_place, until

NASTY = "\x1b]0;x\x07\x1b[2J\r\nerror: forged\x9b\u202e\u2066\u200b\x00\x7f"
EVIL = ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2066", "\u200b", "\x00", "\x7f")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on a file of its own."""
    return Cli(tmp_path)


def is_safe(text: str) -> bool:
    """Whether nothing in it steers a terminal, and no line of it is the forged one."""
    return not any(char in text for char in EVIL) and "error: forged" not in text.splitlines()


def fail_nastily() -> None:
    raise ValueError(NASTY)


def return_nastily() -> str:
    return NASTY + "\ud83d"


def raise_the_result(result: TaskResult) -> None:
    raise ValueError(f"secret {result.value}")


def test_one_line_stays_one_line_and_shows_what_was_there() -> None:
    assert escaped("a b\u00e9\u20ac") == "a b\u00e9\u20ac"
    assert escaped("\x1b[2J\r\n\tx\u202e\ud83d") == "\\x1b[2J   x\\u202e\\ud83d"
    assert escaped_block("a\n\tb\r\x1b") == "a\n\tb \\x1b"


def test_json_stays_json() -> None:
    text = json.dumps([NASTY, "\ud83d", "\U000e0001", "\u00e9"], ensure_ascii=False)
    assert is_safe(escaped_json(text))
    assert json.loads(escaped_json(text)) == json.loads(text)
    assert "\u00e9" in escaped_json(text)


def test_a_failed_task_is_told_once_and_escaped(cli: Cli) -> None:
    task_id = cli.output("enqueue", "tests.core.cli.test_escaping:fail_nastily", "--max-retries", "0")
    cli.work_off()
    for command in (["result", task_id], ["result", task_id, "--json"], ["dead", "list"], ["tasks", "show", task_id]):
        assert is_safe(cli(*command).output)
    told = cli("result", task_id).stderr
    assert told.count("forged") == 1
    assert told.splitlines()[-1].startswith(f"error: task {task_id} failed: ValueError: \\x1b]0;x\\x07")
    assert "fail_nastily" in told


def test_a_value_is_printed_escaped(cli: Cli) -> None:
    task_id = cli.output("enqueue", "tests.core.cli.test_escaping:return_nastily")
    cli.work_off()
    assert is_safe(cli("result", task_id).output)
    assert json.loads(cli.output("result", task_id)) == return_nastily()
    assert cli.json("result", task_id)["value"] == return_nastily()


def test_stored_ids_names_and_metadata_are_printed_escaped(cli: Cli) -> None:
    asyncio.run(_plant_odd_rows(cli))
    for command in (["tasks", "list"], ["tasks", "list", "--json"], ["queues", "list"], ["schedules", "list"]):
        output = cli(*command).output
        assert is_safe(output)
        assert "forged" in output
    assert is_safe(cli("tasks", "show", NASTY.replace("\x00", "")).output)


async def _plant_odd_rows(cli: Cli) -> None:
    async with AsyncOmniQ(config=cli.config) as oq:
        manager, name = oq.task_queue.serialization, NASTY.replace("\x00", "")
        call = manager.build_call(fail_nastily, (), {})
        body = manager.reseal(call, task_id=name, queue_name=name)
        await oq.task_queue.store.add([NewTask(id=name, queue_name=name, body=body)])
        await oq.schedule(fail_nastily, interval=60, schedule_id="forged")


def test_an_error_is_shown_escaped_by_whoever_prints_it() -> None:
    error = TaskFailed("a", "ValueError", NASTY, f"Traceback\n  line\nValueError: {NASTY}")
    assert is_safe(str(error).partition("On the worker:")[0])
    assert not any(char in str(error) for char in EVIL)
    assert error.error_message == NASTY


def test_what_is_logged_of_a_task_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "omniq.test"):
        get_logger("omniq.test").warning("task %s: %s (%d, %.1f, %r)", NASTY, ValueError(NASTY), 3, 0.5, ["x"])
    (record,) = caplog.records
    assert is_safe(record.getMessage())
    assert "\n" not in record.getMessage()
    assert record.getMessage().endswith("(3, 0.5, ['x'])")
    assert record.filename == "test_escaping.py"


async def test_a_workers_log_is_safe_from_what_is_stored(caplog: pytest.LogCaptureFixture) -> None:
    async with front_door(reference_place()) as oq:
        await oq.task_queue.store.add([NewTask(id=NASTY, queue_name="default", body=b"rubbish")])
        async with oq.worker_pool("async", **FAST):
            await until(lambda: any("forged" in record.getMessage() for record in caplog.records))
    assert all(is_safe(record.getMessage()) and "\n" not in record.getMessage() for record in caplog.records)


async def test_a_callback_that_raises_shows_no_result(caplog: pytest.LogCaptureFixture) -> None:
    async with front_door(reference_place()) as oq:
        task_id = await oq.enqueue(return_nastily, on_success=raise_the_result)
        async with oq.worker_pool("async", **FAST):
            await until(lambda: any("raise_the_result" in record.getMessage() for record in caplog.records))
            assert (await oq.get_task(task_id)).state is TaskState.SUCCESS
    (told,) = [record for record in caplog.records if "raise_the_result" in record.getMessage()]
    assert told.getMessage().endswith("raised ValueError")
    assert told.exc_info is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_a_command_with_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-P", "-m", "omniq", "plugins", "list"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "error: what it prints can't be written: No space left on device\n")


def test_a_terminal_that_does_not_know_a_character_gets_an_escape(cli: Cli, tmp_path: Path) -> None:
    task_id = cli.output("enqueue", f"{TASKS}:greet", "name=\u20ac")
    cli.work_off()
    command = [sys.executable, "-P", "-m", "omniq", "--url", cli.url, "result", task_id]
    environment = {"PYTHONIOENCODING": "latin-1", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (0, b'"hello \\u20ac "\n')
