"""What processes do that follow one log: snapshots, gaps, others that were faster, servers that lose what they had."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from omniq.errors import PayloadTooLarge, StoreError, StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage import snapshots, stream_replica
from omniq.storage.records import NEW, Change, TaskFilter
from omniq.testing.builders import claim, new_task, new_tasks, success
from omniq_nats import stream
from omniq_nats.queue import NATSQueueStore

from tests.nats.support import QUEUE, lone_store, opened, stream_state, until
from tests.servers.nats import NATSServer

T = TypeVar("T")

TASKS = int(os.environ.get("OMNIQ_TEST_NATS_TASKS", "5000"))
"""How many tasks are finished and purged; a multiple of 5,000."""


@pytest.fixture
async def stores(nats_url: str) -> AsyncIterator[tuple[NATSQueueStore, NATSQueueStore]]:
    """Two that know of each other by the server only."""
    async with opened(nats_url) as one, opened(nats_url) as other:
        yield one, other
        await one.drop()


async def test_all_that_others_do_is_seen_at_once(stores: tuple[NATSQueueStore, NATSQueueStore]) -> None:
    one, other = stores
    for number in range(30):
        assert await one.add([new_task(f"t{number}")]) == [NEW]
        found = await other.get([f"t{number}"])
        assert found[0] is not None


async def test_each_task_is_claimed_once_by_many_who_are_at_it_together(
    stores: tuple[NATSQueueStore, NATSQueueStore],
) -> None:
    one, other = stores
    await one.add(new_tasks(200))

    async def claim_all(store: NATSQueueStore, worker: str) -> list[str]:
        ids: list[str] = []
        while records := await store.claim([QUEUE], limit=7, lease=30, worker=worker):
            ids += [record.id for record in records]
        return ids

    found = await asyncio.gather(*(claim_all(store, f"{n}") for n, store in enumerate([one, other] * 3)))
    ids = [id_ for each in found for id_ in each]
    assert len(ids) == len(set(ids)) == 200


async def test_what_is_purged_leaves_the_stream_as_small_as_it_was(
    stores: tuple[NATSQueueStore, NATSQueueStore], nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    one, other = stores
    small = (await stream_state(one))["bytes"]
    tasks = [new_task(f"{number:06}", delay=0.0 if number % 5 else 3600.0) for number in range(TASKS)]
    ids = [task.id for task in tasks]
    for page in pages(tasks):
        assert await one.add(page) == [NEW] * len(page)
    (queue,) = await other.stats()
    assert queue.counts == {TaskState.PENDING: TASKS * 4 // 5, TaskState.SCHEDULED: TASKS // 5}
    assert sorted(await found(other)) == ids
    while records := await claim(one, limit=500):
        await one.transition([success(record, ttl=0.01) for record in records])
    for part in pages(ids[::5]):
        await one.transition([cancel(task_id) for task_id in part])
    await one.purge(older_than=1e6)

    async def is_replaced() -> bool:
        return bool((await stream_state(one))["messages"] < TASKS / 100)

    await until(is_replaced, "the log isn't replaced")
    async with opened(nats_url) as third:
        assert None not in await third.get(ids[:500], bodies=False)
        assert await other.add([new_task(ids[0])]) != [NEW]
        while await third.purge(older_than=-1.0):
            continue
        assert await found(third) == []
    results = other.result_storage()

    async def is_small() -> bool:
        await results.purge()
        await one.purge(older_than=1e6)
        return bool((await stream_state(one))["bytes"] < small + 10_000)

    await until(is_small, "the stream stays large")
    await other.add([new_task("last")])
    assert (await one.get(["last"]))[0] is not None


def cancel(task_id: str) -> Change:
    return Change(task_id=task_id, to=TaskState.CANCELLED, from_states=(TaskState.SCHEDULED,))


def pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items, as many at a time as a call takes."""
    return (items[start : start + 1000] for start in range(0, len(items), 1000))


async def found(store: NATSQueueStore) -> list[str]:
    """The ids of all tasks, in pages."""
    page = await store.find(TaskFilter(), limit=1000)
    ids = [task.id for task in page.tasks]
    while page.cursor is not None:
        page = await store.find(TaskFilter(), limit=1000, cursor=page.cursor)
        ids += [task.id for task in page.tasks]
    return ids


