"""Directories in which something is wrong, or that are shared, copied and deleted while they are in use."""

from __future__ import annotations

import asyncio
import errno
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import pytest
from omniq.errors import StoreError, StoreFull, StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage.records import NEW, ResultRecord
from omniq.sync import Portal, new_event_loop
from omniq_fsspec.config import FileTaskQueueConfig
from omniq_fsspec.queue import FileQueueStore

from tests.core.support import SOON
from tests.fsspec.support import (
    claim_all,
    found,
    found_anew,
    is_whole,
    lone,
    named,
    replica_of,
    root,
    settle,
    snapshot,
    success,
)
from tests.servers import unprivileged

SOMEBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and mount")

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "stores_closed")


@pytest.fixture
async def store(base: Path) -> AsyncIterator[FileQueueStore]:
    store = lone(base)
    yield store
    await store.close()


# ── disks ────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs to mount a disk: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@as_root
async def test_a_full_disk_is_told_and_costs_nothing(small_disk: Path) -> None:
    store = lone(small_disk)
    await store.add(named(["before"]))
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for _ in range(5):
        with pytest.raises(StoreFull, match="No space left"):
            await store.add(named([f"t{number}" for number in range(100)]))
    assert os.listdir(root(small_disk) / "tmp") == []
    ballast.unlink()
    assert await store.add(named(["after"])) == [NEW]
    claimed = await claim_all(store)
    await store.close()
    assert list(claimed) == ["before", "after"]
    assert all(map(is_whole, claimed.values()))


async def test_a_disk_that_is_full_once_it_writes_is_told(
    base: Path, store: FileQueueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = lone(base, fsync=True)
    await full.add(named(["before"]))

    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StoreFull):
            await full.add(named(["during"]))
    assert await full.add(named(["after"])) == [NEW]
    await full.close()
    assert os.listdir(root(base) / "tmp") == []
    assert {"before", "after"} <= {id_ for id_, task in (await claim_all(store)).items() if is_whole(task)}


def try_read_only(base: Path) -> None:
    """What somebody runs who may read it all, and write nothing."""
    os.setuid(SOMEBODY)

    async def run() -> None:
        store = FileQueueStore(FileTaskQueueConfig(base_dir=str(base), trust_owner=True))
        with pytest.raises(StoreError) as caught:
            await store.add(named(["a"]))
        assert not isinstance(caught.value, StoreUnavailable), "a repeat would be of no use"
        assert str(base) in str(caught.value)
        await store.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run())


@as_root
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_directory_that_is_read_only_is_told() -> None:
    folder = unprivileged.new_folder("omniq-read-only-")
    try:
        fork: ForkContext = multiprocessing.get_context("fork")
        child = fork.Process(target=try_read_only, args=(folder,))
        child.start()
        child.join(SOON)
        assert child.exitcode == 0
    finally:
        shutil.rmtree(folder)


