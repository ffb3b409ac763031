"""Where create-only writes aren't: one process at a time, and a clear error for the next one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omniq.errors import StoreError
from omniq.storage.log_files import OwnerFile
from omniq_fsspec.config import FileTaskQueueConfig
from omniq_fsspec.filesystems import files_of

from tests.fsspec.careless import omniq_in

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


async def test_of_two_that_come_at_once_one_is_refused(tmp_path: Path, soon: None) -> None:
    address = FileTaskQueueConfig(base_dir=f"careless://{tmp_path}", project_name="p").settings
    files = [files_of(address), files_of(address)]
    answers = await asyncio.gather(*(place.open() for place in files), return_exceptions=True)
    assert [type(answer) for answer in answers if answer] == [StoreError]
    for place in files:
        await place.close()
