"""The worker in another process, as a test sees it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds within which a worker must have started or answered, on a busy machine too."""


class RemoteWorker:
    """A running `tests.idle.worker`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def cpu_seconds(self) -> float:
        """How long it has kept a processor busy."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def next_start(self) -> tuple[str, float]:
        """The next task that started: its id, and when by `time.monotonic()`. Raises `TimeoutError`."""
        said = await self.said()
        return said["task_id"], said["started"]

    async def calls(self) -> Counter[str]:
        """How often it has called each verb of its stores so far; only while no task is on its way."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return Counter((await self.said())["calls"])

    async def said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            said: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return said


@asynccontextmanager
async def remote_worker(url: str, *settings: float) -> AsyncIterator[RemoteWorker]:
    """A worker for the queue at the URL, at the default settings but for the poll interval, and the slots, if given."""
    command = [sys.executable, "-m", "tests.idle.worker", url, *map(str, settings)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    worker = RemoteWorker(process)
    try:
        await worker.said()
        yield worker
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await process.wait()
