"""Where the command works: what its options say of configuration, store and project."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from omniq.errors import ConfigError

if TYPE_CHECKING:
    from omniq.config.model import OmniQConfig
    from omniq.core import AsyncOmniQ

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The options that every command takes; what isn't given comes from the environment, the file and the defaults."""

    config: str | None = None
    """A YAML file, else the one that OMNIQ_CONFIG names."""
    url: str | None = None
    """The task queue's URL."""
    project: str | None = None
    log_level: str | None = None

    def over(self, other: Place) -> Place:
        """What this says, and else what the other one does."""
        return Place(
            config=self.config or other.config,
            url=self.url or other.url,
            project=self.project or other.project,
            log_level=self.log_level or other.log_level,
        )

    @functools.cached_property
    def configuration(self) -> OmniQConfig:
        """The whole configuration. Raises `ConfigError`."""
        from omniq.config.loader import ConfigProvider

        return ConfigProvider(self.config).load(
            project_name=self.project,
            task_queue=None if self.url is None else {"url": self.url},
            logging=None if self.log_level is None else {"level": self.log_level},
        )

    def open(self) -> AsyncOmniQ:
        """OmniQ as configured, not connected yet. Raises `ConfigError` or `PluginError`."""
        from omniq.core import AsyncOmniQ

        oq = AsyncOmniQ(config=self.configuration)
        _check_shared(oq)
        return oq

    def run(self, work: Callable[[AsyncOmniQ], Awaitable[R]]) -> R:
        """Do some work with a connected OmniQ, and close it. Raises `OmniQError`."""
        import asyncio

        async def main() -> R:
            async with self.open() as oq:
                return await work(oq)

        self.set_up_logging()
        return asyncio.run(main())

    def set_up_logging(self) -> None:
        """Let logging write to stderr, unless somebody has set it up already.

        The library's own loggers get the configured level; all others the one that `--log-level` gives.
        """
        import logging

        from omniq.config.logging import FORMAT, apply

        level = "WARNING" if self.log_level in (None, "DISABLED") else self.log_level
        logging.basicConfig(stream=sys.stderr, format=FORMAT, level=level)
        apply(self.configuration.logging)


def use_working_directory() -> None:
    """Let modules of the working directory be imported, as `python -m` does."""
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _check_shared(oq: AsyncOmniQ) -> None:
    from omniq.storage.capabilities import Capability

    store = oq.task_queue.store
    if Capability.CROSS_PROCESS not in store.capabilities:
        raise ConfigError(f"task_queue: {store.location} lives in one process, which no other can look into")
