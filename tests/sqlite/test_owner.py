"""A SQLite file is its owner's: what is made is nobody else's to read, and what is somebody else's isn't used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from omniq.errors import StoreError
from omniq.storage.records import NewTask
from omniq_sqlite.config import SQLiteTaskQueueConfig
from omniq_sqlite.queue import SQLiteQueueStore

SOMEBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(params=[0o022, 0o000, 0o277])
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:  # whose folder is made before
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def use(config: SQLiteTaskQueueConfig) -> dict[str, int]:
    """Add a task; the modes of the files that there are while the store is open."""
    store = SQLiteQueueStore(config)
    try:
        await store.add([NewTask(id="a", queue_name="default", body=b"")])
        file = Path(config.file)
        return {path.name.removeprefix(file.name): mode(path) for path in file.parent.glob(f"{file.name}*")}
    finally:
        await store.close()


async def refusal(config: SQLiteTaskQueueConfig) -> str:
    with pytest.raises(StoreError) as caught:
        await use(config)
    assert "trust_owner" in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("umask")
async def test_what_is_made_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    files = await use(SQLiteTaskQueueConfig(base_dir=str(tmp_path / "above" / ".omniq")))
    assert files == {"": 0o600, "-wal": 0o600, "-shm": 0o600}
    assert [mode(tmp_path / "above"), mode(tmp_path / "above" / ".omniq")] == [0o700, 0o700]


async def test_a_file_that_is_there_keeps_its_mode_which_the_others_take(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    file.touch()
    file.chmod(0o660)
    assert await use(SQLiteTaskQueueConfig(path=str(file))) == {"": 0o660, "-wal": 0o660, "-shm": 0o660}


@as_root
@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
async def test_somebody_elses_file_is_refused(tmp_path: Path, end: str) -> None:
    file = tmp_path / f"omniq.db{end}"
    file.touch()
    os.chown(file, SOMEBODY, SOMEBODY)
    assert str(file) in await refusal(SQLiteTaskQueueConfig(path=str(tmp_path / "omniq.db")))


@as_root
async def test_somebody_elses_directory_is_refused_and_nothing_made_there(tmp_path: Path) -> None:
    directory = tmp_path / ".omniq"
    directory.mkdir()
    os.chown(directory, SOMEBODY, SOMEBODY)
    assert f"{directory}: this directory belongs to" in await refusal(SQLiteTaskQueueConfig(base_dir=str(directory)))
    assert list(directory.iterdir()) == []


async def test_a_process_of_another_user_refuses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SQLiteTaskQueueConfig(path=str(tmp_path / "omniq.db"))
    await use(config)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert "belongs to" in await refusal(config)


async def test_a_directory_in_which_everybody_can_replace_files_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    config = SQLiteTaskQueueConfig(path=str(directory / "omniq.db"))
    assert "everybody can replace" in await refusal(config)
    directory.chmod(0o1777)
    assert await use(config)


async def test_a_link_that_takes_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    config = SQLiteTaskQueueConfig(path=str(tmp_path / "omniq.db"))
    store = SQLiteQueueStore(config)
    (tmp_path / "omniq.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError, match="link"):
        await store.connect()
    await store.close()


@as_root
async def test_whoever_says_so_uses_it_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "omniq.db"
    file.touch()
    os.chown(file, SOMEBODY, SOMEBODY)
    assert await use(SQLiteTaskQueueConfig(path=str(file), trust_owner=True))
