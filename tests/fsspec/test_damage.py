"""Files that are torn, overwritten or gone: what is whole is run, what isn't is shown, and nothing goes in silence."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import StoreError, StoreFull
from omniq.models.task import TaskState
from omniq.storage.records import AddStatus, NewTask, ResultRecord, WorkerRecord
from omniq.testing.builders import QUEUE
from omniq_fsspec.filesystems import LocalFiles
from omniq_fsspec.queue import FileQueueStore

from tests.core import tasks
from tests.core.support import SOON, results_of, until, working
from tests.fsspec.support import (
    claim_all,
    found,
    found_anew,
    is_whole,
    log_files,
    lone,
    named,
    replica_of,
    root,
    segment,
    settle,
    snapshot,
    success,
    unless_spinning,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "stores_closed")

Harm: TypeAlias = Callable[[Path], None]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """In the middle of the last line."""
    path.write_bytes(path.read_bytes()[:-10])


def cut_at_line(path: Path) -> None:
    """Behind the first line."""
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n")


def scribble(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def scribble_inside(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\x00\n}{" * 4 + data[len(data) // 2 + 20 :])


def delete(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [empty, cut, cut_at_line, scribble, scribble_inside, delete, replace_by_folder]
IDS = [f"t{number}" for number in range(6)]


@pytest.fixture
async def tree(base: Path) -> Path:
    """Three segments with two tasks each, of which the first ones have ended."""
    store = lone(base)
    for number in range(0, 6, 2):
        await store.add(named(IDS[number : number + 2]))
    await store.beat(WorkerRecord(name="w"))
    await store.close()
    return base


FILES = {
    "snapshot": "log/*.snapshot.jsonl",
    "first": "log/0000000000000001.jsonl",
    "middle": "log/0000000000000002.jsonl",
    "last": "log/0000000000000003.jsonl",
    "bodies": "queues/default/*.jsonl",
    "worker": "workers/*.json",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", HARMS)
async def test_what_is_whole_is_run_and_what_is_not_is_shown(
    tree: Path, file: str, harm: Harm, caplog: pytest.LogCaptureFixture
) -> None:
    path = sorted(root(tree).glob(FILES[file]))[0]
    harm(path)
    store = lone(tree)
    if harm is replace_by_folder and file in ("first", "middle", "last"):  # nobody can go on behind it
        with pytest.raises(StoreError, match=f"{path.name} is there and can't be read"):
            await store.add(named(["new"]))
        await store.close()
        return
    try:
        await judge(store, caplog, may_be_lost=harm is delete and file == "last")  # as if it had never been made
    finally:
        await store.close()


async def judge(store: FileQueueStore, caplog: pytest.LogCaptureFixture, *, may_be_lost: bool) -> None:
    await store.connect()
    await settle(store)
    await store.workers()
    rows, claimed = await found(store), await unless_spinning(store, claim_all(store))
    lost = set(IDS) - rows.keys()
    dead = {id_ for id_, row in rows.items() if row.state is TaskState.ERROR}
    broken = {id_ for id_, task in claimed.items() if not is_whole(task)}
    complaints = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lost | dead | broken) <= 2
    assert all(claimed[id_].damage for id_ in broken)
    assert may_be_lost or not lost, f"{lost} aren't there any more, and {complaints or 'nobody complains'}"
    assert claimed.keys() | dead | lost == set(IDS) == rows.keys() | lost
    assert len(complaints) <= 2, complaints


@pytest.mark.parametrize("name", ["log/0000000000000002.jsonl", "log/0000000000000000.snapshot.jsonl", "queues"])
async def test_flipped_bits_stop_nobody_and_hide_no_other_task(tree: Path, tmp_path: Path, name: str) -> None:
    random, failures = Random(name), []
    for number in range(40):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tree, copy)
        path = root(copy) / name
        path = next(path.glob("default/*.jsonl")) if path.is_dir() else path
        data = bytearray(path.read_bytes())
        place, bit = random.randrange(len(data)), random.randrange(8)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        store = lone(copy)
        try:
            await settle(store)
            known, claimed = await found(store), await unless_spinning(store, claim_all(store))
            if len(known.keys() & set(IDS)) < 4 or sum(map(is_whole, claimed.values())) < 4:
                failures.append(f"bit {bit} of byte {place} ({bytes(data[place - 8 : place + 8])!r}): {list(known)}")
        except StoreError as error:
            assert str(copy) in str(error)  # noqa: PT017 (or it opens)
        except Exception as error:
            failures.append(f"bit {bit} of byte {place} ({bytes(data[place - 8 : place + 8])!r}): {error!r}")
        finally:
            await store.close()
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("at", [47, 30, 36], ids=["length", "start", "between"])
async def test_a_damaged_reference_keeps_no_other_task_from_being_claimed(tree: Path, at: int) -> None:
    path = segment(tree, 1)
    text = path.read_text()
    start = text.index('"body":"') + 8
    path.write_text(text[: start + at] + "q" + text[start + at + 1 :])
    store = lone(tree)
    try:
        claimed = await claim_all(store)
        assert {id_ for id_, task in claimed.items() if is_whole(task)} >= set(IDS[1:])
    finally:
        await store.close()


# ── snapshots ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("harm", [empty, scribble, cut_at_line])
async def test_a_damaged_snapshot_makes_nothing_needless(
    tree: Path, harm: Harm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFiles, "grace", 0.0)
    snapshot(tree, 3).write_text('{"omniq":1,"number":3,"lines":6,"writer":"w","time":1.0}\n{"task":')
    harm(snapshot(tree, 3))
    store = lone(tree)
    await store.purge(older_than=3600.0)
    await store.close()
    store = lone(tree)
    await settle(store)
    claimed = await claim_all(store)
    await store.close()
    assert claimed.keys() == set(IDS)


async def test_segments_tell_what_they_can_once_all_snapshots_are_gone(tree: Path) -> None:
    snapshot(tree, 0).unlink()
    store = lone(tree)
    assert (await claim_all(store)).keys() == set(IDS)
    await store.close()
    assert (await found_anew(tree)).keys() == set(IDS)


# ── what was lost with a segment ─────────────────────────────────────────────


async def test_what_was_lost_with_a_segment_is_a_dead_letter_once(tree: Path) -> None:
    empty(segment(tree, 2))
    for _ in range(2):
        store = lone(tree)
        await store.connect()
        await settle(store)
        rows = await found(store)
        await store.close()
        assert {id_ for id_, row in rows.items() if row.state is TaskState.ERROR} == {"t2", "t3"}


async def test_a_task_that_is_being_added_meanwhile_is_no_dead_letter(tree: Path) -> None:
    """What is lost is looked for later, or as late as when the place is closed."""
    store, other = lone(tree), lone(tree)
    await store.connect()
    empty(segment(tree, 2))
    files: Any = replica_of(store).files
    create = files.create

    loop = asyncio.get_running_loop()

    async def later(name: str, data: bytes) -> bool:
        files.create = create
        connecting = Context().run(asyncio.run_coroutine_threadsafe, other.connect(), loop)
        await asyncio.wrap_future(connecting)
        made: bool = await create(name, data)
        return made

    files.create = later
    await store.add(named(["new"]))
    await other.close()
    assert (await claim_all(store)).keys() == {"new", "t0", "t1", "t4", "t5"}
    assert {id_ for id_, row in (await found(store)).items() if row.state is TaskState.ERROR} == {"t2", "t3"}
    await store.close()


async def test_a_task_is_added_over_a_dead_letter_that_stands_for_it(tree: Path) -> None:
    empty(segment(tree, 2))
    store = lone(tree)
    await store.connect()
    await settle(store)
    (added,) = await store.add(named(["t2"]))
    assert added.status is AddStatus.NEW
    assert "t2" in await claim_all(store)
    assert (await found(store))["t3"].state is TaskState.ERROR
    await store.close()


async def test_a_parent_that_was_lost_is_no_parent_that_was_purged(tree: Path) -> None:
    """Whose children would run: it is a dead letter by the time that anybody can ask for it."""
    store = lone(tree)
    await store.add([NewTask(id="parent", queue_name=QUEUE, body=b"x", delay=3600.0)])
    lost = replica_of(store)._position
    await store.add([NewTask(id="child", queue_name=QUEUE, body=b"x", depends_on=("parent",))])
    await store.close()
    empty(segment(tree, lost))
    (parent,) = await lone(tree).get(["parent"])
    assert parent is not None
    assert parent.state is TaskState.ERROR


async def test_what_is_lost_is_looked_for_until_it_could_be_written_down(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nothing is swept either."""
    empty(segment(tree, 2))
    store = lone(tree)
    files: Any = replica_of(store).files
    create = files.create

    async def full(name: str, data: bytes) -> bool:
        raise StoreFull("no room")

    files.create = full
    for path in (root(tree) / "queues" / QUEUE).iterdir():
        os.utime(path, (0, 0))
    replica_of(store)._swept_at = -math.inf
    with pytest.raises(StoreFull):
        await store.purge(older_than=3600.0)
    files.create = create
    await store.purge(older_than=3600.0)
    assert {id_ for id_, row in (await found(store)).items() if row.state is TaskState.ERROR} == {"t2", "t3"}
    await store.close()


