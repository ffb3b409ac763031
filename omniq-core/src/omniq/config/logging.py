"""The library's own logging: loggers named `omniq` and `omniq.<component>`. Task events are something else.

The components are queue, worker, results, events, serialization and config, and each store by its name.
Only these loggers' levels are ever changed, never the root logger, and no handler is added: what is shown,
and where, is the application's decision.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from omniq.config.convert import convert
from omniq.config.settings import EnvConfig, LogLevel, Settings

ROOT: Final = "omniq"
OFF: Final = logging.CRITICAL + 1
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""Of the command's log, and of the log of child processes."""

_set_before: set[str] = set()


class LoggingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the library logs."""

    level: LogLevel = Settings.LOG_LEVEL
    components: dict[str, LogLevel] = field(default_factory=dict)
    """Levels of parts of the library, such as {"worker": "DEBUG"}."""
    disable: bool = Settings.DISABLE_LOGGING
    """Log nothing at all, whatever the levels."""


def configure_logging(
    level: LogLevel | None = None, components: Mapping[str, LogLevel] | None = None, disable: bool | None = None
) -> None:
    """Set the levels of the library's loggers, at any time; what isn't given comes from the environment.

    Raises `ConfigError` for an unknown level.
    """
    settings = EnvConfig().settings()
    data = {
        "level": settings.LOG_LEVEL if level is None else level,
        "components": (settings.COMPONENT_LOG_LEVELS or {}) if components is None else components,
        "disable": settings.DISABLE_LOGGING if disable is None else disable,
    }
    apply(convert(data, LoggingConfig, "logging"))


def apply(config: LoggingConfig) -> None:
    """Set the levels; components that were set before and aren't named now follow `omniq` again."""
    levels = {} if config.disable else {f"{ROOT}.{name}": level for name, level in config.components.items()}
    for name in _set_before - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _set_before.clear()
    _set_before.update(levels)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(_number(level))
    logging.getLogger(ROOT).setLevel(OFF if config.disable else _number(config.level))


def _number(level: LogLevel) -> int:
    return OFF if level == "DISABLED" else logging.getLevelNamesMapping()[level]
