"""Workers are stopped, again and again, in the middle of their work: what they had begun and what they hadn't.

`python -m tests.reliability.stops --cycles 20 --kind thread --server redis`

In each cycle one worker gets a SIGTERM and ends in order; another one gets two and ends at once. In each fourth one,
supervisors and workers are killed with -9, which none of their children may outlive.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Final

import msgspec
import psutil
from msgspec import Struct, field
from omniq import AsyncOmniQ, current_task
from omniq.models.task import Task, TaskState

from tests.reliability.servers import running
from tests.servers import exit_without_server

KINDS: Final = ("async", "thread", "process", "gevent")
WITH_CHILDREN: Final = ("process", "gevent")
SLOTS, PREFETCH, GRACE = 4, 8, 5.0
EXIT_WITHIN, BACK_WITHIN, AT_ONCE_WITHIN, ORPHANED_WITHIN = 6.0, 1.0, 1.0, 2.0
"""Seconds from the signal to the exit, to the return of what was claimed ahead, from a second signal to the exit, and
from the death of a parent to that of its last child."""
LONG: Final = 120.0
"""Seconds of a task that no worker waits for."""
PATIENCE: Final = 60.0
"""Seconds after which what should have happened won't happen any more."""
ROOT: Final = Path(__file__).parents[2]

# ── tasks ───────────────────────────────────────────────────────────────────


def work(log: str, seconds: float) -> None:
    """Block for a while."""
    _note(log, "begun")
    time.sleep(seconds)
    _note(log, "done")


async def nap(log: str, seconds: float) -> None:
    """Wait for a while."""
    _note(log, "begun")
    await asyncio.sleep(seconds)
    _note(log, "done")


def start_a_program(log: str, seconds: float) -> None:
    """Wait for another process."""
    program = subprocess.Popen(["sleep", str(seconds)])
    _note(log, "begun")
    program.wait()


def _note(log: str, what: str) -> None:
    with open(log, "a", encoding="ascii") as file:
        file.write(f"{what} {current_task().id}\n")


# ── what was seen ───────────────────────────────────────────────────────────


class Observed(Struct, kw_only=True):
    """What was seen, the worst of all cycles."""

    cycles: int = 0
    tasks: int = 0
    handed_back: int = 0
    """Tasks that were claimed ahead when a worker was stopped."""
    exit_after: float = 0.0
    back_after: float = 0.0
    at_once_after: float = 0.0
    gone_after: float = 0.0
    """Seconds after which the last child of a killed process was gone."""
    exit_codes: list[int] = field(default_factory=list)
    """Those that aren't as they should be."""
    charged: int = 0
    """Tasks to which an attempt or a crash was charged."""
    held: int = 0
    """Tasks that a worker held when it had ended."""
    not_once: int = 0
    """Tasks that weren't begun once and ended once, or that don't have the state for it."""

    @property
    def failures(self) -> list[str]:
        """What isn't as it should be."""
        checks = {
            "no task was claimed ahead": self.handed_back > 0,
            f"exit codes were {self.exit_codes}": not self.exit_codes,
            f"a worker took {self.exit_after:.1f} s to end": self.exit_after <= EXIT_WITHIN,
            f"what was claimed ahead took {self.back_after:.1f} s to be back": self.back_after <= BACK_WITHIN,
            f"a second signal took {self.at_once_after:.1f} s": self.at_once_after <= AT_ONCE_WITHIN,
            f"a child lived on for {self.gone_after:.1f} s": self.gone_after <= ORPHANED_WITHIN,
            f"{self.charged} tasks were charged": self.charged == 0,
            f"{self.held} tasks were still held": self.held == 0,
            f"{self.not_once} tasks didn't run once": self.not_once == 0,
        }
        return [failure for failure, passed in checks.items() if not passed]


# ── stopping ────────────────────────────────────────────────────────────────


