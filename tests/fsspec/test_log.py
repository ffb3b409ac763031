"""The log under those who follow it: nobody acknowledges what nobody else reads, and nobody stands still."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest
from msgspec.structs import replace
from omniq.errors import StoreError, StoreUnavailable, ValueRefused
from omniq.models.task import TaskState
from omniq.storage.records import NEW, AddStatus, ResultRecord
from omniq.sync import new_event_loop
from omniq_fsspec import connection, places
from omniq_fsspec.filesystems import LocalFiles
from omniq_fsspec.queue import FileQueueStore

from tests.fsspec.support import (
    at_home,
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
    success,
    unless_spinning,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind", "stores_closed")

T = TypeVar("T")

Create: TypeAlias = Callable[[str, bytes], Awaitable[bool]]


@asynccontextmanager
async def opened(base: Path, count: int = 2) -> AsyncIterator[list[FileQueueStore]]:
    """So many stores, each as in a process of its own."""
    stores = [lone(base) for _ in range(count)]
    try:
        for store in stores:
            await store.connect()
        yield stores
    finally:
        for store in stores:
            await store.close()


async def write_much(store: FileQueueStore, prefix: str, count: int = 6) -> None:
    """Add tasks one by one, and wait for what goes on behind that."""
    for number in range(count):
        await store.add(named([f"{prefix}{number}"]))
        await settle(store)


def create(store: FileQueueStore, way: Callable[[Create], Create]) -> None:
    """Let a store make its next segment in another way."""
    files: Any = replica_of(store).files
    real = files.create

    async def once(name: str, data: bytes) -> bool:
        files.create = real
        return await way(real)(name, data)

    files.create = once


# ── who was stopped ──────────────────────────────────────────────────────────


@pytest.mark.usefixtures("restless")
async def test_who_writes_after_being_stopped_for_long_acknowledges_nothing_that_nobody_reads(base: Path) -> None:
    async with opened(base) as (stopped, other):
        await stopped.add(named(["first"]))

        def later(real: Create) -> Create:
            async def call(name: str, data: bytes) -> bool:
                await write_much(other, "t")
                return await real(name, data)

            return call

        create(stopped, later)
        with pytest.raises(StoreUnavailable, match="meanwhile"):
            await stopped.add(named(["mine"]))
        assert "mine" not in await found_anew(base)
        assert await stopped.add(named(["mine"])) == [NEW]
        assert (await found(stopped)).keys() == (await found(other)).keys() == (await found_anew(base)).keys()
        assert {"first", "mine", "t5"} <= (await found(other)).keys()
        assert all(map(is_whole, (await claim_all(stopped)).values()))


@pytest.mark.usefixtures("restless")
async def test_who_reads_after_being_stopped_for_long_begins_anew(base: Path) -> None:
    async with opened(base) as (stopped, other):
        await write_much(other, "t")
        assert not any(name.startswith("0000000000000001") for name in log_files(base))
        assert (await found(stopped)).keys() == (await found(other)).keys()
        assert (await claim_all(stopped)).keys() == {f"t{number}" for number in range(6)}
        assert await claim_all(other) == {}


@pytest.mark.usefixtures("restless")
async def test_who_was_stopped_while_opening_begins_no_log_of_its_own(base: Path) -> None:
    async with opened(base, 1) as (other,):
        await write_much(other, "a")
        late = lone(base)
        files: Any = replica_of(late).files
        listed = files.list

        async def stopped_after(folder: str) -> dict[str, float]:
            names: dict[str, float] = await listed(folder)
            files.list = listed
            await write_much(other, "b")
            return names

        files.list = stopped_after
        with suppress(StoreUnavailable):
            assert await late.add(named(["late"])) == [NEW]
            assert "late" in await found(other)
        assert (await found(late)).keys() == (await found(other)).keys() == (await found_anew(base)).keys()
        await late.close()


@pytest.mark.usefixtures("restless")
async def test_bodies_that_were_swept_before_their_rows_came_are_noticed(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ORPHANED", 0.0)
    monkeypatch.setattr(connection, "TOO_LATE", 0.0)
    async with opened(base) as (stopped, other):
        await stopped.add(named(["first"]))

        def later(real: Create) -> Create:
            async def call(name: str, data: bytes) -> bool:
                await at_home(other, replica_of(other).vacuum())
                return await real(name, data)

            return call

        create(stopped, later)
        with suppress(StoreError):
            await stopped.add(named(["mine"]))
            assert all(map(is_whole, (await claim_all(other)).values()))


# ── answers that are lost ────────────────────────────────────────────────────


def unavailable(real: Create) -> Create:
    """It is made, and then the connection breaks."""

    async def call(name: str, data: bytes) -> bool:
        await real(name, data)
        raise StoreUnavailable("the answer was lost")

    return call


def refused(real: Create) -> Create:
    """It is made, the client asks once more, and is told of its own."""

    async def call(name: str, data: bytes) -> bool:
        await real(name, data)
        return await real(name, data)

    return call


def failed(real: Create) -> Create:
    """It isn't made."""

    async def call(name: str, data: bytes) -> bool:
        raise StoreUnavailable("nobody answers")

    return call


