"""Configuration structs that all components have in common, and how secrets in them are masked."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable, Mapping, Sized
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import asdict, force_setattr, replace

from omniq.errors import ConfigError

# ── what may be shown ───────────────────────────────────────────────────────


MASK = "***"

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)|pwd|secret|token|key|credential|connection_string", re.IGNORECASE)
# A password may hold "/", "#" or "@" where somebody forgot to quote it, so the last "@" counts.
_USER_INFO = re.compile(
    r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:/?#@]*)(?P<secret>[^\s'\"]*)@"
)
# Whoever forgets the scheme may still have written a password.
_NO_SCHEME = re.compile(r"(?<![^\s'\"])(?![A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s'\":@]*:)?[^\s'\"]+@")
_QUERY = re.compile(r"(?P<name>[?&;](?P<key>[^\s=?&;#]+)=)[^\s&;#'\"]*")

_known_secrets: set[str] = set()
_SHORTEST_SECRET = 4
"""Characters of a secret that is looked for in texts: a shorter one would be found in every other word."""


def remember_secret(value: str) -> None:
    """Let `mask_url` and `redact` mask this value from now on, wherever it stands."""
    if len(value) >= _SHORTEST_SECRET:
        _known_secrets.add(value)


def is_secret(name: str) -> bool:
    """Whether a key or argument of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def mask_url(text: str) -> str:
    """The URL, or a text with URLs in it, without passwords, tokens and secret parameters.

    A lone user name goes too, since some servers take a token in its place. Where a malformed URL leaves
    doubt, too much is masked rather than too little. Raises `ConfigError` for what isn't text.
    """
    if not isinstance(text, str):
        raise ConfigError(f"text: expected text, got {type(text).__name__}")
    for secret in _known_secrets:
        text = text.replace(secret, MASK)
    with_users = _NO_SCHEME.sub(rf"\g<user>{MASK}@", _USER_INFO.sub(_mask_user_info, text))
    return _QUERY.sub(_mask_parameter, with_users)


def _mask_user_info(match: re.Match[str]) -> str:
    user = match["user"] + ":" if match["secret"].startswith(":") else ""
    return f"{match['scheme']}{user}{MASK}@"


def _mask_parameter(match: re.Match[str]) -> str:
    return match["name"] + MASK if is_secret(match["key"]) else match[0]


def redact(value: Any) -> Any:
    """A copy of plain data, mappings and sequences in which secrets are masked, also those inside URLs."""
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {key: MASK if _hides(key, item) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _hides(key: object, value: object) -> bool:
    return isinstance(key, str) and value is not None and is_secret(key)


class Redacted(Struct, frozen=True):
    """A struct whose repr shows no secrets."""

    def __repr__(self) -> str:
        return _shown(self, self.__rich_repr__())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(redact(asdict(self)).items())


class Abridged:
    """A mixin for structs: the repr shows ids, states and times, and only how much there is of what users pass."""

    __slots__ = ()
    __struct_fields__: ClassVar[tuple[str, ...]]

    def __repr__(self) -> str:
        return _shown(self, self.__rich_repr__())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _abridged(name, getattr(self, name))) for name in self.__struct_fields__]


class Omitted:
    """Stands for a payload in a repr."""

    def __init__(self, payload: object) -> None:
        self._text = f"<{len(payload)}>" if isinstance(payload, Sized) else "<...>"

    def __repr__(self) -> str:
        return self._text


PAYLOADS = frozenset(
    {
        "about",
        "args",
        "body",
        "connection",
        "error_message",
        "func_args",
        "kwargs",
        "message",
        "metadata",
        "old",
        "options",
        "stored",
        "traceback",
        "value",
    }
)
"""Fields whose content comes from users' calls: it may hold anything."""


def _abridged(name: str, value: object) -> object:
    return Omitted(value) if name in PAYLOADS and value is not None else value


def _shown(struct: object, fields: Iterable[tuple[str, Any]]) -> str:
    return f"{type(struct).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"


# ── structs ─────────────────────────────────────────────────────────────────


NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
"""What projects and queues may be called: file stores make directories of them, so no dot comes first."""
NOT_BLANK = r"\S"
IMPORT_STRING = r"^[^\W\d][\w.]*:[^\W\d][\w.]*\Z"
DEFAULT_PROJECT = "default"
DEFAULT_QUEUE = "default"

TEN_YEARS = 315_576_000.0
RETENTION = 86_400.0
DEAD_LETTER_RETENTION = 30 * 86_400.0
"""Seconds for which finished tasks and dead letters are kept by default."""
DEFAULT_MAX_BODY = 128 * 1024 * 1024
"""Bytes that the call of a task, or its result, may have by default."""

Name = Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")]
Positive = Annotated[float, Meta(gt=0, le=TEN_YEARS)]
NotNegative = Annotated[float, Meta(ge=0, le=TEN_YEARS)]
NotBlank = Annotated[str, Meta(pattern=NOT_BLANK)]
Moment = Annotated[dt.datetime, Meta(tz=True)]
Serializer = Literal["auto", "msgspec"]
Bytes = Annotated[int, Meta(ge=1, le=1 << 40)]

C = TypeVar("C", bound="ComponentConfig")


class ComponentConfig(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every component's configuration has. A store has one struct of its own, which extends this:

    class ShelfConfig(ComponentConfig, frozen=True, kw_only=True):
        '''Which shelf, and how it is reached.'''

        base_dir: str = ".omniq"

    class ShelfTaskQueueConfig(ShelfConfig, TaskQueueConfig, frozen=True, kw_only=True):
        '''Where a task queue on a shelf keeps its tasks.'''

        queues: list[Name] = field(default_factory=default_queues)
        serializer: Serializer = "auto"
        max_body: Bytes = DEFAULT_MAX_BODY

    class ShelfResultStorageConfig(ShelfConfig, ResultStorageConfig, frozen=True, kw_only=True):
        '''Where a result storage on a shelf keeps its results.'''
    """

    project_name: Name | None = None
    """Keeps projects apart in one store; what isn't given is taken from OmniQ, else "default"."""

    @property
    def project(self) -> str:
        """`project_name`, else "default"."""
        return self.project_name or DEFAULT_PROJECT

    @property
    def asks_for(self) -> tuple[str, ...]:
        """What it asks of its store, as fields of `Guarantees`: `omniq check` compares it with what that promises."""
        return ()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The configuration that a URL stands for. Raises `ConfigError` when it can't be one."""
        raise ConfigError(f"url: {cls.__name__} can't be built from a URL")

    def for_project(self, name: str) -> Self:
        """The same for another project, in a place of its own. Where the configuration names the place of one project,
        such as a file, it is one beside that."""
        return replace(self, project_name=name)

    def shared(self, type_: type[C], **resolved: Any) -> C:
        """What the components of a store have in common: the key of what they share, such as a connection.

        `resolved` are the fields that two configurations of the same place may say in different ways.
        """
        values = {name: getattr(self, name) for name in type_.__struct_fields__}
        return type_(**{**values, "project_name": self.project, **resolved})


class TaskQueueConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the task queues' configurations.

    A struct inherits fields from one base only, which is the store's. So a store's own struct declares these three
    again, as `ComponentConfig` shows; one that leaves a field out can't be told another value for it.
    """

    @property
    def queues(self) -> list[str]:
        """The named queues in strict order of priority; "default" is always there, last."""
        return default_queues()

    @property
    def serializer(self) -> Serializer:
        """`auto`: msgspec, and dill for what it can't carry exactly; `msgspec`: never dill."""
        return "auto"

    @property
    def max_body(self) -> int:
        """Bytes that the call of a task, or its result, may have; a store may take less."""
        return DEFAULT_MAX_BODY

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues without repeats, "default" among them."""
        return tuple(dict.fromkeys([*self.queues, DEFAULT_QUEUE]))


class ResultStorageConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the result stores' configurations."""


class EventStorageConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the event stores' configurations."""


def make_absolute(config: Struct, *names: str) -> None:
    """Make these fields of a struct that is being made absolute paths, so that a later `chdir` leads nowhere else.

    A URL stays as it is; "~" is the home directory.
    """
    for name in names:
        path = getattr(config, name)
        if path is not None:
            check_path_text(name, path)
        if path and "://" not in path:
            force_setattr(config, name, absolute(path))


def absolute(path: str) -> str:
    """The path from the root on; "~" is the home directory. Raises `ConfigError` if there is no working directory any
    more that it could begin at."""
    try:
        return os.path.abspath(os.path.expanduser(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: it is relative to the working directory, which is gone; change it") from None


def check_path_text(name: str, path: str) -> None:
    """Raise `ConfigError` for text that no file system can have as a path."""
    try:
        usable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ConfigError(f"{name}: no path can hold a NUL, or text that isn't Unicode")


def default_queues() -> list[str]:
    """The queues of a task queue that was given none."""
    return [DEFAULT_QUEUE]


class BreakerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the circuit breaker of a store opens, and how soon it is tried again. Durations are seconds."""

    failures: Annotated[int, Meta(ge=0, le=1_000_000)] = 5
    """Calls that fail in a row before it opens, over a second at least; 0: it never does."""
    window: Positive = 60.0
    """A call that fails later than that after the one before begins a new row."""
    pause: Positive = 0.1
    """How long an open one waits before a call is let through again; doubled each time that one fails."""
    max_pause: Positive = 0.5
    """The longest such wait. Above half a second, the repeats of an `enqueue` may miss a store that is back."""


class WorkerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a worker runs. Durations are seconds."""

    max_workers: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Tasks that run at once; by default 100 async, 16 threads, or one process per core."""
    queues: list[Name] | None = None
    """The queues to serve, in order; by default all that the task queue declares."""
    prefetch: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Tasks claimed ahead of free slots; by default as many as keeps the slots busy."""
    lease: Positive = 30.0
    """For how long a claim holds without being renewed; renewed every third of it."""
    reap_interval: Positive = 5.0
    """How often lapsed leases, expired tasks and due schedules are looked for."""
    stall_timeout: Positive | None = 300.0
    """How long the worker's event loop may stand still while tasks run whose time is over, or that have no limit; never
    less than ten leases. Its leases end then, so that others run its tasks. None: for ever."""
    grace_period: NotNegative = 10.0
    """How long a stopping worker waits for its running tasks before it hands them back."""
    poll_interval: Positive = 1.0
    """How often an idle worker looks for tasks when nothing wakes it."""
    policy: Literal["strict", "weighted"] = "strict"
    """`strict`: an earlier queue is emptied first; `weighted`: later queues get a share too."""
    max_crashes: Annotated[int, Meta(ge=1)] = 3
    """Deaths of its process after which a task is dead-lettered; before the last one it runs alone."""
    retention: Positive = RETENTION
    """How long tasks are kept that have succeeded, were cancelled or have expired; never less than ten leases."""
    dead_letter_retention: Positive | None = DEAD_LETTER_RETENTION
    """How long dead letters are kept, with their errors; never less than ten leases. None: until they are deleted."""


class InProcessWorkerConfig(WorkerConfig, frozen=True, kw_only=True):
    """How a worker runs whose tasks share its process: `async` and `thread`."""

    max_abandoned: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Tasks that go on running though they were given up: with more of them, the worker can't go on, so that its
    supervisor restarts the process. By default as many as `max_workers`."""


class ChildProcessWorkerConfig(WorkerConfig, frozen=True, kw_only=True):
    """How a worker runs whose tasks are in child processes: `process` and `gevent`."""

    max_tasks_per_child: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    """Tasks after which a child process is replaced; None: never for that."""
    max_memory_per_child: Bytes | None = None
    """Bytes of resident memory; a child that has more after a task is replaced. None: never for that."""
    initializer: Annotated[str, Meta(pattern=IMPORT_STRING)] | None = None
    """"module:function", which each child calls without arguments before its first task."""
