"""`omniq tasks`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import click

from omniq.cli import views
from omniq.cli.exits import FAILED, exit_code
from omniq.cli.groups import CommandGroup
from omniq.cli.options import json_option, limit_option, placed, queue_option
from omniq.cli.output import print_fields, print_json, print_list, say
from omniq.cli.place import Place
from omniq.errors import OmniQError
from omniq.models.state import TaskState
from omniq.texts import escaped

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.result import TaskResult
    from omniq.models.task import Task

task_ids_argument = click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True)


@click.group(cls=CommandGroup)
def tasks() -> None:
    """List, inspect, cancel and requeue tasks."""


@tasks.command("list")
@click.option("--state", type=click.Choice([state.value for state in TaskState]), help="Only those in this state.")
@queue_option
@click.option("--name", metavar="FUNCTION", help="Only those of this function, such as shop.tasks:sell.")
@click.option("--newest", "newest_first", is_flag=True, help="The newest first.")
@limit_option
@json_option
@placed
def list_(
    place: Place,
    state: str | None,
    queue_name: str | None,
    name: str | None,
    newest_first: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List tasks, the oldest first."""
    found = place.run(
        lambda oq: oq.list_tasks(state=state, queue_name=queue_name, name=name, newest_first=newest_first, limit=limit)
    )
    if as_json:
        print_json([views.task_data(task) for task in found])
    else:
        print_list("tasks", views.TASK_COLUMNS, [views.task_row(task) for task in found], limit=limit)


@tasks.command()
@click.argument("task_id")
@json_option
@placed
def show(place: Place, task_id: str, as_json: bool) -> None:
    """Show all that is known of a task, but its arguments; of a dead letter, why it is one."""

    async def work(oq: AsyncOmniQ) -> tuple[Task, TaskResult | None]:
        task = await oq.get_task(task_id)
        return task, await _result_of(oq, task) if task.state is TaskState.ERROR else None

    task, result = place.run(work)
    if as_json:
        print_json(views.dead_data(task, result))
    else:
        print_fields(views.task_fields(task, result))


@tasks.command()
@task_ids_argument
@placed
def cancel(place: Place, task_ids: Sequence[str]) -> None:
    """Cancel tasks, and print the ids of those that were.

    One that runs is asked to stop: an async task is cancelled, a process killed, a task on a thread told.
    """
    _for_each(place, task_ids, lambda oq, task_id: oq.cancel(task_id), "has ended already")


@tasks.command()
@task_ids_argument
@placed
def requeue(place: Place, task_ids: Sequence[str]) -> None:
    """Let tasks that failed, were cancelled or expired start afresh, and print their ids."""
    _for_each(place, task_ids, lambda oq, task_id: oq.requeue(task_id), "neither failed, was cancelled nor expired")


@tasks.command()
@queue_option
@limit_option
@json_option
@placed
def dead(place: Place, queue_name: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters: tasks that failed for good, and why."""

    async def work(oq: AsyncOmniQ) -> list[tuple[Task, TaskResult | None]]:
        found = await oq.list_dead(queue_name=queue_name, limit=limit)
        results = await asyncio.gather(*(_result_of(oq, task) for task in found))
        return list(zip(found, results, strict=True))

    letters = place.run(work)
    if as_json:
        print_json([views.dead_data(*letter) for letter in letters])
    else:
        print_list("dead letters", views.DEAD_COLUMNS, [views.dead_row(*letter) for letter in letters], limit=limit)


@tasks.command()
@json_option
@placed
def stats(place: Place, as_json: bool) -> None:
    """Count the tasks of each queue by state."""
    found = place.run(lambda oq: oq.task_queue.stats())
    if as_json:
        print_json([views.stats_json(queue) for queue in found])
    else:
        print_list("tasks", views.STATS_COLUMNS, [views.stats_row(queue) for queue in found])


async def _result_of(oq: AsyncOmniQ, task: Task) -> TaskResult | None:
    """The result, unless it can't be read: the list is for finding out what is wrong."""
    try:
        return await oq.result_store.get(task.id)
    except OmniQError as error:
        say(f"the result of task {task.id} can't be read: {error}")
        return None


def _for_each(
    place: Place, task_ids: Sequence[str], act: Callable[[AsyncOmniQ, str], Awaitable[bool]], otherwise: str
) -> None:
    """Act on each task, whatever becomes of the others, and exit with the worst exit code."""

    async def one(oq: AsyncOmniQ, task_id: str) -> int:
        try:
            if await act(oq, task_id):
                click.echo(escaped(task_id))
                return 0
            say(f"error: task {task_id} {otherwise}")
            return FAILED
        except OmniQError as error:
            say(f"error: {error}")
            return exit_code(error)

    async def work(oq: AsyncOmniQ) -> int:
        return max([await one(oq, task_id) for task_id in task_ids])

    click.get_current_context().exit(place.run(work))
