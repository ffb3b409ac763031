"""The command line in the test's own process, on a SQLite file."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from omniq import AsyncOmniQ
from omniq.cli.app import omniq

TASKS = "tests.core.cli.tasks"


class Cli:
    """The command line at one place."""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/omniq.db?synchronous=NORMAL"
        self.config = {"task_queue": self.url, "event_store": self.url, "defaults": {"max_retries": 0}}

    def __call__(self, *arguments: str) -> Result:
        return run("--url", self.url, *arguments)

    def output(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.output(*arguments, "--json"))

    def rows(self, *arguments: str) -> list[list[str]]:
        """The cells of the table that a command prints, without the columns' names."""
        return [line.split() for line in self.output(*arguments).splitlines()[1:]]

    def work_off(self) -> None:
        """Let a worker work until nothing is due."""
        asyncio.run(self._work_off())

    async def _work_off(self) -> None:
        async with AsyncOmniQ(config=self.config) as oq, oq.worker_pool("async") as pool:
            await pool.drain()


def run(*arguments: str) -> Result:
    """Run a command; an error that isn't OmniQ's is raised."""
    with _as_before():
        return CliRunner().invoke(omniq, arguments, prog_name="omniq", catch_exceptions=False)


@contextmanager
def _as_before() -> Iterator[None]:
    """Undo what a command does to its process: to the path and to the logging."""
    path, level = list(sys.path), logging.getLogger("omniq").level
    try:
        yield
    finally:
        sys.path[:] = path
        logging.getLogger("omniq").setLevel(level)
