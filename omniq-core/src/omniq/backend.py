"""Backends, and what all components are: a configuration, and a store that opens at the first call.

The backends of installed stores are here, too: `from omniq.backend import SQLiteBackend`.

"""

from __future__ import annotations

import asyncio
import functools
import os
import weakref
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Self,
    TypeVar,
    cast,
)

from msgspec.structs import asdict, replace

from omniq.config.choices import chosen, completed, said_by_url, spec_of, with_environment
from omniq.config.convert import check_path, check_url, checked_mapping, convert, given_fields
from omniq.config.loader import ComponentChoice, ConfigProvider, OmniQConfig, Security, ambient
from omniq.config.settings import adopt
from omniq.errors import ConfigError, SerializationError
from omniq.exports import lazy
from omniq.loops import PerLoop, Waits
from omniq.models.config import (
    DEFAULT_PROJECT,
    BreakerConfig,
    ComponentConfig,
    EventStorageConfig,
    ResultStorageConfig,
    TaskQueueConfig,
)
from omniq.plugins.registry import load_class, registry
from omniq.plugins.specs import EventStoreSpec, ResultStoreSpec, StoreKind, TaskQueueSpec
from omniq.serialization.manager import warn_if_exposed
from omniq.storage.base import BaseTaskQueue, Guarantees, Store
from omniq.storage.breakers import GuardedStore, guarded
from omniq.sync import STAYS_HERE, AsyncResource, Blocking, portal, refuse_in_loop

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
else:
    _, __getattr__, __dir__ = lazy(__name__, {}, fronts=("backend",))


C = TypeVar("C", bound=ComponentConfig)
S = TypeVar("S", bound=Store)
T = TypeVar("T")
A = TypeVar("A", bound=AsyncResource)
P = ParamSpec("P")


class AsyncComponent(Generic[C, S]):
    """A configured store, connected, per event loop, at the first use.

    A project that it isn't given is that of what it becomes part of, else the environment's.
    """

    def __init__(self, make_store: Callable[[C], S], config: C, breaker: BreakerConfig | None = None) -> None:
        self._make_store = make_store
        self._own_project = config.project_name
        self._own_breaker = breaker
        self.config = config = _in_project(config)
        store = make_store(config)
        if breaker is None and not isinstance(store, GuardedStore):
            breaker = ambient().breaker
        self.store = guarded(store, breaker)
        """The implementation of the contract that this component drives, behind its circuit breaker."""
        self._connected: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._waits = PerLoop(lambda: Waits(type(self).__name__))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(STAYS_HERE.format(type(self).__name__))

    def _at(self, project: str | None) -> tuple[Callable[[C], S], C]:
        """How to make the same component in that project; if it was given its own, it stays there, on this store."""
        if project is None or self._own_project is not None:
            return lambda _: self.store, self.config
        config = replace(self.config, project_name=project)
        return (lambda _: self.store) if config.project == self.config.project else self._make_store, config

    async def ready(self) -> S:
        """The store, connected for the running loop. Raises `StoreError`."""
        if asyncio.get_running_loop() not in self._connected:
            await self.connect()
        return self.store

    async def connect(self) -> None:
        """Connect now, on the running loop, instead of at the first call. Raises `StoreError`."""
        await self.store.connect()
        self._connected.add(asyncio.get_running_loop())

    @property
    def waits(self) -> Waits:
        """The running loop's calls that wait: `close` ends them with `Closed`."""
        return self._waits.get()

    async def close(self) -> None:
        """Give back the running loop's connections; a later call opens them again.

        Calls on this loop that still wait for something get `Closed`.
        """
        loop = asyncio.get_running_loop()
        self._end_waits()
        self._connected.discard(loop)
        await self.store.close()

    def _end_waits(self) -> None:
        if (waits := self._waits.pop()) is not None:
            waits.close()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class SecuredComponent(AsyncComponent[C, S], Generic[C, S]):
    """A component that packs and reads payloads: as the `Security` says that it was given, else OmniQ, else the
    environment. Raises `ConfigError` for keys that are no good."""

    def __init__(
        self, make_store: Callable[[C], S], config: C, security: Security | None, breaker: BreakerConfig | None = None
    ) -> None:
        super().__init__(make_store, config, breaker)
        self._own_security = security
        security = security or Security.from_environment()
        struct: ComponentConfig = self.config
        self.security = security.narrowed(struct.serializer) if isinstance(struct, TaskQueueConfig) else security
        self.serialization = self.security.manager(struct.project)

    async def connect(self) -> None:
        """Connect now, on the running loop, instead of at the first call. Raises `StoreError`."""
        await super().connect()
        if self.store.networked:
            holds_calls = isinstance(self.store, BaseTaskQueue)
            warn_if_exposed(self.store.location, self.serialization, holds_calls=holds_calls)


def _in_project(config: C) -> C:
    """The configuration, in the environment's project where it names none."""
    if config.project_name is not None or (project := ambient().project_name) == DEFAULT_PROJECT:
        return config
    return replace(config, project_name=project)


# ── constructors ───────────────────────────────────────────────────────────────