async def test_who_was_away_while_the_log_was_replaced_reads_the_snapshot(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    deaf = lone_store(nats_url)
    monkeypatch.setattr(deaf._connection.place, "_hear", _hear_nothing)
    async with opened(nats_url) as one:
        await one.add([new_task("before")])
        assert (await deaf.get(["before"]))[0] is not None
        for number in range(5):
            await one.add([new_task(f"t{number}")])
            await one.purge(older_than=1e6)
        assert (await deaf.get(["before"]))[0] is not None
        assert all(await deaf.get([f"t{number}" for number in range(5)]))
        await deaf.close()
        await one.drop()


async def _hear_nothing(_: object) -> None:
    """Be deaf to what is added."""


async def test_bodies_and_calls_that_are_too_large_are_refused_with_both_numbers(
    stores: tuple[NATSQueueStore, NATSQueueStore],
) -> None:
    one, _ = stores
    size = one.max_item_bytes
    assert await one.add([new_task("fits", body=b"x" * size)]) == [NEW]
    (record,) = await one.get(["fits"])
    assert record is not None
    assert len(record.body) == size
    with pytest.raises(PayloadTooLarge, match=rf"{size + 1:,} bytes at once; .* allows {size:,}"):
        await one.add([new_task("larger", body=b"x" * (size + 1))])


async def test_any_number_may_come_due_at_once(nats_url: str) -> None:
    count = 3000
    async with opened(nats_url) as store:
        for page in pages([new_task(f"{number:04}", delay=0.5, body=b"x" * 300) for number in range(count)]):
            await store.add(page)

        taken: set[str] = set()

        async def are_taken() -> bool:
            taken.update(record.id for record in await claim(store, limit=10))
            taken.update(record.id for record in await claim(store, limit=500))
            return len(taken) == count

        await until(are_taken, "not all are claimed")
        assert taken == {f"{number:04}" for number in range(count)}
        await store.drop()


async def test_large_bodies_go_with_their_rows(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    async with opened(nats_url) as store:
        await store.add([new_task("t", body=b"x" * 5000)])
        (record,) = await claim(store)
        assert len(record.body) == 5000
        await store.transition([success(record, body=b"y" * 5000, ttl=0.01)])
        assert await store.delete(["t"]) == [True]

        async def are_gone() -> bool:
            await store.result_storage().purge()
            return await store._connection.run(store._place.stream.names("body.*")) == []

        await until(are_gone, "bodies are left")
        await store.drop()


async def test_bodies_that_are_left_over_are_deleted_with_a_snapshot(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    async with opened(nats_url) as store:
        await store.add([new_task("t", body=b"x" * 5000)])
        connection, stream = store._connection, store._place.stream
        (used,) = await connection.run(stream.names("body.*"))
        names = [used, "body.left", "body." + "0" * 26]
        await asyncio.gather(*(connection.run(stream.put(name, b"left")) for name in names[1:]))

        async def has_names(names: Sequence[str]) -> bool:
            await store.add([new_task()])
            await store.purge(older_than=1e6)
            return sorted(await connection.run(stream.names("body.*"))) == sorted(names)

        replica = store._connection.place
        await store.purge(older_than=1e6)
        await until(lambda: _is_true(replica._snapshots._swept_at > 0), "it isn't swept")
        assert await has_names(names), "one may be about to refer to them"
        replica._clock.ahead += snapshots.LEFT + 60
        replica._snapshots._swept_at = -snapshots.LEFT
        await until(lambda: has_names([used]), "what is left over stays")
        assert (await claim(store))[0].body == b"x" * 5000
        await store.drop()


async def _is_true(value: bool) -> bool:
    return value


class TestOutages:
    async def test_what_is_not_answered_is_sent_again_and_added_once(
        self, nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "RESEND_INTERVAL", 0.01)
        async with opened(nats_server.url) as store:
            await store.add([new_task("first")])
            before = (await stream_state(store))["last_seq"]
            nats_server.freeze()
            adding = asyncio.ensure_future(store.add([new_task("t")]))
            client = store._place.stream._client  # type: ignore[attr-defined]
            sent = client.stats["out_msgs"]

            async def is_sent_again() -> bool:
                return bool(client.stats["out_msgs"] >= sent + 3)

            await until(is_sent_again, "it is sent once")
            nats_server.thaw()
            assert await adding == [NEW]
            assert (await stream_state(store))["last_seq"] == before + 1

    async def test_calls_fail_while_the_server_is_away_and_go_on_after(self, nats_server: NATSServer) -> None:
        async with opened(f"{nats_server.url}?timeout=2") as one, opened(nats_server.url) as other:
            await one.add([new_task("before")])
            nats_server.kill()
            with pytest.raises(StoreUnavailable):
                await one.add([new_task("while")])
            nats_server.start()
            await until(_works(one), "it doesn't come back")
            await until(_works(other), "it doesn't come back")
            assert all(await other.get(["before"]))

    async def test_a_deleted_stream_is_begun_anew(self, nats_server: NATSServer) -> None:
        async with opened(nats_server.url) as one, opened(nats_server.url) as other:
            await one.add([new_task("before")])
            assert all(await other.get(["before"]))
            await one.drop()
            await until(_works(other), "it doesn't begin anew")
            assert await other.get(["before"]) == [None]

    async def test_a_server_that_lost_its_last_writes_is_believed(self, nats_server: NATSServer) -> None:
        async with opened(nats_server.url) as one:
            await one.add([new_task("kept")])
            nats_server.kill()
            nats_server.save()
            nats_server.start()
            await until(_works(one))
            await one.add([new_task("lost")])
            nats_server.kill()
            nats_server.restore()
            nats_server.start()
            async with opened(nats_server.url) as other:
                await other.add([new_task("instead")])
                await until(_works(one))
                assert [row is not None for row in await one.get(["kept", "lost", "instead"])] == [True, False, True]

    async def test_a_stream_of_somebody_else_is_refused(self, nats_server: NATSServer) -> None:
        import nats

        client = await nats.connect(nats_server.url)
        await client.jetstream().add_stream(name="omniq-default", subjects=["other.>"])
        await client.close()
        with pytest.raises(StoreError, match="its subjects is .*give OmniQ a stream of its own"):
            async with opened(nats_server.url):
                pass

    async def test_a_server_without_jetstream_is_told_of(self) -> None:
        server = NATSServer(jetstream=False)
        server.start()
        try:
            with pytest.raises(StoreUnavailable, match="JetStream doesn't answer"):
                async with opened(server.url):
                    pass
        finally:
            server.remove()


def _works(store: NATSQueueStore) -> Callable[[], Awaitable[bool]]:
    async def works() -> bool:
        try:
            await store.stats()
        except StoreUnavailable:
            return False
        return True

    return works
