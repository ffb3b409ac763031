"""Commands on tasks and schedules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Unpack, cast

import click
from msgspec.structs import asdict

from omniq.cli import output
from omniq.cli.app import CommandGroup, Failure
from omniq.cli.many import (
    AGAIN,
    CANCELLABLE,
    NOT_REQUEUABLE,
    Many,
    conditions_options,
    for_each,
    many_options,
    task_ids_argument,
)
from omniq.cli.options import (
    Arguments,
    Place,
    cursor_option,
    duration,
    example,
    find_function,
    json_option,
    limit_option,
    parse_arguments,
    parse_pairs,
    parse_reference,
    placed,
    queue_option,
    time,
    use_working_directory,
)
from omniq.cli.output import (
    count,
    known_outcome,
    page_of,
    print_fields,
    print_json,
    print_outcome,
    print_page,
    print_table,
    say,
    task_data,
    wait_for_outcome,
)
from omniq.errors import OmniQError
from omniq.models.task import TaskState

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.result import TaskResult
    from omniq.models.task import Task
    from omniq.queue.adding import Report
    from omniq.queue.options import EnqueueOptions


# ── enqueue ─────────────────────────────────────────────────────────────────


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
@click.option("--heartbeat-timeout", type=duration, help="For how long a run may give no sign of life.")
@click.option("--worker", metavar="KIND", help="The kind of worker that runs it: async, thread, process or gevent.")
@click.option("--max-retries", type=click.IntRange(0), help="How often it is tried again after it failed.")
@click.option("--retry-delay", type=duration, help="How long before the first retry; then doubled.")
@click.option("--depends-on", metavar="TASK_ID", multiple=True, help="A task that must succeed first.")
@click.option("--task-id", metavar="TEXT", help="An id of your own: adding it again changes nothing.")
@click.option("--unique-key", metavar="TEXT", help="While a task with this key hasn't ended, no other is added.")
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, callback=parse_pairs, help="Kept with the task.")
@click.option("--wait", is_flag=True, help="Wait until the task has ended, and print what it returned.")
@click.option("--timeout-wait", type=duration, help="Wait no longer than that; implies --wait.")
@json_option
@example(
    "omniq enqueue shop.tasks:sell item=tea --run-in 10m",
    "omniq enqueue shop.tasks:add --args '[1, 2]' --task-id order-20 --queue low",
)
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
            print_outcome(await wait_for_outcome(oq, task_id, timeout_wait, as_json=as_json), as_json=as_json)
        elif as_json:
            print_json(task_data(await oq.get_task(task_id)))
        else:
            click.echo(task_id)

    place.run(work)


# ── result ──────────────────────────────────────────────────────────────────


@click.command()
@click.argument("task_id")
@click.option("--wait", is_flag=True, help="Wait until the task has ended, and show its progress meanwhile.")
@click.option("--timeout", type=duration, help="Wait no longer than that; implies --wait.")
@json_option
@example("omniq result order-17 --timeout 30s")
@placed
def result(place: Place, task_id: str, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Print what a task returned: as JSON if it can be, else as Python shows it.

    Exit codes: 0 it succeeded, 1 it failed (its traceback goes to stderr), was cancelled or has expired,
    3 there is no such task or its result is no longer kept, 4 it hasn't ended yet.
    """
    use_working_directory()

    async def work(oq: AsyncOmniQ) -> None:
        if wait or timeout is not None:
            outcome = await wait_for_outcome(oq, task_id, timeout, as_json=as_json)
        else:
            outcome = await known_outcome(oq, task_id)
        print_outcome(outcome, as_json=as_json)

    place.run(work)


# ── tasks ───────────────────────────────────────────────────────────────────


STATES: Final = [state.value for state in TaskState]


@click.group(cls=CommandGroup)
def tasks() -> None:
    """List, inspect, cancel and requeue tasks."""