class Chosen:
    """For components on any store: the ways to say on which one."""

    kind: ClassVar[StoreKind]
    contract: ClassVar[type[Store]]
    """What a store of this kind implements."""

    @classmethod
    def configured(cls, config: OmniQConfig) -> Self:
        """As its part of a whole configuration says. Raises `ConfigError` or `PluginError`."""
        adopt(config.logging)
        spec, settings = chosen(cls.kind, config)
        return cls.on_store(spec.store, settings, **cls.options_of(config))

    @classmethod
    def at(cls, place: object) -> Self | None:
        """At a place, however it is said; None for what is no place. Raises `ConfigError` or `PluginError`."""
        match place:
            case str():
                return cls.from_dict({"url": place} if ":" in place else {"type": place})
            case Mapping():
                return cls.from_dict(place)
            case ComponentConfig():
                return cls.from_config(place)
            case ComponentChoice():
                return cls.from_dict(given_fields(place))
            case BaseBackend():
                at_backend: Self = cast("Any", cls).from_backend(place)
                return at_backend
        return None

    @classmethod
    def options_of(cls, config: OmniQConfig) -> dict[str, Any]:
        """What a whole configuration says of it besides where it is."""
        return {"breaker": config.breaker}

    @classmethod
    def on_store(cls, store: str, settings: Any, **options: Any) -> Self:
        """On the store whose class this import string names. Raises `PluginError`."""
        return cast("Callable[..., Self]", cls)(load_class(store, cls.contract), settings, **options)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Where a URL says, such as "sqlite:///data/shop.db". Raises `ConfigError` or `PluginError`."""
        check_url(url)
        return cls.from_dict({"url": url})

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """As a dict says, which is shaped as this component's part of a file: `type`, `url` and `config`.

        Raises `ConfigError` naming the path, or `PluginError`.
        """
        return cls.configured(ConfigProvider().load(**{cls.kind: checked_mapping(config)}))

    @classmethod
    def from_config(cls, config: ComponentConfig) -> Self:
        """As the config struct of an installed store says. Raises `ConfigError`."""
        if not isinstance(config, ComponentConfig):
            raise ConfigError(f"config: expected the config struct of a store, got {type(config).__name__}")
        return cls.on_store(spec_of(cls.kind, type(config)).store, completed(config))

    @classmethod
    def from_config_file(cls, path: str | os.PathLike[str]) -> Self:
        """As its part of a configuration file says. Raises `ConfigError` naming the file and the path inside it."""
        check_path(path)
        return cls.configured(ConfigProvider(path).load())


class BlockingChosen(Blocking[A], Chosen, Generic[A]):
    """The same for blocking facades.

    One is made of its async core, or of whatever says where it is: a URL, a store's name, a dict, a config struct or a
    backend; of nothing, as it is configured. Raises `ConfigError` or `PluginError`.
    """

    def __init__(
        self, aio: A | str | Mapping[str, Any] | ComponentChoice | ComponentConfig | BaseBackend | None = None
    ) -> None:
        super().__init__(self._core_of(aio))

    @classmethod
    def _core_of(cls, given: Any) -> Any:
        if isinstance(given, cls._core):
            return given
        if given is None:
            return cls._core.configured(ambient())
        if (core := cls._core.at(given)) is not None:
            return core
        expected = f"an {cls._core.__name__}, a URL, a store's name, a dict, a config struct or a backend"
        raise ConfigError(f"{cls.__name__}: aio: expected {expected}, got {type(given).__name__}")

    @classmethod
    def configured(cls, config: OmniQConfig) -> Self:
        """As its part of a whole configuration says. Raises `ConfigError` or `PluginError`."""
        return cast("Callable[..., Self]", cls)(cls._core.configured(config))

    @classmethod
    def on_store(cls, store: str, settings: Any, **options: Any) -> Self:
        """On the store whose class this import string names. Raises `PluginError`."""
        return cast("Callable[..., Self]", cls)(cls._core.on_store(store, settings, **options))


class Configured:
    """For classes whose constructor is `configured_by` a struct, its `config_class`: the other ways to say the same."""

    config_class: ClassVar[type[ComponentConfig]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if struct := getattr(cls.__init__, "config_class", None):
            cls.config_class = struct

    @classmethod
    def from_config(cls, config: ComponentConfig) -> Self:
        """As a config struct says. Raises `ConfigError` naming the field, or if it is another component's."""
        if not isinstance(config, cls.config_class):
            raise ConfigError(f"config: expected {cls.config_class.__name__}, got {type(config).__name__}")
        return cls.from_dict(asdict(completed(config)))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """As a dict says. Raises `ConfigError` naming the field."""
        return cast("Callable[..., Self]", cls)(**checked_mapping(config))

    @classmethod
    def from_config_file(cls, path: str | os.PathLike[str]) -> Self:
        """As a YAML file with the fields at its top says. Raises `ConfigError` naming file and field."""
        from omniq.config.files import load_yaml  # only who reads YAML pays for it

        check_path(path)
        return cls.from_dict(load_yaml(path))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """As a URL says, and the environment of what it leaves open. Raises `ConfigError`."""
        check_url(url)
        return cls.from_dict(said_by_url(cls.config_class.from_url(url)))


