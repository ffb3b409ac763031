"""The library's settings: constants without a prefix, each overridden by the environment's `OMNIQ_<NAME>`."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, get_type_hints

from msgspec import Meta, Struct, field

from omniq.config.convert import Layer, convert
from omniq.errors import ConfigError
from omniq.exports import FIRST_PARTY
from omniq.models.config import (
    DEAD_LETTER_RETENTION,
    DEFAULT_MAX_BODY,
    DEFAULT_PROJECT,
    DEFAULT_QUEUE,
    RETENTION,
    BreakerConfig,
    Bytes,
    Moment,
    Name,
    NotBlank,
    NotNegative,
    Positive,
    Serializer,
    is_secret,
    mask_url,
    redact,
)
from omniq.models.event import EventLevel, EventType
from omniq.texts import did_you_mean, get_logger

LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "DISABLED"]
WorkerCount: TypeAlias = Annotated[int, Meta(ge=1, le=10_000)]
BufferSize: TypeAlias = Annotated[int, Meta(ge=1, le=10_000_000)]
RetryCount: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
_BREAKER: Final = BreakerConfig()
PREFIX: Final = "OMNIQ_"
"""What the name of a setting's variable begins with."""


class _Constants(type):
    """A class whose settings can't be changed: nobody would look there again."""

    def __setattr__(cls, name: str, value: object) -> None:
        cls._refuse(name)
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        cls._refuse(name)
        super().__delattr__(name)

    def _refuse(cls, name: str) -> None:
        if name.isupper():
            raise ConfigError(
                f"Settings.{name}: it is a constant; set {PREFIX}{name}, or say it in the configuration or in code"
            )


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(metaclass=_Constants):
    """`Settings.BASE_DIR` is the default; `EnvConfig().settings().BASE_DIR` is what holds in this process.

    They are constants: setting one raises `ConfigError`. None means: not set. Durations are seconds.
    """

    PROJECT_NAME: Name = DEFAULT_PROJECT
    BASE_DIR: str = ".omniq"
    """Where stores that keep files put them, unless they are told where."""
    FSSPEC_URI: str | None = None
    """Where file stores keep their files, such as "s3://bucket/prefix"; it wins over BASE_DIR."""
    LOG_LEVEL: LogLevel | None = None
    """Of the library's loggers; None: as the program's logging says, which lets warnings through by default."""
    DISABLE_LOGGING: bool = False
    COMPONENT_LOG_LEVELS: dict[str, LogLevel] | None = None
    """Levels of parts of the library, such as {"worker": "DEBUG"}; as JSON in the environment."""
    TASK_QUEUE_TYPE: str | None = None
    TASK_QUEUE_URL: str | None = None
    QUEUES: tuple[Name, ...] = (DEFAULT_QUEUE,)
    """The named queues in order of priority; comma-separated in the environment."""
    SERIALIZER: Serializer = "auto"
    MAX_BODY: Bytes = DEFAULT_MAX_BODY
    """Bytes that the call of a task, or its result, may have."""
    RESULT_STORAGE_TYPE: str | None = None
    RESULT_STORAGE_URL: str | None = None
    EVENT_STORAGE_TYPE: str | None = None
    EVENT_STORAGE_URL: str | None = None
    EVENT_LOGGING: bool = True
    """Whether events are kept where there is an event store."""
    EVENT_TYPES: Annotated[tuple[EventType, ...], Meta(min_length=1)] | None = None
    """The only types of events that are kept; comma-separated in the environment."""
    EVENT_LEVEL: EventLevel = EventLevel.DEBUG
    """How much an event must matter to be kept."""
    EVENT_RETENTION: Positive | None = 604_800.0
    """How long events are kept; `null`: without end."""
    EVENT_BUFFER: BufferSize = 10_000
    """Events that a process keeps while their store is slow or away."""
    DEFAULT_WORKER: str = "async"
    WORKER_OPTIONS: dict[str, dict[str, Any]] | None = None
    """What a kind of worker is told, such as {"process": {"max_tasks_per_child": 100}}; as JSON in the environment."""
    MAX_WORKERS: WorkerCount | None = None
    THREAD_WORKERS: WorkerCount | None = None
    """Wins over MAX_WORKERS for thread workers; so do the next two for theirs."""
    PROCESS_WORKERS: WorkerCount | None = None
    GEVENT_WORKERS: WorkerCount | None = None
    TASK_TIMEOUT: Positive | None = None
    TASK_TTL: NotNegative | None = None
    RETRY_ATTEMPTS: RetryCount = 3
    RETRY_DELAY: NotNegative = 1.0
    RETRY_FACTOR: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    RETRY_MAX_DELAY: NotNegative = 3600.0
    RETRY_JITTER: Annotated[float, Meta(ge=0, le=1)] = 0.5
    RESULT_TTL: NotNegative | None = 86_400.0
    BREAKER_FAILURES: Annotated[int, Meta(ge=0, le=1_000_000)] = _BREAKER.failures
    """Calls of a store that fail in a row before its circuit breaker opens; 0: it never does."""
    BREAKER_WINDOW: Positive = _BREAKER.window
    """A call that fails later than that after the one before begins a new row."""
    BREAKER_PAUSE: Positive = _BREAKER.pause
    """How long an open breaker waits before it lets a call through; doubled each time that one fails."""
    BREAKER_MAX_PAUSE: Positive = _BREAKER.max_pause
    RETENTION: Positive = RETENTION
    """For how long finished tasks are kept."""
    DEAD_LETTER_RETENTION: Positive | None = DEAD_LETTER_RETENTION
    """For how long dead letters are kept with their errors; null: until somebody deletes them."""
    SIGNING_KEY: NotBlank | None = None
    """Signs payloads, and refuses unsigned ones."""
    ACCEPT_UNSIGNED_UNTIL: Moment | None = None
    """A time, such as "2030-12-31T08:30Z", until which unsigned payloads are accepted all the same."""
    ALLOWED_MODULES: Annotated[tuple[NotBlank, ...], Meta(min_length=1)] | None = None
    """The only modules from which workers import functions; comma-separated in the environment."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in redact(asdict(self)).items())
        return f"{type(self).__name__}({fields})"


SETTING_PLACES: Final[Mapping[str, str]] = {
    "ACCEPT_UNSIGNED_UNTIL": "accept_unsigned_until",
    "ALLOWED_MODULES": "allowed_modules",
    "BASE_DIR": "base_dir",
    "BREAKER_FAILURES": "breaker.failures",
    "BREAKER_MAX_PAUSE": "breaker.max_pause",
    "BREAKER_PAUSE": "breaker.pause",
    "BREAKER_WINDOW": "breaker.window",
    "COMPONENT_LOG_LEVELS": "logging.components",
    "DEAD_LETTER_RETENTION": "worker.config.dead_letter_retention",
    "DEFAULT_WORKER": "worker.type",
    "DISABLE_LOGGING": "logging.disable",
    "EVENT_BUFFER": "events.buffer",
    "EVENT_LEVEL": "events.level",
    "EVENT_LOGGING": "events.enabled",
    "EVENT_RETENTION": "events.retention",
    "EVENT_STORAGE_TYPE": "event_store.type",
    "EVENT_STORAGE_URL": "event_store.url",
    "EVENT_TYPES": "events.types",
    "FSSPEC_URI": "fsspec_uri",
    "GEVENT_WORKERS": "worker.options.gevent.max_workers",
    "LOG_LEVEL": "logging.level",
    "MAX_BODY": "task_queue.config.max_body",
    "MAX_WORKERS": "worker.config.max_workers",
    "PROCESS_WORKERS": "worker.options.process.max_workers",
    "PROJECT_NAME": "project_name",
    "QUEUES": "task_queue.config.queues",
    "RESULT_STORAGE_TYPE": "result_store.type",
    "RESULT_STORAGE_URL": "result_store.url",
    "RESULT_TTL": "defaults.result_ttl",
    "RETENTION": "worker.config.retention",
    "RETRY_ATTEMPTS": "defaults.max_retries",
    "RETRY_DELAY": "defaults.retry_delay",
    "RETRY_FACTOR": "defaults.retry_factor",
    "RETRY_JITTER": "defaults.retry_jitter",
    "RETRY_MAX_DELAY": "defaults.retry_max_delay",
    "SERIALIZER": "task_queue.config.serializer",
    "SIGNING_KEY": "signing_key",
    "TASK_QUEUE_TYPE": "task_queue.type",
    "TASK_QUEUE_URL": "task_queue.url",
    "TASK_TIMEOUT": "defaults.timeout",
    "TASK_TTL": "defaults.ttl",
    "THREAD_WORKERS": "worker.options.thread.max_workers",
    "WORKER_OPTIONS": "worker.options",
}
"""Where in `OmniQConfig` each setting stands."""


def from_settings(given: Mapping[str, Any]) -> Layer:
    """The settings that were given, each at its place."""
    layer: Layer = {}
    for name, value in given.items():
        *parents, key = SETTING_PLACES[name].split(".")
        inner = layer
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[key] = value
    return layer


# ── the environment ────────────────────────────────────────────────────────────

log = get_logger("omniq.config")

CONFIG_FILE: Final = "OMNIQ_CONFIG"
"""The configuration file that is read when none is given."""
NEVER_EMPTY: Final = frozenset(
    {
        "ALLOWED_MODULES",
        "BASE_DIR",
        "EVENT_STORAGE_TYPE",
        "EVENT_STORAGE_URL",
        "FSSPEC_URI",
        "RESULT_STORAGE_TYPE",
        "RESULT_STORAGE_URL",
        "SERIALIZER",
        "SIGNING_KEY",
        "TASK_QUEUE_TYPE",
        "TASK_QUEUE_URL",
    }
)
"""Settings whose loss would go unnoticed and do harm: it would turn a protection off, or lead to another store. So an
empty variable, such as a script makes of one that isn't set, is an error and not the default."""
OTHERS: Final = frozenset({CONFIG_FILE, "OMNIQ_PLUGINS_STRICT", "OMNIQ_DISABLE_PLUGINS"})
"""Variables that aren't settings. `OMNIQ_TEST_…` is left to tests."""