@tasks.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only those in this state.")
@conditions_options
@limit_option
@cursor_option
@click.option("--newest-first", is_flag=True, help="The newest first, instead of the oldest.")
@json_option
@example(
    "omniq tasks list --state pending --queue low", "omniq tasks list --name shop.tasks:sell --newest-first --json"
)
@placed
def list_(
    place: Place,
    conditions: dict[str, Any],
    states: Sequence[str],
    limit: int,
    cursor: str | None,
    newest_first: bool,
    as_json: bool,
) -> None:
    """List tasks, the oldest first."""
    if states:
        conditions["state"] = states
    page = place.run(lambda oq: oq.list_tasks(newest_first=newest_first, limit=limit, cursor=cursor, **conditions))
    rows, data = [output.task_row(task) for task in page], [output.task_data(task) for task in page]
    print_page("tasks", output.TASK_COLUMNS, rows, data, page.cursor, as_json=as_json)


@tasks.command()
@click.argument("task_id")
@json_option
@example("omniq tasks show order-17")
@placed
def show(place: Place, task_id: str, as_json: bool) -> None:
    """Show all that is known of a task, but its arguments; of a dead letter, why it is one."""

    async def work(oq: AsyncOmniQ) -> tuple[Task, TaskResult | None]:
        task = await oq.get_task(task_id)
        return task, await _result_of(oq, task) if task.state is TaskState.ERROR else None

    task, result = place.run(work)
    if as_json:
        print_json(output.dead_data(task, result))
    else:
        print_fields(output.task_fields(task, result))


@tasks.command()
@task_ids_argument
@click.option("--state", "states", type=click.Choice(CANCELLABLE), multiple=True, help="Only those in this state.")
@many_options
@json_option
@example("omniq tasks cancel order-19", "omniq tasks cancel --queue low --state waiting --dry-run")
@placed
def cancel(place: Place, task_ids: Sequence[str], many: Many, as_json: bool) -> None:
    """Cancel these tasks, or all that meet the conditions.

    One that runs is asked to stop: an async task is cancelled, a process killed, a task on a thread told.
    """
    if many.check(task_ids):
        many.act(place, "cancel", lambda oq, **how: oq.cancel_many(**how), as_json=as_json)
    else:
        for_each(place, task_ids, lambda oq, id_: oq.cancel(id_), "has ended already", as_json=as_json)


@tasks.command()
@task_ids_argument
@click.option("--state", "states", type=click.Choice(AGAIN), multiple=True, help="Only those in this state.")
@many_options
@json_option
@example("omniq tasks requeue order-18", "omniq tasks requeue --state expired --since 1h --dry-run")
@placed
def requeue(place: Place, task_ids: Sequence[str], many: Many, as_json: bool) -> None:
    """Let these tasks start afresh, or all that failed, were cancelled or expired and meet the conditions."""
    if many.check(task_ids):
        many.conditions.setdefault("state", AGAIN)
        many.act(place, "requeue", lambda oq, **how: oq.requeue_many(**how), as_json=as_json)
    else:
        for_each(place, task_ids, lambda oq, id_: oq.requeue(id_), NOT_REQUEUABLE, as_json=as_json)


async def _result_of(oq: AsyncOmniQ, task: Task) -> TaskResult | None:
    """The result, unless it can't be read: the list is for finding out what is wrong."""
    try:
        return await oq.result_store.get(task.id)
    except OmniQError as error:
        say(f"the result of task {task.id} can't be read: {error}")
        return None


# ── resign ──────────────────────────────────────────────────────────────────


COLUMNS: Final = ("KIND", "SIGNED", "CURRENT", "CHANGED", "REFUSED")


@click.command()
@click.option("--accept-unsigned", is_flag=True, help="Sign what isn't signed at all, too: whoever wrote it.")
@json_option
@example("OMNIQ_SIGNING_KEY=2:a-new-secret-text,1:the-old-secret-text omniq resign --accept-unsigned")
@placed
def resign(place: Place, accept_unsigned: bool, as_json: bool) -> None:
    """Sign tasks, schedules and results with the first key of OMNIQ_SIGNING_KEY.

    Each must verify with one of the keys, or be unsigned where that is accepted. SIGNED were signed now, CURRENT
    before; CHANGED were written by others at the same time: run it again; REFUSED didn't verify. Workers may go on.

    Exit codes: 0 everything is signed with the first key, 1 something isn't.
    """

    async def work(oq: AsyncOmniQ) -> Report:

        return await oq.task_queue.resigner(accept_unsigned=accept_unsigned).run()

    report = place.run(work)
    if as_json:
        print_json(report)
    else:
        print_table(COLUMNS, [(kind, t.signed, t.current, t.changed, t.refused) for kind, t in asdict(report).items()])
    if report.left:
        raise Failure(f"{count(report.left, 'payload')} not signed with the first key")


