"""What happens between two steps of a process: others are faster, answers and news are lost, streams are replaced."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pytest
from nats.js.errors import APIError
from omniq.errors import PayloadTooLarge, StoreError, StoreFull, StoreUnavailable
from omniq.models.task import TaskState
from omniq.storage import snapshots, stream_replica
from omniq.storage.records import NEW, Added, AddStatus
from omniq.storage.stream import LOG, Message
from omniq.storage.table_set import Tables
from omniq.storage.tables import AskedRecord
from omniq.testing.builders import claim, new_task, new_tasks
from omniq_nats import stream
from omniq_nats.queue import NATSQueueStore
from omniq_nats.stream import NATSStream

from tests.nats.support import be_deaf, has, in_loop, opened, stream_of, until
from tests.servers.nats import NATSServer

FILLER: Final = "filler"


async def _before_appends(store: NATSQueueStore, *works: Callable[[], Awaitable[object]]) -> None:
    """Let something be done before each of the next segments that the store adds: by somebody who is faster."""
    left, here, real = list(works), asyncio.get_running_loop(), functools.partial(NATSStream.append, stream_of(store))

    async def append(data: bytes, after: int | None, id_: str | None) -> int | None:
        if left:
            work = left.pop(0)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(work), here))
        return await real(data, after, id_)

    stream_of(store).append = append  # type: ignore[method-assign]


async def _awaited(work: Callable[[], Awaitable[object]]) -> None:
    await work()


# ── copies of a message ─────────────────────────────────────────────────────


async def test_a_refused_copy_says_nothing_of_the_next_one(
    nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first copy expects what isn't so any more, the second expects nothing: it is what counts."""
    monkeypatch.setattr(stream, "RESEND_INTERVAL", 0.05)
    async with opened(nats_server.url) as store:
        await store.add([new_task("before")])
        place = stream_of(store)
        last = await in_loop(store, place.last(LOG))
        client = place._client
        assert client is not None
        nats_server.freeze()
        await in_loop(store, client.publish(place._subject(LOG), b"others"))
        appending = asyncio.ensure_future(in_loop(store, place.append(b"ours", last.sequence, "id")))
        sent = client.stats["out_msgs"]
        await until(lambda: _is_true(client.stats["out_msgs"] >= sent + 2), "it isn't sent again")
        nats_server.thaw()
        added = await appending
        assert added is not None, "it is told that it wasn't added"
        found = await in_loop(store, place.next(LOG, added - 1))
        assert (found.sequence, found.data) == (added, b"ours")


async def _is_true(value: bool) -> bool:
    return value


# ── snapshots ───────────────────────────────────────────────────────────────


async def test_an_older_snapshot_never_replaces_a_newer_one(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer was stopped, while another one made a later one and deleted the log before that."""
    monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    async with opened(nats_url) as slow, opened(nats_url) as fast:
        of_slow, goes_on = slow._connection.place._snapshots, asyncio.Event()
        write, begun = of_slow.write, list[int]()

        async def write_later(*args: Any) -> int | None:
            begun.append(args[1])
            while not goes_on.is_set():
                await asyncio.sleep(0.01)
            return await write(*args)

        monkeypatch.setattr(of_slow, "write", write_later)
        await slow.add([new_task("first")])
        await slow.purge(older_than=1e6)
        await until(lambda: _is_true(bool(begun)))
        await fast.add([new_task("second")])
        await fast.purge(older_than=1e6)

        async def is_replaced() -> bool:
            (head, _), place = await in_loop(fast, fast._connection.place._snapshots.newest()), stream_of(fast)
            first = await in_loop(fast, place.next(LOG, 0))
            return bool(head.after > begun[0] and first.sequence > begun[0])

        await until(is_replaced)
        goes_on.set()
        await slow.close()
        async with opened(nats_url) as third:
            assert None not in await third.get(["first", "second"])
        await fast.drop()


async def test_who_was_passed_by_a_snapshot_is_told_soon(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segment was deleted before it was heard: nobody can tell any more what became of it."""
    monkeypatch.setattr(stream_replica, "WORTH_IT", 0)
    monkeypatch.setattr(stream_replica, "HEARD_WITHIN", 0.1)
    monkeypatch.setattr(snapshots, "GRACE", 0.0)
    async with opened(f"{nats_url}&timeout=100") as one, opened(nats_url) as other, asyncio.timeout(20):
        await one.add([new_task("before")])
        replica, place, here = one._connection.place, stream_of(one), asyncio.get_running_loop()
        real = place.append

        async def replace_log(added: int) -> None:
            await other.purge(older_than=1e6)

            async def is_gone() -> bool:
                return bool((await in_loop(other, stream_of(other).next(LOG, 0))).sequence > added)

            await until(is_gone)

        async def append(data: bytes, after: int | None, id_: str | None) -> int | None:
            replica._begin_anew()
            await replica.open()
            await be_deaf_here(place)
            added = await real(data, None, id_)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(replace_log(added or 0), here))
            place.append = real  # type: ignore[method-assign]
            return added

        place.append = append  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable, match="didn't come back"):
            await one.add([new_task("t")])
        assert None not in await one.get(["before", "t"])
        await one.drop()


