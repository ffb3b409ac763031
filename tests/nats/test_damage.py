"""Streams that aren't as they were left: emptied or deleted by hand, with messages of others, or with some missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from omniq.errors import PayloadTooLarge, StoreError, StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage import snapshots, stream_replica
from omniq.storage.records import NEW, Change, ChangeStatus, NewTask
from omniq.storage.stream import LOG
from omniq.storage.transactions import Segment, encode_segment
from omniq.testing.builders import claim, lease_of, new_task, new_tasks, reap, success
from omniq_nats.queue import NATSQueueStore

from tests.nats.support import QUEUE, be_deaf, has, in_loop, lone_store, opened, stream_of, until


@pytest.fixture
async def one(nats_url: str) -> AsyncIterator[NATSQueueStore]:
    async with opened(nats_url) as store:
        yield store
        await store.drop()


class TestSize:
    """Rows of any size, as many at a time as a call takes."""

    PARENTS = tuple(f"{'p' * 900}{number:02}" for number in range(20))

    def _large(self, count: int) -> list[NewTask]:
        """Tasks with rows of some 20 KB."""
        body = b"b" * 1000
        return [
            msgspec.structs.replace(
                new_task(f"{'c' * 900}{number:03}", parents=self.PARENTS, body=body),
                name="n" * 255,
                unique=f"{number:0255}",
            )
            for number in range(count)
        ]

    async def test_all_verbs_take_as_many_as_there_may_be(self, one: NATSQueueStore) -> None:
        count = one.max_items
        tasks = self._large(count)
        ids = [task.id for task in tasks]
        assert await one.add([new_task(parent) for parent in self.PARENTS]) == [NEW] * 20
        assert await one.add(tasks) == [NEW] * count
        parents = await claim(one, limit=20)
        assert await one.children([parent.id for parent in parents]) == [sorted(ids)] * 20
        await one.transition([success(parent) for parent in parents])
        release = [Change(task_id=id_, to=TaskState.PENDING, from_states=(TaskState.WAITING,)) for id_ in ids]
        assert {each.status for each in await one.transition(release)} == {ChangeStatus.APPLIED}
        held = await self._claim_all(one, count, lease=60.0)
        assert all(status.held for status in await one.extend([lease_of(record) for record in held], lease=0.01))
        back: list[Any] = []
        while len(back) < count:
            back += await reap(one, limit=count)
        again = await self._claim_all(one, count, lease=60.0)
        results = await one.transition([success(record, b"r" * 1000) for record in again])
        assert {each.status for each in results} == {ChangeStatus.APPLIED}
        assert await one.delete(ids[: count // 2]) == [True] * (count // 2)
        assert await one.purge(older_than=-1.0) == count // 2 + 20

    async def _claim_all(self, store: NATSQueueStore, count: int, *, lease: float) -> list[Any]:
        """All of them: bodies beyond `max_bytes` are left for the next call."""
        found: list[Any] = []
        while len(found) < count:
            found += await store.claim([QUEUE], limit=count, lease=lease, worker="w")
        return found

    async def test_a_row_that_could_not_be_written_again_is_refused(self, one: NATSQueueStore) -> None:
        parents = tuple(f"{number:01000}" for number in range(600))
        for start in range(0, len(parents), 100):
            await one.add([new_task(id_) for id_ in parents[start : start + 100]])
        with pytest.raises(PayloadTooLarge, match=r"^task child: depends_on: its 600 parents .* let it depend on"):
            await one.add([new_task("fine"), new_task("child", parents=parents)])
        assert await one.add([new_task("fine"), new_task("child", parents=parents[:450])]) == [NEW, NEW]


class TestByHand:
    """One process knows the log, and is idle; somebody takes it away, and another process is the first to come."""

    async def test_a_stream_that_was_deleted(self, nats_url: str, one: NATSQueueStore) -> None:
        await one.add(new_tasks(20))
        await self._ask(one, "STREAM.DELETE")
        await self._goes_on(nats_url, one, kept=False)

    async def test_a_stream_that_was_emptied(self, nats_url: str, one: NATSQueueStore) -> None:
        await one.add(new_tasks(20))
        await self._ask(one, "STREAM.PURGE", {})
        await self._goes_on(nats_url, one, kept=False)

    @pytest.mark.parametrize("deaf", [False, True])
    async def test_a_log_that_was_emptied(
        self, nats_url: str, one: NATSQueueStore, monkeypatch: pytest.MonkeyPatch, deaf: bool
    ) -> None:
        monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
        monkeypatch.setattr(snapshots, "GRACE", 0.0)
        await one.add([new_task("kept")])
        await one.purge(older_than=1e6)

        async def has_snapshot() -> bool:
            return bool(await in_loop(one, stream_of(one).names("part.>")))

        await until(has_snapshot)
        monkeypatch.setattr(stream_replica, "WORTH_IT", 1 << 20)
        await one.add([new_task("lost")])
        await self._ask(one, "STREAM.PURGE", {"filter": stream_of(one)._subject(LOG)})
        if deaf:
            await be_deaf(one)
            async with opened(nats_url) as other:
                await other.add([new_task("instead")])
                assert (await one.get(["instead"]))[0] is not None
                last = await in_loop(one, stream_of(one).last(LOG))
                await in_loop(one, one._connection.place._hear(last._replace(after=0)))
        await self._goes_on(nats_url, one, kept=True)
        assert [row is not None for row in await one.get(["kept", "lost"])] == [True, False]

    async def test_a_writer_that_knows_another_log_is_told(self, nats_url: str, one: NATSQueueStore) -> None:
        await one.add(new_tasks(20))
        await self._ask(one, "STREAM.PURGE", {})
        async with opened(nats_url) as other:
            answers = await asyncio.gather(one.add([new_task("a")]), other.add([new_task("b")]), return_exceptions=True)
            assert [answer for answer in answers if answer != [NEW] and not isinstance(answer, StoreError)] == []
            await until(lambda: _adds(one, "a"))
            await until(lambda: _adds(other, "b"))
            for store in (one, other):
                assert all(await store.get(["a", "b"]))
                assert [queue.counts for queue in await store.stats()] == [{TaskState.PENDING: 2}]

    async def test_who_writes_into_an_emptied_stream_is_told_soon(self, nats_url: str) -> None:
        async with opened(f"{nats_url}&timeout=100") as store, asyncio.timeout(20):
            await store.add(new_tasks(20))
            await self._ask(store, "STREAM.PURGE", {})
            with pytest.raises(StoreUnavailable):
                await store.add([new_task("t")])
            await until(lambda: _adds(store, "t"))
            await store.drop()

    async def _ask(self, store: NATSQueueStore, verb: str, what: object = None) -> None:
        await in_loop(store, stream_of(store)._call(verb, what))

    async def _goes_on(self, url: str, idle: NATSQueueStore, *, kept: bool) -> None:
        async with opened(url) as other:
            await other.add([new_task("new")])

            async def is_seen() -> bool:
                return await has(idle, ["new"]) == [True]

            await until(is_seen, "the idle one doesn't know of the new task")
            await until(lambda: _adds(idle, "of the idle one"))
            for store in (idle, other):
                assert all(await store.get(["new", "of the idle one"]))
                assert bool((await store.get(["kept"]))[0]) is kept
            assert await idle.stats() == await other.stats()


class TestForeignMessages:
    """What others have put into the log, or told of it, ends nobody's work."""

    @pytest.mark.parametrize(
        "lines",
        [
            b'{"gone":{"shelves":["a"]}}\n',
            b'{"shelf":{"id":"a"}}\n',
            b"[" * 200_000 + b"\n",
            b'{"task":' * 20_000 + b"\n",
            b'{"task":7}\n{"gone":7}\n\xff\n',
        ],
    )
    @pytest.mark.parametrize("size", [-3, 1, 10**9])
    async def test_lines_that_nobody_knows(self, nats_url: str, one: NATSQueueStore, lines: bytes, size: int) -> None:
        await one.add([new_task("before")])
        replica = one._connection.place
        head = Segment(log=replica._log, writer="x", base=replica._position, sizes=[size])
        await _put_into_log(one, encode_segment(head, []) + lines)
        await self._all_goes_on(nats_url, one)

    @pytest.mark.parametrize("base", [0, 10**9, -1])
    async def test_a_segment_that_claims_to_compact(self, nats_url: str, one: NATSQueueStore, base: int) -> None:
        await one.add([new_task("before")])
        head = Segment(log=one._connection.place._log, writer="x", base=base, compacts=True)
        await _put_into_log(one, encode_segment(head, []))
        await self._all_goes_on(nats_url, one)

    async def test_what_is_said_of_the_log_is_not_waited_for(self, nats_url: str, one: NATSQueueStore) -> None:
        await one.add([new_task("before")])
        stream = stream_of(one)
        client = stream._client
        assert client is not None
        log = one._connection.place._log
        for headers in (
            None,
            {"Nats-Sequence": "x", "Nats-Last-Sequence": "y"},
            {"Nats-Sequence": "999999", "Nats-Last-Sequence": "999998"},
            {"Nats-Sequence": "1", "Nats-Last-Sequence": "0"},
            {"Nats-Sequence": "-1", "Nats-Last-Sequence": "-2"},
        ):
            for data in (b"", encode_segment(Segment(log=log, writer="x", base=0), [])):
                await in_loop(one, client.publish(stream._news, data, headers=headers))
        await self._all_goes_on(nats_url, one)

    async def _all_goes_on(self, url: str, one: NATSQueueStore) -> None:
        async with opened(url) as other:
            for number, store in enumerate([one, other, one]):
                await until(lambda store=store, number=number: _adds(store, f"t{number}"))  # type: ignore[misc]
            for store in (one, other):
                assert all(await store.get(["before", "t0", "t1", "t2"]))


