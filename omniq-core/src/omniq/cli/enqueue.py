"""`omniq enqueue`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, cast

import click

from omniq.cli.arguments import Arguments, find_function, parse_arguments, parse_pairs, parse_reference
from omniq.cli.options import duration, json_option, placed, time
from omniq.cli.outcomes import print_outcome, wait_for_outcome
from omniq.cli.output import print_json, say
from omniq.cli.place import Place, use_working_directory
from omniq.cli.views import task_data

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.queue.request import EnqueueOptions


@click.command()
@click.argument("function", metavar="FUNCTION", callback=parse_reference)
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1, callback=parse_pairs)
@click.option("--args", "arguments", metavar="JSON", callback=parse_arguments, help="All arguments: a list or object.")
@click.option("--queue", "queue_name", metavar="NAME", help="One of the declared queues.")
@click.option("--run-in", type=duration, help="Due after so long.")
@click.option("--run-at", type=time, help="Due at this time.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher first, within its queue.")
@click.option("--ttl", type=duration, help="Expires if it isn't started within so long of being due.")
@click.option("--result-ttl", type=duration, help="For how long the result is kept.")
@click.option("--timeout", type=duration, help="How long one run may take.")
@click.option("--max-retries", type=click.IntRange(0), help="How often it is tried again after it failed.")
@click.option("--retry-delay", type=duration, help="How long before the first retry; then doubled.")
@click.option("--depends-on", metavar="TASK_ID", multiple=True, help="A task that must succeed first.")
@click.option("--task-id", metavar="TEXT", help="An id of your own: adding it again changes nothing.")
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, callback=parse_pairs, help="Kept with the task.")
@click.option("--wait", is_flag=True, help="Wait until the task has ended, and print what it returned.")
@click.option("--timeout-wait", type=duration, help="Wait no longer than that; implies --wait.")
@json_option
@placed
def enqueue(
    place: Place,
    function: str,
    pairs: dict[str, Any] | None,
    arguments: Arguments | None,
    wait: bool,
    timeout_wait: float | None,
    as_json: bool,
    **options: Unpack[EnqueueOptions],
) -> None:
    """Add a task that calls FUNCTION, of the form module:function, and print its id.

    A VALUE is taken as JSON where it is JSON, else as text: n=3 is a number, name=Tom a text. The module is
    imported from the working directory or wherever Python finds it.

    \b
    omniq enqueue myapp.tasks:send to=tom@example.org --run-in 10m
    omniq enqueue myapp.tasks:add --args '[1, 2]' --wait
    """
    if pairs is not None and arguments is not None:
        raise click.UsageError("Give the arguments as KEY=VALUE or as --args, not both.")
    use_working_directory()
    given = cast("EnqueueOptions", {name: value for name, value in options.items() if value is not None})

    async def work(oq: AsyncOmniQ) -> None:
        found = find_function(oq.task_queue.serialization, function)
        task_id = await oq.enqueue(found, pairs if arguments is None else arguments, **given)
        if wait or timeout_wait is not None:
            say(task_id)
            print_outcome(await wait_for_outcome(oq, task_id, timeout_wait), as_json=as_json)
        elif as_json:
            print_json(task_data(await oq.get_task(task_id)))
        else:
            click.echo(task_id)

    place.run(work)
