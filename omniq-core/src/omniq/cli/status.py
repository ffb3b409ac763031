"""`omniq status`: how things stand, on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import asdict

from omniq.cli import output
from omniq.cli.app import FAILED
from omniq.cli.options import Place, example, json_option, placed
from omniq.cli.output import Cell, print_json, print_list, print_table, say
from omniq.cli.workers import print_workers, times, worker_data
from omniq.clock import utc

if TYPE_CHECKING:
    from omniq.status import Status, StoreStatus
    from omniq.storage.base import Guarantees

STORE_COLUMNS: Final = ("STORE", "KEEPS", "ANSWERS-IN", "BREAKER", "GUARANTEES")
QUEUE_COLUMNS: Final = (*output.STATS_COLUMNS, "DUE-FOR")
PROMISES: Final = {
    "survives_process_kill": "kill",
    "survives_power_loss": "power-loss",
    "survives_failover": "failover",
    "push": "push",
    "atomic_results": "atomic-results",
}
"""What a store may guarantee, in a word."""


@click.command()
@json_option
@example("omniq status", "omniq status --json")
@placed
def status(place: Place, as_json: bool) -> None:
    """Show how things stand: stores, queues, workers and schedules.

    ANSWERS-IN is how long a small question took, and BREAKER the state of the store's circuit breaker in this process;
    those of a worker's process that aren't closed are listed with it. BUSY are the tasks in a worker's hands, of as
    many as it runs at once, and ABANDONED those that go on there though they were given up. DUE-FOR is for how long
    the oldest task of a queue could have been claimed.

    Exit codes: 0 all is well; 1 something isn't, which is told on stderr: a store can't be reached, a worker's breaker
    isn't closed, or a queue that isn't paused has had a task due for more than 10 seconds and no living worker.
    """
    found = _ask(place)
    if as_json:
        print_json({**plain(found), "ok": not found.problems, "problems": found.problems})
    else:
        print_status(found)
    for problem in found.problems:
        say(f"error: {problem}")
    click.get_current_context().exit(FAILED if found.problems else 0)


def _ask(place: Place) -> Status:
    """The status, whether or not the stores can be reached. Raises `ConfigError` or `PluginError`."""

    async def main() -> Status:
        oq = place.open()
        try:
            return await oq.status()
        finally:
            await oq.close()

    place.set_up_logging()
    return asyncio.run(main())


# ── views ───────────────────────────────────────────────────────────────────


def print_status(found: Status) -> None:
    """Print a table for each of stores, queues and workers."""
    print_table(STORE_COLUMNS, [_store_row(store) for store in found.stores])
    if found.queues is not None:
        click.echo()
        print_list("tasks", QUEUE_COLUMNS, list(_queue_rows(found)))
    if found.workers is not None:
        click.echo()
        print_workers(found.workers, found.gone)
    if found.schedules is not None and any((counts := asdict(found.schedules)).values()):
        click.echo()
        click.echo("schedules: " + ", ".join(f"{number} {name}" for name, number in counts.items()))


def _store_row(store: StoreStatus) -> tuple[Cell, ...]:
    latency = "away" if store.latency is None else f"{1000 * store.latency:.1f} ms"
    breaker = None if store.breaker is None else store.breaker.state.value
    return store.location, " ".join(store.keeps), latency, breaker, _promises(store.guarantees)


def _promises(guarantees: Guarantees | None) -> str | None:
    if guarantees is None:
        return None
    return " ".join(word for name, word in PROMISES.items() if getattr(guarantees, name))


def _queue_rows(found: Status) -> Iterator[tuple[Cell, ...]]:
    from omniq.status import due_for

    for queue in found.queues or ():
        age = due_for(queue, found.now)
        yield *output.stats_row(queue), None if age is None else f"{age:.1f} s"


# ── as plain data ───────────────────────────────────────────────────────────


def plain(found: Status) -> dict[str, object]:
    """The status for JSON."""
    return {
        **asdict(found),
        "now": utc(found.now),
        "stores": [{**asdict(store), "breaker": times(store.breaker, "since")} for store in found.stores],
        "queues": None if found.queues is None else [output.stats_json(queue) for queue in found.queues],
        "workers": None if found.workers is None else [worker_data(worker) for worker in found.workers],
        "gone": [worker_data(worker) for worker in found.gone],
    }
