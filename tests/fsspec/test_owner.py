"""Where create-only writes aren't: one process at a time, and a clear error for the next one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.errors import StoreError, StoreUnavailable
from omniq.storage.log_files import OwnerFile
from omniq.storage.table_set import Step
from omniq_fsspec.config import FileTaskQueueConfig
from omniq_fsspec.filesystems import PlaceFiles, files_of
from omniq_fsspec.places import FilePlace
from omniq_fsspec.queue import AsyncFileTaskQueue, FileTaskQueue
from omniq_fsspec.results import AsyncFileResultStorage, FileResultStorage

from tests.fsspec.careless import omniq_in
from tests.fsspec.support import named

SHORT = 0.2


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that doesn't write for a second is taken for dead."""
    monkeypatch.setattr(OwnerFile, "INTERVAL", SHORT)
    monkeypatch.setattr(OwnerFile, "LAPSED", 5 * SHORT)


@contextmanager
def process_in(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """One that enqueues a task and stays."""
    command = [sys.executable, "-m", "tests.fsspec.careless", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_one_process_has_all_it_needs(tmp_path: Path, soon: None, caplog: pytest.LogCaptureFixture) -> None:
    async with omniq_in(str(tmp_path)) as oq:
        await oq.start_worker("async")
        tasks = [await oq.enqueue(sum, [[n, 1]]) for n in range(5)]
        assert [await oq.get_result(task) for task in tasks] == [1, 2, 3, 4, 5]
    assert "of 3 writers of one file, 3 were told that they made it: one process at a time" in caplog.text


async def test_a_second_process_gets_a_clear_error_as_long_as_the_first_is_there(tmp_path: Path) -> None:
    async with omniq_in(str(tmp_path)) as oq:
        await oq.enqueue(sum, [[1]])
        with process_in(tmp_path) as second:
            _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "one process at a time can use this store, and " in errors.splitlines()[-1]
    with process_in(tmp_path) as third:
        assert third.communicate("\n", timeout=60)[0].strip(), "the first one is gone, and yet the third is refused"


async def test_whoever_was_killed_has_a_successor(tmp_path: Path, soon: None) -> None:
    with process_in(tmp_path) as first:
        assert first.stdout is not None
        task = first.stdout.readline().strip()
        first.kill()
        first.wait()
        async with omniq_in(str(tmp_path)) as oq:
            await oq.start_worker("async")
            assert await oq.get_result(task, timeout=30) == 3


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("?")])
async def test_whoever_is_the_owner_no_more_writes_nothing(
    tmp_path: Path, soon: None, change: Callable[[Path], object]
) -> None:
    async with omniq_in(str(tmp_path)) as oq:
        await oq.enqueue(sum, [[1]])
        (path,) = tmp_path.rglob(OwnerFile.NAME)
        known = sorted(tmp_path.rglob("log/*"))
        config = oq.task_queue.config
        assert isinstance(config, FileTaskQueueConfig)
        change(path)
        owner = oq.task_queue.store._place.files._owner  # type: ignore[attr-defined]
        owner._written_at = 0.0  # a long time ago
        with pytest.raises(StoreError, match="one process at a time"):
            await oq.enqueue(sum, [[2]])
        assert sorted(tmp_path.rglob("log/*")) == known


def adding(id_: str) -> Step[object]:
    return lambda tables, now: tables.tasks.add(named([id_]), now)


async def test_one_that_is_stopped_amid_a_write_takes_nothing_from_its_successor(tmp_path: Path, soon: None) -> None:
    """What it writes late isn't acknowledged, and isn't where the successor's is."""
    address = FileTaskQueueConfig(base_dir=f"careless://{tmp_path}", project_name="p").settings
    old, new = FilePlace(address), FilePlace(address)
    await old.open()
    await old.carry_out(adding("before"))
    write, stopped, goes_on = old.files.write, asyncio.Event(), asyncio.Event()

    async def late(name: str, data: bytes, *, lasting: bool = True) -> None:
        if name.startswith("log/"):
            stopped.set()
            await goes_on.wait()
        await write(name, data, lasting=lasting)

    assert isinstance(old.files, PlaceFiles)
    owner = old.files._owner
    assert owner is not None
    assert owner._renewing is not None
    owner._renewing.cancel()
    old.files.write = late  # type: ignore[method-assign]
    writing = asyncio.ensure_future(old.carry_out(adding("late")))
    await stopped.wait()
    await new.open()
    await new.carry_out(adding("acknowledged"))
    goes_on.set()
    with pytest.raises(StoreError):
        await writing
    await new.close()
    third = FilePlace(address)
    await third.open()
    assert {"before", "acknowledged"} <= third.tables.tasks.rows.keys()
    await third.close()
    await old.close()


async def test_a_probe_of_which_an_answer_was_lost_says_nothing_about_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exists(files: PlaceFiles, name: str, data: bytes) -> bool:
        await files.write(name, data)
        return False

    monkeypatch.setattr(PlaceFiles, "create", exists)
    files = files_of(FileTaskQueueConfig(base_dir=f"careless://{tmp_path}", project_name="p").settings)
    with pytest.raises(StoreUnavailable, match="none has made it"):
        await files.open()


async def test_whoever_gives_up_becoming_the_owner_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnerFile, "INTERVAL", 60.0)
    files = files_of(FileTaskQueueConfig(base_dir=f"careless://{tmp_path}", project_name="p").settings)
    opening = asyncio.ensure_future(files.open())
    while not list(tmp_path.rglob(OwnerFile.NAME)):
        await asyncio.sleep(0.01)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not list(tmp_path.rglob(OwnerFile.NAME))


async def test_what_cannot_be_opened_leaves_nothing_open(tmp_path: Path, soon: None) -> None:
    """Two sets of options are two users of the place."""
    place = f"careless://{tmp_path}"
    queue, results = AsyncFileTaskQueue(base_dir=place), AsyncFileResultStorage(base_dir=place, fsync=False)
    with pytest.raises(StoreError, match="one process at a time"):
        async with AsyncOmniQ(task_queue=queue, result_store=results):
            pass
    assert not list(tmp_path.rglob(OwnerFile.NAME))


async def test_of_two_that_come_at_once_one_is_refused(tmp_path: Path, soon: None) -> None:
    address = FileTaskQueueConfig(base_dir=f"careless://{tmp_path}", project_name="p").settings
    files = [files_of(address), files_of(address)]
    answers = await asyncio.gather(*(place.open() for place in files), return_exceptions=True)
    assert [type(answer) for answer in answers if answer] == [StoreError]
    for place in files:
        await place.close()


def test_nor_does_the_blocking_front_door(tmp_path: Path, soon: None) -> None:
    place = f"careless://{tmp_path}"
    queue, results = FileTaskQueue(base_dir=place), FileResultStorage(base_dir=place, fsync=False)
    with pytest.raises(StoreError, match="one process at a time"), OmniQ(task_queue=queue, result_store=results):
        pass
    assert not list(tmp_path.rglob(OwnerFile.NAME))
