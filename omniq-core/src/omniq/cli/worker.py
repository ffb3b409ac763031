"""`omniq worker`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Final

import click
from msgspec import Struct

from omniq.cli.app import FAILED, Failure, LastResort, StopSignals, end_now
from omniq.cli.options import Place, duration, names, placed, use_working_directory
from omniq.cli.output import count, say
from omniq.core import AsyncOmniQ
from omniq.errors import WorkerError
from omniq.loops import clear_loop, drive, keep_to_ourselves
from omniq.sync import new_event_loop
from omniq.workers.jobs import End
from omniq.workers.pool import AsyncWorkerPool

# ── serving ─────────────────────────────────────────────────────────────────


CLOSING: Final = 2.0
"""Seconds that the process may take to end when the worker has stopped."""
CLEARING: Final = 0.5
"""Seconds that coroutines, and threads of the loop, which tasks left behind have to end."""


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What the command line says of a worker."""

    type: str | None = None
    config: Mapping[str, object] = {}
    """The fields of `WorkerConfig` that were given."""
    burst: bool = False
    """Stop when the tasks that are due have been worked off."""


def run_worker(oq: AsyncOmniQ, options: WorkerOptions) -> int:
    """Run a worker in the main thread until it is told to stop; returns the exit code.

    Raises `OmniQError` if it can't start or go on.
    """
    last_resort = LastResort()
    runner = asyncio.Runner(loop_factory=new_event_loop)
    keep_to_ourselves(runner.get_loop())
    with StopSignals(runner.get_loop(), last_resort) as signals:
        service = Service(oq, options, signals)
        complaint = ""
        try:
            return drive(runner.get_loop(), service.serve())
        except Exception as error:
            complaint = str(error)
            raise
        finally:
            _close(runner, last_resort, service.exit_code, complaint)
            if not signals.count:
                last_resort.call_off()


class Service:
    """One worker of this process."""

    def __init__(self, oq: AsyncOmniQ, options: WorkerOptions, signals: StopSignals) -> None:
        self._oq = oq
        self._options = options
        self._signals = signals
        self._began = time.monotonic()
        self.exit_code = FAILED

    async def serve(self) -> int:
        """Start, work, stop; returns the exit code. Raises `OmniQError` if it can't start or go on."""
        async with self._oq:
            pool = self._oq.worker_pool(self._options.type, **self._options.config)
            await pool.start()
            self._signals.patience = pool.config.grace_period
            say(self._greeting(pool))
            try:
                await self._work(pool)
            finally:
                await self._stop(pool)
                say(self._summary(pool))
        return self.exit_code

    async def _work(self, pool: AsyncWorkerPool) -> None:
        """Return when a signal came, the worker can't go on, or there is nothing left to do. Raises `StoreError`."""
        reasons: list[asyncio.Future[object]] = [
            asyncio.ensure_future(self._signals.first.wait()),
            asyncio.ensure_future(pool.finished.wait()),
        ]
        if self._options.burst:
            reasons.append(asyncio.ensure_future(pool.drain()))
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        for reason in reasons:
            reason.cancel()
        for outcome in await asyncio.gather(*reasons, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        if pool.failure is not None:
            raise WorkerError(f"the worker can't go on: {pool.failure}") from pool.failure
        self.exit_code = 0

    async def _stop(self, pool: AsyncWorkerPool) -> None:
        hurrying = asyncio.ensure_future(self._hurry(pool))
        if self._signals.count:
            running = count(len(pool.desk.held) - pool.desk.buffered, "running task")
            say(f"stopping, waiting up to {pool.config.grace_period:g} s for {running}; again to stop at once")
        await pool.stop()
        hurrying.cancel()
        with suppress(asyncio.CancelledError):
            await hurrying
        if self._signals.second.is_set():
            self.exit_code = self._signals.exit_code

    async def _hurry(self, pool: AsyncWorkerPool) -> None:
        """After a second signal: wait no longer for what runs."""
        await self._signals.second.wait()
        say("stopping at once")
        await pool.stop(0)

    # ── what it says ─────────────────────────────────────────────────────────

    def _greeting(self, pool: AsyncWorkerPool) -> str:
        kind = self._options.type or self._oq.config.worker.type
        queues = ", ".join(pool.config.queues or self._oq.task_queue.queues)
        slots = count(pool.max_workers, "slot")
        return f"worker {pool.name} ({kind}, {slots}) serves {queues} in {self._oq.task_queue.store.location}"

    def _summary(self, pool: AsyncWorkerPool) -> str:
        line = f"worker {pool.name} has stopped after {time.monotonic() - self._began:.1f} s: {_ends(pool.ended)}"
        if left := len(pool.desk.held):
            line += f"; {count(left, 'task')} couldn't be handed back, to be run again when the leases are over"
        return line


def _ends(ended: Mapping[End, int]) -> str:
    """How many runs ended in which way, such as "12 success, 1 error"."""
    return ", ".join(f"{number} {end}" for end, number in ended.items()) or "no task was run"


def _close(runner: asyncio.Runner, last_resort: LastResort, exit_code: int, complaint: str) -> None:
    """Close the loop, but not at any price: tasks may have left behind what never ends."""
    last_resort.within(CLOSING, exit_code, complaint)
    try:
        cleared = drive(runner.get_loop(), _clear())
    except OSError:  # a task has closed what the loop waits with
        cleared = False
    if not cleared:
        end_now(exit_code, complaint)
    runner.close()


async def _clear() -> bool:
    """Cancel everything else on the loop and end its threads; returns whether nothing is left."""
    if not await clear_loop(CLEARING):
        return False
    # It is left to itself when it takes too long: cancelling it would wait for the threads.
    ending = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    return not (await asyncio.wait([ending], timeout=CLEARING))[1]


# ── the command ─────────────────────────────────────────────────────────────


@click.command()
@click.option("--type", "worker_type", metavar="NAME", help="async, thread, process, or one that a plugin brings.")
@click.option("--max-workers", type=int, help="Tasks that run at once.")
@click.option("--queues", type=names, metavar="A,B", help="The queues to serve, in order of priority.")
@click.option("--lease", type=duration, help="How long a claim holds without being renewed.")
@click.option("--grace-period", type=duration, help="How long to wait for running tasks when stopping.")
@click.option("--poll-interval", type=duration, help="How often to look for tasks when nothing wakes the worker.")
@click.option("--burst", is_flag=True, help="Stop when the tasks that are due have been worked off.")
@click.option("--import", "modules", metavar="MODULE", multiple=True, help="Import it first; may be repeated.")
@placed
def worker(
    place: Place, worker_type: str | None, modules: Sequence[str], burst: bool, **settings: float | list[str] | None
) -> None:
    """Run a worker until it is told to stop.

    Modules of the working directory can be imported. On SIGTERM, SIGHUP or Ctrl-C it takes no more tasks, waits for
    those that run, hands back what isn't done after the grace period, and exits with 0. A second signal lets it
    hand back everything at once, and exit with 128 and the signal's number.
    """
    use_working_directory()
    for module in modules:
        _import(module)
    place.set_up_logging()
    config = {name: value for name, value in settings.items() if value is not None}

    from omniq.cli.worker import WorkerOptions, run_worker

    options = WorkerOptions(type=worker_type, config=config, burst=burst)
    click.get_current_context().exit(run_worker(place.open(), options))


def _import(name: str) -> None:
    """Import a module. Raises `Failure` if there is none of that name, and whatever its own code does."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise Failure(f"--import: there is no module {error.name!r} here; is it installed, or on sys.path?") from error
