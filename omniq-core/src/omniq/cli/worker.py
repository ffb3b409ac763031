"""`omniq worker`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

from omniq.cli.app import Failure
from omniq.cli.options import Place, duration, names, placed, use_working_directory


@click.command()
@click.option("--type", "worker_type", metavar="NAME", help="async, thread, process, or one that a plugin brings.")
@click.option("--max-workers", type=int, help="Tasks that run at once.")
@click.option("--queues", type=names, metavar="A,B", help="The queues to serve, in order of priority.")
@click.option("--lease", type=duration, help="How long a claim holds without being renewed.")
@click.option("--grace-period", type=duration, help="How long to wait for running tasks when stopping.")
@click.option("--poll-interval", type=duration, help="How often to look for tasks when nothing wakes the worker.")
@click.option("--burst", is_flag=True, help="Stop when the tasks that are due have been worked off.")
@click.option("--import", "modules", metavar="MODULE", multiple=True, help="Import it first; may be repeated.")
@click.option("--plain", is_flag=True, help="Print lines only, and show no live view on a terminal.")
@click.option("--json-logs", is_flag=True, help="Print all lines as JSON, one object each; there is no live view then.")
@click.option("--health-port", type=click.IntRange(0, 65535), help="Answer GET /live and /ready on that port; 0: any.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="The address that port is on.")
@placed
def worker(
    place: Place,
    worker_type: str | None,
    modules: Sequence[str],
    burst: bool,
    plain: bool,
    json_logs: bool,
    health_port: int | None,
    health_host: str,
    **settings: float | list[str] | None,
) -> None:
    """Run a worker until it is told to stop.

    Modules of the working directory can be imported. On SIGTERM, SIGHUP or Ctrl-C it takes no more tasks, waits for
    those that run, hands back what isn't done after the grace period, and exits with 0. A second signal lets it
    hand back everything at once, and exit with 128 and the signal's number.
    """
    use_working_directory()
    for module in modules:
        _import(module)
    place.set_up_logging(as_json=json_logs)
    config = {name: value for name, value in settings.items() if value is not None}

    from omniq.cli.live import can_view
    from omniq.cli.serving import WorkerOptions, run_worker

    options = WorkerOptions(
        type=worker_type,
        config=config,
        burst=burst,
        live=not (plain or json_logs) and can_view(),
        health=None if health_port is None else (health_host, health_port),
    )
    click.get_current_context().exit(run_worker(place.open(), options))


def _import(name: str) -> None:
    """Import a module. Raises `Failure` if there is none of that name, and whatever its own code does."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise Failure(f"--import: there is no module {error.name!r} here; is it installed, or on sys.path?") from error