@pytest.mark.parametrize("way", [unavailable, refused, failed])
async def test_a_call_that_is_made_again_after_its_answer_was_lost_has_taken_effect_once(
    base: Path, way: Callable[[Create], Create]
) -> None:
    async with opened(base) as (store, other):
        create(store, way)
        try:
            added = await store.add(named(["a"]))
        except StoreUnavailable:
            added = await store.add(named(["a"]))
        assert added[0].status in (AddStatus.NEW, AddStatus.DUPLICATE)
        claimed = await claim_all(other)
        assert [task.id for task in claimed.values() if is_whole(task)] == ["a"]
        assert (await found(store)).keys() == {"a"}


async def test_what_a_cancelled_caller_has_begun_is_whole(base: Path) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    def held(real: Create) -> Create:
        async def call(name: str, data: bytes) -> bool:
            reached.set()
            await go_on.wait()
            return await real(name, data)

        return call

    async with opened(base) as (store, other):
        create(store, held)
        adding = asyncio.create_task(store.add(named(["a"])))
        await reached.wait()
        adding.cancel()
        with suppress(asyncio.CancelledError):
            await adding
        go_on.set()
        await at_home(store, replica_of(store)._batcher.drain())
        assert all(map(is_whole, (await claim_all(other)).values()))


async def test_a_result_whose_answer_was_lost_is_whole(base: Path) -> None:
    async with opened(base) as (store, other):
        await store.add(named(["a"]))
        (task,) = (await claim_all(store)).values()
        create(store, unavailable)
        result = ResultRecord(task_id="a", epoch=task.epoch, status=TaskState.SUCCESS, body=b"value")
        end = replace(success(task), result=result)
        with pytest.raises(StoreUnavailable):
            await store.transition([end])
        await store.transition([end])
        await found(other)
        (result,) = await at_home(other, replica_of(other).bodies.load([replica_of(other).tables.results.rows["a"]]))
        assert (result.body, result.damage) == (b"value", None)


# ── steps that fail ──────────────────────────────────────────────────────────


