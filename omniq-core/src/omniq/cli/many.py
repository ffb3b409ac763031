"""Commands for many tasks at once: by their ids, or by conditions; dead letters, queues and workflows."""

from __future__ import annotations

import datetime as dt
import functools
import sys
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from msgspec import Struct

from omniq.cli import output
from omniq.cli.app import FAILED, CommandGroup, exit_code
from omniq.cli.options import (
    Place,
    cursor_option,
    dry_run_option,
    example,
    json_option,
    limit_option,
    placed,
    queue_option,
    yes_option,
)
from omniq.cli.options import since as time_type
from omniq.cli.output import count, is_terminal, json_value, page_of, print_fields, print_json, print_page, say
from omniq.errors import OmniQError
from omniq.models.task import TaskState
from omniq.texts import escaped, escaped_block

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.task import DeadLetter

CANCELLABLE: Final = [state.value for state in TaskState if not state.is_terminal]
AGAIN: Final = [TaskState.ERROR.value, TaskState.CANCELLED.value, TaskState.EXPIRED.value]
NOT_REQUEUABLE: Final = "neither failed, was cancelled nor expired"


# ── which ───────────────────────────────────────────────────────────────────


task_ids_argument = click.argument("task_ids", metavar="[TASK_ID]...", nargs=-1)


ManyVerb: TypeAlias = Callable[..., Awaitable[int]]
"""Changes all tasks that meet some conditions: a call of a method of `AsyncOmniQ`."""


class Many(Struct, frozen=True):
    """Which tasks are meant if no ids are given, and whether to ask first."""

    conditions: dict[str, Any]
    all: bool
    dry_run: bool
    yes: bool

    def check(self, task_ids: Sequence[str]) -> bool:
        """Whether tasks are meant by conditions, not by ids. Raises `UsageError` unless it is one of both."""
        if task_ids and (self.conditions or self.all or self.dry_run):
            raise click.UsageError("Give task ids or conditions, not both.")
        if not (task_ids or self.conditions or self.all):
            raise click.UsageError("Give task ids, a condition such as --name, or --all.")
        return not task_ids

    def act(self, place: Place, verb: str, change: ManyVerb, *, as_json: bool) -> None:
        """Change them, on a terminal after a question, and print how many there were."""
        how = {**self.conditions, "all": self.all}
        act(place, verb, lambda oq, **more: change(oq, **how, **more), self.dry_run, self.yes, as_json=as_json)


def act(place: Place, verb: str, change: ManyVerb, dry_run: bool, yes: bool, *, as_json: bool) -> None:
    """Change tasks, on a terminal after a question, and print how many there were."""
    if not (dry_run or yes) and is_terminal(sys.stdin):
        meant = place.run(lambda oq: change(oq, dry_run=True))
        click.confirm(f"{verb.capitalize()} {count(meant, 'task')}?", abort=True, err=True)
    done = place.run(lambda oq: change(oq, dry_run=dry_run))
    if as_json:
        print_json({"tasks": done, "dry_run": dry_run})
    else:
        click.echo(f"{count(done, 'task')}{' would be affected' if dry_run else ''}")


def conditions_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which tasks are meant: the command gets them as `conditions`."""

    @click.option("--schedule", "schedule_id", metavar="SCHEDULE_ID", help="Only those of this schedule.")
    @click.option("--name", metavar="FUNCTION", help="Only those of this function, such as shop.tasks:sell.")
    @click.option("--error", metavar="TYPE", help="Only those that failed of this, such as ValueError.")
    @click.option("--since", type=time_type, help="Only those that ended (or else were added) from this time on.")
    @click.option("--until", type=time_type, help="Only those that did so before this time, or as long ago: 10m, 2d.")
    @queue_option
    @functools.wraps(command)
    def with_conditions(
        schedule_id: str | None,
        name: str | None,
        error: str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
        queue_name: str | None,
        **rest: Any,
    ) -> None:
        said = {"schedule_id": schedule_id, "name": name, "error": error, "since": since, "until": until}
        said["queue_name"] = queue_name
        command(conditions={key: value for key, value in said.items() if value is not None}, **rest)

    return with_conditions


def many_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for commands that change tasks, which get them as `many`; and whether to do so."""

    @click.option("--all", "all_", is_flag=True, help="All of them.")
    @dry_run_option
    @yes_option
    @conditions_options
    @functools.wraps(command)
    def with_many(
        conditions: dict[str, Any],
        all_: bool,
        dry_run: bool,
        yes: bool,
        states: Sequence[str] = (),
        **rest: Any,
    ) -> None:
        if states:
            conditions["state"] = list(states)
        command(many=Many(conditions, all_, dry_run, yes), **rest)

    return with_many


