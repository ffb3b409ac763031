"""Components whose stores keep payloads: by whose keys and within which limits those are packed and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from omniq.backend.component import AsyncComponent
from omniq.config.security import Security
from omniq.models.config import ComponentConfig, TaskQueueConfig
from omniq.serialization.exposure import warn_if_exposed
from omniq.storage.base import Store
from omniq.storage.queue import BaseTaskQueue

C = TypeVar("C", bound=ComponentConfig)
S = TypeVar("S", bound=Store)


class SecuredComponent(AsyncComponent[C, S], Generic[C, S]):
    """A component that packs and reads payloads: as the `Security` says that it was given, else OmniQ, else the
    environment. Raises `ConfigError` for keys that are no good."""

    def __init__(self, make_store: Callable[[C], S], config: C, security: Security | None) -> None:
        super().__init__(make_store, config)
        self._own_security = security is not None
        self._serialize_by(security or Security.from_environment())

    def use_project(self, project_name: str) -> None:
        super().use_project(project_name)
        self._serialize_by(self.security)

    def use_security(self, security: Security) -> None:
        """Take over OmniQ's keys and limits, unless this component was given its own."""
        if not self._own_security:
            self._serialize_by(security)

    def _serialize_by(self, security: Security) -> None:
        config: ComponentConfig = self.config
        self.security = security.narrowed(config.serializer) if isinstance(config, TaskQueueConfig) else security
        self.serialization = self.security.manager(self.config.project)

    async def connect(self) -> None:
        """Connect now, on the running loop, instead of at the first call. Raises `StoreError`."""
        await super().connect()
        if self.store.networked:
            holds_calls = isinstance(self.store, BaseTaskQueue)
            warn_if_exposed(self.store.location, self.serialization, holds_calls=holds_calls)
