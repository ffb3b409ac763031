"""`omniq resign`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import asdict

from omniq.cli.exits import Failure
from omniq.cli.options import json_option, placed
from omniq.cli.output import count, print_json, print_table
from omniq.cli.place import Place

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.queue.resigning import Report

COLUMNS: Final = ("KIND", "SIGNED", "CURRENT", "CHANGED", "REFUSED")


@click.command()
@click.option("--accept-unsigned", is_flag=True, help="Sign what isn't signed at all, too: whoever wrote it.")
@json_option
@placed
def resign(place: Place, accept_unsigned: bool, as_json: bool) -> None:
    """Sign tasks, schedules and results with the first key of OMNIQ_SIGNING_KEY.

    Each must verify with one of the keys, or be unsigned where that is accepted. SIGNED were signed now, CURRENT
    before; CHANGED were written by others at the same time: run it again; REFUSED didn't verify. Workers may go on.

    Exit codes: 0 everything is signed with the first key, 1 something isn't.
    """

    async def work(oq: AsyncOmniQ) -> Report:
        from omniq.queue.resigning import Resigner

        return await Resigner(oq.task_queue, oq.task_queue.results, accept_unsigned=accept_unsigned).run()

    report = place.run(work)
    if as_json:
        print_json(report)
    else:
        print_table(COLUMNS, [(kind, t.signed, t.current, t.changed, t.refused) for kind, t in asdict(report).items()])
    if report.left:
        raise Failure(f"{count(report.left, 'payload')} not signed with the first key")
