"""The options that commands share, and how their values are written."""

from __future__ import annotations

import datetime as dt
import functools
import math
import re
from collections.abc import Callable
from typing import Final, TypeVar

import click

from omniq import clock
from omniq.cli.place import Place

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "DISABLED")
UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(ms|s|m|h|d|)", re.ASCII)


def duration(text: str) -> float:
    """Seconds, or a number with a unit: "90", "1.5", "10m", "2h", "1d". Raises `BadParameter`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not math.isfinite(seconds := float(match[1]) * UNITS[match[2]]):
        raise click.BadParameter(f"{text!r} isn't a duration such as 90, 1.5, 10m, 2h or 1d.")
    return seconds


def time(text: str) -> dt.datetime:
    """A time in ISO 8601; without a zone it is local time. Raises `BadParameter`."""
    try:
        return dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} isn't a time such as 2030-12-31T08:30.") from None


def since(text: str) -> dt.datetime:
    """A time, or a duration until now. Raises `BadParameter`."""
    if _DURATION.fullmatch(text.strip().lower()) is None:
        return time(text)
    return dt.datetime.fromtimestamp(max(0.0, clock.now() - duration(text)), dt.UTC)


def names(text: str) -> list[str]:
    """Names with commas between them. Raises `BadParameter`."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise click.BadParameter(f"{text!r} isn't a list such as high,default,low.")
    return found


json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option: Final = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Print no more than so many."
)
queue_option: Final = click.option("--queue", "queue_name", metavar="NAME", help="Only those of this queue.")


def where_options(*, hidden: bool) -> Callable[[F], F]:
    """Add the options that say where the command works."""
    options = [
        click.option("--config", metavar="FILE", hidden=hidden, help="A YAML file. [OMNIQ_CONFIG]"),
        click.option("--url", metavar="URL", hidden=hidden, help="The task queue. [OMNIQ_TASK_QUEUE_URL]"),
        click.option("--project", metavar="NAME", hidden=hidden, help="The project. [OMNIQ_PROJECT_NAME]"),
        click.option(
            "--log-level",
            type=click.Choice(LOG_LEVELS, case_sensitive=False),
            hidden=hidden,
            help="What is logged to stderr. [OMNIQ_LOG_LEVEL]",
        ),
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def placed(function: Callable[..., R]) -> Callable[..., R]:
    """Call a command with the `place` that is meant: its options may be given after the command's name too."""

    @where_options(hidden=True)
    @functools.wraps(function)
    def command(
        *, config: str | None, url: str | None, project: str | None, log_level: str | None, **arguments: object
    ) -> R:
        before = click.get_current_context().find_object(Place) or Place()
        here = Place(config=config, url=url, project=project, log_level=log_level)
        return function(place=here.over(before), **arguments)

    return command
