"""`omniq schedules`."""

from __future__ import annotations

import click

from omniq.cli import views
from omniq.cli.groups import CommandGroup
from omniq.cli.options import json_option, placed
from omniq.cli.output import print_json, print_list
from omniq.cli.place import Place

schedule_id_argument = click.argument("schedule_id")


@click.group(cls=CommandGroup)
def schedules() -> None:
    """List, pause, resume and delete schedules."""


@schedules.command("list")
@json_option
@placed
def list_(place: Place, as_json: bool) -> None:
    """List all schedules."""
    found = place.run(lambda oq: oq.list_schedules())
    if as_json:
        print_json(found)
    else:
        print_list("schedules", views.SCHEDULE_COLUMNS, [views.schedule_row(schedule) for schedule in found])


@schedules.command()
@schedule_id_argument
@placed
def pause(place: Place, schedule_id: str) -> None:
    """Stop a schedule until it is resumed."""
    place.run(lambda oq: oq.pause_schedule(schedule_id))


@schedules.command()
@schedule_id_argument
@placed
def resume(place: Place, schedule_id: str) -> None:
    """Let a paused schedule fire from now on; what was missed isn't made up for."""
    place.run(lambda oq: oq.resume_schedule(schedule_id))


@schedules.command()
@schedule_id_argument
@placed
def delete(place: Place, schedule_id: str) -> None:
    """Forget a schedule; tasks that it has fired stay."""
    place.run(lambda oq: oq.delete_schedule(schedule_id))