async def be_deaf_here(place: NATSStream) -> None:
    client = place._client
    assert client is not None
    for subscription in list(client._subs.values()):
        if subscription.subject == place._news:
            await subscription.unsubscribe()


# ── answers ─────────────────────────────────────────────────────────────────


async def test_nobody_is_told_of_what_never_was(nats_url: str) -> None:
    """Two calls share a segment; the first is refused, and the second has seen what it would have written."""
    async with opened(nats_url) as one, opened(nats_url) as other:
        await one.add([new_task("before")])
        unrelated = lambda: other.add([new_task("unrelated")])  # noqa: E731
        faster = lambda: other.add([new_task("c", unique="k")])  # noqa: E731
        await _before_appends(one, unrelated, faster)
        answers = await asyncio.gather(*(one.add([new_task(id_, unique="k")]) for id_ in ("a", "b")))
        assert answers == [[Added(AddStatus.DUPLICATE, "c")]] * 2
        assert [row is not None for row in await one.get(["a", "b", "c"])] == [False, False, True]
        await one.drop()


async def test_what_has_taken_effect_is_not_done_again_for_others(nats_url: str) -> None:
    """Of two calls that share a segment, one is done, and the other, tried again, is too large."""
    async with opened(nats_url) as one, opened(nats_url) as other:
        await one.add([new_task("before")])
        trials = 0

        def grow(tables: Tables, now: float) -> None:
            nonlocal trials
            trials += 1
            tables.asked.write("w", AskedRecord("w" if trials <= 2 else "w" * 2_000_000))

        unrelated = lambda: other.add([new_task("unrelated")])  # noqa: E731
        faster = lambda: other.carry_out(lambda tables, _: tables.asked.write("w", AskedRecord("w")))  # noqa: E731
        await _before_appends(one, unrelated, faster)

        def add(tables: Tables, now: float) -> list[Added]:
            return tables.tasks.add([new_task("t")], now)

        calls: list[Awaitable[Any]] = [one.carry_out(add), one.carry_out(grow)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[0] == [NEW]
        assert isinstance(answers[1], PayloadTooLarge)
        await one.drop()


async def test_who_is_overtaken_again_and_again_keeps_nobody_waiting(nats_url: str) -> None:
    async with opened(nats_url) as one, opened(nats_url) as other:
        await one.add([new_task("before")])
        write = lambda tables, _: tables.asked.write("w", AskedRecord("w"))  # noqa: E731
        may_end = asyncio.Event()

        async def be_faster() -> None:
            await other.carry_out(write)
            if not may_end.is_set():
                await _before_appends(one, be_faster)

        await _before_appends(one, be_faster)
        overtaken = asyncio.ensure_future(one.carry_out(write))
        async with asyncio.timeout(20):
            assert await one.add([new_task("t")]) == [NEW]
            assert not overtaken.done()
            may_end.set()
            await overtaken
        await one.drop()


# ── news ────────────────────────────────────────────────────────────────────


async def test_lost_news_keep_no_task_from_who_waits(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_replica, "UNHEARD_INTERVAL", 0.1)
    monkeypatch.setattr(stream_replica, "LOOK_INTERVAL", 0.02)
    async with opened(nats_url) as one, opened(nats_url) as other:
        await one.add([new_task("before")])
        assert [record.id for record in await claim(one)] == ["before"]
        await be_deaf(one)
        await other.add([new_task("t")])

        async def is_found() -> bool:
            return [record.id for record in await claim(one)] == ["t"]

        await until(is_found)
        await one.drop()


# ── streams that are replaced ───────────────────────────────────────────────


async def _replace(store: NATSQueueStore, kept: Sequence[tuple[str, Message]]) -> None:
    """Let the stream be one that has those messages only, where they were: as if from a backup."""
    place = stream_of(store)
    await in_loop(store, place._call("STREAM.DELETE"))
    await in_loop(store, place._call("STREAM.CREATE", place._config()))
    at = 1
    for name, message in sorted(kept, key=lambda pair: pair[1].sequence):
        while at < message.sequence:
            at = await in_loop(store, place.put(FILLER, b"")) + 1
        assert await in_loop(store, place._publish(name, message.data, {}, again=None)) == message.sequence
        at = message.sequence + 1
    await in_loop(store, place.delete(FILLER))


async def _backup(store: NATSQueueStore) -> list[tuple[str, Message]]:
    """The newest snapshot, which is empty, and the log."""
    place = stream_of(store)
    found = [(snapshots.NEWEST, await in_loop(store, place.last(snapshots.NEWEST)))]
    message = await in_loop(store, place.next(LOG, 0))
    while message is not None:
        found.append((LOG, message))
        message = await in_loop(store, place.next(LOG, message.sequence))
    return found


@pytest.mark.parametrize("lost", [1, 2, 5])
@pytest.mark.parametrize("added", [1, 6])
async def test_a_stream_from_an_older_backup_is_read_anew(nats_url: str, lost: int, added: int) -> None:
    async with opened(nats_url) as idle, opened(nats_url) as by_hand:
        await idle.add([new_task("kept")])
        kept = await _backup(by_hand)
        for number in range(lost):
            await idle.add([new_task(f"lost{number}")])
        await by_hand.get([])
        await _replace(by_hand, kept)
        await by_hand.close()
        async with opened(nats_url) as other:
            for number in range(added):
                await other.add([new_task(f"instead{number}")])
            ids = ["kept", "instead0", f"instead{added - 1}", "lost0"]

            async def is_seen() -> bool:
                return await has(idle, ids) == [True, True, True, False]

            await until(is_seen, "it goes on with what isn't there any more")
            assert await idle.stats() == await other.stats()
        await idle.drop()


async def test_a_stream_from_an_older_backup_is_noticed_without_news(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_replica, "UNHEARD_INTERVAL", 0.1)
    monkeypatch.setattr(stream_replica, "LOOK_INTERVAL", 0.02)
    async with opened(nats_url) as idle, opened(nats_url) as by_hand:
        await idle.add([new_task("kept")])
        kept = await _backup(by_hand)
        await idle.add([new_task("lost")])
        await _replace(by_hand, kept)
        await by_hand.close()

        async def is_noticed() -> bool:
            return await has(idle, ["kept", "lost"]) == [True, False]

        await until(is_noticed)
        await idle.drop()


async def test_a_stream_that_was_deleted_before_anything_was_added(nats_url: str) -> None:
    async with opened(nats_url) as idle:
        await in_loop(idle, stream_of(idle)._call("STREAM.DELETE"))
        async with opened(nats_url) as other:
            await other.add([new_task("t")])

            async def is_seen() -> bool:
                return await has(idle, ["t"]) == [True]

            await until(is_seen)
            await idle.add([new_task("u")])
            assert None not in await other.get(["t", "u"])
        await idle.drop()


# ── clocks and limits ───────────────────────────────────────────────────────


async def test_who_sets_the_clock_of_a_machine_ends_no_lease(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(nats_url) as store:
        await store.add([new_task("t")])
        await claim(store, lease=60.0)
        real, before = time.time, await store.now()
        for jump in (7200.0, -7200.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            assert before <= await store.now() < before + 30.0
            assert await store.lapsed(limit=10) == []
        await store.drop()


async def test_a_full_stream_can_be_read_and_goes_on_once_it_has_room(nats_url: str) -> None:
    async with opened(nats_url) as one:
        await one.add(new_tasks(10))
        place = stream_of(one)
        config = (await in_loop(one, place.info()))["config"]
        await in_loop(one, place._call("STREAM.UPDATE", {**config, "max_bytes": 20_000}))

        async def is_full() -> bool:
            try:
                await one.add([new_task(body=b"x" * 900)])
            except StoreFull:
                return True
            return False

        await until(is_full)
        async with opened(nats_url) as other:
            (queue,) = await other.stats()
            assert queue.counts[TaskState.PENDING] >= 10
            with pytest.raises(StoreFull):
                await other.add([new_task(body=b"x" * 900)])
            await in_loop(one, place._call("STREAM.UPDATE", {**config, "max_bytes": -1}))
            for store in (one, other):
                assert await store.add([new_task()]) == [NEW]
            assert await one.stats() == await other.stats()
        await one.drop()


async def test_a_stream_whose_subjects_were_changed_while_it_was_used_is_told_of(nats_url: str) -> None:
    async with opened(nats_url) as one:
        place = stream_of(one)
        config = (await in_loop(one, place.info()))["config"]
        other = secrets.token_hex(4)
        changes = {"subjects": [f"{other}.>"], "republish": {**config["republish"], "src": f"{other}.log"}}
        update = in_loop(one, place._call("STREAM.UPDATE", {**config, **changes}))
        if place.version.startswith("2.9."):
            with pytest.raises(APIError, match="can not change RePublish"):  # so nobody can bring that about there
                await update
            return
        await update
        with pytest.raises(StoreError):
            await one.add([new_task()])

        async def is_named() -> bool:
            with pytest.raises(StoreError) as caught:
                await one.stats()
            return "its subjects is" in str(caught.value)

        await until(is_named)
