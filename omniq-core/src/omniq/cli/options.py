"""Options that commands share, and arguments as they are typed."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click

from omniq import clock
from omniq.errors import ConfigError, FunctionNotFound
from omniq.texts import did_you_mean

if TYPE_CHECKING:
    from omniq.config.loader import ConfigProvider, OmniQConfig
    from omniq.config.settings import LoggingConfig
    from omniq.core import AsyncOmniQ
    from omniq.serialization.base import Function
    from omniq.serialization.manager import SerializationManager


# ── arguments ───────────────────────────────────────────────────────────────


Arguments: TypeAlias = dict[str, Any] | list[Any]
"""Keyword arguments, or positional ones."""


TOO_DEEP: Final = "it is nested too deep."


def parse_value(text: str) -> object:
    """JSON, or else the text itself: `3` is a number, `true` a truth value, `Tom` a text. Raises `BadParameter`."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise click.BadParameter(TOO_DEEP) from None
    except ValueError:
        return text
    return value


def parse_pairs(ctx: click.Context, param: click.Parameter, pairs: Sequence[str]) -> dict[str, Any] | None:
    """`key=value …` as a dict; None where there are none."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} isn't of the form key=value.", ctx, param)
        if key in parsed:
            raise click.BadParameter(f"{key!r} is given twice.", ctx, param)
        parsed[key] = parse_value(value)
    return parsed or None


def parse_arguments(ctx: click.Context, param: click.Parameter, text: str | None) -> Arguments | None:
    """A JSON list or object."""
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise click.BadParameter(TOO_DEEP, ctx, param) from None
    except ValueError as error:
        raise click.BadParameter(f"it isn't JSON: {error}.", ctx, param) from None
    if not isinstance(parsed, dict | list):
        raise click.BadParameter('expected a JSON list or object, such as [1, 2] or {"name": "Tom"}.', ctx, param)
    return parsed


def parse_reference(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """A reference to a function, if it has the form of one."""
    if ":" in text:
        return text
    module, _, name = text.rpartition(".")
    hint = f", did you mean {module}:{name}?" if module else ", such as myapp.tasks:send."
    raise click.BadParameter(f"{text!r} isn't of the form module:function{hint}", ctx, param)


def find_function(serialization: SerializationManager, reference: str) -> Function:
    """The function, imported as a worker would. Raises `FunctionNotFound`, with a guess at what was meant."""
    try:
        return serialization.resolve(reference)
    except FunctionNotFound as error:
        raise FunctionNotFound(f"{error}{_guess(reference)}") from error.__cause__


def _guess(reference: str) -> str:
    name, _, attribute = reference.partition(":")
    module = sys.modules.get(name)
    if module is None or hasattr(module, attribute):
        return ""
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    return did_you_mean(attribute, own)


# ── options ─────────────────────────────────────────────────────────────────


R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

DEBUG: Final = "omniq.debug"
"""In a context's `meta`: whether tracebacks of errors are shown."""
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
cursor_option: Final = click.option("--cursor", metavar="CURSOR", help="Go on where a page ended, as it has told.")
yes_option: Final = click.option("--yes", is_flag=True, help="Ask no questions.")
dry_run_option: Final = click.option("--dry-run", is_flag=True, help="Only tell how many there are.")
queue_option: Final = click.option("--queue", "queue_name", metavar="NAME", help="Only those of this queue.")


EXAMPLES: Final = "omniq.examples"
"""The attribute of a command's function that holds its examples."""


def example(*lines: str) -> Callable[[F], F]:
    """Show these command lines at the end of a command's help; each of them works, as tests run it."""

    def decorate(function: F) -> F:
        shown = "\n".join(("\b", f"Example{'s' * (len(lines) > 1)}:", *(f"  {line}" for line in lines)))
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{shown}"
        vars(function)[EXAMPLES] = lines
        return function

    return decorate


def examples_of(command: click.Command) -> tuple[str, ...]:
    """The examples in a command's help."""
    found: tuple[str, ...] = getattr(command.callback, EXAMPLES, ())
    return found


def _note_debug(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given:  # before the command's name or after it: both see the same `meta`
        ctx.meta[DEBUG] = True


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
        click.option(
            "--debug",
            is_flag=True,
            hidden=hidden,
            expose_value=False,
            callback=_note_debug,
            help="Show the traceback of an error.",
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


# ── where the queue is ──────────────────────────────────────────────────────


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

    def at(self, url: str) -> Place:
        """The same with another task queue."""
        return Place(url=url).over(self)

    @property
    def elsewhere(self) -> str:
        """The first of the options that were given which say where the queue is."""
        options = {"--config": self.config, "--url": self.url, "--project": self.project}
        return next((name for name, value in options.items() if value is not None), "")

    @functools.cached_property
    def configuration(self) -> OmniQConfig:
        """The whole configuration. Raises `ConfigError`."""
        return self.provider.load(**self.arguments)

    @functools.cached_property
    def provider(self) -> ConfigProvider:
        """What loads it. Raises `ConfigError`."""
        from omniq.config.loader import ConfigProvider

        return ConfigProvider(self.config)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the options say, as `ConfigProvider.load` takes it."""
        return {
            "project_name": self.project,
            "task_queue": None if self.url is None else {"url": self.url},
            "logging": None if self.log_level is None else {"level": self.log_level},
        }

    def open(self, *, shared: bool = True) -> AsyncOmniQ:
        """OmniQ as configured, not connected yet; if it is to be `shared`, on stores that others can look into.

        Raises `ConfigError` or `PluginError`.
        """
        from omniq.config.loader import Resolved
        from omniq.core import AsyncOmniQ

        again = None if self.provider.file is None else functools.partial(self.provider.load, **self.arguments)
        resolved: Any = Resolved(self.configuration, again)
        oq = AsyncOmniQ(config=resolved)
        if shared:
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

    def set_up_logging(self, configured: LoggingConfig | None = None, *, as_json: bool = False) -> None:
        """Let logging write to stderr, unless somebody has set it up already; as JSON if that is wanted, in any case.

        The library's own loggers get the configured level; all others the one that `--log-level` gives. `configured`
        is what a program's own OmniQ says, if that is served.
        """
        import logging

        from omniq.config.convert import convert, given_fields
        from omniq.config.settings import FORMAT, LoggingConfig, adopt, set_levels

        level = "WARNING" if self.log_level in (None, "DISABLED") else self.log_level
        logging.basicConfig(stream=sys.stderr, format=FORMAT, level=level)
        if as_json:
            from omniq.logs import log_as_json

            log_as_json()
        if configured is None:
            configured = self.configuration.logging
        elif self.log_level is not None:
            configured = convert({**given_fields(configured), "level": self.log_level}, LoggingConfig, "logging")
        if self.log_level is None:
            adopt(configured)
        else:
            set_levels(configured)


def use_working_directory() -> None:
    """Let modules of the working directory be imported, as `python -m` does. Raises `ConfigError` if it is gone."""
    try:
        directory = os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the working directory, whose modules could be imported, is gone; change it") from None
    if directory not in sys.path:
        sys.path.insert(0, directory)


def _check_shared(oq: AsyncOmniQ) -> None:
    from omniq.storage.base import Capability

    store = oq.task_queue.store
    if Capability.CROSS_PROCESS not in store.capabilities:
        raise ConfigError(f"task_queue: {store.location} lives in one process, which no other can look into")
