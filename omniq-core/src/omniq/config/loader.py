"""The whole configuration: its shape, and argument over environment over file over default."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from omniq.config.convert import Layer, convert, from_source, given_fields, merge, turns_dill_off
from omniq.config.settings import (
    BufferSize,
    EnvConfig,
    LoggingConfig,
    RetryCount,
    Settings,
    environment,
    from_settings,
)
from omniq.errors import ConfigError, PluginError, UnknownBackend
from omniq.exports import FIRST_PARTY, extras
from omniq.models.config import (
    DEFAULT_PROJECT,
    BreakerConfig,
    Moment,
    Name,
    NotBlank,
    NotNegative,
    Positive,
    Redacted,
    Serializer,
    WorkerConfig,
    absolute,
    mask_url,
)
from omniq.models.event import EventLevel, EventType
from omniq.plugins.registry import Registry, load_object, registry
from omniq.serialization.base import DECLARED, declared
from omniq.serialization.codec import Signer
from omniq.serialization.manager import SerializationManager
from omniq.texts import did_you_mean

C = TypeVar("C", bound=WorkerConfig)

# ── its shape ───────────────────────────────────────────────────────────────


class ComponentChoice(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which store, by type or URL, and its configuration; what `config` says wins over the URL."""

    type: NotBlank | None = None
    """May be left out when the URL has a scheme."""
    url: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


