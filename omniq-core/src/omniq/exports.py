"""Lazy public names (PEP 562): nothing is imported before somebody asks for it.

`FIRST_PARTY` is the one table of the distributions that OmniQ's extras install. A package's `__init__` gives its own
names, and says which of their modules it fronts for:

    if TYPE_CHECKING:
        from omniq.exports import *
        from omniq.queue.engine import AsyncTaskQueue as AsyncTaskQueue
    else:
        __all__, __getattr__, __dir__ = lazy(__name__, {"AsyncTaskQueue": "omniq.queue.engine"}, fronts=("queue",))

The `TYPE_CHECKING` half gives type checkers and editors the exact classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # what the fronts show of the stores
    from omniq_fsspec.backend import FileBackend as FileBackend
    from omniq_fsspec.backend import MemoryBackend as MemoryBackend
    from omniq_fsspec.config import FileEventStorageConfig as FileEventStorageConfig
    from omniq_fsspec.config import FileResultStorageConfig as FileResultStorageConfig
    from omniq_fsspec.config import FileTaskQueueConfig as FileTaskQueueConfig
    from omniq_fsspec.config import MemoryEventStorageConfig as MemoryEventStorageConfig
    from omniq_fsspec.config import MemoryResultStorageConfig as MemoryResultStorageConfig
    from omniq_fsspec.config import MemoryTaskQueueConfig as MemoryTaskQueueConfig
    from omniq_fsspec.events import AsyncFileEventStorage as AsyncFileEventStorage
    from omniq_fsspec.events import AsyncMemoryEventStorage as AsyncMemoryEventStorage
    from omniq_fsspec.events import FileEventStorage as FileEventStorage
    from omniq_fsspec.events import MemoryEventStorage as MemoryEventStorage
    from omniq_fsspec.queue import AsyncFileTaskQueue as AsyncFileTaskQueue
    from omniq_fsspec.queue import AsyncMemoryTaskQueue as AsyncMemoryTaskQueue
    from omniq_fsspec.queue import FileTaskQueue as FileTaskQueue
    from omniq_fsspec.queue import MemoryTaskQueue as MemoryTaskQueue
    from omniq_fsspec.results import AsyncFileResultStorage as AsyncFileResultStorage
    from omniq_fsspec.results import AsyncMemoryResultStorage as AsyncMemoryResultStorage
    from omniq_fsspec.results import FileResultStorage as FileResultStorage
    from omniq_fsspec.results import MemoryResultStorage as MemoryResultStorage
    from omniq_gevent.worker import GeventPoolWorker as GeventPoolWorker
    from omniq_nats.backend import NATSBackend as NATSBackend
    from omniq_nats.config import NATSResultStorageConfig as NATSResultStorageConfig
    from omniq_nats.config import NATSTaskQueueConfig as NATSTaskQueueConfig
    from omniq_nats.queue import AsyncNATSTaskQueue as AsyncNATSTaskQueue
    from omniq_nats.queue import NATSTaskQueue as NATSTaskQueue
    from omniq_nats.results import AsyncNATSResultStorage as AsyncNATSResultStorage
    from omniq_nats.results import NATSResultStorage as NATSResultStorage
    from omniq_postgres.backend import PostgresBackend as PostgresBackend
    from omniq_postgres.config import PostgresEventStorageConfig as PostgresEventStorageConfig
    from omniq_postgres.config import PostgresResultStorageConfig as PostgresResultStorageConfig
    from omniq_postgres.config import PostgresTaskQueueConfig as PostgresTaskQueueConfig
    from omniq_postgres.events import AsyncPostgresEventStorage as AsyncPostgresEventStorage
    from omniq_postgres.events import PostgresEventStorage as PostgresEventStorage
    from omniq_postgres.queue import AsyncPostgresTaskQueue as AsyncPostgresTaskQueue
    from omniq_postgres.queue import PostgresTaskQueue as PostgresTaskQueue
    from omniq_postgres.results import AsyncPostgresResultStorage as AsyncPostgresResultStorage
    from omniq_postgres.results import PostgresResultStorage as PostgresResultStorage
    from omniq_redis.backend import RedisBackend as RedisBackend
    from omniq_redis.config import RedisResultStorageConfig as RedisResultStorageConfig
    from omniq_redis.config import RedisTaskQueueConfig as RedisTaskQueueConfig
    from omniq_redis.queue import AsyncRedisTaskQueue as AsyncRedisTaskQueue
    from omniq_redis.queue import RedisTaskQueue as RedisTaskQueue
    from omniq_redis.results import AsyncRedisResultStorage as AsyncRedisResultStorage
    from omniq_redis.results import RedisResultStorage as RedisResultStorage
    from omniq_sqlite.backend import SQLiteBackend as SQLiteBackend
    from omniq_sqlite.config import SQLiteEventStorageConfig as SQLiteEventStorageConfig
    from omniq_sqlite.config import SQLiteResultStorageConfig as SQLiteResultStorageConfig
    from omniq_sqlite.config import SQLiteTaskQueueConfig as SQLiteTaskQueueConfig
    from omniq_sqlite.events import AsyncSQLiteEventStorage as AsyncSQLiteEventStorage
    from omniq_sqlite.events import SQLiteEventStorage as SQLiteEventStorage
    from omniq_sqlite.queue import AsyncSQLiteTaskQueue as AsyncSQLiteTaskQueue
    from omniq_sqlite.queue import SQLiteTaskQueue as SQLiteTaskQueue
    from omniq_sqlite.results import AsyncSQLiteResultStorage as AsyncSQLiteResultStorage
    from omniq_sqlite.results import SQLiteResultStorage as SQLiteResultStorage


class FirstParty:
    """What the distribution `omniq-EXTRA` brings, whether or not it is installed."""

    # Making a named tuple or a dataclass takes as long as all the rest of `import omniq` that is OmniQ's own.
    def __init__(self, *words: str, prefixes: tuple[str, ...] = (), events: bool = True, workers: tuple[str, ...] = ()):
        self.words = words
        """The names, aliases and URL schemes of its stores or its worker, for errors to say what to install."""
        self.prefixes = prefixes
        """What the names of its stores' classes begin with, such as "SQLite"."""
        self.has_events = events
        """Whether its stores keep events."""
        self.workers = workers
        """The classes of its workers."""

    def brings(self, kind: str) -> bool:
        """Whether it has such a kind of component, as `omniq.plugins.specs.Kind` names it."""
        if kind == "worker":
            return bool(self.workers)
        return bool(self.prefixes) and (self.has_events if kind == "event_store" else kind != "command")

    def classes(self, package: str) -> Iterator[tuple[str, str]]:
        """The name and the module of each public class."""
        for prefix in self.prefixes:
            for kind, module in KINDS.items():
                if self.has_events or kind != "EventStorage":
                    yield f"{prefix}{kind}", f"{package}.{module}"
                    yield f"Async{prefix}{kind}", f"{package}.{module}"
                    yield f"{prefix}{kind}Config", f"{package}.config"
            yield f"{prefix}Backend", f"{package}.backend"
        for worker in self.workers:
            yield worker, f"{package}.worker"


