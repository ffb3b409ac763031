"""A worker process for tests: `python -m tests.core.workers.serve KIND DIRECTORY`, until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.core.support import front_door, sqlite_place, working

CONFIG = {"lease": 0.5, "reap_interval": 0.05, "max_workers": 4, "prefetch": 20}


async def serve(kind: str, directory: Path) -> None:
    """Work on the SQLite database of that directory."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with front_door(sqlite_place(directory)) as oq, working(oq, kind, **CONFIG):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