# ── schedules ───────────────────────────────────────────────────────────────


SCHEDULE_STATES: Final = ("active", "paused", "ended", "damaged")

schedule_id_argument = click.argument("schedule_id")
schedule_ids_argument = click.argument("schedule_ids", metavar="SCHEDULE_ID...", nargs=-1, required=True)


@click.group(cls=CommandGroup)
def schedules() -> None:
    """List schedules, look at them and change them."""


@schedules.command("list")
@click.option("--state", type=click.Choice(SCHEDULE_STATES), help="Only those in this state.")
@queue_option
@click.option("--name", metavar="FUNCTION", help="Only those of this function, such as shop.tasks:report.")
@limit_option
@cursor_option
@json_option
@example("omniq schedules list --state paused")
@placed
def list_schedules(
    place: Place,
    state: str | None,
    queue_name: str | None,
    name: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List schedules, by their ids."""
    found = [
        schedule
        for schedule in place.run(lambda oq: oq.list_schedules())
        if state in (None, schedule.state)
        and queue_name in (None, schedule.queue_name)
        and name in (None, schedule.func)
    ]
    page, more = page_of(found, attrgetter("id"), limit, cursor)
    rows = [output.schedule_row(schedule) for schedule in page]
    print_page("schedules", output.SCHEDULE_COLUMNS, rows, page, more, as_json=as_json)


@schedules.command("show")
@schedule_id_argument
@click.option("--preview", "count", metavar="N", type=click.IntRange(0, 1000), default=5, show_default=True)
@json_option
@example("omniq schedules show nightly --preview 3")
@placed
def show_schedule(place: Place, schedule_id: str, count: int, as_json: bool) -> None:
    """Show all that is known of a schedule, and its next N slots in its own time zone."""
    schedule = place.run(lambda oq: oq.get_schedule(schedule_id))
    upcoming = schedule.preview(count) if count else []
    if as_json:
        print_json({**asdict(schedule), "state": schedule.state, "preview": upcoming})
    else:
        print_fields(output.schedule_fields(schedule, upcoming))


@schedules.command("run")
@schedule_id_argument
@json_option
@example("omniq schedules run nightly")
@placed
def run_schedule(place: Place, schedule_id: str, as_json: bool) -> None:
    """Enqueue a schedule's task now, beside its slots, and print the task's id."""
    task_id = place.run(lambda oq: oq.run_schedule(schedule_id))
    if as_json:
        print_json({"task_id": task_id})
    else:
        click.echo(task_id)


@schedules.command()
@schedule_ids_argument
@json_option
@example("omniq schedules pause nightly")
@placed
def pause(place: Place, schedule_ids: Sequence[str], as_json: bool) -> None:
    """Stop schedules until they are resumed, and print their ids."""
    for_each(place, schedule_ids, _done(lambda oq, id_: oq.pause_schedule(id_)), "", as_json=as_json)


@schedules.command()
@schedule_ids_argument
@json_option
@example("omniq schedules resume nightly")
@placed
def resume(place: Place, schedule_ids: Sequence[str], as_json: bool) -> None:
    """Let paused schedules fire from now on, and print their ids; what was missed isn't made up for."""
    for_each(place, schedule_ids, _done(lambda oq, id_: oq.resume_schedule(id_)), "", as_json=as_json)


@schedules.command()
@schedule_ids_argument
@json_option
@example("omniq schedules delete nightly")
@placed
def delete(place: Place, schedule_ids: Sequence[str], as_json: bool) -> None:
    """Forget schedules, and print their ids; tasks that they have fired stay."""
    for_each(place, schedule_ids, _done(lambda oq, id_: oq.delete_schedule(id_)), "", as_json=as_json)


def _done(act: Callable[[AsyncOmniQ, str], Awaitable[None]]) -> Callable[[AsyncOmniQ, str], Awaitable[bool]]:
    """The same, telling that it worked where it raises nothing."""

    async def acted(oq: AsyncOmniQ, id_: str) -> bool:
        await act(oq, id_)
        return True

    return acted
