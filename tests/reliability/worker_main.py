"""One worker process of a run: `python -m tests.reliability.worker_main OPTIONS`, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from msgspec import Struct, field
from omniq import AsyncOmniQ
from omniq.errors import StoreUnavailable
from omniq.queue import AsyncTaskQueue
from omniq.storage.breakers import unguarded
from omniq.sync import new_event_loop
from omniq.workers import AsyncWorkerPool

from tests.reliability.history import UNREACHABLE, History
from tests.reliability.planted import plant_from_environment
from tests.reliability.recording import recording
from tests.starvation import beat_if_asked

PROJECT = "reliability"

log = logging.getLogger(__name__)


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What the process is told on its command line, as JSON."""

    url: str
    """Of the task queue."""
    worker_type: str
    worker_config: dict[str, Any] = field(default_factory=dict)

    def to_argument(self) -> str:
        return msgspec.json.encode(self).decode()


def front_door(url: str) -> AsyncOmniQ:
    """OmniQ as the runs use it."""
    store = {"url": url}
    return AsyncOmniQ(config={"project_name": PROJECT, "task_queue": store, "result_store": store})


def recorded(oq: AsyncOmniQ, history: History) -> AsyncOmniQ:
    """The same, with what passes between worker and task queue written to the history."""
    queue = oq.task_queue
    recorder = AsyncTaskQueue(lambda _: recording(unguarded(queue.store), history), queue.config)
    return AsyncOmniQ(task_queue=recorder, result_store=oq.result_store)


async def serve(options: WorkerOptions) -> int:
    """Work until SIGTERM; returns the exit code: 0 for a stop that was asked for."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as stack:
        try:
            history = History.from_environment()
            oq = await stack.enter_async_context(recorded(front_door(options.url), history))
            pool = await stack.enter_async_context(oq.worker_pool(options.worker_type, **options.worker_config))
        except StoreUnavailable as error:
            log.info("not started: %s", error)
            return UNREACHABLE
        history.ready()
        await _until_either(stop, pool)
    return 0 if pool.failure is None else 1


async def _until_either(stop: asyncio.Event, pool: AsyncWorkerPool) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, pool.finished)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def main() -> int:
    """Read the options, plant a bug if told to, and serve."""
    plant_from_environment()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    beat_if_asked()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(serve(msgspec.json.decode(sys.argv[1], type=WorkerOptions)))


if __name__ == "__main__":
    sys.exit(main())
