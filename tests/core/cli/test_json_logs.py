"""`omniq worker --json-logs`: whatever is said is one JSON object on one line."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omniq import logs
from omniq.logs import JsonFormatter, log_as_json
from omniq.workers.execution import LogSettings

from tests.core.cli import tasks as cli_tasks
from tests.core.cli.process import WorkerProcess
from tests.core.support import front_door, sqlite_place


def objects(worker: WorkerProcess) -> list[dict[str, Any]]:
    """What a worker has said, line by line."""
    return [json.loads(line) for line in worker.said]


def formatted(
    message: object = "hello", *args: object, error: BaseException | None = None, **extra: Any
) -> dict[str, Any]:
    """The line of a record, read again."""
    known = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("shop", logging.WARNING, __file__, 1, message, args, known)
    vars(record).update(extra)
    line = JsonFormatter({"worker": "w"}).format(record)
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


# ── a worker ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["thread", "process", "gevent"])
async def test_what_a_worker_and_its_tasks_say_is_json(tmp_path: Path, kind: str) -> None:
    async with front_door(sqlite_place(tmp_path)) as oq:
        task_id = await oq.enqueue(cli_tasks.log_everything)
        url = f"sqlite:///{tmp_path}/omniq.db?synchronous=NORMAL"
        with WorkerProcess(url, "--type", kind, "--json-logs", "--burst", directory=tmp_path) as worker:
            assert worker.ends() == 0
    told = objects(worker)
    name = told[0]["message"].split()[1]
    assert " serves " in told[0]["message"]
    assert " has stopped after " in told[-1]["message"]
    assert {line["worker"] for line in told} == {name}
    ours = [line for line in told if line["logger"] == "shop"]
    assert [line["task"] for line in ours] == [task_id] * 3
    assert ours[0]["message"] == "two\nlines and \ud800 漢字 of text"
    assert ours[0]["extra"] == {"order": 7, "odd": "{1, 2}"}
    assert ours[1]["message"].startswith("one %s too many (its arguments can't be put in: ")
    assert ours[2]["exc"].endswith("ValueError: one\ntwo")
    (warning,) = (line for line in told if line["logger"] == "py.warnings")
    assert "mind\nthe gap" in warning["message"]
    (uncaught,) = (line for line in told if "ends the thread" in line["message"])
    assert (uncaught["level"], uncaught["exc"][-7:]) == ("ERROR", "one\ntwo")
    times = [dt.datetime.fromisoformat(line["ts"]) for line in told]
    assert all(time.utcoffset() == dt.timedelta(0) and time.year > 2024 for time in times)


@pytest.mark.parametrize(
    ("url", "arguments", "complaint"),
    [
        ("nowhere://x", [], "unknown backend 'nowhere'"),
        (None, ["nowhere:oq", "--debug"], "APP: there is no module 'nowhere' here"),
    ],
)
def test_what_keeps_it_from_starting_is_json_too(
    tmp_path: Path, url: str | None, arguments: list[str], complaint: str
) -> None:
    with WorkerProcess(url, *arguments, "--json-logs", directory=tmp_path) as worker:
        assert worker.ends() == 2
    *tracebacks, line = objects(worker)
    assert line["level"] == "ERROR"
    assert complaint in line["message"]
    assert len(tracebacks) == ("--debug" in arguments)


# ── a line ───────────────────────────────────────────────────────────────────


class Unprintable(Exception):
    """An error that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_a_line_says_when_how_bad_and_by_whom() -> None:
    line = formatted("hello %s", "you", created=0.5)
    assert line == {
        "ts": "1970-01-01T00:00:00.500Z",
        "level": "WARNING",
        "logger": "shop",
        "message": "hello you",
        "worker": "w",
    }


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        (float("nan"), "nan"),
        (b"bytes", "b'bytes'"),
        (Unprintable(), "<it can't be shown: RuntimeError>"),
        ("line\u2028 sep\x85", "line\u2028 sep\x85"),
    ],
)
def test_what_is_told_besides_is_kept_as_far_as_json_goes(value: object, as_json: object) -> None:
    assert formatted(order=value)["extra"] == {"order": as_json}


def test_nothing_keeps_a_line_from_being_written() -> None:
    assert "can't be put in: RuntimeError" in formatted("%s", Unprintable())["message"]
    assert "Unprintable" in formatted(error=Unprintable())["exc"]
    assert formatted(Unprintable())["message"].startswith("(it can't be shown")
    assert formatted("x" * 1_000_000)["message"] == "x" * 1_000_000


# ── a process ────────────────────────────────────────────────────────────────


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.Handler]]:
    """The root logger's handlers, none yet; all that is changed is undone."""
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging.root, "handlers", handlers)
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    yield handlers
    logging.captureWarnings(False)


def test_a_programs_own_handlers_write_json_to_standard_streams_only(
    as_before: list[logging.Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr, file = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    to_file, to_stderr = logging.StreamHandler(file), logging.StreamHandler(stderr)
    as_before[:] = [to_file, to_stderr]
    log_as_json({"worker": "w"})
    assert as_before == [to_file, to_stderr]
    assert to_file.formatter is None
    logging.getLogger("shop").warning("hello")
    assert json.loads(stderr.getvalue())["worker"] == "w"
    assert file.getvalue() == "hello\n"


def test_levels_keep_nothing_from_being_told(as_before: list[logging.Handler], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not logs.tell(logging.ERROR, "nobody writes JSON here")
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    log_as_json()
    monkeypatch.setattr(logging.getLogger("omniq"), "level", logging.CRITICAL + 1)
    assert logs.tell(logging.INFO, "hello")
    assert json.loads(stderr.getvalue())["message"] == "hello"


def test_it_travels_to_child_processes(as_before: list[logging.Handler]) -> None:
    assert LogSettings.of_this_process().about is None
    log_as_json({"worker": "w"})
    settings = LogSettings.of_this_process()
    assert settings.about == {"worker": "w"}
    as_before.clear()
    settings.apply()
    (handler,) = as_before
    assert isinstance(handler.formatter, JsonFormatter)
    assert handler.formatter.about == {"worker": "w"}
