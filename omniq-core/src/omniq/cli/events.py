"""Commands on events."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, Unpack

import click

from omniq.cli import output
from omniq.cli.app import CommandGroup
from omniq.cli.options import Place, cursor_option, example, json_option, limit_option, placed, queue_option
from omniq.cli.options import since as since_type
from omniq.cli.output import print_page
from omniq.models.event import EventType
from omniq.models.task import MAX_PAGE

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.events import EventConditions
    from omniq.models.event import TaskEvent

F = TypeVar("F", bound=Callable[..., object])

TYPES = [type_.value for type_ in EventType if type_ is not EventType.UNKNOWN]
LAST = 10


def _any_if_none(ctx: click.Context, param: click.Parameter, types: tuple[str, ...]) -> tuple[str, ...] | None:
    return types or None


def conditions(function: F) -> F:
    """Add the options that say which events are meant."""
    options = [
        click.option("--task", "task_id", metavar="TASK_ID", help="Only those of this task."),
        click.option("--name", metavar="FUNCTION", help="Only those of tasks of this function."),
        click.option("--schedule", "schedule_id", metavar="SCHEDULE_ID", help="Only those of this schedule's tasks."),
        queue_option,
        click.option("--worker", metavar="NAME", help="Only those that this worker saw."),
        click.option(
            "--type",
            "type",
            type=click.Choice(TYPES, case_sensitive=False),
            multiple=True,
            callback=_any_if_none,
            help="Only those of this type; may be repeated.",
        ),
        click.option("--since", type=since_type, help="Only those from this time on, or of the last so long: 10m, 1d."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group(cls=CommandGroup)
def events() -> None:
    """List what happened, and follow it. Takes an event store that is configured."""


@events.command("list")
@conditions
@click.option("--until", type=since_type, help="Only those from before this time, or from so long ago.")
@click.option("--oldest-first", is_flag=True, help="The oldest first, instead of the newest.")
@limit_option
@cursor_option
@json_option
@example("omniq events list --type ERROR --since 1d", "omniq events list --task order-17 --oldest-first --json")
@placed
def list_(
    place: Place,
    oldest_first: bool,
    cursor: str | None,
    limit: int,
    as_json: bool,
    **conditions: Unpack[EventConditions],
) -> None:
    """List what happened, the newest first."""
    ahead = min(limit + 1, MAX_PAGE)  # to know whether there are more
    found = place.run(lambda oq: oq.list_events(oldest_first=oldest_first, cursor=cursor, limit=ahead, **conditions))
    found, is_last = found[:limit], len(found) < ahead
    sound = [event for event in found if event.damage is None]
    more = None if is_last or not sound else sound[-1].cursor
    rows, data = [output.event_row(event) for event in found], [output.event_data(event) for event in found]
    print_page("events", output.EVENT_COLUMNS, rows, data, more, as_json=as_json)


@events.command()
@conditions
@click.option("-f", "--follow", is_flag=True, help="Go on as events are stored, until Ctrl-C.")
@click.option("-n", "--last", metavar="N", type=click.IntRange(0, 10_000), help=f"Begin N events back, or {LAST}.")
@click.option("--after", metavar="CURSOR", help="Begin behind this event, as --json tells it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an event a line.")
@example("omniq events tail -n 20", "omniq events tail --name shop.tasks:sell --json")
@placed
def tail(
    place: Place,
    follow: bool,
    last: int | None,
    after: str | None,
    as_json: bool,
    **conditions: Unpack[EventConditions],
) -> None:
    """Print what happened last, the newest at the end, and what happens.

    Followed by --after, an event may be printed that was printed before, if it is hardly older than that; none is
    left out.
    """
    if after is not None and last is not None:
        raise click.UsageError("Give --after or --last, not both.")
    line = output.event_json if as_json else output.event_line

    async def work(oq: AsyncOmniQ) -> None:
        new = oq.events(follow=follow, after=after, **conditions)
        shown = await _last(oq, LAST if last is None else last, conditions) if after is None else []
        for event in shown:
            click.echo(line(event))
        if follow or after is not None:
            known = {event.id for event in shown}
            async for event in new:
                if event.id not in known:
                    click.echo(line(event))

    place.run(work)


async def _last(oq: AsyncOmniQ, number: int, conditions: EventConditions) -> list[TaskEvent]:
    return (await oq.list_events(limit=number, **conditions))[::-1] if number else []
