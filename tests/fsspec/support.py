"""Stores on local files as other processes have them, and a look at their files."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from omniq.models.task import TaskState
from omniq.storage.connected import Connections
from omniq.storage.log_files import segment_name, snapshot_name
from omniq.storage.records import Change, NewTask, TaskFilter, TaskRecord
from omniq.testing.builders import QUEUE
from omniq_fsspec.config import FileTaskQueueConfig
from omniq_fsspec.connection import open_place
from omniq_fsspec.places import FilePlace
from omniq_fsspec.queue import FileQueueStore

T = TypeVar("T")

SPINNING: Final = 3.0
"""Seconds after which a call that takes some milliseconds won't end any more."""


lone_stores: list[FileQueueStore] = []
"""Those of the test that is running, which the fixture `stores_closed` closes."""


def lone(base: Path, *, fsync: bool = False) -> FileQueueStore:
    """A store whose replica nobody else in this process uses: it sees of others what another process would."""
    kind = type("LoneStore", (FileQueueStore,), {"connections": Connections(open_place, of_process=True)})
    store: FileQueueStore = kind(FileTaskQueueConfig(base_dir=str(base), fsync=fsync))
    lone_stores.append(store)
    return store


def replica_of(store: FileQueueStore) -> FilePlace:
    """What the store follows the log with."""
    place = store._place
    assert isinstance(place, FilePlace)
    return place


async def at_home(store: FileQueueStore, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns, on the event loop of the store's replica."""
    return await store._connection.run(work)


def root(base: Path) -> Path:
    """The folder of the project."""
    return base / "default"


def log_files(base: Path) -> list[str]:
    return sorted(path.name for path in (root(base) / "log").iterdir())


def segment(base: Path, number: int) -> Path:
    return root(base) / segment_name(number)


def snapshot(base: Path, number: int) -> Path:
    return root(base) / snapshot_name(number)


def named(ids: Iterable[str]) -> list[NewTask]:
    """A task for each id, whose body tells it."""
    return [NewTask(id=id_, queue_name=QUEUE, body=b"body of " + id_.encode()) for id_ in ids]


async def found(store: FileQueueStore) -> dict[str, TaskRecord]:
    """All tasks, by their ids, without their bodies."""
    return {task.id: task for task in (await store.find(TaskFilter(), limit=10_000)).tasks}


async def found_anew(base: Path) -> dict[str, TaskRecord]:
    """What a process finds that comes now."""
    store = lone(base)
    try:
        return await found(store)
    finally:
        await store.close()


async def claim_all(store: FileQueueStore) -> dict[str, TaskRecord]:
    """Claim what can be claimed, by now: a claim alone may lag."""
    await found(store)
    return {task.id: task for task in await store.claim([QUEUE], limit=1000, lease=60.0, worker="w")}


async def unless_spinning(store: FileQueueStore, call: Coroutine[Any, Any, T]) -> T:
    """What the call answers. Fails, and stops it, where it goes on for ever."""
    calling = asyncio.ensure_future(call)
    await asyncio.wait([calling], timeout=SPINNING)
    is_spinning = not calling.done()
    if is_spinning and (runner := replica_of(store)._batcher._runner) is not None:
        runner.get_loop().call_soon_threadsafe(runner.cancel)
        await asyncio.wait([calling])
        calling.exception()
    assert not is_spinning, "it tries again and again"
    return calling.result()


async def settle(store: FileQueueStore) -> None:
    """Wait for what goes on behind the calls."""

    replica = replica_of(store)

    async def wait() -> None:
        while going_on := list(replica._background):
            await asyncio.wait(going_on)

    await at_home(store, wait())


def is_whole(task: TaskRecord) -> bool:
    """Whether it has the body that `named` gave it."""
    return task.damage is None and task.body == b"body of " + task.id.encode()


def success(task: TaskRecord) -> Change:
    return Change(task_id=task.id, to=TaskState.SUCCESS, from_states=(TaskState.RUNNING,), epoch=task.epoch)