async def test_a_task_whose_result_is_there_has_ended(tree: Path) -> None:
    """Its own line of that segment can't be read."""
    store = lone(tree)
    claimed = await claim_all(store)
    result = ResultRecord(task_id="t0", epoch=1, status=TaskState.SUCCESS, body=b"done")
    await store.transition([replace(success(claimed["t0"]), result=result)])
    path = segment(tree, replica_of(store)._position)
    path.write_bytes(path.read_bytes().replace(b'"state":"success"', b'"state":"success'))
    await store.close()
    assert (await found_anew(tree))["t0"].state is TaskState.SUCCESS


async def test_what_was_purged_is_not_run_again_after_damage(tree: Path) -> None:
    """Of a task without a row nobody can tell whether it was purged or lost: somebody decides, it doesn't just run."""
    store, other = lone(tree), lone(tree)
    await store.transition([success(task) for task in (await claim_all(store)).values()])
    assert await store.purge(older_than=-1.0) == 6
    await store.add(named(["lost"]))
    empty(segment(tree, replica_of(store)._position))
    await other.connect()
    await other.close()
    rows = await found_anew(tree)
    assert "lost" in rows
    assert {row.state for row in rows.values()} == {TaskState.ERROR}
    await store.close()


# ── what doesn't belong there ────────────────────────────────────────────────