def for_each(
    place: Place,
    task_ids: Sequence[str],
    act: Callable[[AsyncOmniQ, str], Awaitable[object]],
    otherwise: str,
    *,
    as_json: bool,
) -> None:
    """Act on each task, whatever becomes of the others, print the ids of those it worked for, and exit with the worst
    exit code."""
    if not task_ids:
        raise click.UsageError("Missing argument '[TASK_ID]...'.")
    done: list[str] = []

    async def one(oq: AsyncOmniQ, task_id: str) -> int:
        try:
            if await act(oq, task_id):
                done.append(task_id)
                if not as_json:
                    click.echo(escaped(task_id))
                return 0
            say(f"error: task {task_id} {otherwise}")
            return FAILED
        except OmniQError as error:
            say(f"error: {error}")
            return exit_code(error)

    async def work(oq: AsyncOmniQ) -> int:
        return max([await one(oq, task_id) for task_id in task_ids])

    worst = place.run(work)
    if as_json:
        print_json(done)
    click.get_current_context().exit(worst)


@click.command()
@click.argument("task_id")
@json_option
@example("omniq explain order-19")
@placed
def explain(place: Place, task_id: str, as_json: bool) -> None:
    """Say in one line why a task hasn't run, or how it has ended; and then all that has happened to it."""
    explanation = place.run(lambda oq: oq.explain(task_id))
    if as_json:
        print_json(explanation)
    else:
        click.echo(escaped(f"task {explanation.task_id} {explanation.why}") + "\n")
        output.print_table(("TIME", "WHAT"), [(step.time, step.text) for step in explanation.history])


# ── dead letters ────────────────────────────────────────────────────────────


DEAD_COLUMNS: Final = ("ID", "QUEUE", "FUNCTION", "FINISHED-AT", "FAILED", "ERROR")
NO_LETTER: Final = "is no dead letter, or a task waits for it"


@click.group(cls=CommandGroup)
def dead() -> None:
    """Look at dead letters, the tasks that failed for good; requeue and purge them."""


@dead.command("list")
@conditions_options
@limit_option
@cursor_option
@click.option("--oldest-first", is_flag=True, help="The oldest first, instead of the newest.")
@json_option
@example("omniq dead list --error ValueError --since 2d")
@placed
def list_dead(
    place: Place, conditions: dict[str, Any], limit: int, cursor: str | None, oldest_first: bool, as_json: bool
) -> None:
    """List dead letters and what they failed of, the newest first."""
    page = place.run(
        lambda oq: oq.list_dead(
            newest_first=not oldest_first, limit=limit, cursor=cursor, tracebacks=as_json, **conditions
        )
    )
    rows, data = [letter_row(letter) for letter in page], [letter_data(letter) for letter in page]
    print_page("dead letters", DEAD_COLUMNS, rows, data, page.cursor, as_json=as_json)


@dead.command("show")
@click.argument("task_id")
@click.option("--arguments", is_flag=True, help="Show what it was called with: that may be secret, or run code.")
@json_option
@example("omniq dead show order-18 --arguments")
@placed
def show_dead(place: Place, task_id: str, arguments: bool, as_json: bool) -> None:
    """Show all that is known of a dead letter, its traceback last."""
    letter = place.run(lambda oq: oq.get_dead(task_id, arguments=arguments))
    if as_json:
        print_json(letter_data(letter))
        return
    data = letter_data(letter)
    traceback = data.pop("traceback", None)
    print_fields([(name, output.plain_cell(value)) for name, value in data.items()])
    if traceback:
        click.echo("\n" + escaped_block(str(traceback)).rstrip())


@dead.command("requeue")
@task_ids_argument
@many_options
@json_option
@example("omniq dead requeue order-18", "omniq dead requeue --name shop.tasks:charge --dry-run")
@placed
def requeue_dead(place: Place, task_ids: Sequence[str], many: Many, as_json: bool) -> None:
    """Let these dead letters start afresh, or all that meet the conditions."""
    if many.check(task_ids):
        many.act(place, "requeue", lambda oq, **how: oq.requeue_many(**how), as_json=as_json)
    else:
        for_each(place, task_ids, lambda oq, id_: oq.requeue_many([id_], state="error"), NO_LETTER, as_json=as_json)


@dead.command("purge")
@task_ids_argument
@many_options
@json_option
@example("omniq dead purge order-18", "omniq dead purge --until 7d --yes")
@placed
def purge_dead(place: Place, task_ids: Sequence[str], many: Many, as_json: bool) -> None:
    """Delete these dead letters for good, or all that meet the conditions."""
    if many.check(task_ids):
        many.act(place, "purge", lambda oq, **how: oq.purge_dead(**how), as_json=as_json)
    else:
        for_each(place, task_ids, lambda oq, id_: oq.purge_dead([id_]), NO_LETTER, as_json=as_json)