class WorkerChoice(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which worker, and how it runs."""

    type: str = Settings.DEFAULT_WORKER
    config: WorkerConfig = field(default_factory=WorkerConfig)
    """Of any kind of worker."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By kind, such as "process": the fields of that kind's own configuration, which win over `config`."""

    def settings_for(self, kind: str) -> WorkerConfig:
        """The configuration of a worker of that kind ("thread"). Raises `ConfigError`, or as `config_of`."""
        given = {**given_fields(self.config), **self.options.get(kind, {})}
        return worker_config(given, config_of(kind), f"worker.options.{kind}")

    def check_options(self) -> None:
        """Raise `ConfigError` for options that a kind of worker which is installed here doesn't have."""
        for kind in self.options.keys() & set(registry().names("worker")):
            with suppress(PluginError):  # tasks that ask for it go back, and the log tells why
                self.settings_for(kind)


class TaskDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task gets that says nothing itself. Durations are seconds."""

    timeout: Positive | None = Settings.TASK_TIMEOUT
    ttl: NotNegative | None = Settings.TASK_TTL
    max_retries: RetryCount = Settings.RETRY_ATTEMPTS
    retry_delay: NotNegative = Settings.RETRY_DELAY
    retry_factor: Annotated[float, Meta(ge=1, le=1000)] = Settings.RETRY_FACTOR
    retry_max_delay: NotNegative = Settings.RETRY_MAX_DELAY
    retry_jitter: Annotated[float, Meta(ge=0, le=1)] = Settings.RETRY_JITTER
    result_ttl: NotNegative | None = Settings.RESULT_TTL

    @classmethod
    def from_environment(cls) -> Self:
        """As OMNIQ_TASK_TIMEOUT and the like say, and the file of OMNIQ_CONFIG. Raises `ConfigError`."""
        return convert(ambient().defaults, cls)


class EventsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events are kept, and for how long, where there is an event store."""

    enabled: bool = Settings.EVENT_LOGGING
    types: Annotated[tuple[EventType, ...], Meta(min_length=1)] | None = Settings.EVENT_TYPES
    """The only types that are kept, in any case; None: all."""
    level: EventLevel = Settings.EVENT_LEVEL
    """How much an event must matter to be kept."""
    retention: Positive | None = Settings.EVENT_RETENTION
    """Seconds for which events are kept; None: without end."""
    buffer: BufferSize = Settings.EVENT_BUFFER
    """Events that a process keeps while their store is slow or away."""

    @property
    def kept(self) -> frozenset[EventType]:
        """The types of the events that are kept."""
        if not self.enabled:
            return frozenset()
        return self.level.types if self.types is None else self.level.types & frozenset(self.types)

    @classmethod
    def from_environment(cls) -> Self:
        """As OMNIQ_EVENT_TYPES and the like say, and the file of OMNIQ_CONFIG. Raises `ConfigError`."""
        return convert(ambient().events, cls)


class OmniQConfig(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured. A component that is None wasn't mentioned anywhere."""

    project_name: Name = Settings.PROJECT_NAME
    base_dir: str = Settings.BASE_DIR
    """Where stores that keep files put them, unless they are told where."""
    fsspec_uri: str | None = Settings.FSSPEC_URI
    """Where file stores keep their files; it wins over `base_dir` here, not over theirs."""
    task_queue: ComponentChoice | None = None
    result_store: ComponentChoice | None = None
    event_store: ComponentChoice | None = None
    events: EventsConfig = field(default_factory=EventsConfig)
    worker: WorkerChoice = field(default_factory=WorkerChoice)
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    """Of the stores' circuit breakers."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    signing_key: NotBlank | None = Settings.SIGNING_KEY
    accept_unsigned_until: Moment | None = None
    """Switches signing on with a live queue: until then, what isn't signed is accepted too."""
    allowed_modules: Annotated[list[NotBlank], Meta(min_length=1)] | None = None


# ── what only some kinds of workers have ──────────────────────────────────────


def config_of(kind: str) -> type[WorkerConfig]:
    """The struct that configures a kind of worker. Raises `PluginError` if there is none, or it can't be used."""
    found: type[WorkerConfig] = getattr(load_object(registry().worker(kind).worker_class), "config_class", WorkerConfig)
    return found


def worker_config(given: Mapping[str, Any], type_: type[C], where: str) -> C:
    """A worker's configuration. Raises `ConfigError`, which tells of a field that only other kinds have whose it is."""
    refuse_misplaced(given, type_, where)
    return convert(given, type_, where)


def refuse_misplaced(given: Iterable[str], type_: type[WorkerConfig], where: str) -> None:
    """Raise `ConfigError` for a field that only other kinds of workers have, and say which do."""
    for name in given:
        if name not in type_.__struct_fields__ and (kinds := list(_kinds_with(name))):
            places = " or ".join(f"worker.options.{kind}" for kind in kinds)
            having = " and ".join(kinds)
            raise ConfigError(f"{where}.{name}: only {having} workers have it; a configuration says it in {places}")


def _kinds_with(field: str) -> Iterator[str]:
    for kind in registry().names("worker"):
        with suppress(PluginError):
            if field in config_of(kind).__struct_fields__:
                yield kind


# ── keys and limits ─────────────────────────────────────────────────────────


_SERIALIZER: Final[Any] = Serializer


class Security(Redacted, frozen=True, kw_only=True, array_like=True):
    """What a `SerializationManager` is made of; it crosses to child processes, and never to logs.

    It is one for a task queue, its results and its workers: what an OmniQ is configured with holds for the
    components that it is given too, unless they were given a `Security` of their own.
    """

    serializer: Serializer = "auto"
    signing_key: str | None = None
    allowed_modules: list[str] | None = None
    accept_unsigned_until: float | None = None
    """Seconds since the epoch until which unsigned payloads are accepted although there is a key."""

    @classmethod
    def from_environment(cls) -> Security:
        """As OMNIQ_SIGNING_KEY, OMNIQ_SERIALIZER, OMNIQ_ALLOWED_MODULES and OMNIQ_ACCEPT_UNSIGNED_UNTIL say, and the
        file that OMNIQ_CONFIG names.

        Raises `ConfigError`.
        """
        return cls.of(ambient())

    @classmethod
    def of(cls, config: OmniQConfig) -> Security:
        """As a whole configuration says. Raises `ConfigError`."""
        queue = {} if config.task_queue is None else config.task_queue.config
        until = config.accept_unsigned_until
        return cls(
            serializer=convert(queue.get("serializer", "auto"), _SERIALIZER, "task_queue.config.serializer"),
            signing_key=config.signing_key,
            allowed_modules=config.allowed_modules,
            accept_unsigned_until=None if until is None else until.timestamp(),
        )

    def narrowed(self, serializer: Serializer) -> Security:
        """The same; without dill if either this or a component's own configuration turns it off."""
        return replace(self, serializer="msgspec") if serializer == "msgspec" else self

    def for_children(self) -> Security:
        """The same for processes that haven't imported what is declared here."""
        if self.allowed_modules is None or DECLARED not in self.allowed_modules:
            return self
        return replace(self, allowed_modules=[*self.allowed_modules, *declared])

    def manager(self, project: str = DEFAULT_PROJECT) -> SerializationManager:
        """The serialization that follows from it for a project. Raises `ConfigError` for keys that are no good."""
        if self.allowed_modules is not None and not any(name.strip() for name in self.allowed_modules):
            raise ConfigError("allowed_modules: none given; leave it out to allow all")
        signer = None if self.signing_key is None else Signer(self.signing_key)
        return SerializationManager(
            self.serializer,
            signer,
            self.allowed_modules,
            project=project,
            unsigned_until=self.accept_unsigned_until,
        )


# ── layers ──────────────────────────────────────────────────────────────────


PROTECTIONS: Final = frozenset({"ACCEPT_UNSIGNED_UNTIL", "ALLOWED_MODULES", "SERIALIZER", "SIGNING_KEY"})
"""The settings that hold beside a complete `OmniQConfig` that doesn't mention them."""


class Origin(NamedTuple):
    """Where a value comes from."""

    kind: Literal["default", "file", "environment", "code", "argument"]
    name: str = ""
    """Of the file."""


class ConfigProvider:
    """Loads the configuration, anew at every `load`.

    `source` is the path of a YAML file, a dict in the shape of one, or an `OmniQConfig`; without one, the file that
    OMNIQ_CONFIG names is read, if any. What is given in code, as a dict or an `OmniQConfig`, wins over the environment,
    and that over a file. An `OmniQConfig` says everything: then the environment adds nothing but the protections
    that it has, such as a signing key. `environ` and `plugins` stand in for the process's own.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | OmniQConfig | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        plugins: Registry | None = None,
    ) -> None:
        self._environ = environment() if environ is None else environ
        self._source = _in_place(source if source is not None else EnvConfig(self._environ).config_file())
        self._registry = plugins or registry()

    @property
    def file(self) -> str | None:
        """The absolute path of the file that is read, if one is."""
        return self._source if isinstance(self._source, str) else None

    def load(self, **arguments: Any) -> OmniQConfig:
        """What holds: argument over dict or struct over environment over file over default.

        The arguments are named as the fields of `OmniQConfig`; None is as good as not given. Where the
        environment, code or an argument gives a store's URL, or another type, what lies below says of that store
        is dropped, but for what all stores have: `project_name`, `queues`, `serializer` and `max_body`. Who turns dill
        off, by `serializer="msgspec"`, is overruled by nobody.

        Raises `ConfigError`, whose message begins with the variable or with the path of the entry.
        """
        merged: Layer = {}
        given = [layer for _, layer in self.layers(**arguments)]
        for layer in given:
            merged = merge(merged, layer, self._registry)
        if any(map(turns_dill_off, given)):
            merged.setdefault("task_queue", {}).setdefault("config", {})["serializer"] = "msgspec"
        _check_kinds(merged.get("worker", {}), self._registry)
        return convert(merged, OmniQConfig, keep_variables=True)

    def layers(self, **arguments: Any) -> list[tuple[Origin, Layer]]:
        """What lies over what, the lowest first. Raises as `load` does."""
        given, source = EnvConfig(self._environ).given(), self._source
        argument = (Origin("argument"), _checked(arguments))
        if isinstance(source, OmniQConfig):
            protections = {name: given[name] for name in PROTECTIONS & given.keys()}
            return [(Origin("environment"), from_settings(protections)), (Origin("code"), _checked(source)), argument]
        environ = (Origin("environment"), from_settings(given))
        if isinstance(source, Mapping):
            return [environ, (Origin("code"), _checked_source(source)), argument]
        file = [] if source is None else [(Origin("file", source), _read(source, self._environ))]
        return [*file, environ, argument]


class Resolved(NamedTuple):
    """A configuration that a `ConfigProvider` has loaded: it is taken as it is, and nothing is read again."""

    config: OmniQConfig
    again: Callable[[], OmniQConfig] | None = None
    """Reads the file anew, if it came from one."""


def ambient() -> OmniQConfig:
    """What holds for whatever nobody has told anything: the environment, and the file that OMNIQ_CONFIG names.

    It is loaded anew only if one of them has changed. Raises `ConfigError`.
    """
    provider = ConfigProvider()
    key = (dict(environment()), provider.file and _signature(provider.file))
    if not _last or _last[0][0] != key:
        _last[:] = [(key, provider.load())]
    return _last[0][1]


_last: list[tuple[object, OmniQConfig]] = []


def _signature(path: str) -> object:
    try:
        stat = os.stat(path)
    except OSError:  # reading it will tell
        return object()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


AnySource: TypeAlias = str | Mapping[str, Any] | OmniQConfig | None


def _in_place(source: str | os.PathLike[str] | AnySource) -> AnySource:
    """The source; a file's path is made absolute, so that a later `chdir` leads nowhere else."""
    if source is None or isinstance(source, Mapping | OmniQConfig):
        return source
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"config: expected a file's path, a mapping or an OmniQConfig, got {type(source).__name__}")
    path = os.fspath(source)
    if not isinstance(path, str):
        raise ConfigError("config: expected a file's path as text, got bytes")
    if not path:
        raise ConfigError("config: expected a file's path, and it is empty")
    return absolute(path) if "://" not in path else path


def _read(path: str, environ: Mapping[str, str]) -> Layer:
    from omniq.config.files import load_yaml  # it imports yaml, which few need

    try:
        return _checked_source(load_yaml(path, environ))
    except ConfigError as error:
        name = mask_url(path)
        raise ConfigError(str(error) if name in str(error) else f"{error} (in {name})") from None


def _checked_source(source: Mapping[str, Any]) -> Layer:
    """A file's or dict's layer, in which protections aren't turned off by values that turned out empty."""
    empty = next((name for name in ("signing_key", "allowed_modules") if source.get(name, "") is None), None)
    if empty is not None:
        raise ConfigError(f"{empty}: it is empty; leave it out where nothing is meant")
    return _checked(source)


def _checked(source: Mapping[str, Any] | OmniQConfig) -> Layer:
    """The layer, if it is valid on its own, so that layers can be merged without looking twice."""
    layer = from_source(source)
    match layer:
        case {"worker": {"config": Mapping() as given}}:
            refuse_misplaced(given, WorkerConfig, "worker.config")
    unknown: Layer = {}
    if isinstance(source, Mapping):  # a name with nothing behind it may be a protection that is misspelt
        unknown = {name: value for name, value in source.items() if name not in OmniQConfig.__struct_fields__}
    convert({**unknown, **layer}, OmniQConfig, keep_variables=True)
    return layer


def _check_kinds(worker: Layer, registry: Registry) -> None:
    for kind in worker.get("options", {}):
        check_kind(kind, f"worker.options.{kind}", registry, aliases=False)
    if (kind := worker.get("type")) is not None:
        check_kind(str(kind), "worker.type", registry)


def check_kind(kind: str, where: str, registry: Registry, *, aliases: bool = True) -> None:
    """Raise `ConfigError` for a kind of worker that there isn't, here or in another distribution of ours, which whoever
    only enqueues needn't have installed."""
    known = {*registry.names("worker"), *(extra for extra, ours in FIRST_PARTY.items() if ours.workers)}
    if kind in known or (aliases and kind in extras("worker")):
        return
    with suppress(UnknownBackend):
        if aliases:
            registry.worker(kind)
            return
    guess = did_you_mean(kind, sorted(known)) or f"; known: {', '.join(sorted(known))}"
    raise ConfigError(f"{where}: unknown kind of worker{guess}")