class Stops:
    """Stops workers of one kind, on one store; `{project}` in its URL is where a project has a place of its own."""

    def __init__(self, url: str, directory: Path, *, kind: str, seed: int = 1) -> None:
        self._url = url
        self._directory = directory
        self._kind = kind
        self._random = Random(seed)
        self._ids: list[str] = []
        self.seen = Observed()

    async def run(self, cycles: int) -> Observed:
        """Play so many cycles, work off the rest, and judge."""
        async with self._place("stops") as oq:
            for cycle in range(cycles):
                await self._stop_in_order(oq)
                await self._stop_at_once(f"twice-{cycle}")
                if cycle % 4 == 0:
                    await self._kill_parents(f"killed-{cycle}")
                self.seen.cycles += 1
            with self._worker("stops", "--burst") as worker:
                self._check_exit(await _ended(worker), 0)
            await self._judge(oq)
        return self.seen

    async def _stop_in_order(self, oq: AsyncOmniQ) -> None:
        """One SIGTERM: what runs ends, what was claimed ahead is back at once."""
        waiting = len(await oq.list_tasks(state=TaskState.PENDING))
        for _ in range(3 * SLOTS - waiting):
            func = self._random.choice([work, nap])
            seconds = self._random.uniform(0.1, 3.0)
            self._ids.append(await oq.enqueue(func, [self._log("stops"), seconds], max_retries=3))
        with self._worker("stops") as worker:
            begun = len(self._told("stops", "begun"))
            await self._until_begun("stops", begun + SLOTS)
            await asyncio.sleep(self._random.uniform(0.0, 0.5))
            self.seen.handed_back += len(await self._claimed_ahead(oq))
            at = self._signal(worker)
            while await self._claimed_ahead(oq):
                await asyncio.sleep(0.02)
            self.seen.back_after = max(self.seen.back_after, time.monotonic() - at)
            code = await _ended(worker)
            self.seen.exit_after = max(self.seen.exit_after, time.monotonic() - at)
        self._check_exit(code, 0)
        await self._check_nothing_held(oq)

    async def _stop_at_once(self, project: str) -> None:
        """Two SIGTERMs: all is back at once."""
        async with self._place(project) as oq:
            await self._enqueue_long(oq, project, [work, nap])
            with self._worker(project) as worker:
                await self._until_begun(project, SLOTS)
                self._signal(worker)
                await asyncio.sleep(self._random.uniform(0.05, 0.5))
                at = self._signal(worker)
                code = await _ended(worker)
                self.seen.at_once_after = max(self.seen.at_once_after, time.monotonic() - at)
            self._check_exit(code, 128 + signal.SIGTERM)
            await self._check_nothing_held(oq)

    async def _kill_parents(self, project: str) -> None:
        """`kill -9` of a supervisor, and of a worker with children."""
        options: list[list[str]] = [["--processes", "2"], *([[]] if self._kind in WITH_CHILDREN else [])]
        for number, given in enumerate(options):
            name = f"{project}-{number}"
            async with self._place(name) as oq:
                await self._enqueue_long(oq, name, [start_a_program if self._kind in WITH_CHILDREN else work])
                with self._worker(name, *given) as worker:
                    await self._until_begun(name, SLOTS)
                    children = psutil.Process(worker.pid).children(recursive=True)
                    worker.kill()
                    at = time.monotonic()
                    while any(map(_lives, children)) and time.monotonic() - at < PATIENCE:
                        await asyncio.sleep(0.02)
                    self.seen.gone_after = max(self.seen.gone_after, time.monotonic() - at)

    async def _enqueue_long(self, oq: AsyncOmniQ, project: str, functions: Sequence[object]) -> None:
        for number in range(2 * SLOTS):
            await oq.enqueue(functions[number % len(functions)], [self._log(project), LONG])  # type: ignore[arg-type]

    # ── workers ──────────────────────────────────────────────────────────────

    def _place(self, project: str) -> AsyncOmniQ:
        return AsyncOmniQ(config=self._config(project))

    def _config(self, project: str) -> dict[str, object]:
        size = {"max_workers": SLOTS, "prefetch": PREFETCH, "grace_period": GRACE}
        url = self._url.format(project=project)
        return {"project_name": project, "task_queue": url, "worker": {"type": self._kind, "config": size}}

    @contextmanager
    def _worker(self, project: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, with what it says in a file; what is left of it is killed."""
        config = self._directory / f"{project}.json"
        config.write_bytes(msgspec.json.encode(self._config(project)))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
        environ["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-P", "-m", "omniq", "--config", str(config), "worker", *options]
        with open(self._directory / "said", "ab") as said:
            worker = subprocess.Popen(command, cwd=self._directory, env=environ, stdout=said, stderr=said)
        try:
            yield worker
        finally:
            worker.kill()
            worker.wait()

    @staticmethod
    def _signal(worker: subprocess.Popen[bytes]) -> float:
        worker.send_signal(signal.SIGTERM)
        return time.monotonic()

    # ── what they did ────────────────────────────────────────────────────────

    def _log(self, project: str) -> str:
        return str(self._directory / f"{project}.log")

    def _told(self, project: str, what: str) -> list[str]:
        """The tasks that have said so."""
        log = Path(self._log(project))
        lines = log.read_text("ascii").splitlines() if log.exists() else []
        return [task_id for said, task_id in map(str.split, lines) if said == what]

    async def _until_begun(self, project: str, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self._told(project, "begun")) < number:
                await asyncio.sleep(0.01)

    async def _claimed_ahead(self, oq: AsyncOmniQ) -> set[str]:
        """The tasks that a worker has claimed and not begun."""
        claimed = {task.id for task in await oq.list_tasks(state=TaskState.RUNNING, limit=1000)}
        return claimed - set(self._told("stops", "begun"))

    async def _check_nothing_held(self, oq: AsyncOmniQ) -> None:
        tasks = await _all(oq)
        self.seen.held += sum(task.state is TaskState.RUNNING for task in tasks)
        self.seen.charged += sum(task.attempts + task.crashes for task in tasks)

    def _check_exit(self, code: int, expected: int) -> None:
        if code != expected:
            self.seen.exit_codes.append(code)

    async def _judge(self, oq: AsyncOmniQ) -> None:
        begun, done = (Counter(self._told("stops", what)) for what in ("begun", "done"))
        tasks = {task.id: task for task in await _all(oq)}
        right = [id_ for id_ in self._ids if begun[id_] == done[id_] == 1 and tasks[id_].state is TaskState.SUCCESS]
        self.seen.tasks = len(self._ids)
        self.seen.not_once = len(self._ids) - len(right)


async def _all(oq: AsyncOmniQ) -> list[Task]:
    return await oq.list_tasks(limit=1000)


async def _ended(worker: subprocess.Popen[bytes]) -> int:
    """The exit code, once it has ended."""
    ends_at = time.monotonic() + PATIENCE
    while (code := worker.poll()) is None and time.monotonic() < ends_at:
        await asyncio.sleep(0.005)
    return -signal.SIGKILL if code is None else code


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    """Play the cycles; the exit code says whether all was as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.stops", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--kind", choices=KINDS, default="async")
    parser.add_argument("--server", choices=("sqlite", "redis", "postgres"), default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="omniq-stops-"))
    with ExitStack() as stack:
        url = f"sqlite:///{directory}/{{project}}.db"
        if options.server != "sqlite":
            stack.enter_context(exit_without_server())
            url = stack.enter_context(running(options.server)).url
        seen = asyncio.run(Stops(url, directory, kind=options.kind, seed=options.seed).run(options.cycles))
    print(msgspec.json.format(msgspec.json.encode(seen), indent=2).decode())
    for failure in seen.failures:
        print(f"failed: {failure}; see {directory}/said", file=sys.stderr)
    return 1 if seen.failures else 0


if __name__ == "__main__":
    from tests.reliability import stops  # where workers find the tasks

    sys.exit(stops.main())