withheld: Final[dict[str, str]] = {}
"""Variables that this process was given apart from its environment, since programs that it starts inherit that."""

_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
MAX_SHOWN: Final = 200
"""Characters of a value that an error still quotes."""
_GOT: Final = re.compile(r", got [^,]*(?=, did you mean|\Z)")
_warned: set[str] = set()


def environment() -> Mapping[str, str]:
    """The environment of this process, with what was withheld from it."""
    return ChainMap(os.environ, withheld)


def secrets() -> dict[str, str]:
    """The variables of `environment()` that hold a secret and nothing else."""
    names = [PREFIX + name for name in _hints() if is_secret(name)]
    return {name: text for name in names if (text := environment().get(name)) is not None}


def without_secrets() -> dict[str, str]:
    """The environment for a process that gets `secrets()` in another way."""
    hidden = secrets()
    return {name: text for name, text in os.environ.items() if name not in hidden}


class EnvConfig:
    """The settings that the environment gives.

    A variable that is unset gives none, and so does an empty one, except for `NEVER_EMPTY`, where it is an error.
    `environ` stands in for the process's environment. Reading raises `ConfigError` naming the variable.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environment() if environ is None else environ

    def given(self) -> dict[str, Any]:
        """The settings that are set, by name. A variable that looks like ours but isn't is warned of, once."""
        self._warn_of_unknown()
        ours = {variable.removeprefix(PREFIX) for variable in self._environ if variable.startswith(PREFIX)}
        texts = {name: self._environ[PREFIX + name] for name in _hints() if name in ours}
        return {name: _parse(name, text) for name, text in texts.items() if not _is_blank(PREFIX + name, text)}

    def config_file(self) -> str | None:
        """The configuration file that OMNIQ_CONFIG names. Raises `ConfigError` if it is set and empty."""
        file = self._environ.get(CONFIG_FILE)
        return None if file is None or _is_blank(CONFIG_FILE, file) else file

    def settings(self) -> Settings:
        """All settings: the environment's, and the defaults for the rest."""
        return Settings(**self.given())

    def _warn_of_unknown(self) -> None:
        known = {PREFIX + name for name in _hints()} | OTHERS
        for variable in self._environ:
            ours = variable.startswith(PREFIX) and not variable.startswith("OMNIQ_TEST_")
            if ours and variable not in known and variable not in _warned:
                _warned.add(variable)
                log.warning("unknown environment variable %s%s", variable, did_you_mean(variable, known))


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings, include_extras=True)


