"""Commands on workflows."""

from __future__ import annotations

import click

from omniq.cli.app import CommandGroup
from omniq.cli.options import Place, example, json_option, placed
from omniq.cli.output import print_json, say
from omniq.texts import escaped_block


@click.group(cls=CommandGroup)
def workflows() -> None:
    """Look at tasks that depend on each other."""


@workflows.command()
@click.argument("task_id")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10_000, help="Look at no more tasks than so many.")
@json_option
@example("omniq workflows show order-19", "omniq workflows show order-19 --mermaid")
@placed
def show(place: Place, task_id: str, mermaid: bool, limit: int, as_json: bool) -> None:
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
