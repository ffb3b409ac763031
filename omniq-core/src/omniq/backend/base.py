"""A backend: the components of one name that share one configuration."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, TypeVar

from omniq.backend.component import Configured
from omniq.config.convert import convert, given_fields
from omniq.errors import ConfigError
from omniq.models.config import ComponentConfig, EventStorageConfig, ResultStorageConfig, TaskQueueConfig
from omniq.plugins.registry import load_class, registry
from omniq.plugins.specs import EventStoreSpec, ResultStoreSpec, TaskQueueSpec
from omniq.storage.guarantees import Guarantees
from omniq.storage.queue import BaseTaskQueue
from omniq.sync import portal, refuse_in_loop

C = TypeVar("C", bound=ComponentConfig)


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
