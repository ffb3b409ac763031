"""What users need can be imported: all that public signatures mention, and what the specification names.

And public classes explain themselves: docstrings, `inspect.signature`, `help` and `create_autospec`.
"""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
import typing
from collections.abc import Iterator
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import create_autospec

import pytest
from omniq import AsyncOmniQ, CallbackManager, OmniQ
from omniq.backend import Configured
from omniq.events import AsyncEvents, Events
from omniq.queue import AsyncTaskQueue
from omniq.sync import Blocking, Delegated, blocking

FRONTS = (
    "omniq",
    "omniq.backend",
    "omniq.config",
    "omniq.events",
    "omniq.models",
    "omniq.queue",
    "omniq.results",
    "omniq.storage",
    "omniq.testing",
    "omniq.workers",
)
"""What users import from, and whose classes are looked at."""
FOR_PLUGINS = (
    "omniq.errors",
    "omniq.plugins",
    "omniq.serialization",
    "omniq.storage.base",
    "omniq.storage.connected",
    "omniq.storage.documents",
    "omniq.storage.lines",
    "omniq.storage.log_files",
    "omniq.storage.records",
    "omniq.storage.table_set",
    "omniq.storage.table_store",
    "omniq.storage.tables",
    "omniq.storage.wakeups",
    "omniq.sync",
)
"""What those import from, besides, who write a store or a worker; each is a page of `docs/plugins.md` or a kit."""
MADE_BY_OMNIQ = frozenset(
    {
        "AsyncEvents",
        "AsyncScheduler",
        "AsyncTaskDecorator",
        "AsyncTaskFunction",
        "AsyncWorkflow",
        "DependencyResolver",
        "Execution",
        "Explanation",
        "Line",
        "Resigner",
        "TTLManager",
        "TaskContext",
        "TaskDecorator",
        "TaskFunction",
        "Workflow",
    }
)
"""Classes whose objects users get, and never make: what their constructors and class methods take is OmniQ's own."""


BETWEEN_PARTS = ("waits",)
"""Members by which OmniQ's own parts speak to each other."""


def names_of(module: str) -> dict[str, Any]:
    """What a module offers: all that its package names, or that it defines itself."""
    found = importlib.import_module(module)
    names = [name for name in dir(found) if not name.startswith("_")]
    objects = {name: getattr(found, name) for name in names}
    return {
        name: value
        for name, value in objects.items()
        if not isinstance(value, ModuleType)
        and (hasattr(found, "__path__") or getattr(value, "__module__", module) == module or name in table(found))
    }


def table(module: ModuleType) -> dict[str, str]:
    """What a module has lazily."""
    getter = vars(module).get("__getattr__")
    found: dict[str, str] = {} if getter is None else inspect.getclosurevars(getter).nonlocals["homes"]
    return found


PUBLIC = {f"{module}.{name}": value for module in FRONTS for name, value in names_of(module).items()}
IMPORTABLE = {id(value) for module in (*FRONTS, *FOR_PLUGINS) for value in names_of(module).values()}
CLASSES: dict[str, type] = {
    name: value
    for name, value in PUBLIC.items()
    if isinstance(value, type) and value.__module__.partition(".")[0].startswith("omniq")
}


