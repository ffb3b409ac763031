"""The command `omniq`: its groups, how it ends, and with which exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from omniq.cli.options import DEBUG, Place, where_options
from omniq.errors import (
    ConfigError,
    FunctionNotFound,
    InvalidTask,
    OmniQError,
    PluginError,
    ResultExpired,
    ResultTimeout,
    ScheduleNotFound,
    TaskNotFound,
    UnknownParent,
    WorkerNotFound,
)
from omniq.plugins.specs import CommandSpec
from omniq.texts import did_you_mean, escaped, escaped_block

# ── exit codes ──────────────────────────────────────────────────────────────


FAILED: Final = 1
"""It didn't work, or the task in question didn't."""
MISUSED: Final = 2
"""The command, or what it is configured with, is wrong: the same again won't work either."""
NOT_FOUND: Final = 3
"""There is no such task, schedule, worker, result or plugin."""
NOT_FINISHED: Final = 4
"""The task hasn't ended yet."""
SIGNALLED: Final = 128
"""Plus the signal's number: ended by a signal."""
UNHEARD: Final = SIGNALLED + 13
"""Nobody reads the output any more: as if SIGPIPE had ended it."""
INTERRUPTED: Final = SIGNALLED + 2
"""Ended by Ctrl-C."""


def tell(text: str, level: str = "INFO") -> None:
    """Tell something on stderr that isn't the command's output; as JSON, if this process logs so."""
    logs = sys.modules.get("omniq.logs")  # where nobody has imported it, nobody has asked for JSON
    if logs is None or not logs.tell(getattr(logging, level), text):
        click.echo(text, err=True)


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
        tell(f"error: {escaped(self.message)}", "ERROR")


class Misuse(Failure):
    """Raised for a command that is wrong, with one line that says where its help is."""

    def __init__(self, error: click.UsageError) -> None:
        path = "omniq" if error.ctx is None else error.ctx.command_path
        text = " ".join(error.format_message().split())
        super().__init__(f"{text}{'' if text.endswith(('.', '?')) else '.'} See: {path} --help", MISUSED)


class Unheard(Exception):
    """Raised when nobody reads the output any more, so that the command ends as other programs do."""


@contextmanager
def _to_a_reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise Unheard from error


def exit_code(error: OmniQError) -> int:
    """The exit code for an error."""
    if isinstance(error, UnknownParent):
        return NOT_FOUND
    if isinstance(error, ConfigError | PluginError | InvalidTask | FunctionNotFound):
        return MISUSED
    if isinstance(error, TaskNotFound | ScheduleNotFound | WorkerNotFound | ResultExpired):
        return NOT_FOUND
    return NOT_FINISHED if isinstance(error, ResultTimeout) else FAILED


# ── groups ──────────────────────────────────────────────────────────────────


