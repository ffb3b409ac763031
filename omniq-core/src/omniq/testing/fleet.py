"""A kill test: worker processes on a store are killed while tasks run, and judged by what these wrote elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, Self

import msgspec
from msgspec import Struct

from omniq.config.choices import resolve
from omniq.config.loader import ComponentChoice, OmniQConfig
from omniq.core import AsyncOmniQ
from omniq.errors import OmniQError
from omniq.models.task import TERMINAL
from omniq.plugins.registry import load_class
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.options import TaskCall
from omniq.results import AsyncResultStorage
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, look_up
from omniq.storage.records import Change, Changed, ChangeStatus
from omniq.workers.base import Worker
from omniq.workers.jobs import current_task

LOG: Final = "OMNIQ_TEST_LOG"
"""The variable that names the file to which tasks write."""
SLOTS: Final = 8
LEASE: Final = 5.0
CONFIG: Final[dict[str, Any]] = {"max_workers": SLOTS, "prefetch": 0, "lease": LEASE, "reap_interval": 0.5}
BATCH: Final = 10
PACE: Final = 0.1
"""Seconds between two batches."""
PATIENCE: Final = 30.0
"""Seconds beyond two leases that the last tasks may take."""
SHOWN: Final = 5


class Options(Struct, frozen=True, kw_only=True):
    """What a worker process is told."""

    url: str
    project: str
    worker: str = "omniq.workers.async_:AsyncWorker"
    """The class of its worker, as an import string."""
    config: dict[str, Any] = {}
    """What its configuration has else than `CONFIG`."""


class Line(NamedTuple):
    """What a task or its worker wrote: `started`, `done` or `accepted`."""

    what: str
    task_id: str
    epoch: int


class Log:
    """A file to which processes append lines of their own, each at one go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, what: str, task_id: str, epoch: int) -> None:
        """Append a line."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{what} {epoch} {task_id}\n".encode())
        finally:
            os.close(file)

    def lines(self) -> Iterator[Line]:
        """What was written."""
        for text in self.path.read_text("utf-8").splitlines() if self.path.exists() else ():
            what, epoch, task_id = text.split(" ", 2)
            yield Line(what, task_id, int(epoch))


async def nap(seconds: float) -> str:
    """A task that says when it starts and ends, and returns who it was."""
    task, log = current_task(), Log(Path(os.environ[LOG]))
    log.write("started", task.id, task.epoch)
    await asyncio.sleep(seconds)
    log.write("done", task.id, task.epoch)
    return f"{task.epoch} {task.id}"


def open_omniq(options: Options) -> AsyncOmniQ:
    """OmniQ on the store of a URL, for a project of its own. Raises `ConfigError` and `PluginError`."""
    choice = ComponentChoice(url=options.url)
    queue, of_queue = resolve("task_queue", choice)
    results, of_results = resolve("result_store", choice)
    return AsyncOmniQ(
        task_queue=AsyncTaskQueue(
            load_class(queue.store, BaseTaskQueue),  # type: ignore[type-abstract]
            of_queue.for_project(options.project),
        ),
        result_store=AsyncResultStorage(
            load_class(results.store, BaseResultStorage),  # type: ignore[type-abstract]
            of_results.for_project(options.project),
        ),
        config=OmniQConfig(project_name=options.project),
    )


# ── a worker process ─────────────────────────────────────────────────────────


def work(options: Options) -> None:
    """Work until SIGTERM, on a thread and an event loop that tasks can't end."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    oq = open_omniq(options)
    record_ends(oq.task_queue.store)
    worker = load_class(options.worker, Worker)(oq.task_queue, oq.result_store, **{**CONFIG, **options.config})
    worker.start()
    stop.wait()
    worker.stop()


def record_ends(store: BaseTaskQueue) -> None:
    """Let the store write down which ends of tasks it accepts."""
    transition, log = store.transition, Log(Path(os.environ[LOG]))

    async def recorded(changes: Sequence[Change]) -> list[Changed]:
        answers = await transition(changes)
        for change, answer in zip(changes, answers, strict=True):
            if answer.status is ChangeStatus.APPLIED and change.to in TERMINAL:
                log.write("accepted", change.task_id, change.epoch or 0)
        return answers

    store.transition = recorded  # type: ignore[method-assign]


def main() -> None:
    """What a worker process runs."""
    work(msgspec.json.decode(sys.argv[1], type=Options))


# ── the fleet, and the test ──────────────────────────────────────────────────


