"""`omniq schedules` and `omniq events`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import click

from omniq.cli import output
from omniq.cli.app import CommandGroup
from omniq.cli.options import Place, json_option, limit_option, placed, queue_option
from omniq.cli.options import since as since_type
from omniq.cli.output import print_json, print_list
from omniq.models.task import EventType

# ── schedules ───────────────────────────────────────────────────────────────


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
        print_list("schedules", output.SCHEDULE_COLUMNS, [output.schedule_row(schedule) for schedule in found])


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


# ── events ──────────────────────────────────────────────────────────────────


@click.command()
@click.option("--task", "task_id", metavar="TASK_ID", help="Only those of this task.")
@click.option("--schedule", "schedule_id", metavar="SCHEDULE_ID", help="Only those of this schedule's tasks.")
@queue_option
@click.option("--worker", metavar="NAME", help="Only those that this worker saw.")
@click.option(
    "--type",
    "types",
    type=click.Choice([type_.value for type_ in EventType if type_ is not EventType.UNKNOWN], case_sensitive=False),
    multiple=True,
    help="Only those of this type; may be repeated.",
)
@click.option("--since", type=since_type, help="Only those from this time on, or of the last so many: 10m, 2h, 1d.")
@limit_option
@json_option
@placed
def events(
    place: Place,
    task_id: str | None,
    schedule_id: str | None,
    queue_name: str | None,
    worker: str | None,
    types: Sequence[str],
    since: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print what happened to tasks, the newest last. Takes an event store that is configured."""
    found = place.run(
        lambda oq: oq.list_events(
            task_id=task_id,
            schedule_id=schedule_id,
            queue_name=queue_name,
            worker=worker,
            type=list(types) or None,
            since=since,
            limit=limit,
        )
    )
    if as_json:
        print_json([output.event_data(event) for event in found])
    else:
        print_list("events", output.EVENT_COLUMNS, [output.event_row(event) for event in found], limit=limit)
