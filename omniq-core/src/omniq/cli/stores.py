"""Commands on all that a store holds, or could: `omniq preflight`, `omniq bench`, `omniq migrate`."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click
from msgspec import Struct
from msgspec.structs import asdict, replace

from omniq.cli.app import FAILED
from omniq.cli.options import Place, dry_run_option, duration, example, json_option, placed, use_working_directory
from omniq.cli.output import StatusLine, count, print_fields, print_json, print_table, say
from omniq.cli.quitting import run_tidily
from omniq.errors import OmniQError

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.task import Call
    from omniq.queue.moving import MigrationReport
    from omniq.serialization.manager import SerializationManager
    from omniq.storage.records import ScheduleRecord, TaskRecord

R = TypeVar("R")

# ── preflight ───────────────────────────────────────────────────────────────


COLUMNS: Final = ("KIND", "ID", "FUNCTION", "REASON")
PAGE: Final = 500


class Misfit(Struct, frozen=True):
    """A task or a schedule that this program can't run."""

    kind: str
    id: str
    func: str
    reason: str


@click.command()
@click.argument("app")
@json_option
@example("omniq preflight shop.app:oq")
def preflight(app: str, as_json: bool) -> None:
    """Tell which of the queued tasks, and of the schedules, this version of a program can't run.

    APP is the OmniQ to serve, as for a worker: module:attribute, such as shop.app:oq. Of each task that waits to be
    run, the function is imported, and called with the task's arguments as far as its signature goes; nothing is run.
    Use it before a deployment.

    Exit codes: 0 all can be run, 1 some can't, which are listed, 2 the program itself can't be imported.
    """
    from omniq.cli.program import load_app

    use_working_directory()
    oq = load_app(app)
    Place().set_up_logging(oq.config.logging)
    checked, misfits = asyncio.run(_misfits(oq))
    if as_json:
        print_json(misfits)
    elif misfits:
        print_table(COLUMNS, [(each.kind, each.id, each.func, each.reason) for each in misfits])
    say(f"{count(checked, 'task or schedule', 'tasks and schedules')} checked, {len(misfits)} can't be run")
    click.get_current_context().exit(FAILED if misfits else 0)


async def _misfits(oq: AsyncOmniQ) -> tuple[int, list[Misfit]]:
    """How many were looked at, and those that can't be run."""
    checked, misfits = 0, list[Misfit]()
    async with oq:
        serialization = oq.task_queue.serialization
        async for record in _queued(oq):
            checked += 1
            if (reason := _refusal(_check_task, record, serialization)) is not None:
                misfits.append(Misfit("task", record.id, record.name, reason))
        for schedule in await oq.task_queue.store.schedules():
            checked += 1
            if (reason := _refusal(_check_schedule, schedule, serialization)) is not None:
                misfits.append(Misfit("schedule", schedule.id, "", reason))
    return checked, misfits


async def _queued(oq: AsyncOmniQ) -> AsyncIterator[TaskRecord]:
    """The tasks that wait to be run, each with its body, which are read few at a time."""
    from omniq.models.task import QUEUED
    from omniq.queue.stores import FEW
    from omniq.storage.records import TaskFilter

    store, where = oq.task_queue.store, TaskFilter(states=tuple(sorted(QUEUED)))
    cursor: str | None = None
    while True:
        page = await store.find(where, limit=PAGE, cursor=cursor)
        for start in range(0, len(page.tasks), FEW):
            for record in await store.get([task.id for task in page.tasks[start : start + FEW]]):
                if record is not None and record.state in QUEUED:
                    yield record
        if page.cursor in (None, cursor):
            return
        cursor = page.cursor


def _refusal(
    look: Callable[[R, SerializationManager], None], record: R, serialization: SerializationManager
) -> str | None:
    """What is wrong, if anything is."""
    try:
        look(record, serialization)
    except OmniQError as error:
        return str(error)
    return None


def _check_task(record: TaskRecord, serialization: SerializationManager) -> None:
    from omniq.errors import CorruptPayload
    from omniq.queue.request import verified_call

    if record.damage is not None:
        raise CorruptPayload(f"it is damaged: {record.damage}")
    check(verified_call(record, serialization), serialization)


def _check_schedule(schedule: ScheduleRecord, serialization: SerializationManager) -> None:
    found = serialization.read_schedule(schedule.body, schedule_id=schedule.id, queue_name=schedule.queue_name)
    check(found.call, serialization)


def check(call: Call, serialization: SerializationManager) -> None:
    """Raise an `OmniQError` if the call's function, or a callback of its, can't be imported here, or doesn't take the
    call's arguments."""
    from omniq.serialization.base import check_arguments
    from omniq.serialization.parents import ParentResult

    format_, value = serialization.dump_value(None)  # stands for the results of tasks that it depends on
    loaded = serialization.load_child(call, [ParentResult(format_, value)] * len(call.results_of))
    check_arguments(loaded.func, loaded.args, loaded.kwargs)
    for callback in (call.on_success, call.on_failure):
        if callback is not None:
            serialization.resolve(callback)


