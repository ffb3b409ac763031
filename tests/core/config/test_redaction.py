"""Secrets appear in no error, no repr and no log."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from omniq import OmniQ
from omniq.config import ConfigProvider, EnvConfig, mask_url, redact
from omniq.config.choices import resolve
from omniq.config.loader import Security
from omniq.errors import ConfigError, OmniQError
from omniq.models.result import Outcome, ResultStatus, StoredValue, TaskResult
from omniq.models.schedule import Timing
from omniq.models.task import Call, TaskState
from omniq.queue import SQLiteTaskQueue
from omniq.queue.options import TaskCall, TaskOptions
from omniq.serialization import CallOptions, LoadedCall, ScheduledCall
from omniq.serialization.parents import ParentResult, ResultOf
from omniq.storage.records import Change, NewBody, NewTask, ResultRecord, ScheduleRecord, TaskRecord
from omniq.workers.jobs import Job, RunResult, RunStatus
from omniq.workers.messages import GivenTask

SECRET = "hunter2"


def load_and_resolve(source: dict[str, Any], environ: dict[str, str]) -> None:
    config = ConfigProvider(source, environ=environ).load()
    resolve("task_queue", config.task_queue, None)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        (f"postgresql://me:{SECRET}@host/db", "postgresql://me:***@host/db"),
        (f"nats://{SECRET}@host:4222", "nats://***@host:4222"),
        (f"redis://me:a/{SECRET}#b@host", "redis://me:***@host"),
        (f"redis://me:a@{SECRET}@host", "redis://me:***@host"),
        (f"postgresql://host/db?user=me&password={SECRET}&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        (f"s3://bucket?secret_key={SECRET}", "s3://bucket?secret_key=***"),
        (f"nats://a:{SECRET}@h1,nats://b:{SECRET}@h2", "nats://a:***@h2"),
        (f"can't reach 'redis://me:{SECRET}@host': refused", "can't reach 'redis://me:***@host': refused"),
        (f"me:{SECRET}@host/db", "me:***@host/db"),
        (f"can't read 'me:{SECRET}@host'", "can't read 'me:***@host'"),
        (f"{SECRET}@host", "***@host"),
        ("sqlite:///some/file.db", "sqlite:///some/file.db"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("no url at all", "no url at all"),
    ],
)
def test_urls_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_masking_a_long_text_takes_no_time_that_grows_with_its_square() -> None:
    assert mask_url("a" * 200_000) == "a" * 200_000
    assert mask_url("?" * 200_000) == "?" * 200_000
    assert mask_url("a:" * 100_000) == "a:" * 100_000
    assert mask_url(" a" * 100_000) == " a" * 100_000


def test_data_is_redacted_by_the_names_of_its_keys() -> None:
    data = {
        "host": "h",
        "password": SECRET,
        "storage_options": {"key": SECRET, "secret": SECRET, "account_name": "me", "connection_string": SECRET},
        "urls": [f"redis://:{SECRET}@h", 5],
        "token": None,
        5: "x",
    }
    assert redact(data) == {
        "host": "h",
        "password": "***",
        "storage_options": {"key": "***", "secret": "***", "account_name": "me", "connection_string": "***"},
        "urls": ["redis://:***@h", 5],
        "token": None,
        5: "x",
    }


def test_no_repr_shows_a_secret() -> None:
    choice = {"url": f"redis://:{SECRET}@h", "config": {"password": SECRET, "nested": {"token": SECRET}}}
    config = ConfigProvider({"task_queue": choice, "signing_key": SECRET * 3}, environ={}).load()
    settings = EnvConfig({"OMNIQ_SIGNING_KEY": SECRET * 3, "OMNIQ_TASK_QUEUE_URL": f"redis://:{SECRET}@h"}).settings()
    for shown in (repr(config), repr(config.task_queue), f"{config}", repr(settings)):
        assert SECRET not in shown
        assert "***" in shown
    assert config.task_queue is not None
    assert config.task_queue.config["password"] == SECRET


@pytest.mark.parametrize(
    ("source", "environ"),
    [
        ({"task_queue": {"type": "sqlite", "url": f"redis://:{SECRET}@h"}}, {}),
        ({"task_queue": {"url": f"amqp://me:{SECRET}@h"}}, {}),
        ({"task_queue": {"url": f"redis://me:{SECRET}@h:port"}}, {}),
        ({"task_queue": {"url": f"postgresql://me:{SECRET}@h:port/d"}}, {}),
        ({"task_queue": {"url": f"sqlite://me:{SECRET}@h/x.db"}}, {}),
        ({"task_queue": {"url": f"sqlite:///x.db?password={SECRET}"}}, {}),
        ({"task_queue": {"type": "sqlite", "config": {"password": SECRET}}}, {}),
        ({"task_queue": {"type": "sqlite", "config": {"base_dir": {"password": SECRET}}}}, {}),
        ({}, {"OMNIQ_TASK_QUEUE_URL": f"amqp://:{SECRET}@h"}),
        ({"signing_key": [SECRET]}, {}),
    ],
)
def test_no_error_shows_a_secret(source: dict[str, Any], environ: dict[str, str]) -> None:
    with pytest.raises(OmniQError) as caught:
        load_and_resolve(source, environ)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f"password: *{SECRET}",
        f"password: !!int {SECRET}",
        f"password: !!float {SECRET}",
        f"password: !!bool {SECRET}",
        f"password: !!timestamp {SECRET}",
        f'password: !!int "{SECRET}\'\\""',
        f"password: !{SECRET}",
        f"password: !{SECRET}!x y",
        f"password: !<{SECRET}> y",
        f"password: !!python/object/apply:os.{SECRET} []",
        f"x: &{SECRET} 1\ny: &{SECRET} 2",
        f"password: {{{SECRET}, {SECRET}}}",
        f"password: %{SECRET}",
        f"password: @{SECRET}",
        f"password: \t{SECRET}",
        f'password: "\\{SECRET}"',
        f'password: "{SECRET}',
        f"password: [{SECRET}",
        f"password: |{SECRET}",
        f"password: &{SECRET}* x",
        f"password: {SECRET}: x",
        f"? [{SECRET}]\n: 1",
        f"%YAML {SECRET}\n---\na: 1",
        f"{SECRET}\n---\n{SECRET}",
        f"- {SECRET}",
        SECRET,
        f"task_queue: {{'redis://:{SECRET}@h': 1}}",
        f"logging: {{level: 'redis://:{SECRET}@h'}}",
        f"worker: {{config: {{queues: ['redis://:{SECRET}@h']}}}}",
    ],
)
def test_no_mistake_in_a_file_is_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ConfigProvider(path, environ={}).load()
    assert str(path) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        "ALLOWED_MODULES",
        "COMPONENT_LOG_LEVELS",
        "CONFIG",
        "EVENT_STORAGE_TYPE",
        "LOG_LEVEL",
        "MAX_WORKERS",
        "PROJECT_NAME",
        "QUEUES",
        "RESULT_STORAGE_TYPE",
        "SERIALIZER",
        "TASK_QUEUE_TYPE",
    ],
)
def test_a_url_in_the_wrong_variable_is_masked(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"OMNIQ_{name}", f"redis://me:{SECRET}@host:6379/0")
    try:
        shown = repr(OmniQ())
    except OmniQError as error:
        shown = "".join(traceback.format_exception(error))
    assert SECRET not in shown


def test_a_url_in_the_place_of_a_file_is_masked() -> None:
    for read in (OmniQ.from_config_file, SQLiteTaskQueue.from_config_file):
        with pytest.raises(ConfigError, match=r"redis://me:\*\*\*@host/0: No such file") as caught:
            read(f"redis://me:{SECRET}@host/0")
        assert SECRET not in "".join(traceback.format_exception(caught.value))


CALL = Call(func="m:f", args=SECRET.encode(), args_format="m", metadata={"note": SECRET})
RECORDS: list[object] = [
    CALL,
    NewTask(id="t1", queue_name="q", body=SECRET.encode()),
    NewBody(task_id="t1", old=SECRET.encode(), body=SECRET.encode()),
    TaskRecord(
        id="t1",
        queue_name="q",
        body=SECRET.encode(),
        state=TaskState.PENDING,
        priority=0,
        created_at=0.0,
        run_at=0.0,
    ),
    PARENT := ParentResult("m", SECRET.encode()),
    ParentResult(error="TaskFailed", about=("t1", "ValueError", SECRET)),
    ResultOf("t1", SECRET),
    RESULT := ResultRecord(task_id="t1", epoch=1, status=TaskState.SUCCESS, body=SECRET.encode()),
    Change(task_id="t1", to=TaskState.SUCCESS, from_states=(), result=RESULT),
    ScheduleRecord(id="t1", queue_name="q", body=SECRET.encode(), next_run=None),
    Outcome(value=SECRET.encode(), error_message=SECRET, traceback=SECRET, worker="t1"),
    LoadedCall(print, [SECRET], {"x": SECRET}),
    ScheduledCall(timing=Timing(interval=1.0), call=CALL),
    CallOptions(metadata={"note": SECRET}),
    RunResult(end=RunStatus.ERROR, value=SECRET.encode(), error_message=SECRET, traceback=SECRET),
    GivenTask(0, "t1", "q", 1, 0, None, CALL, (PARENT,)),
    TaskCall(func=print, func_args=[SECRET], options={"metadata": {"note": SECRET}}),
    TaskOptions(metadata={"note": SECRET}, task_id="t1"),
    TaskResult(task_id="t1", status=ResultStatus.ERROR, stored=StoredValue.of(SECRET), error_message=SECRET),
    Security(signing_key=SECRET * 3),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_no_repr_of_a_record_shows_what_users_passed(record: Any) -> None:
    shown = [repr(record), f"{record}", repr([record])]
    if hasattr(record, "__rich_repr__"):  # what rich shows of a local variable in a traceback
        shown.append(repr(list(record.__rich_repr__())))
    assert SECRET not in "".join(shown)
    assert type(record).__name__ in shown[0]


def test_a_job_shows_nothing_of_its_task() -> None:
    record = TaskRecord(
        id="t1", queue_name="q", body=b"", state=TaskState.RUNNING, priority=0, created_at=0.0, run_at=0.0
    )
    assert SECRET not in repr(Job(record, CALL))


def test_a_syntax_error_quotes_no_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "omniq.yaml"
    path.write_text(f"task_queue:\n  config:\n    password: {SECRET}: x")
    with pytest.raises(ConfigError, match=":3:") as caught:
        ConfigProvider(path, environ={}).load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