async def test_what_was_added_and_never_heard_is_read(one: NATSQueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_replica, "HEARD_WITHIN", 0.05)
    await one.add([new_task("before")])
    await be_deaf(one)
    for number in range(3):
        assert await one.add([new_task(f"t{number}")]) == [NEW]


class TestSnapshots:
    async def test_a_part_that_is_missing_is_named(
        self, nats_url: str, one: NATSQueueStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = await self._made(one, monkeypatch)
        await in_loop(one, stream_of(one).delete(names[0]))
        with pytest.raises(StoreError, match=rf"{names[0]} of its snapshot is missing"):
            async with opened(nats_url):
                pytest.fail("it can't be opened")

    @pytest.mark.parametrize(("damage", "left"), [(bytes.upper, 0), (lambda data: data[: len(data) // 2], 9)])
    async def test_what_is_damaged_is_told_and_the_rest_is_read(
        self,
        nats_url: str,
        one: NATSQueueStore,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[bytes], bytes],
        left: int,
    ) -> None:
        (name,) = await self._made(one, monkeypatch)
        data = await in_loop(one, stream_of(one).read(name))
        await in_loop(one, stream_of(one).put(name, damage(data)))
        with caplog.at_level(logging.ERROR):
            async with opened(nats_url) as other:
                found = await other.get([f"t{number:02}" for number in range(20)])
        assert "is damaged" in caplog.text
        assert sum(row is not None for row in found) >= left

    async def test_a_broken_one_is_not_asked_for_all_the_time(
        self, nats_url: str, one: NATSQueueStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream_replica, "FIRST_LONG_PAUSE", 0.01)
        monkeypatch.setattr(stream_replica, "MAX_LONG_PAUSE", 0.08)
        (name,) = await self._made(one, monkeypatch)
        await in_loop(one, stream_of(one).delete(name))
        read_at: list[float] = []
        read = snapshots.Snapshots.read

        async def note(self: snapshots.Snapshots, head: snapshots.Head) -> Any:
            read_at.append(asyncio.get_running_loop().time())
            return await read(self, head)

        monkeypatch.setattr(snapshots.Snapshots, "read", note)
        other = lone_store(nats_url)
        with pytest.raises(StoreError, match="is missing"):
            await other.connect()
        await until(lambda: _is_true(len(read_at) > 6))
        await other.close()
        assert read_at[6] - read_at[5] > 0.07

    async def _made(self, store: NATSQueueStore, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
        """A snapshot of twenty tasks; the names of its parts."""
        monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
        monkeypatch.setattr(snapshots, "GRACE", 0.0)
        await store.add([new_task(f"t{number:02}") for number in range(20)])
        await store.purge(older_than=1e6)
        names: list[str] = []

        async def is_there() -> bool:
            names[:] = await in_loop(store, stream_of(store).names("part.>"))
            return bool(names)

        await until(is_there)
        return names


async def _put_into_log(store: NATSQueueStore, data: bytes) -> None:
    stream = stream_of(store)
    await in_loop(store, stream._publish(LOG, data, {}, again=None))


async def _adds(store: NATSQueueStore, task_id: str) -> bool:
    """Whether a task is there, once it was added."""
    try:
        await store.add([new_task(task_id)])
    except StoreError:
        return False
    return (await store.get([task_id]))[0] is not None


async def _is_true(value: bool) -> bool:
    return value
