"""`omniq result`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omniq.cli.options import duration, json_option, placed
from omniq.cli.outcomes import known_outcome, print_outcome, wait_for_outcome
from omniq.cli.place import Place, use_working_directory

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ


@click.command()
@click.argument("task_id")
@click.option("--wait", is_flag=True, help="Wait until the task has ended.")
@click.option("--timeout", type=duration, help="Wait no longer than that; implies --wait.")
@json_option
@placed
def result(place: Place, task_id: str, wait: bool, timeout: float | None, as_json: bool) -> None:
    """Print what a task returned: as JSON if it can be, else as Python shows it.

    Exit codes: 0 it succeeded, 1 it failed (its traceback goes to stderr), was cancelled or has expired,
    3 there is no such task or its result is no longer kept, 4 it hasn't ended yet.
    """
    use_working_directory()

    async def work(oq: AsyncOmniQ) -> None:
        if wait or timeout is not None:
            outcome = await wait_for_outcome(oq, task_id, timeout)
        else:
            outcome = await known_outcome(oq, task_id)
        print_outcome(outcome, as_json=as_json)

    place.run(work)