class Fleet:
    """Worker processes, of which each that is killed is replaced. They are gone when it is left."""

    def __init__(self, options: Options, folder: Path, *, size: int) -> None:
        self._command = [sys.executable, "-m", "omniq.testing.fleet", msgspec.json.encode(options).decode()]
        self._environment = {**os.environ, LOG: str(folder / "log")}
        self._output = folder / "workers.log"
        self._size = size
        self._workers: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        self.deaths = 0
        """How many have ended by themselves."""

    def __enter__(self) -> Self:
        self.tend()
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()

    def tend(self) -> None:
        """Replace those that have ended."""
        alive = [worker for worker in self._workers if worker.poll() is None]
        self.deaths += len(self._workers) - len(alive)
        self._workers = alive
        while len(self._workers) < self._size:
            with self._output.open("ab") as output:
                worker = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)
            self._workers.append(worker)

    def kill_one(self, chance: Random) -> None:
        """Kill one without a warning, and replace it."""
        self.tend()
        worker = self._workers.pop(chance.randrange(len(self._workers)))
        worker.kill()
        worker.wait()
        self.kills += 1
        self.tend()

    def stop(self) -> None:
        """Let all of them stop in order."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.kill()


class Outcome(Struct, frozen=True, kw_only=True):
    """What a kill test has shown."""

    tasks: int
    kills: int
    re_executions: int
    failures: list[str]

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.kills} kills, {self.re_executions} run again"


async def kill_test(
    options: Options, folder: Path, *, seconds: float, workers: int = 3, tell: Callable[[str], None]
) -> Outcome:
    """Enqueue tasks for so many seconds and kill workers meanwhile; then wait until all tasks have ended, and judge."""
    log, chance = Log(folder / "log"), Random()
    os.environ[LOG] = str(log.path)
    async with open_omniq(options) as oq:
        with Fleet(options, folder, size=workers) as fleet:
            acknowledged = [await oq.enqueue(nap, [0.0])]
            await oq.get_result(acknowledged[0], timeout=PATIENCE)  # from here on, there is somebody to kill
            start, next_kill = time.monotonic(), seconds / 6
            while (passed := time.monotonic() - start) < seconds:
                calls = [TaskCall(func=nap, func_args=[chance.uniform(0.05, 0.3)]) for _ in range(BATCH)]
                acknowledged += await oq.enqueue_many(calls)
                if passed >= next_kill:
                    fleet.kill_one(chance)
                    next_kill = passed + seconds / 6
                tell(f"{len(acknowledged)} tasks, {fleet.kills} kills")
                await asyncio.sleep(PACE)
            left = await _wait_for_ends(oq, acknowledged, tell)
            fleet.stop()
        failures = [*_of(left, "haven't ended"), *(await _wrong_results(oq, acknowledged, left, log))]
        return _judge(acknowledged, list(log.lines()), fleet, failures)


async def _wait_for_ends(oq: AsyncOmniQ, ids: Sequence[str], tell: Callable[[str], None]) -> list[str]:
    """Those that don't end."""
    store, left = oq.task_queue.store, list(ids)
    deadline = time.monotonic() + 2 * LEASE + PATIENCE
    while left and time.monotonic() < deadline:
        await asyncio.sleep(PACE)
        found = zip(left, await look_up(store, store.get, left), strict=True)
        left = [id_ for id_, record in found if record is None or record.state not in TERMINAL]
        tell(f"{len(left)} tasks left")
    return left


async def _wrong_results(oq: AsyncOmniQ, ids: Sequence[str], left: Sequence[str], log: Log) -> list[str]:
    done = {f"{line.epoch} {line.task_id}" for line in log.lines() if line.what == "done"}
    missing: list[str] = []
    for id_ in set(ids) - set(left):
        try:
            value = await oq.get_result(id_, timeout=LEASE)
        except OmniQError as error:
            value = type(error).__name__
        if value not in done or not str(value).endswith(id_):
            missing.append(id_)
    return _of(missing, "have no result, or one that they didn't return")


def _judge(ids: Sequence[str], lines: Sequence[Line], fleet: Fleet, failures: list[str]) -> Outcome:
    started = Counter((line.task_id, line.epoch) for line in lines if line.what == "started")
    accepted = Counter(line.task_id for line in lines if line.what == "accepted")
    again = sum(started.values()) - len({task_id for task_id, _ in started})
    failures += _of([id_ for (id_, _), times in started.items() if times > 1], "were started twice at one epoch")
    failures += _of([id_ for id_, times in accepted.items() if times > 1], "had more than one end accepted")
    unheard = len(set(ids) - accepted.keys())
    if unheard > fleet.kills * SLOTS:
        failures.append(f"{unheard} tasks ended, and no worker was told so; {fleet.kills} were killed")
    if again > (fleet.kills + fleet.deaths) * SLOTS:
        failures.append(f"{again} tasks ran again, more than {fleet.kills} kills account for")
    if fleet.deaths:
        failures.append(f"{fleet.deaths} workers ended by themselves")
    return Outcome(tasks=len(ids), kills=fleet.kills, re_executions=again, failures=failures)


def _of(ids: Sequence[str], what: str) -> list[str]:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return [f"kill test: {len(ids)} tasks {what}: {', '.join(ids[:SHOWN])}{more}"] if ids else []


if __name__ == "__main__":
    main()
