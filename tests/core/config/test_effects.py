"""Each setting does what it says, on every way in: a row for each, which a new one needs too."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from omniq import AsyncOmniQ, TaskQueue
from omniq.backend import (
    BaseBackend,
    FileBackend,
    MemoryBackend,
    NATSBackend,
    PostgresBackend,
    RedisBackend,
    SQLiteBackend,
)
from omniq.cli.options import Place
from omniq.config import EnvConfig, LoggingConfig, OmniQConfig, Settings, WorkerChoice
from omniq.config import settings as settings_module
from omniq.config.convert import convert
from omniq.config.described import leaves
from omniq.config.loader import config_of
from omniq.config.settings import SETTING_PLACES, apply, from_settings
from omniq.errors import FunctionNotFound, InvalidTask, PayloadTooLarge, SerializationError
from omniq.events import AsyncEventLogger
from omniq.models import EventType, WorkerConfig
from omniq.queue import AsyncTaskQueue, FileTaskQueue, SQLiteTaskQueue
from omniq.queue.request import read_call
from omniq.results import AsyncResultStorage
from omniq.storage import FileEventStorage, FileResultStorage, SQLiteEventStorage, SQLiteResultStorage
from omniq.storage.records import EventFilter
from omniq.workers import AsyncWorker, AsyncWorkerPool, ProcessPoolWorker, ThreadPoolWorker
from omniq_gevent.worker import GeventPoolWorker

from tests.core import tasks

WORKERS: Final = {
    "async": AsyncWorker,
    "thread": ThreadPoolWorker,
    "process": ProcessPoolWorker,
    "gevent": GeventPoolWorker,
}


@pytest.fixture(autouse=True)
def levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's levels are as they were afterwards."""
    before = logging.getLogger("omniq").level
    monkeypatch.setattr(settings_module._levels, "in_code", False)
    monkeypatch.setattr(settings_module._levels, "adopted", None)
    yield
    apply(LoggingConfig())
    logging.getLogger("omniq").setLevel(before)


# ── ways in ──────────────────────────────────────────────────────────────────


@dataclass
class Subject:
    """What somebody works with, however it was made."""

    queue: AsyncTaskQueue[Any]
    results: AsyncResultStorage[Any]
    logger: AsyncEventLogger | None
    pool: Callable[[str | None], AsyncWorkerPool]
    """A worker of a kind; None: of the one that is configured."""

    async def enqueue(self, func: Callable[..., Any] = tasks.nothing, *args: Any, **options: Any) -> str:
        """Add a task."""
        return await self.queue.enqueue(func, list(args), **options)

    async def task(self, **options: Any) -> Any:
        """A task that says nothing itself."""
        return await self.queue.get_task(await self.enqueue(**options))

    async def close(self) -> None:
        """Give back what was opened."""
        await self.queue.close()
        await self.results.close()


Given = Mapping[str, str]
"""Settings, as variables have them."""


def of(oq: AsyncOmniQ) -> Subject:
    """What an OmniQ works with."""
    return Subject(oq.task_queue, oq.result_store, oq._event_logger, oq.worker_pool)


def layer(given: Given) -> dict[str, Any]:
    """The settings in the shape of a file."""
    said = from_settings(EnvConfig({f"OMNIQ_{name}": text for name, text in given.items()}).given())
    plain: dict[str, Any] = convert(_plain(said), dict[str, Any])
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value.value if hasattr(value, "value") else value


def set_all(monkeypatch: pytest.MonkeyPatch, given: Given) -> None:
    """Set the variables."""
    for name, text in given.items():
        monkeypatch.setenv(f"OMNIQ_{name}", text)


def write(folder: Path, given: Given) -> Path:
    """A file that says it."""
    file = folder / "omniq.yaml"
    file.write_text(yaml.safe_dump(layer(given)))
    return file


