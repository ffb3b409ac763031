"""How the command ends: its exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

from typing import Final

import click

from omniq.errors import OmniQError, ResultExpired, ResultTimeout, ScheduleNotFound, TaskNotFound
from omniq.texts import escaped

FAILED: Final = 1
"""It didn't work, or the task in question didn't."""
NOT_FOUND: Final = 3
"""There is no such task, schedule, result or plugin."""
NOT_FINISHED: Final = 4
"""The task hasn't ended yet."""
SIGNALLED: Final = 128
"""Plus the signal's number: ended by a signal."""
INTERRUPTED: Final = SIGNALLED + 2
"""Ended by Ctrl-C."""


class Failure(click.ClickException):
    """Raised to end the command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class

    @classmethod
    def of(cls, error: OmniQError) -> Failure:
        """The end that an error deserves."""
        return cls(str(error), exit_code(error))

    def show(self, file: object = None) -> None:
        """Print the line on stderr."""
        click.echo(f"error: {escaped(self.message)}", err=True)


def exit_code(error: OmniQError) -> int:
    """The exit code for an error."""
    if isinstance(error, TaskNotFound | ScheduleNotFound | ResultExpired):
        return NOT_FOUND
    return NOT_FINISHED if isinstance(error, ResultTimeout) else FAILED