def _is_blank(variable: str, text: str) -> bool:
    if text.strip():
        return False
    if variable == CONFIG_FILE or variable.removeprefix(PREFIX) in NEVER_EMPTY:
        raise ConfigError(f"{variable}: it is empty; unset it where nothing is meant")
    return True


def _parse(name: str, text: str) -> object:
    variable = PREFIX + name
    try:
        value = _READERS.get(name, str)(text.strip())
        return convert(value, _hints()[name], variable, strict=False)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(f"{variable}: expected JSON, such as {_JSON_EXAMPLES[name]}{_got(text)}") from None
    except ConfigError as error:
        raise ConfigError(_GOT.sub("", str(error)) + ("" if is_secret(name) else _got(text))) from None


def _got(text: str) -> str:
    masked = mask_url(text)
    return f", got {masked!r}" if len(masked) <= MAX_SHOWN else ""


def _flag(text: str) -> bool | str:
    return _FLAGS.get(text.lower(), text)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _levels_of(text: str) -> object:
    given = json.loads(text)
    return {name: _upper(level) for name, level in given.items()} if isinstance(given, dict) else given


_JSON_EXAMPLES: Final = {
    "COMPONENT_LOG_LEVELS": '{"worker": "DEBUG"}',
    "WORKER_OPTIONS": '{"process": {"max_tasks_per_child": 100}}',
}
_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "ALLOWED_MODULES": _list,
    "COMPONENT_LOG_LEVELS": _levels_of,
    "DISABLE_LOGGING": _flag,
    "EVENT_LOGGING": _flag,
    "EVENT_TYPES": _list,
    "LOG_LEVEL": str.upper,
    "QUEUES": _list,
    "WORKER_OPTIONS": json.loads,
}


