"""Configuration: settings, environment variables, files and arguments, merged and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.backend.component import configured_by as configured_by
    from omniq.config.loader import ConfigProvider as ConfigProvider
    from omniq.config.logging import LoggingConfig as LoggingConfig
    from omniq.config.logging import configure_logging as configure_logging
    from omniq.config.model import ComponentChoice as ComponentChoice
    from omniq.config.model import OmniQConfig as OmniQConfig
    from omniq.config.model import TaskDefaults as TaskDefaults
    from omniq.config.model import WorkerChoice as WorkerChoice
    from omniq.config.settings import EnvConfig as EnvConfig
    from omniq.config.settings import Settings as Settings
    from omniq.models.redaction import mask_url as mask_url
    from omniq.models.redaction import redact as redact
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "ComponentChoice": "omniq.config.model",
            "ConfigProvider": "omniq.config.loader",
            "EnvConfig": "omniq.config.settings",
            "LoggingConfig": "omniq.config.logging",
            "OmniQConfig": "omniq.config.model",
            "Settings": "omniq.config.settings",
            "TaskDefaults": "omniq.config.model",
            "WorkerChoice": "omniq.config.model",
            "configure_logging": "omniq.config.logging",
            "configured_by": "omniq.backend.component",
            "mask_url": "omniq.models.redaction",
            "redact": "omniq.models.redaction",
        },
    )

__all__ = [
    "ComponentChoice",
    "ConfigProvider",
    "EnvConfig",
    "LoggingConfig",
    "OmniQConfig",
    "Settings",
    "TaskDefaults",
    "WorkerChoice",
    "configure_logging",
    "configured_by",
    "mask_url",
    "redact",
]