ODD = (b"README", b"\xff\xfe.jsonl", b".hidden", b"a b\n.json", b"0000000000000002.jsonl~", b"x" * 200)


def litter(base: Path) -> None:
    """Put files, folders and links that nobody knows everywhere."""
    for folder in [root(base), *(path for path in root(base).rglob("*") if path.is_dir())]:
        for name in ODD:
            Path(str(folder), name.decode("utf-8", "surrogateescape")).write_bytes(b"?\n")
        inside = folder / "foreign" / "folder.jsonl"
        inside.mkdir(parents=True)
        (inside / "file.json").write_bytes(b"{}")
        (folder / "loop").symlink_to(folder)
        (folder / "nowhere").symlink_to(folder / "nothing")


async def test_what_does_not_belong_there_is_nobodys_business(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LocalFiles, "grace", 0.0)
    litter(tree)
    segment(tree, 9999).write_bytes(b"from the future")
    (root(tree) / "log" / "0000000000000000.jsonl").write_bytes(b"before the first")
    store = lone(tree)
    claimed = await claim_all(store)
    await store.transition([success(task) for task in claimed.values()])
    assert {worker.name for worker in await store.workers()} >= {"w"}
    await store.purge(older_than=-1.0)
    await store.close()
    assert claimed.keys() == set(IDS)
    assert all(map(is_whole, claimed.values()))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "README" in log_files(tree)


# ── a worker ─────────────────────────────────────────────────────────────────


@pytest.fixture
async def oq(base: Path) -> AsyncIterator[AsyncOmniQ]:
    async with front_door(base) as oq:
        yield oq


def front_door(base: Path) -> AsyncOmniQ:
    place = {"url": f"file://{base}"}
    defaults = {"max_retries": 0}
    return AsyncOmniQ(config={"task_queue": place, "result_store": place, "event_store": place, "defaults": defaults})


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm is not cut_at_line])  # it has one line
async def test_a_worker_lives_and_runs_what_is_whole(base: Path, harm: Harm) -> None:
    async with front_door(base) as oq:
        whole = [await oq.enqueue(tasks.add, [number, 1]) for number in range(3)]
        broken = await oq.enqueue(tasks.add, [9, 1])
        more = [await oq.enqueue(tasks.add, [number, 1]) for number in range(3)]
    (path,) = [path for path in root(base).glob("queues/*/*.jsonl") if broken.encode() in path.read_bytes()]
    harm(path)
    raw = path.read_bytes() if path.is_file() else b""
    async with front_door(base) as oq, working(oq, "async"):
        assert await results_of(oq, [*whole, *more]) == [1, 2, 3, 1, 2, 3]
        dead: list[str] = []
        deadline = asyncio.get_running_loop().time() + SOON
        while not dead and asyncio.get_running_loop().time() < deadline:
            dead = [task.id for task in await oq.list_dead()]
        assert dead == [broken]
        (record,) = await oq.task_queue.store.get([broken])
        assert record is not None
        assert record.damage
        assert record.body in raw


async def test_a_torn_file_of_events_hides_no_other(oq: AsyncOmniQ, base: Path) -> None:
    async with working(oq, "async"):
        task_id = await oq.enqueue(tasks.add, [1, 1])
        await results_of(oq, [task_id])
        await until(lambda: any(root(base).glob("events/*")))
    await oq.close()
    (*_, file) = sorted(root(base).glob("events/*"))
    for number, harm in enumerate((cut, empty, scribble, scribble_inside, replace_by_folder)):
        copy = file.with_name(file.name.replace("-0.jsonl", f"{number}-0.jsonl"))
        shutil.copy(file, copy)
        harm(copy)
    async with front_door(base) as again:
        assert await again.list_events(task_id=task_id)
