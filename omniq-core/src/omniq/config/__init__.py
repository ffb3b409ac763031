"""Configuration: settings, environment variables, files and arguments, merged and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.config.arguments import configured_by as configured_by
    from omniq.config.choices import ComponentChoice as ComponentChoice
    from omniq.config.choices import OmniQConfig as OmniQConfig
    from omniq.config.choices import TaskDefaults as TaskDefaults
    from omniq.config.choices import WorkerChoice as WorkerChoice
    from omniq.config.env import EnvConfig as EnvConfig
    from omniq.config.loader import ConfigProvider as ConfigProvider
    from omniq.config.logging import LoggingConfig as LoggingConfig
    from omniq.config.logging import configure_logging as configure_logging
    from omniq.config.settings import Settings as Settings
    from omniq.models.redaction import mask_url as mask_url
    from omniq.models.redaction import redact as redact
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "ComponentChoice": "omniq.config.choices",
            "ConfigProvider": "omniq.config.loader",
            "EnvConfig": "omniq.config.env",
            "LoggingConfig": "omniq.config.logging",
            "OmniQConfig": "omniq.config.choices",
            "Settings": "omniq.config.settings",
            "TaskDefaults": "omniq.config.choices",
            "WorkerChoice": "omniq.config.choices",
            "configure_logging": "omniq.config.logging",
            "configured_by": "omniq.config.arguments",
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
