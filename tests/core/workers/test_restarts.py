"""Tasks that take their worker along: a supervisor starts it again, and only the guilty one is parked."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from omniq.errors import TaskFailed

from tests.core import oddities, tasks
from tests.core.support import SOON, front_door, lines, results_of, sqlite_place

pytestmark = pytest.mark.starvable

ROOT = Path(__file__).parents[3]


class Supervisor:
    """Keeps one worker process alive, and counts its deaths."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._command = [sys.executable, "-m", "tests.core.workers.serve", kind, str(directory)]
        self._log = directory / "worker.log"
        self._process: asyncio.subprocess.Process | None = None
        self.exit_codes: list[int] = []

    async def run(self) -> None:
        """Start the process, and again when it has died, until it ends well."""
        while 0 not in self.exit_codes:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(*self._command, cwd=ROOT, stdout=log, stderr=log)
            self.exit_codes.append(await self._process.wait())

    def stop(self) -> None:
        """Ask the process to end."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


@asynccontextmanager
async def supervised(kind: str, directory: Path) -> AsyncIterator[Supervisor]:
    """A worker process that is started again when it dies."""
    supervisor = Supervisor(kind, directory)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await asyncio.wait_for(running, SOON)


@pytest.mark.parametrize(
    ("kind", "how", "exit_code"),
    [("async", "exit", 7), ("async", "segfault", -signal.SIGSEGV), ("thread", "sigkill", -signal.SIGKILL)],
)
async def test_poison_is_parked_after_three_deaths_of_its_worker(
    tmp_path: Path, log: Path, kind: str, how: str, exit_code: int
) -> None:
    async with front_door(sqlite_place(tmp_path)) as oq:
        before = [await oq.enqueue(tasks.add, [n, 1]) for n in range(2)]
        poison = await oq.enqueue(oddities.die, [str(log), how], max_retries=5)
        after = [await oq.enqueue(tasks.add_async, [n, 2]) for n in range(10)]
        async with supervised(kind, tmp_path) as supervisor:
            with pytest.raises(TaskFailed, match="died 3 times") as failed:
                await oq.get_result(poison, timeout=20)
            assert await results_of(oq, before) == [1, 2]
            assert await results_of(oq, after) == [n + 2 for n in range(10)]
        assert failed.value.error_type == "omniq.errors.WorkerCrashed"
        assert len(lines(log)) == 3
        assert supervisor.exit_codes == [exit_code] * 3 + [0]
        (dead,) = await oq.list_dead()
        assert (dead.id, dead.crashes, dead.attempts) == (poison, 3, 0)
        assert {(await oq.get_task(id_)).attempts for id_ in [*before, *after]} == {0}
