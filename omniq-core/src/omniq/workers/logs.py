"""Logging in child processes: what the worker's process would show is shown on the child's stderr."""

from __future__ import annotations

import logging
import sys
from typing import Final, Self

from msgspec import Struct

from omniq.config.logging import FORMAT

WITH_HANDLERS: Final = frozenset({"dill", "push_response"})
"""Loggers of dill and redis-py that have a handler from their import on, whatever the program wants to see."""


class LogSettings(Struct, array_like=True):
    """How a process logs."""

    levels: dict[str, int]
    """Of the loggers that have a level of their own; the root logger's name is empty."""
    disabled: int
    """The level up to which `logging.disable` has turned everything off."""
    shown: int | None
    """The lowest level that some handler shows; None where there is no handler."""

    @classmethod
    def of_this_process(cls) -> Self:
        loggers = [
            logger for logger in list(logging.root.manager.loggerDict.values()) if isinstance(logger, logging.Logger)
        ]
        levels = {logger.name: logger.level for logger in loggers if logger.level != logging.NOTSET}
        own = [logger for logger in (logging.root, *loggers) if logger.name not in WITH_HANDLERS]
        handlers = [handler for logger in own for handler in logger.handlers]
        shown = [handler.level for handler in handlers if not isinstance(handler, logging.NullHandler)]
        return cls({**levels, "": logging.root.level}, logging.root.manager.disable, min(shown, default=None))

    def apply(self) -> None:
        """Let this process log the same to stderr, unless something has set up its logging already."""
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.disable(self.disabled)
        if self.shown is not None and not logging.root.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setLevel(self.shown)
            handler.setFormatter(logging.Formatter(FORMAT))
            logging.root.addHandler(handler)
