"""A store of results."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import BaseResultStorage
from omniq.storage.records import NewBody, ResultRecord
from omniq.testing.builders import (
    HOUR,
    PATIENCE,
    exactly,
    in_other_loops,
    now,
    result_of,
    together,
    until_told,
    woken,
)
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.adding import BODIES, ODD_IDS
from omniq.testing.conformance.base import Conformance

LARGE = b"l" * 100_000


async def stored_result(store: BaseResultStorage, task_id: str) -> ResultRecord:
    """A result that must be there."""
    (record,) = await store.get([task_id])
    assert record is not None
    return record


async def bodies(store: BaseResultStorage, *task_ids: str) -> list[bytes | None]:
    """The results' bodies, None for those that aren't there."""
    return [None if record is None else record.body for record in await store.get(task_ids)]


class PutResultTests(Conformance):
    """A result is stored unless a newer claim's is there."""

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_a_result_is_stored_as_given(self, store: BaseResultStorage, status: TaskState) -> None:
        given = result_of("t", 3, status=status, body=b"\x00r", schedule_id="s")
        assert await store.put([given]) == [True]
        stored = await stored_result(store, "t")
        assert stored.finished_at == now()
        assert (stored.task_id, stored.epoch, stored.status, stored.body) == ("t", 3, status, b"\x00r")
        assert (stored.schedule_id, stored.expires_at) == ("s", None)

    async def test_the_store_sets_the_times(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        clock.advance(HOUR)
        await store.put([replace(result_of("t", ttl=60.5), finished_at=1.0, expires_at=2.0)])
        stored = await stored_result(store, "t")
        assert stored.finished_at == now()
        assert stored.expires_at is not None
        assert stored.expires_at - stored.finished_at == exactly(60.5)

    async def test_a_newer_claims_result_wins(self, store: BaseResultStorage) -> None:
        assert await store.put([result_of("t", 1, body=b"1")]) == [True]
        assert await store.put([result_of("t", 3, body=b"3")]) == [True]
        assert await store.put([result_of("t", 2, body=b"2")]) == [False]
        assert await bodies(store, "t") == [b"3"]

    async def test_the_same_claims_result_is_replaced(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2, body=b"first", schedule_id="s")])
        assert await store.put([result_of("t", 2, body=b"second")]) == [True]
        assert await bodies(store, "t") == [b"second"]
        assert await store.find("s") == []

    async def test_within_one_call_some_may_be_refused(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2), result_of("u", 2)])
        batch = [result_of(id_, epoch, body=b"%d" % epoch) for id_, epoch in (("t", 1), ("u", 3), ("v", 1))]
        assert await store.put(batch) == [False, True, True]
        assert await bodies(store, "t", "u", "v") == [b"result", b"3", b"1"]

    async def test_progress_is_replaced_by_more_and_by_the_end(self, store: BaseResultStorage) -> None:
        assert await store.put([result_of("t", 1, status=TaskState.RUNNING, body=b"half")]) == [True]
        assert (await stored_result(store, "t")).status is TaskState.RUNNING
        assert await store.put([result_of("t", 1, status=TaskState.RUNNING, body=b"more")]) == [True]
        assert await store.put([result_of("t", 1, body=b"end")]) == [True]
        assert await bodies(store, "t") == [b"end"]

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_progress_never_replaces_the_end_of_its_claim(
        self, store: BaseResultStorage, status: TaskState
    ) -> None:
        await store.put([result_of("t", 2, status=status, body=b"end")])
        late = [result_of("t", epoch, status=TaskState.RUNNING, body=b"late") for epoch in (1, 2)]
        assert [await store.put([each]) for each in late] == [[False], [False]]
        assert await bodies(store, "t") == [b"end"]
        assert await store.put([result_of("t", 3, status=TaskState.RUNNING, body=b"next")]) == [True]
        assert (await stored_result(store, "t")).status is TaskState.RUNNING

    async def test_of_concurrent_writers_the_newest_claim_wins(self, store: BaseResultStorage) -> None:
        epochs = [3, 1, 10, 7, 2, 9, 4, 8, 6, 5]
        answers = await together(store.put([result_of("t", epoch, body=b"%d" % epoch)]) for epoch in epochs)
        assert answers[epochs.index(10)] == [True]
        assert await bodies(store, "t") == [b"10"]

    @pytest.mark.parametrize("body", BODIES, ids=len)
    async def test_a_body_is_any_bytes(self, store: BaseResultStorage, body: bytes) -> None:
        await store.put([result_of("t", body=body)])
        assert await bodies(store, "t") == [body]

    async def test_an_id_is_any_printable_text(self, store: BaseResultStorage) -> None:
        await store.put([result_of(id_, body=id_.encode()) for id_ in ODD_IDS])
        assert await bodies(store, *ODD_IDS) == [id_.encode() for id_ in ODD_IDS]

    async def test_a_big_batch_is_one_call(self, store: BaseResultStorage, many: int) -> None:
        records = [result_of(f"t{n}") for n in range(many)]
        assert await store.put(records) == [True] * many
        assert None not in await store.get([record.task_id for record in records])