def configured_by(
    config: Callable[P, C],
) -> Callable[[Callable[[T, C], None]], Callable[Concatenate[T, P], None]]:
    """Give an `__init__(self, config)` the keyword arguments of its config struct, checked as they come in.

        class AsyncSQLiteTaskQueue(Configured, AsyncTaskQueue[SQLiteTaskQueueConfig]):
            @configured_by(SQLiteTaskQueueConfig)
            def __init__(self, config: SQLiteTaskQueueConfig) -> None: ...

        AsyncSQLiteTaskQueue(base_dir="some/path")

    Paths may be given as `pathlib.Path` and durations as `timedelta`. The constructor raises `ConfigError`,
    such as `AsyncSQLiteTaskQueue: base_dir: expected str, got int`, and `TypeError` for positional arguments.
    """
    struct = cast("type[C]", config)

    def decorate(init: Callable[[T, C], None]) -> Callable[Concatenate[T, P], None]:
        @functools.wraps(init)
        def construct(self: T, /, *args: P.args, **kwargs: P.kwargs) -> None:
            name = type(self).__name__
            if args:
                raise TypeError(f"{name} takes keyword arguments only")
            try:
                checked = convert(with_environment(struct, kwargs), struct)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
            adopt(ambient().logging)
            init(self, checked)

        construct.__dict__.update(__signature__=_signature(struct), config_class=struct)
        return construct

    return decorate


def _signature(struct: type[ComponentConfig]) -> Signature:
    """What `help` and editors show: the fields instead of `**kwargs`."""
    this = Parameter("self", Parameter.POSITIONAL_ONLY)
    return Signature([this, *signature(struct).parameters.values()])


# ── backends ────────────────────────────────────────────────────────────────


class BackendSpecs(NamedTuple):
    """What a backend is made of."""

    task_queue: TaskQueueSpec
    result_store: ResultStoreSpec
    event_store: EventStoreSpec | None


class BaseBackend(Configured):
    """The task queue, results and events that have one name, under the queue's configuration.

    A subclass gives the name, and a constructor that is decorated with `configured_by`:

        class SQLiteBackend(BaseBackend):
            name = "sqlite"

            @configured_by(SQLiteTaskQueueConfig)
            def __init__(self, config: SQLiteTaskQueueConfig) -> None:
                super().__init__(config)
    """

    name: ClassVar[str]

    def __init__(self, config: TaskQueueConfig) -> None:
        self.config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    @property
    def project_name(self) -> str | None:
        """The project that it was given."""
        return self.config.project_name

    @property
    def has_events(self) -> bool:
        """Whether it keeps events."""
        return self.name in registry().names("event_store")

    @property
    def specs(self) -> BackendSpecs:
        """What the plugins declare under its name. Raises `PluginError` when it isn't usable."""
        plugins = registry()
        return BackendSpecs(
            task_queue=plugins.task_queue(self.name),
            result_store=plugins.result_store(self.name),
            event_store=plugins.event_store(self.name) if self.has_events else None,
        )

    def task_queue_config(self, **overrides: Any) -> TaskQueueConfig:
        """The task queue's configuration, with other values for some fields. Raises `ConfigError` naming a field."""
        return self._derive(type(self.config), overrides)

    def result_store_config(self, **overrides: Any) -> ResultStorageConfig:
        """The result store's configuration: what it has in common with the queue's. Raises `ConfigError`."""
        return self._derive(load_class(self.specs.result_store.config, ResultStorageConfig), overrides)

    def event_store_config(self, **overrides: Any) -> EventStorageConfig | None:
        """The event store's configuration, or None when the backend has no events. Raises `ConfigError`."""
        spec = self.specs.event_store
        return None if spec is None else self._derive(load_class(spec.config, EventStorageConfig), overrides)

    def guarantees(self) -> Guarantees:
        """What the task queue's store promises, asked of the live server where that can be asked. Blocks.

        Raises `StoreError` when the store can't be reached, `BlockingCallInLoop` inside a running loop.
        """
        refuse_in_loop(f"{type(self).__name__}.guarantees()")
        store = load_class(self.specs.task_queue.store, BaseTaskQueue)(self.config)  # type: ignore[type-abstract, call-arg]
        return portal().call(_guarantees_of(store))

    def _derive(self, type_: type[C], overrides: dict[str, Any]) -> C:
        shared = {name: value for name, value in given_fields(self.config).items() if name in type_.__struct_fields__}
        return convert({**shared, **overrides}, type_, type(self).__name__)


def check_backend(backend: object) -> BaseBackend:
    """The backend, if it is one. Raises `ConfigError`."""
    if isinstance(backend, BaseBackend):
        return backend
    raise ConfigError(f"backend: expected one such as SQLiteBackend(), got {type(backend).__name__}")


async def _guarantees_of(store: BaseTaskQueue) -> Guarantees:
    await store.connect()
    try:
        return await store.guarantees()
    finally:
        await store.close()