KINDS: Final[Mapping[str, str]] = {"TaskQueue": "queue", "ResultStorage": "results", "EventStorage": "events"}
"""What a store's classes are called behind its prefix, and the module of its package where they are."""

FRONTS: Final[Mapping[str, str]] = {
    "queue": "omniq.queue",
    "results": "omniq.storage",
    "events": "omniq.storage",
    "config": "omniq.models",
    "backend": "omniq.backend",
    "worker": "omniq.workers",
}
"""Where users import what such a module of a first-party package has."""

FIRST_PARTY: Final[Mapping[str, FirstParty]] = {
    "sqlite": FirstParty("sqlite", prefixes=("SQLite",)),
    "postgres": FirstParty("postgres", "postgresql", prefixes=("Postgres",)),
    "redis": FirstParty("redis", "rediss", "unix", prefixes=("Redis",), events=False),
    "nats": FirstParty("nats", prefixes=("NATS",), events=False),
    "fsspec": FirstParty("file", "memory", "s3", "gs", "gcs", "abfs", "abfss", "az", prefixes=("File", "Memory")),
    "gevent": FirstParty("gevent", "gevent_pool", workers=("GeventPoolWorker",)),
}
"""By the extra of omniq-core that installs it."""


def extras(kind: str) -> dict[str, str]:
    """The extra that brings what has this name, alias or URL scheme, for a kind such as "task_queue"."""
    return {word: extra for extra, ours in FIRST_PARTY.items() if ours.brings(kind) for word in ours.words}


def lazy(
    package: str, own: Mapping[str, str], *, fronts: Iterable[str] = ()
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package.

    `own` maps a name to its home, "module" or "module:name"; `fronts` are the stores' modules, such as
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

    return list(own), get, names


def _fronted(modules: tuple[str, ...]) -> dict[str, str]:
    return {
        name: f"{module}:{name}"
        for extra, brought in FIRST_PARTY.items()
        for name, module in brought.classes(f"omniq_{extra}")
        if module.partition(".")[2] in modules
    }


def _resolve(name: str, home: str) -> object:
    module, _, attribute = home.partition(":")
    root = module.partition(".")[0]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        from omniq.texts import install_command  # it imports logging, which `import omniq` doesn't pay for

        hint = f"{name} needs {root.replace('_', '-')}: {install_command(root.removeprefix('omniq_'))}"
        raise ImportError(hint, name=root) from None


def _installed(home: str) -> bool:
    return find_spec(home.partition(".")[0]) is not None


def _is_module(package: str, name: str) -> bool:
    return hasattr(sys.modules[package], "__path__") and find_spec(f"{package}.{name}") is not None


def _no_attribute(package: str, name: str, homes: Iterable[str]) -> str:
    text = f"module {package!r} has no attribute {name!r}"
    if name.startswith("__") or _is_module(package, name):  # a probe of Python's own, not a typing mistake
        return text
    for extra, brought in FIRST_PARTY.items():
        if module := dict(brought.classes(f"omniq_{extra}")).get(name):
            return f"{text}: it is in {FRONTS[module.partition('.')[2]]}"
    from omniq.texts import did_you_mean

    return text + did_you_mean(name, homes)