class GetResultTests(Conformance):
    """The results that were asked for, while they are kept."""

    async def test_what_is_not_there_is_none(self, store: BaseResultStorage) -> None:
        await store.put([result_of("a", body=b"a"), result_of("b", body=b"b")])
        assert await bodies(store, "b", "nobody", "a") == [b"b", None, b"a"]

    async def test_an_expired_result_is_none(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10), result_of("long", ttl=100), result_of("endless")])
        clock.advance(20)
        assert await bodies(store, "short", "long", "endless") == [None, b"result", b"result"]
        clock.advance(1e6)
        assert await bodies(store, "short", "long", "endless") == [None, None, b"result"]

    async def test_a_new_ttl_counts_from_its_put(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("t", ttl=10)])
        clock.advance(5)
        await store.put([result_of("t", ttl=100)])
        clock.advance(50)
        assert await bodies(store, "t") == [b"result"]

    async def test_results_stay_when_the_store_is_closed(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t")])
        await store.close()
        await store.connect()
        assert await bodies(store, "t") == [b"result"]

    async def test_loops_share_one_store(self, store: BaseResultStorage) -> None:
        async def use(name: str) -> list[bool]:
            return await store.put([result_of(f"{name}-{n}") for n in range(10)])

        await in_other_loops(store, [partial(use, name) for name in "abc"])
        await use("here")
        wanted = [f"{name}-{n}" for name in ("a", "b", "c", "here") for n in range(10)]
        assert None not in await store.get(wanted)


class FindResultTests(Conformance):
    """The results of a schedule, in order."""

    async def test_they_come_in_order_of_their_end(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "b", "d", "a", "c")
        assert await self._found(store, newest_first=True) == ["c", "a", "d", "b"]
        assert await self._found(store, newest_first=False) == ["b", "d", "a", "c"]

    async def test_the_limit_takes_the_first(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "b", "d", "a", "c")
        assert await self._found(store, newest_first=True, limit=1) == ["c"]
        assert await self._found(store, newest_first=False, limit=3) == ["b", "d", "a"]

    async def test_a_result_that_is_replaced_moves(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await self._fill(store, clock, "a", "b", "a")
        assert await self._found(store, newest_first=False) == ["b", "a"]

    async def test_others_are_not_found(self, store: BaseResultStorage) -> None:
        await store.put([result_of("a", schedule_id="s"), result_of("b", schedule_id="other"), result_of("c")])
        assert await self._found(store, newest_first=True) == ["a"]
        assert await store.find("unheard-of") == []

    async def test_expired_results_are_not_found(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10, schedule_id="s"), result_of("long", ttl=100, schedule_id="s")])
        clock.advance(20)
        assert await self._found(store, newest_first=True) == ["long"]

    async def test_they_are_those_that_get_returns(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 3, ttl=10, schedule_id="s")])
        assert await store.find("s") == await store.get(["t"])

    async def _fill(self, store: BaseResultStorage, clock: VirtualClock, *task_ids: str) -> None:
        for task_id in task_ids:
            await store.put([result_of(task_id, schedule_id="s")])
            clock.advance(1)

    async def _found(self, store: BaseResultStorage, *, newest_first: bool, limit: int = 100) -> list[str]:
        return [record.task_id for record in await store.find("s", newest_first=newest_first, limit=limit)]


class PurgeResultTests(Conformance):
    """Expired results are deleted, as many as asked."""

    async def test_only_expired_results_are_deleted(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("short", ttl=10), result_of("long", ttl=100), result_of("endless")])
        assert await store.purge() == 0
        clock.advance(20)
        assert [await store.purge(), await store.purge()] == [1, 0]
        assert await bodies(store, "short", "long", "endless") == [None, b"result", b"result"]

    async def test_no_more_than_the_limit_are_deleted(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of(f"t{n}", ttl=10) for n in range(5)])
        clock.advance(20)
        assert [await store.purge(limit=limit) for limit in (2, 2, 2, 2)] == [2, 2, 1, 0]

    async def test_a_renewed_result_is_kept(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        await store.put([result_of("t", ttl=10)])
        await store.put([result_of("t", ttl=100)])
        clock.advance(20)
        assert await store.purge() == 0
        assert await bodies(store, "t") == [b"result"]


class WaitResultTests(Conformance):
    """A hint that comes soon, for what this process stores."""

    async def test_hearing_ends_after_the_timeout(self, store: BaseResultStorage) -> None:
        async with asyncio.timeout(PATIENCE):
            await store.hear(0.05)

    async def test_it_comes_when_a_result_is_stored(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"])):
            await store.put([result_of("other"), result_of("t")])

    async def test_it_comes_for_a_result_stored_from_another_loop(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"])):
            await in_other_loops(store, [partial(store.put, [result_of("t")])])

    async def test_everybody_who_waits_is_told(self, store: BaseResultStorage) -> None:
        async with woken(partial(until_told, store, ["s", "t"]), 5):
            await store.put([result_of("t")])


class ResultBodyTests(Conformance):
    """The bodies of results."""

    async def test_a_result_keeps_its_times_and_its_place(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        for number in range(3):
            clock.advance(1)
            await store.put([result_of(f"t{number}", 2, body=b"old", schedule_id="s", ttl=HOUR)])
        clock.advance(60)
        before = await store.find("s")
        assert await store.replace_bodies([NewBody(task_id="t0", old=b"old", body=LARGE)]) == [True]
        after = await store.find("s")
        assert [record.task_id for record in after] == ["t2", "t1", "t0"]
        assert after[:2] == before[:2]
        assert after[2].body == LARGE
        assert after[2].expires_at == exactly(before[2].expires_at or 0.0)
        assert replace(after[2], body=b"old") == before[2]

    async def test_a_result_that_is_another_by_now_stays(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2, body=b"now")])
        changes = [NewBody(task_id=id_, old=b"then", body=b"new") for id_ in ("t", "none")]
        assert await store.replace_bodies(changes) == [False, False]
        assert [record and record.body for record in await store.get(["t", "none"])] == [b"now", None]