def methods(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """The public methods and properties of a class, and its constructor, as the functions that they are made of."""
    made_by_omniq = cls.__name__ in MADE_BY_OMNIQ
    for name in dir(cls):
        found: Any = inspect.getattr_static(cls, name)
        if name in BETWEEN_PARTS or (name.startswith("_") and (name != "__init__" or made_by_omniq)):
            continue
        if isinstance(found, classmethod) and made_by_omniq:
            continue
        function = function_of(found)
        if isinstance(function, FunctionType) and function.__module__.partition(".")[0].startswith("omniq"):
            yield name, function


def function_of(found: Any) -> Any:
    """The function behind a member of a class."""
    if isinstance(found, staticmethod | classmethod):
        return found.__func__
    if isinstance(found, property):
        return found.fget
    return found._method if isinstance(found, blocking | Delegated) else found


def signatures() -> Iterator[tuple[str, Any]]:
    """Everything public that has annotations."""
    for name, value in PUBLIC.items():
        if name in CLASSES:
            yield from ((f"{name}.{method}", function) for method, function in methods(value))
            if not issubclass(value, Enum):
                yield name, value
        elif isinstance(value, FunctionType):
            yield name, value


def classes_in(annotation: Any) -> Iterator[type]:
    """OmniQ's own classes that an annotation mentions."""
    for part in (annotation, typing.get_origin(annotation)):
        if isinstance(part, type) and part.__module__.partition(".")[0] == "omniq":
            yield part
    for part in typing.get_args(annotation):
        yield from classes_in(part)


def mentioned() -> Iterator[tuple[str, type]]:
    for where, value in signatures():
        for name, annotation in typing.get_type_hints(value).items():
            if not name.startswith("_"):
                yield from ((f"{where} ({name})", found) for found in classes_in(annotation))


def test_every_class_that_a_public_signature_mentions_can_be_imported() -> None:
    hidden = {
        f"{found.__module__}.{found.__qualname__}: in {where}"
        for where, found in mentioned()
        if id(found) not in IMPORTABLE
    }
    assert sorted(hidden) == []


def test_a_walk_meets_many() -> None:
    """So that the test above can't pass by looking at nothing."""
    found = {cls.__name__ for _, cls in mentioned()}
    assert {"TaskCall", "TaskResult", "Guarantees", "TaskContext", "EnqueueOptions", "Timing", "QueueStats"} <= found
    assert len(found) > 80


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_public_classes_and_their_methods_have_docstrings(name: str) -> None:
    cls = CLASSES[name]
    silent = [method for method, function in methods(cls) if not says(cls, method, function)]
    assert says(cls, "", cls)
    assert silent == []


def says(cls: type, name: str, function: Any) -> bool:
    """Whether it has a docstring, of its own or, as `inspect.getdoc` goes, of what it overrides."""
    if name == "__init__" or is_plain_property(cls, name):
        return True
    return bool(inspect.getdoc(function) or any(inspect.getdoc(vars(base).get(name)) for base in cls.__mro__))


def is_plain_property(cls: type, name: str) -> bool:
    """Whether it is a property or a member of an enum, whose name may say it all: `TaskContext.id`."""
    return isinstance(inspect.getattr_static(cls, name, None), property) or issubclass(cls, Enum)


# ── blocking classes ─────────────────────────────────────────────────────────

FACADES = {name: cls for name, cls in CLASSES.items() if issubclass(cls, Blocking)}
MEMBERS = [
    (name, member)
    for name, cls in FACADES.items()
    for member in dir(cls)
    if isinstance(inspect.getattr_static(cls, member), blocking)
]


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_a_blocking_method_has_the_signature_of_the_async_one(name: str, member: str) -> None:
    cls = FACADES[name]
    method: Any = inspect.getattr_static(cls, member)
    signature = inspect.signature(getattr(cls, member))
    assert signature == inspect.signature(method._method)
    assert inspect.getdoc(getattr(cls, member)) == inspect.getdoc(method._method) is not None


@pytest.mark.parametrize("door", [OmniQ, AsyncOmniQ])
def test_type_hints_of_a_method_are_there_on_the_class_and_on_an_object(door: type[OmniQ | AsyncOmniQ]) -> None:
    for owner in (door, door(task_queue="memory")):
        for name in (name for name in dir(door) if not name.startswith("_")):
            if callable(method := getattr(owner, name)) and not isinstance(
                method, CallbackManager | Events | AsyncEvents
            ):
                assert "return" in typing.get_type_hints(method) or name == "task", name
        assert (
            typing.get_type_hints(owner.enqueue)["func_args"]
            == typing.get_type_hints(AsyncTaskQueue.enqueue)["func_args"]
        )


@pytest.mark.parametrize("name", sorted(FACADES))
def test_help_tells_of_a_blocking_class(name: str) -> None:
    cls = FACADES[name]
    text = pydoc.plain(pydoc.render_doc(cls))
    for member in (member for of, member in MEMBERS if of == name):
        first_line = (inspect.getdoc(getattr(cls, member)) or "").splitlines()[0]
        assert member in text
        assert first_line in text


def test_help_on_an_object_tells_of_the_method() -> None:
    text = pydoc.plain(pydoc.render_doc(OmniQ(task_queue="memory://help").enqueue))
    assert re.search(r"\(\s*func: ", text) is not None  # some Pythons give each parameter a line
    assert "Add a task and return its id" in text


@pytest.mark.parametrize("cls", [OmniQ, AsyncOmniQ, *FACADES.values()], ids=lambda cls: cls.__name__)
def test_a_mock_of_a_class_takes_what_the_class_takes(cls: type) -> None:
    mock = create_autospec(cls, instance=True)
    for member in ("enqueue", "get_result", "list_tasks", "schedule", "get"):
        if hasattr(cls, member):
            with pytest.raises(TypeError):
                getattr(mock, member)(no_such_argument=1)
    if hasattr(cls, "enqueue"):
        mock.enqueue(print, ["x"], priority=3)
        mock.enqueue.assert_called_once_with(print, ["x"], priority=3)


def test_omniq_has_what_asyncomniq_has() -> None:
    oq = OmniQ(task_queue="memory://parity", event_store="memory://parity")
    missing = [name for name in dir(oq.aio) if not name.startswith("_") and not hasattr(oq, name)]
    assert missing == []
    with oq:
        task_id = oq.task_queue.enqueue(print, ["through the component"])
        worker = oq.worker_pool("thread", max_workers=1)
        worker.start()
        assert oq.get_result(task_id, timeout=30) is None
        worker.stop()
        result = oq.result_store.get(task_id)
        assert result is not None
        assert result.status == "success"
        events = oq.event_store
        assert events is not None
        assert oq.list_events(task_id=task_id) == events.list(task_id=task_id) != []


# ── the specification's names ────────────────────────────────────────────────

STORES = {
    "File": "fsspec",
    "Memory": "fsspec",
    "SQLite": "sqlite",
    "Postgres": "postgres",
    "Redis": "redis",
    "NATS": "nats",
}
KEEP_EVENTS = ("File", "Memory", "SQLite", "Postgres")

SPECIFIED: dict[str, list[str]] = {
    "omniq": ["AsyncOmniQ", "OmniQ", "TaskQueue", "ResultStore", "EventStore"],
    "omniq.core": ["AsyncOmniQ", "OmniQ"],
    "omniq.models": [
        *("Task", "Schedule", "TaskResult", "TaskEvent", "Settings"),
        *(f"{store}TaskQueueConfig" for store in STORES),
        *(f"{store}ResultStorageConfig" for store in STORES),
        *(f"{store}EventStorageConfig" for store in KEEP_EVENTS),
    ],
    "omniq.models.task": ["Task"],
    "omniq.models.schedule": ["Schedule"],
    "omniq.models.result": ["TaskResult"],
    "omniq.models.event": ["TaskEvent"],
    "omniq.models.config": ["TaskQueueConfig"],
    "omniq.storage": [
        *("BaseTaskQueue", "BaseResultStorage", "BaseEventStorage"),
        *(f"{door}{store}ResultStorage" for store in STORES for door in ("", "Async")),
        *(f"{door}{store}EventStorage" for store in KEEP_EVENTS for door in ("", "Async")),
    ],
    "omniq.storage.base": ["BaseTaskQueue", "BaseResultStorage", "BaseEventStorage"],
    "omniq.serialization": ["SerializationDetector", "MsgspecSerializer", "DillSerializer", "SerializationManager"],
    "omniq.serialization.base": ["Serializer"],
    "omniq.queue": [
        *("AsyncTaskQueue", "TaskQueue", "AsyncScheduler", "Scheduler"),
        *("DependencyResolver", "RetryManager", "TTLManager", "TaskDependencyGraph"),
        *(f"{door}{store}TaskQueue" for store in STORES for door in ("", "Async")),
    ],
    "omniq.workers": [
        *("AsyncWorkerPool", "WorkerPool"),
        *("AsyncWorker", "ThreadPoolWorker", "ProcessPoolWorker", "GeventPoolWorker"),
    ],
    "omniq.workers.base": ["Worker"],
    "omniq.workers.thread": ["ThreadPoolWorker"],
    "omniq.workers.process": ["ProcessPoolWorker"],
    "omniq.events": ["AsyncEventLogger", "EventLogger", "AsyncEventProcessor", "EventProcessor", "EventType"],
    "omniq.events.logger": ["AsyncEventLogger", "EventLogger"],
    "omniq.config": ["Settings", "EnvConfig", "ConfigProvider", "LoggingConfig"],
    "omniq.config.settings": ["Settings"],
    "omniq.config.loader": ["ConfigProvider"],
    "omniq.backend": ["BaseBackend", *(f"{store}Backend" for store in STORES)],
}
"""The names of "Project Structure", "Module Architecture" and the usage examples, by where each is imported from.

Where the examples and the lists differ, the examples win: a file queue is a `FileTaskQueue`, which the list of the
storage interfaces calls `FileQueue`; a `ThreadPoolWorker` what the worker layer calls `ThreadWorker`. Stores are
distributions of their own, so `queue/redis.py` and the like are modules of `omniq_redis`.
"""


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in SPECIFIED.items() for name in names])
def test_what_the_specification_names_is_there(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    assert inspect.getdoc(found)
    assert found.__name__ in (name, {"ResultStore": "ResultStorage", "EventStore": "EventStorage"}.get(name))


@pytest.mark.parametrize("store", STORES)
def test_each_store_has_the_modules_that_the_specification_gives_it(store: str) -> None:
    package = f"omniq_{STORES[store]}"
    for module in ("queue", "results", "backend", "config", *(["events"] if store in KEEP_EVENTS else [])):
        assert importlib.import_module(f"{package}.{module}").__doc__


def test_the_event_types_of_the_specification_are_there() -> None:
    from omniq.events import EventType

    names = ["ENQUEUED", "EXECUTING", "COMPLETE", "ERROR", "RETRY", "CANCELLED", "EXPIRED"]
    names += ["SCHEDULE_PAUSED", "SCHEDULE_RESUMED"]
    assert [EventType[name].name for name in names] == names


@pytest.mark.parametrize("kind", ["AsyncWorker", "ThreadPoolWorker", "ProcessPoolWorker", "GeventPoolWorker"])
def test_workers_are_both_kinds_of_context_managers(kind: str) -> None:
    cls = getattr(importlib.import_module("omniq.workers"), kind)
    assert all(hasattr(cls, name) for name in ("__enter__", "__exit__", "__aenter__", "__aexit__"))


@pytest.mark.parametrize("store", STORES)
def test_components_are_context_managers_of_their_kind(store: str) -> None:
    kinds = {"queue": "TaskQueue", "storage": "ResultStorage"} | (
        {"events": "EventStorage"} if store in KEEP_EVENTS else {}
    )
    for module, kind in kinds.items():
        package = importlib.import_module(f"omniq.{'storage' if module == 'events' else module}")
        blocking_class, async_class = getattr(package, f"{store}{kind}"), getattr(package, f"Async{store}{kind}")
        assert all(hasattr(blocking_class, name) for name in ("__enter__", "__exit__"))
        assert all(hasattr(async_class, name) for name in ("__aenter__", "__aexit__"))
        assert issubclass(blocking_class, Configured)
