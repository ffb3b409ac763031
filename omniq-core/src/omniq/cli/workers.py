"""`omniq workers`: who works, and what one of them is doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct
from msgspec.structs import asdict

from omniq.cli.app import CommandGroup
from omniq.cli.options import (
    Place,
    cursor_option,
    duration,
    example,
    json_option,
    limit_option,
    placed,
    queue_option,
)
from omniq.cli.output import Cell, page_of, print_json, print_list, print_page
from omniq.clock import as_datetime, utc
from omniq.texts import escaped_block

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.storage.records import BreakerStatus, WorkerRecord

COLUMNS: Final = (
    "WORKER",
    "STATE",
    "HOST",
    "KIND",
    "BUSY",
    "ABANDONED",
    "QUEUES",
    "LEASE",
    "STARTED-AT",
    "LAST-SEEN",
    "BREAKERS",
)


@click.group(cls=CommandGroup, invoke_without_command=True)
@json_option
@placed
def workers(place: Place, as_json: bool) -> None:
    """List the workers of all processes and hosts, or tell what one of them is doing.

    BUSY are the tasks in a worker's hands, of as many as it runs at once. A worker is gone if it wasn't seen for one
    and a half leases, and at least 10 s, and hasn't said goodbye. Those circuit breakers are listed that aren't closed.
    """
    context = click.get_current_context()
    context.obj = place
    if context.invoked_subcommand is None:
        show(place, None, None, 10_000, None, as_json=as_json)


@workers.command("list")
@click.option("--state", type=click.Choice(("alive", "gone")), help="Only those in this state.")
@queue_option
@limit_option
@cursor_option
@json_option
@example("omniq workers list --state alive --queue default")
@placed
def list_(
    place: Place, state: str | None, queue_name: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """List the workers of all processes and hosts, by name."""
    show(place, state, queue_name, limit, cursor, as_json=as_json)


@workers.command()
@click.argument("name")
@click.option("--timeout", type=duration, default="30s", show_default=True, help="Wait no longer for the answer.")
@json_option
@example("omniq workers stack worker-1 --timeout 1m")
@placed
def stack(place: Place, name: str, timeout: float, as_json: bool) -> None:
    """Tell what a worker is doing: its tasks, and the code where each is that runs.

    It is asked through the store, and answers with its next sign of life: within a third of its lease, 10 s by default,
    even while its event loop is blocked. No values are shown.

    Exit codes: 0 it has answered, 1 it is gone or hasn't answered in time, 3 there is no worker of that name.
    """
    text = place.run(lambda oq: oq.inspect_worker(name, timeout))
    if as_json:
        print_json({"worker": name, "stacks": text})
    else:
        click.echo(escaped_block(text))


# ── views ───────────────────────────────────────────────────────────────────


def show(
    place: Place, state: str | None, queue_name: str | None, limit: int, cursor: str | None, *, as_json: bool
) -> None:
    """Print who works."""

    async def ask(oq: AsyncOmniQ) -> tuple[list[WorkerRecord], list[WorkerRecord]]:
        return await oq.workers(), await oq.workers(alive=False)

    alive, gone = place.run(ask)
    found = [(worker, "alive") for worker in alive] + [(worker, "gone") for worker in gone]
    meant = [
        each for each in found if state in (None, each[1]) and (queue_name is None or queue_name in each[0].queues)
    ]
    page, more = page_of(meant, lambda each: each[0].name, limit, cursor)
    data = [{"state": state, **worker_data(worker)} for worker, state in page]
    print_page("workers", COLUMNS, [_row(*each) for each in page], data, more, as_json=as_json)


def print_workers(alive: Sequence[WorkerRecord], gone: Sequence[WorkerRecord]) -> None:
    """Print a table of them."""
    rows = [_row(worker, "alive") for worker in alive] + [_row(worker, "gone") for worker in gone]
    print_list("workers", COLUMNS, rows)


def _row(worker: WorkerRecord, state: str) -> tuple[Cell, ...]:
    busy, queues, lease = f"{worker.running}/{worker.slots}", " ".join(worker.queues), f"{worker.lease:g}s"
    times_ = utc(worker.started_at), utc(worker.last_seen)
    about = (worker.name, state, worker.host, worker.kind, busy, worker.abandoned)
    return *about, queues, lease, *times_, _breakers(worker.breakers)


def _breakers(breakers: tuple[BreakerStatus, ...]) -> str:
    """Those that aren't closed."""
    return " ".join(f"{each.location}={each.state}" for each in breakers if each.state != "closed")


def worker_data(worker: WorkerRecord) -> dict[str, object]:
    """A worker for JSON, without what somebody has asked it."""
    data = times(worker, "started_at", "last_seen") or {}
    del data["stacks"], data["stacks_at"]
    return {**data, "breakers": [times(breaker, "since") for breaker in worker.breakers]}


def times(struct: Struct | None, *names: str) -> dict[str, object] | None:
    """A struct's fields, these of them as times."""
    if struct is None:
        return None
    return {**asdict(struct), **{name: as_datetime(getattr(struct, name)) for name in names}}