async def test_a_step_that_fails_leaves_nothing_and_keeps_no_other_from_it(base: Path) -> None:
    def fail(tables: Any, now: float) -> None:
        tables.tasks.pause("default", paused=True)
        raise ArithmeticError

    async with opened(base) as (store, other):
        answers = await asyncio.gather(
            store.add(named(["a"])), store.carry_out(fail), store.add(named(["b"])), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [list, ArithmeticError, list]
        assert (await claim_all(other)).keys() == {"a", "b"}


async def test_what_cannot_be_written_keeps_nothing_else_from_being_written(base: Path) -> None:
    async with opened(base) as (store, other):
        await store.add(named(["a"]))
        with pytest.raises(ValueRefused, match="surrogates"):
            await store.claim(["default"], limit=1, lease=9.0, worker="\ud800")
        assert await store.add(named(["b"])) == [NEW]
        assert (await claim_all(other)).keys() == {"a", "b"}


# ── races ────────────────────────────────────────────────────────────────────

CALLS = 40


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """What it answers, as soon as nobody has gone on meanwhile."""
    while True:
        with suppress(StoreUnavailable):
            return await call()


def take_part(base: Path, name: str, won: list[str]) -> None:
    """Add tasks, and claim and end whatever is there, on a loop of its own."""

    async def run() -> None:
        store = lone(base)
        for number in range(CALLS):
            await again(partial(store.add, named([f"{name}{number}"])))
            claimed = await again(partial(store.claim, ["default"], limit=2, lease=60.0, worker=name))
            assert all(map(is_whole, claimed))
            await again(partial(store.transition, [success(task) for task in claimed]))
            won.extend(task.id for task in claimed)
        await store.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("patience", ["patient", "restless"])
async def test_of_many_who_write_at_once_each_gets_its_own(
    base: Path, patience: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if patience == "restless":
        request.getfixturevalue("restless")
        monkeypatch.setattr(LocalFiles, "grace", 0.5)
    won: list[str] = []
    threads = [threading.Thread(target=take_part, args=(base, name, won)) for name in "abc"]
    for thread in threads:
        thread.start()
    opened_meanwhile = 0
    while any(thread.is_alive() for thread in threads):
        await found_anew(base)
        opened_meanwhile += 1
    assert opened_meanwhile
    assert sorted(won) == sorted({f"{name}{number}" for name in "abc" for number in range(CALLS)})
    assert len(await found_anew(base)) == len(won)


# ── what is in the way ───────────────────────────────────────────────────────


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


@pytest.mark.parametrize("thing", [make_folder, make_link])
async def test_what_takes_the_place_of_the_next_segment_is_told_and_nobody_spins(
    base: Path, thing: Callable[[Path], None]
) -> None:
    async with opened(base, 1) as (store,):
        await store.add(named(["a"]))
        thing(segment(base, 2))
        with pytest.raises(StoreError):
            await unless_spinning(store, store.add(named(["b"])))


@pytest.mark.usefixtures("restless")
async def test_a_folder_that_cannot_be_listed_isnt_taken_for_an_empty_one(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(base, 1) as (store,):
        await write_much(store, "t")
        late, scan = lone(base), os.scandir

        def fail_once(*arguments: Any) -> Any:
            monkeypatch.setattr(os, "scandir", scan)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "scandir", fail_once)
        with suppress(StoreUnavailable):
            await late.add(named(["late"]))
        assert (await found(late)).keys() == (await found(store)).keys()
        await late.close()


# ── at rest ──────────────────────────────────────────────────────────────────


async def test_waiting_costs_next_to_nothing(base: Path) -> None:
    async with opened(base, 1) as (store,):
        await store.add(named(["a"]))
        await store.wait(["other"], 0.5)
        replica_of(store)._changed_at -= 60.0
        tracemalloc.start()
        before, began = tracemalloc.take_snapshot(), time.process_time()
        await store.wait(["other"], 2.0)
        spent, after = time.process_time() - began, tracemalloc.take_snapshot()
        tracemalloc.stop()
        grown = sum(difference.size_diff for difference in after.compare_to(before, "filename"))
        assert spent < 0.3, f"{spent} s of 2 s"
        assert grown < 300_000


async def test_nothing_is_left_open_and_nothing_aside(base: Path) -> None:
    async with opened(base, 1) as (store,):
        await write_much(store, "t")
        open_files = len(os.listdir("/proc/self/fd"))
        await write_much(store, "u", 20)
        assert len(os.listdir("/proc/self/fd")) <= open_files
    assert os.listdir(root(base) / "tmp") == []