# ── owners ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mask", [0o022, 0o000, 0o277])
async def test_what_is_made_is_its_owners_alone_whatever_the_umask(
    base: Path, store: FileQueueStore, mask: int
) -> None:
    before = os.umask(mask)
    try:
        await store.add(named(["a"]))
    finally:
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in [base, *base.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


@as_root
@pytest.mark.parametrize("folder", ["", "default", "default/log", "default/queues", "default/queues/default"])
async def test_somebody_elses_directory_is_refused(base: Path, store: FileQueueStore, folder: str) -> None:
    (base / folder).mkdir(parents=True)
    os.chown(base / folder, SOMEBODY, SOMEBODY)
    with pytest.raises(StoreError, match="trust_owner"):
        await store.add(named(["a"]))


@pytest.mark.parametrize("folder", ["default", "default/log"])
async def test_a_directory_in_which_everybody_can_replace_files_is_refused(
    base: Path, store: FileQueueStore, folder: str
) -> None:
    (base / folder).mkdir(parents=True)
    (base / folder).chmod(0o777)
    with pytest.raises(StoreError, match="everybody can replace"):
        await store.add(named(["a"]))


# ── who shares it ────────────────────────────────────────────────────────────


async def test_projects_are_apart(base: Path) -> None:
    stores = [FileQueueStore(FileTaskQueueConfig(base_dir=str(base)).for_project(name)) for name in ("log", "tmp")]
    await stores[0].add(named(["a"]))
    await stores[1].add(named(["b"]))
    assert [list(await claim_all(store)) for store in stores] == [["a"], ["b"]]
    await stores[0].drop()
    assert list(await found(stores[1])) == ["b"]
    await stores[1].close()


def add_in_fork(store: FileQueueStore, task_id: str) -> None:
    """Uses the parent's very store."""

    async def run() -> None:
        assert await store.add(named([task_id])) == [NEW]
        await store.close()

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_amid_writes_harms_neither_side(base: Path) -> None:
    fork: ForkContext = multiprocessing.get_context("fork")
    store, portal = lone(base), Portal("test-portal")
    portal.call(store.connect())
    children = [fork.Process(target=add_in_fork, args=(store, f"child{number}")) for number in range(4)]
    for number, child in enumerate(children):
        adding = portal.submit(store.add(named([f"parent{number}"])))
        child.start()
        assert adding.result(SOON) == [NEW]
    for child in children:
        child.join(SOON)
    assert [child.exitcode for child in children] == [0] * 4
    assert portal.call(found(store)).keys() == {f"{who}{number}" for who in ("child", "parent") for number in range(4)}
    portal.call(store.close())
    portal.stop()


async def keep_busy(base: Path, store: FileQueueStore, acknowledged: list[str], stop: asyncio.Event) -> None:
    """Add, claim and end tasks until told to stop."""
    while not stop.is_set():
        ids = [f"t{len(acknowledged)}", f"t{len(acknowledged) + 1}"]
        await store.add(named(ids))
        acknowledged += ids
        claimed = await store.claim(["default"], limit=1, lease=60.0, worker="w")
        await store.transition([success(task) for task in claimed])


async def test_a_copy_that_is_made_meanwhile_has_all_that_was_acknowledged(base: Path, tmp_path: Path) -> None:
    store, stop, acknowledged = lone(base), asyncio.Event(), list[str]()
    busy = asyncio.create_task(keep_busy(base, store, acknowledged, stop))
    for number in range(5):
        await asyncio.sleep(0.05)
        before, copy = set(acknowledged), tmp_path / f"copy{number}"
        await asyncio.to_thread(shutil.copytree, base, copy, ignore=shutil.ignore_patterns("tmp"))
        other = lone(copy)
        await settle(other)
        rows, claimed = await found(other), await claim_all(other)
        await other.close()
        assert before <= rows.keys()
        ended = {id_ for id_, row in rows.items() if row.state in (TaskState.SUCCESS, TaskState.RUNNING)}
        assert before <= ended | {id_ for id_, task in claimed.items() if is_whole(task)}
    stop.set()
    await busy
    await store.close()


# ── it goes away ─────────────────────────────────────────────────────────────


async def test_a_directory_that_was_deleted_is_begun_again(base: Path, store: FileQueueStore) -> None:
    await store.add(named(["old"]))
    shutil.rmtree(base)
    for attempt in (1, 2):
        with suppress(StoreUnavailable):
            assert await store.add(named([f"new{attempt}"])) == [NEW]
    assert "new2" in await found_anew(base)
    assert (await found(store)).keys() == (await found_anew(base)).keys()


@pytest.mark.parametrize("writes", [1, 5])
async def test_whoever_used_a_directory_that_others_have_begun_again_goes_on_with_theirs(
    base: Path, store: FileQueueStore, writes: int
) -> None:
    for number in range(writes):
        await store.add(named([f"old{number}"]))
    shutil.rmtree(base)
    other = lone(base)
    await other.add(named(["theirs"]))
    for attempt in (1, 2):
        with suppress(StoreUnavailable):
            await store.add(named([f"mine{attempt}"]))
    assert (await found(store)).keys() == (await found(other)).keys() == (await found_anew(base)).keys()
    assert {"theirs", "mine2"} <= (await found(other)).keys()
    await other.close()


async def test_a_file_that_cannot_be_replaced_leaves_nothing_aside(base: Path, store: FileQueueStore) -> None:
    await store.add(named(["a"]))
    snapshot(base, 7).mkdir()
    for _ in range(3):
        with pytest.raises(StoreError):
            await replica_of(store).files.write("log/0000000000000007.snapshot.jsonl", b"data")
    assert os.listdir(root(base) / "tmp") == []


async def test_what_a_killed_process_left_aside_is_swept(base: Path, store: FileQueueStore) -> None:
    await store.add(named(["a"]))
    left = root(base) / "tmp" / "0123456789abcdef"
    left.write_bytes(b"half a segm")
    os.utime(left, (1.0, 1.0))
    await store.purge(older_than=3600.0)
    assert not left.exists()


WORKER = """
import asyncio, operator, sys
from omniq import AsyncOmniQ
from omniq.sync import new_event_loop
from tests.core.tasks import nothing_async

async def main():
    place = {"url": f"file://{sys.argv[1]}"}
    async with AsyncOmniQ(config={"task_queue": place, "result_store": place}) as oq:
        for _ in range(50):
            await oq.enqueue(nothing_async)
        async with oq.worker_pool("async", lease=5.0):
            print("ready", flush=True)
            while True:
                await oq.enqueue(nothing_async)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


async def test_ctrl_c_leaves_no_task_running_and_nothing_aside(base: Path) -> None:
    command = (sys.executable, "-c", WORKER, str(base))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), SOON)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), SOON)
    assert b"KeyboardInterrupt" in errors
    assert b"never" not in errors
    rows = await found_anew(base)
    assert rows
    assert TaskState.RUNNING not in {row.state for row in rows.values()}
    assert os.listdir(root(base) / "tmp") == []


async def test_closing_gives_back_threads_and_files(base: Path) -> None:
    def counts() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before: Any = None
    for number in range(5):
        store = lone(base)
        await store.add(named([f"t{number}"]))
        await store.close()
        before = before or counts()
    assert counts() <= before


async def test_small_results_stay_in_their_rows_and_others_go_to_files(base: Path, store: FileQueueStore) -> None:
    results = store.result_storage()
    await results.connect()
    records = [
        ResultRecord(task_id=f"r{size}", epoch=1, status=TaskState.SUCCESS, body=b"x" * size)
        for size in (0, 1, 36, 1024, 1025)
    ]
    assert await results.put(records) == [True] * len(records)
    assert [found and found.body for found in await results.get([r.task_id for r in records])] == [
        record.body for record in records
    ]
    (file,) = (root(base) / "results").iterdir()
    assert [json.loads(line)["task_id"] for line in file.read_text().splitlines()] == ["r36", "r1025"]
    await results.close()
