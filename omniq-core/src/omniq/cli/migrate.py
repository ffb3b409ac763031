"""`omniq migrate`: everything that one store holds goes to another."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import asdict

from omniq.cli.app import FAILED
from omniq.cli.options import Place, dry_run_option, duration, example, json_option, placed
from omniq.cli.output import StatusLine, count, print_json, say

if TYPE_CHECKING:
    from omniq.queue.moving import MigrationReport

SHOWN: Final = 20
"""Lines about what is left, at most."""


@click.command()
@click.option("--from", "source", metavar="URL", required=True, help="The store that is emptied.")
@click.option("--to", "target", metavar="URL", required=True, help="The store that gets it all.")
@click.option(
    "--wait",
    type=duration,
    default="0s",
    show_default=True,
    help="Wait so long for workers of the source to stop, and for the leases of those that died.",
)
@dry_run_option
@json_option
@example("omniq migrate --from sqlite:///jobs.db --to sqlite:///new.db --dry-run")
@placed
def migrate(place: Place, source: str, target: str, wait: float, dry_run: bool, as_json: bool) -> None:
    """Move all that one store holds to another: tasks, schedules, dead letters and results, each with its state.

    Stop the workers of the source first; those of the target may run. Its queues are paused from then on. Whatever
    stops the command, run it again: it goes on where it was, nothing is lost and no task runs twice. It can be
    repeated, too, for what was still enqueued at the source meanwhile. Events aren't moved; nor are results whose task
    and schedule are gone.

    Exit codes: 0 all was moved, 1 something is left, which is told on stderr, or workers serve the source.
    """
    if place.url is not None:
        raise click.UsageError("--url: --from and --to say where; leave it out.")
    line = StatusLine()

    async def work() -> MigrationReport:
        from omniq.migration import AsyncMigration

        places = replace(place, url=source), replace(place, url=target)
        migration = AsyncMigration(*(each.open() for each in places))
        try:
            return await migration.run(dry_run=dry_run, wait=wait, on_progress=lambda report: line.show(_moved(report)))
        finally:
            line.close()
            await migration.close()

    replace(place, url=source).set_up_logging()
    report = asyncio.run(work())
    if as_json:
        print_json({**asdict(report), "complete": report.complete})
    else:
        click.echo(_moved(report))
    for complaint in complaints(report):
        say(complaint)
    if not (report.complete or dry_run):
        click.get_current_context().exit(FAILED)


def _moved(report: MigrationReport) -> str:
    """What was moved, in a line."""
    total = sum(report.tasks.values())
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(report.tasks.items()))
    verb = "would move" if report.dry_run else "moved"
    tasks = f"{count(total, 'task')} ({states})" if states else "no tasks"
    return f"{verb} {tasks}, {count(report.schedules, 'schedule')}, {count(report.results, 'result')}"


def complaints(report: MigrationReport) -> list[str]:
    """What else there is to tell of it, line by line."""
    lines = [f"queue {name} is paused at the target, too, as it was at the source" for name in report.paused]
    if report.known:
        lines.append(f"{count(report.known, 'task or schedule', 'tasks or schedules')} were at the target already")
    lines += [f"worker {name} serves the source: stop it first" for name in report.workers]
    if report.running:
        held = f"{count(report.running, 'task')} still run at the source, or did when their worker died"
        lines.append(f"{held}: run this again once their leases are over, or with --wait")
    lines += [f"left: {each.kind} {each.id}: {each.reason}" for each in report.left[:SHOWN]]
    if len(report.left) > SHOWN:
        lines.append(f"left: {len(report.left) - SHOWN:,} more, which --json tells")
    return lines
