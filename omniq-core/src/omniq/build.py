"""From a configuration to the components that it describes, and from whatever says where one is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Set
from typing import Any, Final, NamedTuple, Self, TypeAlias, cast

from msgspec.structs import replace

from omniq.backend import AsyncComponent, BaseBackend
from omniq.callbacks import CallbackManager
from omniq.config.choices import chosen
from omniq.config.convert import check_path, check_url, checked_mapping
from omniq.config.loader import ComponentChoice, ConfigProvider, OmniQConfig, Resolved, Security
from omniq.config.settings import adopt
from omniq.errors import ConfigError
from omniq.events.logger import AsyncEventLogger
from omniq.events.storage import AsyncEventStorage, EventStorage
from omniq.models.config import ComponentConfig
from omniq.plugins.specs import StoreKind
from omniq.queue.engine import AsyncTaskQueue, TaskQueue
from omniq.results import AsyncResultStorage, ResultStorage
from omniq.sync import Blocking

Source: TypeAlias = OmniQConfig | Mapping[str, Any] | str | os.PathLike[str]
"""A whole configuration: an `OmniQConfig`, a dict in the shape of a file, or a file's path."""
Place: TypeAlias = str | Mapping[str, Any] | ComponentChoice | ComponentConfig | BaseBackend
"""Where a component keeps what it has: a URL or a name, `url`, `type` and `config`, a config struct, or a backend."""
AnyTaskQueue: TypeAlias = AsyncTaskQueue[Any] | TaskQueue | Place
AnyResultStorage: TypeAlias = AsyncResultStorage[Any] | ResultStorage | Place
AnyEventStorage: TypeAlias = AsyncEventStorage[Any] | EventStorage | Place
"""A component, or its blocking facade, or where one is: see `Place`."""
Given: TypeAlias = dict[StoreKind, Any]
"""Components as they were given, by kind: a `Place`, a component or its blocking facade, or None. `False` for events:
there are none, whatever is configured."""
COMPONENTS: Final[Mapping[StoreKind, Any]] = {
    "task_queue": AsyncTaskQueue,
    "result_store": AsyncResultStorage,
    "event_store": AsyncEventStorage,
}


WORDS: Final = (str, Mapping, ComponentChoice)
"""What says in words where a component is."""


def configured(source: Source | Resolved | None, project_name: str | None, given: Given) -> tuple[Resolved, Given]:
    """The configuration, with what was given in words; and the components that were given in another way.

    The library logs as it says from then on. Raises `ConfigError` or `PluginError`.
    """
    words: dict[str, Any] = {kind: part for kind, part in given.items() if isinstance(part, WORDS)}
    no_events = given.get("event_store") is False
    given = {**given, "event_store": None} if no_events else given
    made: Given = {kind: None if kind in words else _component(kind, part) for kind, part in given.items()}
    if isinstance(source, Resolved) and not (words or no_events):
        adopt(source.config.logging)
        return source, made
    provider = ConfigProvider(source.config if isinstance(source, Resolved) else source)

    def load() -> OmniQConfig:
        config = provider.load(project_name=project_name, **words)
        return replace(config, event_store=None) if no_events else config

    resolved = Resolved(load(), None if provider.file is None else load)
    adopt(resolved.config.logging)
    return resolved, made


class FromSource:
    """The constructors of what takes a whole configuration."""

    @classmethod
    def from_config(cls, config: OmniQConfig) -> Self:
        """As a config struct says, which is complete: the environment adds only protections, such as a signing key."""
        if not isinstance(config, OmniQConfig):
            raise ConfigError(f"config: expected an OmniQConfig, got {type(config).__name__}")
        return cls._from(config=config)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """As a dict in the shape of the file says, and the environment for the rest. Raises `ConfigError`."""
        return cls._from(config=checked_mapping(config))

    @classmethod
    def from_config_file(cls, path: str | os.PathLike[str]) -> Self:
        """As a YAML file says. Raises `ConfigError` naming the file and the path inside it."""
        check_path(path)
        return cls._from(config=path)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """With its task queue where a URL says. Raises `ConfigError` or `PluginError`."""
        check_url(url)
        return cls._from(task_queue={"url": url})

    @classmethod
    def _from(cls, config: Source | None = None, task_queue: Any = None) -> Self:
        return cast("Callable[..., Self]", cls)(config=config, task_queue=task_queue)


def made(kind: StoreKind, config: OmniQConfig, **options: Any) -> Any:
    """The component that a configuration describes, as part of something larger; None where it says nothing of it and
    none is needed: results go where the queue is, and there are no events. Raises `ConfigError` or `PluginError`."""
    if kind != "task_queue" and getattr(config, kind) is None:
        return None
    spec, settings = chosen(kind, config)
    return COMPONENTS[kind].on_store(spec.store, settings, breaker=config.breaker, **options)


def _component(kind: StoreKind, part: object) -> AsyncComponent[Any, Any] | None:
    """The component that is meant. Raises `ConfigError`."""
    core = part.aio if isinstance(part, Blocking) else part
    if core is None or isinstance(core, COMPONENTS[kind]):
        return core
    made_there: AsyncComponent[Any, Any] | None = COMPONENTS[kind].at(core)
    if made_there is not None:
        return made_there
    raise ConfigError(f"{kind}: expected {expected(kind)}, got {type(core).__name__}")


def expected(kind: StoreKind) -> str:
    """What a component may be given as, in words."""
    name = COMPONENTS[kind].__name__
    return f"a URL, a store's name, a dict, a config struct, a backend, an {name} or its blocking facade"


# ── put together ────────────────────────────────────────────────────────────


class Parts(NamedTuple):
    """Components as parts of one thing."""

    queue: AsyncTaskQueue[Any]
    results: AsyncResultStorage[Any] | None
    """None where the queue's own place keeps them."""
    events: AsyncEventStorage[Any] | None
    logger: AsyncEventLogger | None


def joined(config: OmniQConfig, given: Given, callbacks: CallbackManager | None = None) -> Parts:
    """The components that were given and, for the rest, those that the configuration describes, put together as new
    ones on the same stores: what was given stays as it was. Raises `ConfigError` or `PluginError`."""
    project, breaker, security = config.project_name, config.breaker, Security.of(config)
    queue = given["task_queue"] or made("task_queue", config, defaults=config.defaults, security=security)
    results = given["result_store"] or made("result_store", config, serialization=queue.serialization)
    events = given["event_store"] or made("event_store", config)
    results = None if results is None else results.as_part(project, breaker=breaker)
    events = None if events is None else events.as_part(project, breaker)
    logger = None if events is None else AsyncEventLogger(events.store, config.events)
    queue = queue.as_part(
        project=project,
        defaults=config.defaults,
        security=security,
        results=None if results is None else results.store,
        events=logger,
        breaker=breaker,
        callbacks=queue.callbacks.copy() if callbacks is None else callbacks,
    )
    return Parts(queue, None if results is None else results.as_part(project, queue.serialization), events, logger)


def with_parts(config: OmniQConfig, parts: Given, wanted: Set[StoreKind], callbacks: CallbackManager | None) -> Any:
    """A queue that was made by hand, with the `wanted` results and events beside it, and nothing else."""
    queue: AsyncTaskQueue[Any] = parts["task_queue"]
    results, events = (
        parts[kind] or made(kind, config) if kind in wanted else None for kind in ("result_store", "event_store")
    )
    if results is None and events is None and callbacks is None:
        return queue
    return queue.as_part(
        results=None if results is None else results.store,
        events=None if events is None else AsyncEventLogger(events.store, config.events),
        callbacks=callbacks,
    )
