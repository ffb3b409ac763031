"""Groups of commands: suggestions for typing mistakes, and commands that are imported when they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from omniq.cli.exits import INTERRUPTED, Failure
from omniq.errors import OmniQError, PluginError
from omniq.plugins.specs import CommandSpec
from omniq.suggest import did_you_mean


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises `Failure` for errors of OmniQ's."""
        try:
            return super().invoke(ctx)
        except OmniQError as error:
            raise Failure.of(error) from error
        except KeyboardInterrupt:
            click.echo(err=True)  # closes the line on which the terminal shows ^C
            ctx.exit(INTERRUPTED)

    def _added(self) -> list[CommandSpec]:
        from omniq.plugins.registry import registry

        return [spec for spec in registry().commands() if spec.name not in self._own]


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
