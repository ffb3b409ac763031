"""The loggers of OmniQ: what they write of a task or of an error can forge no line of a log."""

from __future__ import annotations

import logging
from typing import Any

from omniq.texts import escaped


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that escapes texts and errors among its arguments."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As `logging.Logger.log`."""
        if self.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, msg, *map(_safe, args), **kwargs)


def get_logger(name: str) -> SafeLogger:
    """The logger of that name."""
    return SafeLogger(logging.getLogger(name), {})


def _safe(value: object) -> object:
    return escaped(str(value)) if isinstance(value, str | BaseException) else value