# ── bench ───────────────────────────────────────────────────────────────────


SLOTS: Final = 100
SAMPLES: Final = 200
"""Tasks that are waited for one at a time, at most."""


class Measured(Struct, frozen=True):
    """What a store did, seen from one process that enqueues and works."""

    store: str
    tasks: int
    enqueued_per_second: float
    processed_per_second: float
    latency_p50: float
    """Seconds from `enqueue` until the result is here, of a task that has an idle worker to itself."""
    latency_p99: float
    samples: int
    """How many tasks the latencies are of."""


@click.command()
@click.option("--tasks", type=click.IntRange(10, 1_000_000), default=5_000, show_default=True, help="How many tasks.")
@json_option
@example("omniq bench --tasks 100")
@placed
def bench(place: Place, tasks: int, as_json: bool) -> None:
    """Measure how fast the configured store takes and hands out tasks.

    Tasks that do nothing are enqueued, in one call; then one async worker, in the same process, runs them all; then
    some are enqueued one at a time, and waited for. So it tells what this machine and this store reach
    together, without your tasks' own work, and no more than one process can. It works in a project of its own, which
    it removes, whatever stops it but kill -9.
    """
    line = StatusLine()
    place.set_up_logging()
    measured = run_tidily(_in_project_of_its_own(place, lambda oq: _measure(oq, tasks, line.show)))
    line.close()
    if as_json:
        print_json(measured)
        return
    print_fields(
        [
            ("store", measured.store),
            ("enqueued", f"{measured.enqueued_per_second:,.0f} tasks/s"),
            ("processed", f"{measured.processed_per_second:,.0f} tasks/s"),
            ("latency p50", f"{1000 * measured.latency_p50:.1f} ms"),
            ("latency p99", f"{1000 * measured.latency_p99:.1f} ms"),
        ]
    )


async def _in_project_of_its_own(place: Place, work: Callable[[AsyncOmniQ], Awaitable[Measured]]) -> Measured:
    """Do some work where the configuration says, in a project that is removed afterwards."""
    from omniq.core import AsyncOmniQ

    name = f"bench-{secrets.token_hex(4)}"
    config = replace(place.configuration, event_store=None)
    configured = AsyncOmniQ(config=config)
    results = None if config.result_store is None else configured.result_store.config.for_project(name)
    oq = AsyncOmniQ(
        task_queue=configured.task_queue.config.for_project(name),
        result_store=results,
        config=replace(config, project_name=name),
    )
    try:
        async with oq:
            return await work(oq)
    finally:
        await oq.task_queue.store.drop()
        await oq.result_store.store.drop()


async def _measure(oq: AsyncOmniQ, tasks: int, tell: Callable[[str], None]) -> Measured:
    from omniq.queue.workflows import call

    tell(f"enqueuing {count(tasks, 'task')}")
    calls = [call(do_nothing) for _ in range(tasks)]
    began = time.perf_counter()
    await oq.enqueue_many(calls)
    enqueued = time.perf_counter() - began
    tell(f"running {count(tasks, 'task')}")
    began = time.perf_counter()
    async with oq.worker_pool("async", max_workers=SLOTS) as pool:
        await pool.drain()
        processed = time.perf_counter() - began
        latencies = []
        for number in range(samples := min(SAMPLES, tasks)):
            tell(f"waiting for task {number + 1} of {samples}")
            latencies.append(await _latency(oq))
    location, rank = oq.task_queue.store.location, _ranked(latencies)
    return Measured(location, tasks, tasks / enqueued, tasks / processed, rank(0.5), rank(0.99), samples)


async def _latency(oq: AsyncOmniQ) -> float:
    began = time.perf_counter()
    await oq.get_result(await oq.enqueue(do_nothing))
    return time.perf_counter() - began


def _ranked(values: Sequence[float]) -> Callable[[float], float]:
    """The smallest value that so large a part of all doesn't exceed."""
    ordered = sorted(values)
    return lambda part: ordered[max(0, math.ceil(part * len(ordered)) - 1)]


async def do_nothing() -> None:
    """What `omniq bench` runs."""


# ── migrate ─────────────────────────────────────────────────────────────────


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

        places = place.at(source), place.at(target)
        migration = AsyncMigration(*(each.open() for each in places))
        try:
            return await migration.run(dry_run=dry_run, wait=wait, on_progress=lambda report: line.show(_moved(report)))
        finally:
            line.close()
            await migration.close()

    place.at(source).set_up_logging()
    report = run_tidily(work())
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
    if not (lines or report.tasks or report.schedules or report.results):
        lines.append("there is nothing at the source: is that the right place, and the right --project?")
    if len(report.left) > SHOWN:
        lines.append(f"left: {len(report.left) - SHOWN:,} more, which --json tells")
    return lines