def by_environment(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    set_all(monkeypatch, given)
    return of(AsyncOmniQ())


def by_file(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    return of(AsyncOmniQ.from_config_file(write(folder, given)))


def by_omniq_config(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setenv("OMNIQ_CONFIG", str(write(folder, given)))
    return of(AsyncOmniQ())


def by_dict(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    return of(AsyncOmniQ.from_dict(layer(given)))


def by_struct(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    return of(AsyncOmniQ.from_config(convert(layer(given), OmniQConfig)))


def by_command(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    place = Place(config=str(write(folder, given)))
    oq = place.open()
    place.set_up_logging()
    return of(oq)


def by_variables_of_a_file(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Each scalar stands in a variable that the file names."""
    count = 0

    def hidden(value: Any) -> Any:
        nonlocal count
        if isinstance(value, dict):
            return {name: hidden(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [hidden(inner) for inner in value]
        count += 1
        text = str(value).lower() if isinstance(value, bool) else str(value)
        monkeypatch.setenv(f"VALUE_{count}", text)
        return f"${{VALUE_{count}}}"

    file = folder / "omniq.yaml"
    file.write_text(yaml.safe_dump(hidden(layer(given))))
    return of(AsyncOmniQ.from_config_file(file))


def by_hand(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    set_all(monkeypatch, given)
    return made_by_hand(given)


def by_hand_beside_a_file(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setenv("OMNIQ_CONFIG", str(write(folder, given)))
    return made_by_hand(given)


def made_by_hand(given: Given) -> Subject:
    """Components and workers that are told nothing in code."""
    files = "FSSPEC_URI" in given
    queue = (FileTaskQueue() if files else SQLiteTaskQueue()).aio
    results = (FileResultStorage() if files else SQLiteResultStorage()).aio
    events = (FileEventStorage() if files else SQLiteEventStorage()).aio
    logger = AsyncEventLogger(events.store)
    with_events = queue.as_part(events=logger)
    return Subject(with_events, results, logger, lambda kind: WORKERS[kind or "async"](queue).pool())


def by_backend(given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    set_all(monkeypatch, given)
    return of(AsyncOmniQ.from_backend(FileBackend() if "FSSPEC_URI" in given else SQLiteBackend()))


Way = Callable[[Given, Path, pytest.MonkeyPatch], Subject]
WHOLE: Final[tuple[Way, ...]] = (
    by_environment,
    by_file,
    by_omniq_config,
    by_dict,
    by_struct,
    by_command,
    by_variables_of_a_file,
)
"""Ways to say a whole configuration."""
MADE: Final[tuple[Way, ...]] = (by_hand, by_hand_beside_a_file)
"""Ways on which a class says which store or worker is meant."""


# ── effects ──────────────────────────────────────────────────────────────────


Effect = Callable[[Subject], Any]


def effect(function: Callable[..., Any], *args: Any) -> Effect:
    """What a function of the subject and of these arguments shows."""
    return lambda subject: function(subject, *args)


def location(subject: Subject, part: str, wanted: str) -> None:
    found: str = getattr(subject, part).store.location
    assert found.endswith(wanted), found


def is_heard(subject: Subject, name: str, level: int, heard: bool) -> None:
    assert logging.getLogger(name).isEnabledFor(level) is heard


async def takes_queue(subject: Subject) -> None:
    assert (await subject.task(queue_name="high")).queue_name == "high"
    with pytest.raises(InvalidTask, match="queue_name"):
        await subject.enqueue(queue_name="lowest")


async def refuses_dill(subject: Subject) -> None:
    with pytest.raises(SerializationError):
        await subject.enqueue(lambda: 1)


async def refuses_large(subject: Subject) -> None:
    with pytest.raises(PayloadTooLarge, match="max_body"):
        await subject.enqueue(tasks.add, "x" * 2000, "y")


async def keeps(subject: Subject, *types: EventType) -> None:
    assert subject.logger is not None
    await subject.queue.cancel(await subject.enqueue())
    await subject.logger.flush()
    found = await subject.logger.store.query(EventFilter(), oldest_first=True, limit=10)
    assert tuple(event.type for event in found.events) == types


async def forgets_events(subject: Subject) -> None:
    assert subject.logger is not None
    before = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=30)).timestamp()
    subject.logger.log(EventType.ENQUEUED, time=before)
    await subject.logger.flush()
    assert await subject.logger.purge() == 1


async def buffers(subject: Subject) -> None:
    assert subject.logger is not None
    for _ in range(5):
        subject.logger.log(EventType.ENQUEUED)
    assert subject.logger.dropped == 3
    await subject.logger.flush()


def works_as(subject: Subject, kind: str | None, name: str, value: Any) -> None:
    pool = subject.pool(kind)
    assert getattr(pool if name in ("kind", "max_workers") else pool.config, name) == value


async def tells(subject: Subject, name: str, value: Any) -> None:
    assert getattr(await subject.task(), name) == value


async def tells_unless_told(subject: Subject, option: str, name: str, value: Any) -> None:
    """None is apart from unset."""
    assert getattr(await subject.task(), name) == value
    assert getattr(await subject.task(**{option: None}), name) is None


async def expires(subject: Subject) -> None:
    task = await subject.task()
    assert task.expires_at - task.run_at == dt.timedelta(seconds=90)
    assert (await subject.task(ttl=None)).expires_at is None


async def retries(subject: Subject, name: str, value: float) -> None:
    (record,) = await subject.queue.store.get([await subject.enqueue()])
    assert record is not None
    rule = read_call(record, subject.queue.serialization).retry
    assert getattr(rule, name) == value


def breaks(subject: Subject, name: str, value: float) -> None:
    stores: list[Any] = [subject.queue.store, subject.results.store]
    assert [getattr(store.breaker.config, name) for store in stores] == [value, value]


def resolves(subject: Subject) -> None:
    assert subject.queue.serialization.resolve("tests.core.tasks:nothing") is tasks.nothing
    with pytest.raises(FunctionNotFound, match="allowed_modules"):
        subject.queue.serialization.resolve("posix:getpid")


def secured(subject: Subject, name: str, value: Any) -> None:
    assert getattr(subject.queue.security, name) == value


@dataclass(frozen=True)
class Row:
    """What a setting does."""

    text: str
    """Its value, as the variable has it; `{folder}` is that of the test."""
    effect: Effect
    beside: dict[str, str] = field(default_factory=dict)
    """What else is set."""
    ways: tuple[Way, ...] = (*WHOLE, *MADE, by_backend)


NOT_MADE: Final = (*WHOLE, by_backend)
UNTIL: Final = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
KEY: Final = "k" * 32

ROWS: Final[Mapping[str, Row]] = {
    "PROJECT_NAME": Row("shop", effect(location, "queue", "/shop.db")),
    "BASE_DIR": Row("{folder}/there", effect(location, "queue", "/there/default.db")),
    "FSSPEC_URI": Row("file://{folder}/files", effect(location, "queue", "/files/default")),
    "LOG_LEVEL": Row("INFO", effect(is_heard, "omniq.queue", logging.INFO, True)),
    "DISABLE_LOGGING": Row("1", effect(is_heard, "omniq.queue", logging.CRITICAL, False)),
    "COMPONENT_LOG_LEVELS": Row('{"queue": "ERROR"}', effect(is_heard, "omniq.queue", logging.WARNING, False)),
    "TASK_QUEUE_TYPE": Row("file", effect(location, "queue", "/default"), ways=WHOLE),
    "TASK_QUEUE_URL": Row("sqlite:///{folder}/url.db", effect(location, "queue", "/url.db")),
    "QUEUES": Row("high,low", takes_queue),
    "SERIALIZER": Row("msgspec", refuses_dill),
    "MAX_BODY": Row("1000", refuses_large),
    "RESULT_STORAGE_TYPE": Row("file", effect(location, "results", "/default"), ways=WHOLE),
    "RESULT_STORAGE_URL": Row(
        "sqlite:///{folder}/results.db", effect(location, "results", "/results.db"), ways=(*WHOLE, *MADE)
    ),
    "EVENT_STORAGE_TYPE": Row("file", effect(location, "logger", "/default"), ways=WHOLE),
    "EVENT_STORAGE_URL": Row(
        "sqlite:///{folder}/events.db", effect(location, "logger", "/events.db"), ways=(*WHOLE, *MADE)
    ),
    "EVENT_LOGGING": Row("false", effect(keeps)),
    "EVENT_TYPES": Row("cancelled", effect(keeps, EventType.CANCELLED)),
    "EVENT_LEVEL": Row("INFO", effect(keeps, EventType.CANCELLED)),
    "EVENT_RETENTION": Row("20", forgets_events),
    "EVENT_BUFFER": Row("2", buffers),
    "DEFAULT_WORKER": Row("thread", effect(works_as, None, "kind", "thread"), ways=NOT_MADE),
    "WORKER_OPTIONS": Row('{"thread": {"max_abandoned": 5}}', effect(works_as, "thread", "max_abandoned", 5)),
    "MAX_WORKERS": Row("3", effect(works_as, "async", "max_workers", 3)),
    "THREAD_WORKERS": Row("4", effect(works_as, "thread", "max_workers", 4), {"MAX_WORKERS": "3"}),
    "PROCESS_WORKERS": Row("4", effect(works_as, "process", "max_workers", 4), {"MAX_WORKERS": "3"}),
    "GEVENT_WORKERS": Row("4", effect(works_as, "gevent", "max_workers", 4), {"MAX_WORKERS": "3"}),
    "TASK_TIMEOUT": Row("5", effect(tells_unless_told, "timeout", "timeout", 5.0)),
    "TASK_TTL": Row("90", expires),
    "RETRY_ATTEMPTS": Row("7", effect(tells, "max_retries", 7)),
    "RETRY_DELAY": Row("2.5", effect(tells, "retry_delay", 2.5)),
    "RETRY_FACTOR": Row("3", effect(retries, "factor", 3.0)),
    "RETRY_MAX_DELAY": Row("77", effect(retries, "maximum", 77.0)),
    "RETRY_JITTER": Row("0.25", effect(retries, "jitter", 0.25)),
    "RESULT_TTL": Row("60", effect(tells_unless_told, "result_ttl", "result_ttl", 60.0)),
    "BREAKER_FAILURES": Row("9", effect(breaks, "failures", 9)),
    "BREAKER_WINDOW": Row("9", effect(breaks, "window", 9.0)),
    "BREAKER_PAUSE": Row("0.2", effect(breaks, "pause", 0.2)),
    "BREAKER_MAX_PAUSE": Row("0.4", effect(breaks, "max_pause", 0.4)),
    "RETENTION": Row("4000", effect(works_as, "async", "retention", 4000.0)),
    "DEAD_LETTER_RETENTION": Row("5000", effect(works_as, "async", "dead_letter_retention", 5000.0)),
    "SIGNING_KEY": Row(KEY, effect(secured, "signing_key", KEY)),
    "ACCEPT_UNSIGNED_UNTIL": Row(
        "2100-01-01T00:00:00Z", effect(secured, "accept_unsigned_until", UNTIL.timestamp()), {"SIGNING_KEY": KEY}
    ),
    "ALLOWED_MODULES": Row("tests.core.tasks", resolves),
}
CASES: Final = [
    pytest.param(name, way, id=f"{name}-{way.__name__[3:]}") for name, row in ROWS.items() for way in row.ways
]


@pytest.mark.parametrize(("name", "way"), CASES)
async def test_a_setting_has_its_effect(name: str, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[name]
    monkeypatch.chdir(tmp_path)
    given = {"BASE_DIR": f"{tmp_path}/base", "EVENT_STORAGE_TYPE": "sqlite", **row.beside}
    if name == "FSSPEC_URI":
        given["EVENT_STORAGE_TYPE"] = "file"
    given[name] = row.text.replace("{folder}", str(tmp_path))
    subject = way(given, tmp_path, monkeypatch)
    try:
        shown = row.effect(subject)
        if inspect.isawaitable(shown):
            await shown
    finally:
        await subject.close()


def test_each_setting_has_a_row() -> None:
    assert set(ROWS) == set(Settings.__dataclass_fields__)


# ── what only a configuration has: workers' and stores' own fields ────────────


OF_WORKERS: Final[Mapping[str, Any]] = {
    "max_workers": 3,
    "queues": ["default"],
    "prefetch": 5,
    "lease": 20.0,
    "reap_interval": 2.0,
    "stall_timeout": 400.0,
    "grace_period": 4.0,
    "poll_interval": 0.5,
    "policy": "weighted",
    "max_crashes": 5,
    "retention": 4000.0,
    "dead_letter_retention": None,
    "max_abandoned": 7,
    "max_tasks_per_child": 8,
    "max_memory_per_child": 1 << 30,
    "initializer": "tests.core.tasks:nothing",
}
"""A value for each field of a worker's configuration, which isn't its default."""
WORKER_CASES: Final = [(kind, name) for kind in WORKERS for name in config_of(kind).__struct_fields__]


@pytest.mark.parametrize(("kind", "name"), WORKER_CASES)
def test_what_a_worker_is_told_holds(kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, common = OF_WORKERS[name], name in WorkerConfig.__struct_fields__
    monkeypatch.chdir(tmp_path)
    said = {"config": {name: value}} if common else {"options": {kind: {name: value}}}
    file = tmp_path / "omniq.yaml"
    file.write_text(yaml.safe_dump({"worker": {"type": kind, **said}}))
    options = {"worker": {"options": {kind: {name: value}}}}
    struct = OmniQConfig(worker=WorkerChoice(type=kind, options={kind: {name: value}}))
    pools = [
        AsyncOmniQ.from_config_file(file).worker_pool(),
        AsyncOmniQ.from_dict(options).worker_pool(kind),
        AsyncOmniQ.from_config(struct).worker_pool(),
        AsyncOmniQ(worker_type=kind, worker_config={name: value}).worker_pool(),
        AsyncOmniQ().worker_pool(kind, **{name: value}),
        AsyncOmniQ.from_backend(SQLiteBackend(), worker_type=kind, worker_config={name: value}).worker_pool(),
        WORKERS[kind](SQLiteTaskQueue(), **{name: value}).pool(),
        WORKERS[kind]("sqlite", **{name: value}).pool(),
        WORKERS[kind].from_config_file(file).pool(),
        WORKERS[kind].from_dict(options).pool(),
        WORKERS[kind].from_config(struct).pool(),
    ]
    monkeypatch.setenv("OMNIQ_WORKER_OPTIONS", json.dumps({kind: {name: value}}))
    pools += [AsyncOmniQ().worker_pool(kind), WORKERS[kind](SQLiteTaskQueue()).pool()]
    monkeypatch.delenv("OMNIQ_WORKER_OPTIONS")
    monkeypatch.setenv("OMNIQ_CONFIG", str(file))
    pools += [AsyncOmniQ().worker_pool(), WORKERS[kind](SQLiteTaskQueue()).pool()]
    assert [getattr(pool.config, name) for pool in pools] == [value] * len(pools)
    assert getattr(config_of(kind)(), name) != value or name == "queues"


STORES: Final[Mapping[str, tuple[type[BaseBackend], Mapping[str, Any]]]] = {
    "sqlite": (
        SQLiteBackend,
        {"base_dir": "/a/b", "path": "/a/b.db", "synchronous": "NORMAL", "busy_timeout": 3.0, "trust_owner": True},
    ),
    "postgres": (
        PostgresBackend,
        {
            "host": "h",
            "port": 5433,
            "username": "u",
            "password": "p",
            "database": "d",
            "schema": "s",
            "pool_size": 7,
            "statement_cache_size": 5,
            "notify": False,
            "timeout": 3.0,
            "sslmode": "require",
            "sslrootcert": "/ca",
            "sslcert": "/c",
            "sslkey": "/k",
        },
    ),
    "redis": (
        RedisBackend,
        {
            "host": "h",
            "port": 7000,
            "unix_socket_path": "/s",
            "db": 3,
            "username": "u",
            "password": "p",
            "nodes": ["a:1"],
            "cluster": True,
            "sentinel_master": "m",
            "sentinel_username": "u",
            "sentinel_password": "p",
            "ssl": True,
            "ssl_ca_certs": "/ca",
            "ssl_certfile": "/c",
            "ssl_keyfile": "/k",
            "prefix": "jobs",
            "timeout": 3.0,
        },
    ),
    "nats": (
        NATSBackend,
        {
            "host": "h",
            "port": 4000,
            "servers": ["a:1"],
            "username": "u",
            "password": "p",
            "token": "t",
            "credentials": "/c",
            "nkey_seed": "/n",
            "ssl": True,
            "ssl_ca_certs": "/ca",
            "ssl_certfile": "/c",
            "ssl_keyfile": "/k",
            "prefix": "jobs",
            "replicas": 3,
            "monitor_url": "http://h:8222",
            "timeout": 3.0,
        },
    ),
    "file": (
        FileBackend,
        {"base_dir": "/a/b", "storage_options": {"auto_mkdir": True}, "fsync": False, "trust_owner": True},
    ),
    "memory": (MemoryBackend, {"base_dir": "elsewhere"}),
}
"""A value for each field of a store's configuration, which isn't its default."""
OF_QUEUES: Final[Mapping[str, Any]] = {
    "project_name": "shop",
    "queues": ["high"],
    "serializer": "msgspec",
    "max_body": 1000,
}
"""The same for what all task queues have."""
NEEDS: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("redis", "nodes"): {"cluster": True},
    ("nats", "password"): {"username": "u"},
}
"""What else must be said for a field to make sense."""
STORE_CASES: Final = [
    (store, name) for store, (backend, _) in STORES.items() for name in backend.config_class.__struct_fields__
]


@pytest.mark.parametrize(("store", "name"), STORE_CASES)
def test_what_a_store_is_told_holds(store: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, values = STORES[store]
    monkeypatch.chdir(tmp_path)
    value = {**OF_QUEUES, **values}[name]
    said = {**NEEDS.get((store, name), {}), name: value}
    choice = {"type": store, "config": said}
    file = tmp_path / "omniq.yaml"
    file.write_text(yaml.safe_dump({"task_queue": choice}))
    struct = backend.config_class(**said)
    queues: list[Any] = [
        AsyncOmniQ(task_queue=choice).task_queue,
        AsyncOmniQ(task_queue=struct).task_queue,
        AsyncOmniQ(task_queue=backend(**said)).task_queue,
        AsyncOmniQ.from_config_file(file).task_queue,
        AsyncOmniQ.from_dict({"task_queue": choice}).task_queue,
        TaskQueue.from_config_file(file).aio,
        TaskQueue.from_dict(choice).aio,
        TaskQueue.from_config(struct).aio,
        TaskQueue.from_backend(backend(**said)).aio,
        TaskQueue.from_backend(backend.from_dict(said)).aio,
        TaskQueue.from_backend(backend.from_config(struct)).aio,
        AsyncWorker(choice)._queue,
        AsyncWorker(struct)._queue,
    ]
    monkeypatch.setenv("OMNIQ_CONFIG", str(file))
    make: Callable[..., BaseBackend] = backend
    queues += [AsyncOmniQ().task_queue, TaskQueue.from_backend(make()).aio, AsyncWorker(store)._queue]
    assert [getattr(queue.config, name) for queue in queues] == [getattr(struct, name)] * len(queues)
    assert getattr(backend.config_class(), name) != getattr(struct, name)


def test_each_value_of_the_configuration_has_a_row() -> None:
    paths = {path for path in leaves(OmniQConfig()) if path not in ("task_queue", "result_store", "event_store")}
    rows = {*SETTING_PLACES.values(), *(f"worker.config.{name}" for name in OF_WORKERS)}
    assert paths - rows == set()
    assert {name for kind in WORKERS for name in config_of(kind).__struct_fields__} == set(OF_WORKERS)
    for backend, values in STORES.values():
        assert set(backend.config_class.__struct_fields__) == {*values, *OF_QUEUES}