# ── logging ─────────────────────────────────────────────────────────────────


ROOT: Final = "omniq"
OFF: Final = logging.CRITICAL + 1
COMPONENTS: Final = frozenset(
    {
        "callbacks",
        "clock",
        "config",
        "events",
        "queue",
        "results",
        "serialization",
        "storage",
        "sync",
        "worker",
        *FIRST_PARTY,
    }
)
"""The library's loggers below `omniq`."""
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Of the command's log, and of the log of child processes."""


class LoggingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the library logs."""

    level: LogLevel | None = Settings.LOG_LEVEL
    """None: as the program's logging says, which lets warnings through by default."""
    components: dict[str, LogLevel] = field(default_factory=dict)
    """Levels of parts of the library, such as {"worker": "DEBUG"}."""
    disable: bool = Settings.DISABLE_LOGGING
    """Log nothing at all, whatever the levels."""


class _ShowsUnheard(logging.StreamHandler[Any]):
    """Prints what was asked for by a level to stderr, in a program that has set up no logging: Python itself would
    print warnings only."""

    def emit(self, record: logging.LogRecord) -> None:
        others = [handler for handler in logging.getLogger(ROOT).handlers if handler is not self]
        if not (others or logging.root.handlers):
            self.setStream(sys.stderr)
            super().emit(record)


class _Levels:
    """The levels that this process's loggers got from here."""

    def __init__(self) -> None:
        self.named: set[str] = set()
        """The components that have levels of their own."""
        self.adopted: LoggingConfig | None = None
        """What was configured last, and holds."""
        self.in_code = False
        """Whether the program itself has said which levels it wants."""
        self.shows = _ShowsUnheard()
        self.shows.setFormatter(logging.Formatter(FORMAT))


_levels: Final = _Levels()


def configure_logging(
    level: LogLevel | None = None, components: Mapping[str, LogLevel] | None = None, disable: bool | None = None
) -> None:
    """Set the levels of the library's loggers, at any time; what isn't given comes from the environment.

    From then on, what is configured elsewhere changes them no more. In a program that has set up no logging, what the
    levels let through is printed to stderr. Raises `ConfigError` for an unknown level.
    """
    settings = EnvConfig().settings()
    data = {
        "level": settings.LOG_LEVEL if level is None else _upper(level),
        "components": (settings.COMPONENT_LOG_LEVELS or {}) if components is None else components,
        "disable": settings.DISABLE_LOGGING if disable is None else disable,
    }
    set_levels(convert(data, LoggingConfig, "logging"))


def set_levels(config: LoggingConfig) -> None:
    """As `configure_logging`, with everything given."""
    apply(config)
    _levels.in_code = True


def adopt(config: LoggingConfig, *, anew: bool = False) -> None:
    """Set the levels that a configuration says, once: what the program itself says, before or after that, wins.

    One that says nothing changes nothing, unless it is a configuration that was read `anew`.
    """
    says_nothing = config == LoggingConfig() and not (anew and _levels.adopted is not None)
    if says_nothing or config == _levels.adopted or _levels.in_code:
        return
    apply(config)
    _levels.adopted = config


def apply(config: LoggingConfig) -> None:
    """Set the levels; components that were set before and aren't named now follow `omniq` again."""
    named = {f"{ROOT}.{name.removeprefix(ROOT + '.')}": level for name, level in config.components.items()}
    levels = {} if config.disable else named
    for name in _levels.named - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _levels.named = {*levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(_number(level))
    root = logging.getLogger(ROOT)
    root.setLevel(OFF if config.disable else _number(config.level))
    talkative = any(0 < _number(level) < logging.WARNING for level in (config.level, *levels.values()))
    root.removeHandler(_levels.shows)
    if talkative and not config.disable:
        root.addHandler(_levels.shows)
    for name in levels.keys() - _warned:
        _warn_of_component(name)


def _warn_of_component(logger: str) -> None:
    """Warn, once, of the level of a logger that nobody has."""
    _warned.add(logger)
    name = logger.removeprefix(f"{ROOT}.")
    if name.partition(".")[0] not in COMPONENTS and logger not in logging.root.manager.loggerDict.keys() - {logger}:
        guess = did_you_mean(name, COMPONENTS) or f"; known: {', '.join(sorted(COMPONENTS))}"
        log.warning("logging.components.%s: nothing logs under that name%s", name, guess)


def _upper(level: object) -> object:
    return level.upper() if isinstance(level, str) else level


def _number(level: LogLevel | None) -> int:
    if level is None:
        return logging.NOTSET
    return OFF if level == "DISABLED" else logging.getLevelNamesMapping()[level]
