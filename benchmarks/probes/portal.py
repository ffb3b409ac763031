"""What a blocking call costs through our portal and through anyio's: `portal.py [ROUNDS]`, interleaved.

`call` is a coroutine that does nothing; `enqueue` is `OmniQ.enqueue` into a SQLite file, one call at a time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from omniq import OmniQ
from omniq.sync import Portal, new_event_loop

sys.path.append(str(Path(__file__).parents[1]))

from tasks import nothing

CALLS, ENQUEUES = 20_000, 2_000


async def nothing_at_all() -> None:
    pass


def each(count: int, call: Callable[[], object]) -> float:
    """Microseconds per call."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e6


def measure(through: str, directory: str) -> tuple[float, float]:
    with ExitStack() as stack:
        if through == "anyio":
            portal = stack.enter_context(start_blocking_portal("asyncio", {"loop_factory": new_event_loop}))

            def call(self: Portal | None, coroutine: Coroutine[Any, Any, Any]) -> Any:
                async def run() -> Any:
                    return await coroutine

                return portal.start_task_soon(run).result()

            ours, Portal.call = Portal.call, call  # type: ignore[method-assign]
            stack.callback(setattr, Portal, "call", ours)
            calls = each(CALLS, lambda: portal.start_task_soon(nothing_at_all).result())
        else:
            own = Portal("probe")
            stack.callback(own.stop)
            calls = each(CALLS, lambda: own.call(nothing_at_all()))
        with OmniQ(config={"task_queue": {"type": "sqlite", "config": {"base_dir": directory}}}) as oq:
            return calls, each(ENQUEUES, lambda: oq.enqueue(nothing))


def main(rounds: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "anyio": []}
    for number in range(rounds):
        for through in ("ours", "anyio") if number % 2 == 0 else ("anyio", "ours"):
            with tempfile.TemporaryDirectory() as directory:
                found[through].append(measure(through, directory))
    for through, rows in found.items():
        calls, enqueues = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{through:6} call {calls:6.1f} µs  enqueue {enqueues:7.1f} µs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