def letter_row(letter: DeadLetter) -> tuple[output.Cell, ...]:
    """A dead letter under `DEAD_COLUMNS`."""
    return letter.id, letter.queue_name, letter.func, letter.finished_at, letter.attempts, _error(letter)


def letter_data(letter: DeadLetter) -> dict[str, object]:
    """A dead letter for JSON: without its bytes, and its arguments where they were asked for."""
    data = output.task_data(letter)
    arguments = {name: json_value(data.pop(name)) for name in ("args", "kwargs")}
    return data | {name: value for name, value in arguments.items() if value is not None}


def _error(letter: DeadLetter) -> str | None:
    return None if letter.error_type is None else f"{letter.error_type}: {letter.error_message}"


# ── queues ──────────────────────────────────────────────────────────────────


queue_names_argument = click.argument("queue_names", metavar="QUEUE...", nargs=-1, required=True)


@click.group(cls=CommandGroup)
def queues() -> None:
    """List queues, pause, resume and purge them."""


@queues.command("list")
@click.option("--paused", is_flag=True, help="Only those that are paused.")
@limit_option
@cursor_option
@json_option
@example("omniq queues list", "omniq queues list --paused --json")
@placed
def list_queues(place: Place, paused: bool, limit: int, cursor: str | None, as_json: bool) -> None:
    """List the queues that hold tasks or are paused, and how many tasks are in which state."""
    found = [stats for stats in place.run(lambda oq: oq.stats()) if stats.paused or not paused]
    page, more = page_of(found, attrgetter("name"), limit, cursor)
    rows, data = [output.stats_row(queue) for queue in page], [output.stats_json(queue) for queue in page]
    print_page("queues", output.STATS_COLUMNS, rows, data, more, as_json=as_json)


@queues.command("pause")
@queue_names_argument
@json_option
@example("omniq queues pause low")
@placed
def pause_queues(place: Place, queue_names: Sequence[str], as_json: bool) -> None:
    """Let workers pass over these queues; what runs goes on."""
    _each_queue(place, queue_names, lambda oq, name: oq.pause_queue(name), as_json=as_json)


@queues.command("resume")
@queue_names_argument
@json_option
@example("omniq queues resume low")
@placed
def resume_queues(place: Place, queue_names: Sequence[str], as_json: bool) -> None:
    """Let workers take from these queues again."""
    _each_queue(place, queue_names, lambda oq, name: oq.resume_queue(name), as_json=as_json)


@queues.command("purge")
@click.argument("queue_name", metavar="QUEUE")
@dry_run_option
@yes_option
@json_option
@example("omniq queues purge low --dry-run", "omniq queues purge low --yes")
@placed
def purge_queue(place: Place, queue_name: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove all tasks of a queue that wait to be run.

    They are cancelled first, so that whoever waits for them, or depends on them, learns it. What runs goes on, and what
    has ended is kept: see dead purge.
    """
    act(place, "remove", lambda oq, **how: oq.purge_queue(queue_name, **how), dry_run, yes, as_json=as_json)


def _each_queue(
    place: Place, names: Sequence[str], act: Callable[[AsyncOmniQ, str], Awaitable[object]], *, as_json: bool
) -> None:
    async def work(oq: AsyncOmniQ) -> None:
        for name in names:
            await act(oq, name)

    place.run(work)
    if as_json:
        print_json(list(names))


# ── workflows ───────────────────────────────────────────────────────────────


@click.group(cls=CommandGroup)
def workflows() -> None:
    """Look at tasks that depend on each other."""


@workflows.command("show")
@click.argument("task_id")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10_000, help="Look at no more tasks than so many.")
@json_option
@example("omniq workflows show order-19", "omniq workflows show order-19 --mermaid")
@placed
def show_workflow(place: Place, task_id: str, mermaid: bool, limit: int, as_json: bool) -> None:
    """Show the graph that a task is part of: all tasks that it depends on, or that depend on it, of any degree.

    Each stands below those that it waits for, with its state, its id and their numbers.
    """
    if mermaid and as_json:
        raise click.UsageError("Print the graph as --mermaid or as --json, not both.")
    from omniq.queue.graph import TaskDependencyGraph

    graph = place.run(lambda oq: TaskDependencyGraph.load(oq.task_queue.store, task_id, limit=limit))
    if as_json:
        print_json({"complete": graph.complete, "tasks": list(graph.nodes.values())})
    else:
        click.echo(escaped_block(graph.to_mermaid() if mermaid else graph.to_text()))
    if not graph.complete:
        say(f"there are more tasks than these {len(graph):,}")
