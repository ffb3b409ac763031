"""Configuration: settings, environment variables, files and arguments, merged and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.backend import configured_by as configured_by
    from omniq.build import AnyEventStorage as AnyEventStorage
    from omniq.build import AnyResultStorage as AnyResultStorage
    from omniq.build import AnyTaskQueue as AnyTaskQueue
    from omniq.build import Given as Given
    from omniq.build import Place as Place
    from omniq.build import Source as Source
    from omniq.config.described import Changes as Changes
    from omniq.config.described import Reloaded as Reloaded
    from omniq.config.loader import ComponentChoice as ComponentChoice
    from omniq.config.loader import ConfigProvider as ConfigProvider
    from omniq.config.loader import EventsConfig as EventsConfig
    from omniq.config.loader import OmniQConfig as OmniQConfig
    from omniq.config.loader import Origin as Origin
    from omniq.config.loader import Resolved as Resolved
    from omniq.config.loader import Security as Security
    from omniq.config.loader import TaskDefaults as TaskDefaults
    from omniq.config.loader import WorkerChoice as WorkerChoice
    from omniq.config.settings import EnvConfig as EnvConfig
    from omniq.config.settings import LoggingConfig as LoggingConfig
    from omniq.config.settings import Settings as Settings
    from omniq.config.settings import configure_logging as configure_logging
    from omniq.models.config import mask_url as mask_url
    from omniq.models.config import redact as redact
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AnyEventStorage": "omniq.build",
            "AnyResultStorage": "omniq.build",
            "AnyTaskQueue": "omniq.build",
            "Changes": "omniq.config.described",
            "ComponentChoice": "omniq.config.loader",
            "ConfigProvider": "omniq.config.loader",
            "EnvConfig": "omniq.config.settings",
            "EventsConfig": "omniq.config.loader",
            "Given": "omniq.build",
            "LoggingConfig": "omniq.config.settings",
            "OmniQConfig": "omniq.config.loader",
            "Origin": "omniq.config.loader",
            "Place": "omniq.build",
            "Reloaded": "omniq.config.described",
            "Resolved": "omniq.config.loader",
            "Security": "omniq.config.loader",
            "Settings": "omniq.config.settings",
            "Source": "omniq.build",
            "TaskDefaults": "omniq.config.loader",
            "WorkerChoice": "omniq.config.loader",
            "configure_logging": "omniq.config.settings",
            "configured_by": "omniq.backend",
            "mask_url": "omniq.models.config",
            "redact": "omniq.models.config",
        },
    )
