"""The reference store passes the suite, and does what it promises beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from omniq.plugins.specs import StoreKind
from omniq.storage.records import TaskRecord
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceResultStore
from omniq.testing.builders import add, claim, ids, new_task
from omniq.testing.conformance import BackendConformance, Opener
from omniq.testing.reference import ReferenceStore

STORES: Mapping[StoreKind, type[ReferenceStore]] = {
    "task_queue": ReferenceQueueStore,
    "result_store": ReferenceResultStore,
    "event_store": ReferenceEventStore,
}


def open_reference(kind: StoreKind, project: str) -> ReferenceStore:
    return STORES[kind](project)


class TestReference(BackendConformance):
    @pytest.fixture
    def opener(self) -> Opener:
        return open_reference


class TestBeyondTheSuite:
    """What the reference store promises beyond the contract."""

    async def test_stores_of_one_name_share_one_place(self) -> None:
        await add(ReferenceQueueStore("shared"), new_task("t"))
        assert ids(await claim(ReferenceQueueStore("shared"))) == {"t"}
        assert ReferenceQueueStore("shared").location == ReferenceResultStore("shared").location

    async def test_stores_of_different_names_or_none_share_nothing(self) -> None:
        places = [ReferenceQueueStore("one"), ReferenceQueueStore("two"), ReferenceQueueStore(), ReferenceQueueStore()]
        assert len({store.location for store in places}) == 4
        await add(places[0], new_task("t"))
        assert [await store.get(["t"]) for store in places[1:]] == [[None]] * 3

    async def test_a_wait_ends_when_a_task_comes_due_by_itself(self) -> None:
        store = ReferenceQueueStore()
        await add(store, new_task("t", delay=0.05))
        claimed: list[TaskRecord] = []
        async with asyncio.timeout(5):
            while not claimed:
                await store.wait(["default"], 60)
                claimed = await claim(store)
        assert [record.id for record in claimed] == ["t"]

    async def test_a_wait_for_what_is_due_already_ends_at_once(self) -> None:
        store = ReferenceQueueStore()
        await add(store, new_task("t"))
        done, _ = await asyncio.wait([asyncio.create_task(store.wait(["default"], 60))], timeout=5)
        assert done

    async def test_a_paused_queue_is_not_waited_for(self) -> None:
        store = ReferenceQueueStore()
        await add(store, new_task("t"))
        await store.pause("default", paused=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.wait(["default"], 60)
