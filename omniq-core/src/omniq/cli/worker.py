"""`omniq worker`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import click
from msgspec.structs import replace

from omniq.cli.app import MISUSED, Failure
from omniq.cli.options import Place, duration, example, names, placed, use_working_directory
from omniq.cli.output import say
from omniq.cli.quitting import early_signals
from omniq.errors import OmniQError

if TYPE_CHECKING:
    from omniq.cli.program import Reloader
    from omniq.cli.serving import SupervisorLink, WorkerOptions
    from omniq.core import AsyncOmniQ

LAST_PORT: Final = 65535


@click.command()
@click.argument("app", required=False)
@click.option("--type", "worker_type", metavar="NAME", help="async, thread, process, or one that a plugin brings.")
@click.option("--concurrency", "max_workers", type=click.IntRange(1, 10_000), help="Tasks that run at once.")
@click.option("--queues", type=names, metavar="A,B", help="The queues to serve, in order of priority.")
@click.option("--processes", type=click.IntRange(1, 1_000), help="Run so many workers; one that dies is replaced.")
@click.option("--lease", type=duration, help="How long a claim holds without being renewed.")
@click.option("--grace-period", type=duration, help="How long to wait for running tasks when stopping.")
@click.option("--poll-interval", type=duration, help="How often to look for tasks when nothing wakes the worker.")
@click.option("--burst", is_flag=True, help="Stop when the tasks that are due have been worked off.")
@click.option("--reload", is_flag=True, help="Start anew whenever the program's files change: for development.")
@click.option("--import", "modules", metavar="MODULE", multiple=True, help="Import it first; may be repeated.")
@click.option("--plain", is_flag=True, help="Print lines only, and show no live view on a terminal.")
@click.option("--json-logs", is_flag=True, help="Print all lines as JSON, one object each; there is no live view then.")
@click.option(
    "--health-port", type=click.IntRange(0, LAST_PORT), help="Answer GET /live and /ready on that port; 0: any."
)
@click.option("--health-host", default="127.0.0.1", show_default=True, help="The address that port is on.")
@example("omniq worker shop.app:oq --burst", "omniq worker --queues high,default --concurrency 20 --burst")
@placed
def worker(
    place: Place,
    app: str | None,
    worker_type: str | None,
    processes: int | None,
    modules: Sequence[str],
    burst: bool,
    reload: bool,
    plain: bool,
    json_logs: bool,
    health_port: int | None,
    health_host: str,
    **settings: float | list[str] | None,
) -> None:
    """Run a worker until it is told to stop.

    APP is the OmniQ to serve, as module:attribute, such as shop.app:oq; or a function without arguments that returns
    one. What its worker is configured with holds, unless an option says otherwise. Without APP, the options and the
    environment say where the queue is.

    On SIGTERM or Ctrl-C, or when its terminal is closed, it takes no more tasks, waits for those that run, hands back
    what isn't done after the grace period, and exits with 0; at a second signal, it hands back everything at once, and
    exits with 128 and the signal's number. On SIGHUP it reads its configuration file again.
    """
    _check_options(place, app, processes, reload, health_port or 0)
    click.get_current_context().with_resource(early_signals())

    from omniq.cli.serving import SupervisorLink

    link = SupervisorLink.from_environment()
    if processes is not None and link is None:
        _supervise(processes, burst=burst, json_logs=json_logs)
    use_working_directory()
    options = replace(
        _options(link, app, modules, reload, quiet=plain or json_logs),
        type=worker_type,
        config={name: value for name, value in settings.items() if value is not None},
        burst=burst,
        processes=processes,
        health=None if health_port is None else (health_host, _own_port(health_port, link)),
    )
    _serve(lambda: _open(place, app, modules, json_logs=json_logs), options, json_logs=json_logs)


def _options(
    link: SupervisorLink | None, app: str | None, modules: Sequence[str], reload: bool, *, quiet: bool
) -> WorkerOptions:
    """How the worker is watched: by a supervisor, by whoever looks at the terminal, and for changes of its program."""
    from omniq.cli.live import can_view
    from omniq.cli.program import Reloader
    from omniq.cli.serving import WorkerOptions

    program = [*([app.partition(":")[0]] if app else []), *modules]
    live = link is None and not quiet and can_view()
    return WorkerOptions(link=link, live=live, reloader=Reloader(program) if reload else None)


def _serve(open_: Callable[[], AsyncOmniQ], options: WorkerOptions, *, json_logs: bool) -> None:
    """Run the worker, and exit as it does; with a reloader, wait for a change if the program can't be served."""
    from omniq.cli.serving import run_worker

    try:
        click.get_current_context().exit(run_worker(open_(), options))
    except (Failure, OmniQError) as error:
        if json_logs:
            _log_as_json()  # the program couldn't be imported: until then, logging is its own to set up
        if options.reloader is None or not options.reloader.again:
            raise
        _wait_for_a_change(error, options.reloader)
        options.run_again()


def _wait_for_a_change(error: Failure | OmniQError, reloader: Reloader) -> None:
    """Tell why the program can't be served as it is, and wait until it is changed."""
    (error if isinstance(error, Failure) else Failure.of(error)).show()
    say("waiting for the program to change")
    say(f"{reloader.until_change()} has changed, reloading")


def _supervise(processes: int, *, burst: bool, json_logs: bool) -> NoReturn:
    """Run this command in so many processes, and exit as they do."""
    from omniq.cli.supervisor import supervise

    if json_logs:
        _log_as_json()
    click.get_current_context().exit(supervise(processes, burst=burst))


def _check_options(place: Place, app: str | None, processes: int | None, reload: bool, port: int) -> None:
    """Raise `Failure` for options that exclude each other, or can't be had here."""
    if app is not None and (given := place.elsewhere):
        raise Failure(f"{given}: APP says where the queue is; give one or the other", MISUSED)
    if os.name != "posix" and (processes is not None or reload):
        raise Failure(f"{'--reload' if reload else '--processes'}: this needs a POSIX system", MISUSED)
    if port > 0 and port + (processes or 1) - 1 > LAST_PORT:
        raise Failure(f"--health-port: each worker has one, and there are no {processes} from {port} on", MISUSED)


def _log_as_json() -> None:
    from omniq.logs import log_as_json

    log_as_json()


def _own_port(port: int, link: SupervisorLink | None) -> int:
    """The port of this worker: those under one supervisor have one each, from the given one on."""
    return port if link is None or port == 0 else port + link.number - 1


def _open(place: Place, app: str | None, modules: Sequence[str], *, json_logs: bool) -> AsyncOmniQ:
    """The OmniQ to serve, not connected yet. Raises `Failure` or `OmniQError`."""
    from omniq.cli.program import import_program, load_app

    for module in modules:
        import_program(module, "--import")
    if app is None:
        place.set_up_logging(as_json=json_logs)
        return place.open()
    oq = load_app(app)
    place.set_up_logging(oq.config.logging, as_json=json_logs)
    return oq
