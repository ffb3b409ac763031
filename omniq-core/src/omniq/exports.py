"""Lazy public names (PEP 562): nothing is imported before somebody asks for it.

`BACKENDS` is the one table that says in which module of which distribution a store's class lives.
A package's `__init__` gives its own names and says which of those modules it fronts for:

    if TYPE_CHECKING:
        from omniq.queue.engine import AsyncTaskQueue as AsyncTaskQueue
    else:
        __getattr__, __dir__ = lazy(__name__, {"AsyncTaskQueue": "omniq.queue.engine"}, fronts=("queue",))

The `TYPE_CHECKING` half gives type checkers and editors the exact classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec

from omniq.texts import did_you_mean, install_command

BACKENDS: dict[str, tuple[str, ...]] = {
    "omniq_fsspec.queue": ("FileTaskQueue", "AsyncFileTaskQueue", "MemoryTaskQueue", "AsyncMemoryTaskQueue"),
    "omniq_fsspec.results": (
        "FileResultStorage",
        "AsyncFileResultStorage",
        "MemoryResultStorage",
        "AsyncMemoryResultStorage",
    ),
    "omniq_fsspec.events": (
        "FileEventStorage",
        "AsyncFileEventStorage",
        "MemoryEventStorage",
        "AsyncMemoryEventStorage",
    ),
    "omniq_fsspec.backend": ("FileBackend", "MemoryBackend"),
    "omniq_fsspec.config": (
        "FileTaskQueueConfig",
        "FileResultStorageConfig",
        "FileEventStorageConfig",
        "MemoryTaskQueueConfig",
        "MemoryResultStorageConfig",
        "MemoryEventStorageConfig",
    ),
    "omniq_sqlite.queue": ("SQLiteTaskQueue", "AsyncSQLiteTaskQueue"),
    "omniq_sqlite.results": ("SQLiteResultStorage", "AsyncSQLiteResultStorage"),
    "omniq_sqlite.events": ("SQLiteEventStorage", "AsyncSQLiteEventStorage"),
    "omniq_sqlite.backend": ("SQLiteBackend",),
    "omniq_sqlite.config": ("SQLiteTaskQueueConfig", "SQLiteResultStorageConfig", "SQLiteEventStorageConfig"),
    "omniq_postgres.queue": ("PostgresTaskQueue", "AsyncPostgresTaskQueue"),
    "omniq_postgres.results": ("PostgresResultStorage", "AsyncPostgresResultStorage"),
    "omniq_postgres.events": ("PostgresEventStorage", "AsyncPostgresEventStorage"),
    "omniq_postgres.backend": ("PostgresBackend",),
    "omniq_postgres.config": ("PostgresTaskQueueConfig", "PostgresResultStorageConfig", "PostgresEventStorageConfig"),
    "omniq_redis.queue": ("RedisTaskQueue", "AsyncRedisTaskQueue"),
    "omniq_redis.results": ("RedisResultStorage", "AsyncRedisResultStorage"),
    "omniq_redis.backend": ("RedisBackend",),
    "omniq_redis.config": ("RedisTaskQueueConfig", "RedisResultStorageConfig"),
    "omniq_nats.queue": ("NATSTaskQueue", "AsyncNATSTaskQueue"),
    "omniq_nats.results": ("NATSResultStorage", "AsyncNATSResultStorage"),
    "omniq_nats.backend": ("NATSBackend",),
    "omniq_nats.config": ("NATSTaskQueueConfig", "NATSResultStorageConfig"),
    "omniq_gevent.worker": ("GeventPoolWorker",),
}


def lazy(
    package: str, own: Mapping[str, str], *, fronts: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    `own` maps a name to its home, "module" or "module:name"; `fronts` are the backends' modules, such as
    "queue", whose names the package offers too.
    """
    homes = {name: home if ":" in home else f"{home}:{name}" for name, home in own.items()}
    homes |= _fronted(tuple(fronts))

    def get(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(_no_attribute(package, name, homes), name=name)
        value = _resolve(name, home)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        here = [name for name, home in homes.items() if _installed(home)]
        return sorted({*vars(sys.modules[package]), *here})

    return get, names


def _fronted(modules: tuple[str, ...]) -> dict[str, str]:
    return {
        name: f"{module}:{name}"
        for module, names in BACKENDS.items()
        if module.partition(".")[2] in modules
        for name in names
    }


def _resolve(name: str, home: str) -> object:
    module, _, attribute = home.partition(":")
    root = module.partition(".")[0]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        hint = f"{name} needs {root.replace('_', '-')}: {install_command(root.removeprefix('omniq_'))}"
        raise ImportError(hint, name=root) from None


def _installed(home: str) -> bool:
    return find_spec(home.partition(".")[0]) is not None


def _no_attribute(package: str, name: str, homes: Iterable[str]) -> str:
    text = f"module {package!r} has no attribute {name!r}"
    if name.startswith("__"):  # a protocol probe, not a typing mistake
        return text
    return text + did_you_mean(name, homes)