class CommandGroup(click.Group):
    """A group that suggests the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names. Raises `UsageError`."""
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            raise click.UsageError(f"there is no command {name!r}{did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


class RootGroup(CommandGroup):
    """OmniQ's own commands and those that plugins add: known by their specs, imported when they are called.

    Errors that OmniQ raises on purpose end as one line; any other keeps its traceback.
    """

    def __init__(self, *args: Any, specs: Sequence[CommandSpec] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = {spec.name: spec for spec in specs}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, our own first."""
        return [*self._own, *(spec.name for spec in self._added())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now. Raises `Failure` if its plugin is broken."""
        try:
            spec = self._own.get(cmd_name) or _of_plugin(cmd_name)
            return None if spec is None else load_command(spec)
        except OmniQError as error:
            if ctx.resilient_parsing:  # a shell completes something else, perhaps
                return None
            raise Failure.of(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's list of commands, from what their specs say."""
        for title, specs in (("Commands", self._own.values()), ("Commands of plugins", self._added())):
            if rows := [(spec.name, spec.help) for spec in specs]:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line, and exit: with one line on stderr if it is wrong."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]  # as it came
        try:
            code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]  # as it came
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = MISUSED
        except click.UsageError as error:
            Misuse(error).show()
            code = MISUSED
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:
            tell("aborted", "ERROR")
            code = FAILED
        except Unheard:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest would fail again at the interpreter's end
            code = UNHEARD
        sys.exit(code)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click does; it prints the help, too."""
        with _to_a_reader():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises `Failure` for errors of OmniQ's, and shows their traceback first if asked to."""
        try:
            with _to_a_reader():
                return super().invoke(ctx)
        except (OmniQError, Failure) as error:
            if ctx.meta.get(DEBUG):
                tell(_traceback(error).rstrip("\n"), "ERROR")
            if isinstance(error, Failure):
                raise
            raise Failure.of(error) from error
        except KeyboardInterrupt:
            click.echo(err=True)  # closes the line on which the terminal shows ^C
            ctx.exit(INTERRUPTED)

    def _added(self) -> list[CommandSpec]:
        from omniq.plugins.registry import registry

        return [spec for spec in registry().commands() if spec.name not in self._own]


def _traceback(error: Exception) -> str:
    import traceback

    from omniq.models.config import mask_url

    shown = error.__cause__ if isinstance(error, Failure) and error.__cause__ is not None else error
    return mask_url(escaped_block("".join(traceback.format_exception(shown))))


def _of_plugin(name: str) -> CommandSpec | None:
    """The spec that a plugin gives for that name. Raises `PluginError` if that plugin isn't active."""
    from omniq.plugins.registry import inactive, registry

    for record in registry().plugins():
        for spec in record.specs:
            if isinstance(spec, CommandSpec) and spec.name == name:
                if record.status != "active":
                    raise inactive(record)
                return spec
    return None


def load_command(spec: CommandSpec) -> click.Command:
    """The command that a spec stands for. Raises `PluginError`."""
    from omniq.plugins.registry import load_object

    command = load_object(spec.command)
    if not isinstance(command, click.Command):
        raise PluginError(f"{spec.command} isn't a click command but of type {type(command).__name__}")
    return command


# ── the command ─────────────────────────────────────────────────────────────


COMMANDS: Final = (
    CommandSpec("worker", "omniq.cli.worker:worker", "Run a worker until it is told to stop."),
    CommandSpec("health", "omniq.cli.health:health", "Tell whether a worker is well."),
    CommandSpec("enqueue", "omniq.cli.tasks:enqueue", "Add a task."),
    CommandSpec("result", "omniq.cli.tasks:result", "Print what a task returned."),
    CommandSpec("tasks", "omniq.cli.tasks:tasks", "List, inspect, cancel and requeue tasks."),
    CommandSpec("workflows", "omniq.cli.many:workflows", "Show which tasks wait for which."),
    CommandSpec("explain", "omniq.cli.many:explain", "Say why a task hasn't run, and what has happened to it."),
    CommandSpec("dead", "omniq.cli.many:dead", "List dead letters, requeue and purge them."),
    CommandSpec("queues", "omniq.cli.many:queues", "List queues, pause, resume and purge them."),
    CommandSpec("workers", "omniq.cli.workers:workers", "List workers, and tell what one of them is doing."),
    CommandSpec("schedules", "omniq.cli.tasks:schedules", "List schedules, look at them and change them."),
    CommandSpec("events", "omniq.cli.events:events", "List what happened, and follow it."),
    CommandSpec("status", "omniq.cli.status:status", "Show stores, queues, workers and schedules, and what is wrong."),
    CommandSpec("check", "omniq.cli.config:check", "Tell whether the stores keep what the configuration asks for."),
    CommandSpec("config", "omniq.cli.config:config", "Show the configuration as it holds, and the schema of its file."),
    CommandSpec("preflight", "omniq.cli.stores:preflight", "Tell which queued tasks a program can't run."),
    CommandSpec("bench", "omniq.cli.stores:bench", "Measure how fast the configured store is."),
    CommandSpec("migrate", "omniq.cli.stores:migrate", "Move all that one store holds to another."),
    CommandSpec("resign", "omniq.cli.tasks:resign", "Sign what a store holds with the first signing key."),
    CommandSpec("plugins", "omniq.cli.plugins:plugins", "List and check the installed plugins, write a new one."),
    CommandSpec("completion", "omniq.cli.reference:completion", "Let a shell complete commands and options."),
)

EPILOG: Final = """
The options may be given before or after the command's name. They win over the environment variables in
brackets, which win over the file.

Exit codes: 0 it worked, 1 it didn't, 2 the command or the configuration is wrong, 3 there is no such task,
schedule, worker, result or plugin, 4 the task hasn't ended yet, 130 interrupted.
"""


@click.group(
    "omniq",
    cls=RootGroup,
    specs=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@where_options(hidden=False)
@click.version_option(package_name="omniq-core", prog_name="omniq", message="%(prog)s %(version)s")
@click.pass_context
def omniq(ctx: click.Context, config: str | None, url: str | None, project: str | None, log_level: str | None) -> None:
    """OmniQ: one task queue, one set of guarantees, any store."""
    ctx.obj = Place(config=config, url=url, project=project, log_level=log_level)
