"""The root of the command line: the options that say where, and the list of commands."""

from __future__ import annotations

from typing import Final

import click

from omniq.cli.groups import RootGroup
from omniq.cli.options import where_options
from omniq.cli.place import Place
from omniq.plugins.specs import CommandSpec

COMMANDS: Final = (
    CommandSpec("worker", "omniq.cli.worker:worker", "Run a worker until it is told to stop."),
    CommandSpec("enqueue", "omniq.cli.enqueue:enqueue", "Add a task."),
    CommandSpec("result", "omniq.cli.result:result", "Print what a task returned."),
    CommandSpec("tasks", "omniq.cli.tasks:tasks", "List, inspect, cancel and requeue tasks."),
    CommandSpec("schedules", "omniq.cli.schedules:schedules", "List, pause, resume and delete schedules."),
    CommandSpec("events", "omniq.cli.events:events", "Print what happened to tasks."),
    CommandSpec("resign", "omniq.cli.resign:resign", "Sign what a store holds with the first signing key."),
    CommandSpec("plugins", "omniq.cli.plugins:plugins", "List and check the installed plugins, write a new one."),
)

EPILOG: Final = """
The options may be given before or after the command's name. They win over the environment variables in
brackets, which win over the file.

Exit codes: 0 it worked, 1 it didn't, 2 the command was misspelt, 3 there is no such task, schedule, result
or plugin, 4 the task hasn't ended yet, 130 interrupted.
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
