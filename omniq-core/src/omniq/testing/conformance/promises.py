"""What is declared, promised and refused, and that a project which is dropped leaves nothing."""

from __future__ import annotations

from typing import ClassVar

import pytest

from omniq.errors import UnsupportedCapability
from omniq.plugins.specs import StoreKind
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability
from omniq.storage.records import EventFilter, TaskFilter, WorkerRecord
from omniq.testing.builders import (
    HOUR,
    add,
    cancel,
    change,
    claim,
    finish,
    new_schedule,
    new_task,
    read,
    result_of,
    running,
    states,
)
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import NOT_SEEN, Conformance, Connect, Opener, new_project
from omniq.testing.conformance.events import event
from omniq.testing.conformance.place import Facts, Footprint


class CapabilityTests(Conformance):
    """What isn't declared is refused, and what is declared and promised is the same."""

    async def test_a_priority_is_kept_or_refused(self, store: BaseTaskQueue) -> None:
        if Capability.PRIORITY in store.capabilities:
            await add(store, new_task("t", priority=-7))
            assert (await read(store, "t")).priority == -7
        else:
            with pytest.raises(UnsupportedCapability, match="priority"):
                await store.add([new_task("a"), new_task("b", priority=1)])
            assert await states(store, "ab") == [None, None]

    async def test_a_unique_key_is_kept_or_refused(self, store: BaseTaskQueue) -> None:
        if Capability.UNIQUE in store.capabilities:
            await add(store, new_task("t", unique="key"))
            assert (await read(store, "t")).unique == "key"
        else:
            with pytest.raises(UnsupportedCapability, match="unique"):
                await store.add([new_task("a"), new_task("b", unique="key")])
            assert await states(store, "ab") == [None, None]

    async def test_a_result_is_stored_or_refused_but_never_dropped(
        self, store: BaseTaskQueue, connect: Connect
    ) -> None:
        (record,) = await running(store)
        wanted = finish(record, result=result_of(record.id))
        if Capability.ATOMIC_RESULTS in store.capabilities:
            assert await change(store, wanted) == ["applied"]
            assert await (await connect("result_store")).get([record.id]) != [None]
        else:
            with pytest.raises(UnsupportedCapability):
                await store.transition([wanted])
            assert await read(store, record.id) == record

    async def test_a_transaction_of_the_callers_is_joined_or_refused(self, store: BaseTaskQueue) -> None:
        if Capability.TRANSACTIONAL_ENQUEUE in store.capabilities:  # to try it takes the driver
            assert type(store).add_within is not BaseTaskQueue.add_within
        else:
            with pytest.raises(UnsupportedCapability):
                await store.add_within(object(), [new_task("t")])
            assert await states(store, "t") == [None]

    async def test_nothing_is_promised_that_is_not_declared(self, store: BaseTaskQueue) -> None:
        promised, declared = await store.guarantees(), store.capabilities
        assert promised.push <= (Capability.PUSH in declared)
        assert promised.survives_process_kill <= (Capability.PERSISTENT in declared)
        assert promised.survives_power_loss <= promised.survives_process_kill
        assert promised.atomic_results == (Capability.ATOMIC_RESULTS in declared)
        assert promised.clock == "host" or type(store).now is not BaseTaskQueue.now

    async def test_what_is_declared_and_not_promised_has_a_reason(self, store: BaseTaskQueue) -> None:
        promised, declared = await store.guarantees(), store.capabilities
        kept = {Capability.PUSH: promised.push, Capability.PERSISTENT: promised.survives_process_kill}
        if any(capability in declared and not holds for capability, holds in kept.items()):
            assert promised.evidence, "the evidence says what keeps it from holding now"

    async def test_a_promise_rests_on_evidence(self, store: BaseTaskQueue) -> None:
        promised = await store.guarantees()
        if promised.survives_process_kill or promised.survives_power_loss or promised.survives_failover:
            assert promised.evidence, "it tells the settings on which it depends what survives"
        assert all(fact.partition("=")[:2] != (fact, "") for fact in promised.evidence), "facts are such as fsync=on"
        if promised.survives_power_loss:
            assert [fact for fact in promised.evidence if fact.partition("=")[2].lower() in OFF] == []

    async def test_the_evidence_is_what_the_place_says(self, store: BaseTaskQueue, facts: Facts) -> None:
        if facts is None:
            pytest.skip(NOT_SEEN + "override `facts` to ask the place itself, past the store")
        assert await facts(store) == set((await store.guarantees()).evidence)

    async def test_results_go_where_the_queue_is(self, store: BaseTaskQueue, connect: Connect) -> None:
        own = store.result_storage()
        if own is None:
            assert Capability.ATOMIC_RESULTS not in store.capabilities
            return
        assert own.location == store.location
        await own.connect()
        assert await own.put([result_of("t")]) == [True]
        found = await (await connect("result_store")).get(["t"])
        await own.close()
        assert [record and record.body for record in found] == [b"result"]

    async def test_a_queue_of_a_store_that_keeps_results_names_them(self, store: BaseTaskQueue, opener: Opener) -> None:
        if Capability.ATOMIC_RESULTS in store.capabilities:
            assert store.result_storage() is not None
            assert opener("result_store", new_project()).location != store.location


OFF = frozenset({"off", "no", "none", "false", "0", "never", "disabled"})
"""What a setting says on which no promise to survive a power loss can rest."""


class DropTests(Conformance):
    """A project that is dropped leaves nothing."""

    async def test_nothing_is_found_afterwards(self, connect: Connect) -> None:
        store = await connect()
        await fill(store)
        await store.drop()
        await store.connect()
        assert await states(store, ["t", "child", "later"]) == [None] * 3
        assert await store.stats() == await store.workers() == await store.schedules() == await claim(store) == []
        assert await store.children(["t"]) == [[]]
        assert (await store.find(TaskFilter())).tasks == []
        await fill(store)

    async def test_it_may_be_repeated_and_needs_no_connection(self, opener: Opener, project: str) -> None:
        for _ in range(2):
            await opener(self.kind, project).drop()
        store = opener(self.kind, project)
        await fill(store)
        await store.close()
        await store.drop()
        await store.drop()
        await store.close()
        assert await states(store, ["t"]) == [None]
        await store.drop()
        await store.close()

    async def test_another_project_at_the_place_is_untouched(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await fill(one)
        await fill(other)
        before = await other.get(["t", "child", "later"])
        await one.drop()
        assert await other.get(["t", "child", "later"]) == before
        assert len(await other.schedules()) == len(await other.workers()) == 1
        assert len(await claim(other)) == 1

    async def test_a_place_is_as_it_was(self, opener: Opener, project: str, footprint: Footprint) -> None:
        if footprint is None:
            pytest.skip(NOT_SEEN + "override `footprint` to tell what the place holds")
        keeper = opener(self.kind, new_project())
        await fill(keeper)
        before = await footprint()
        store = opener(self.kind, project)
        await fill(store)
        assert await footprint() != before
        await store.drop()
        await store.close()
        assert await footprint() == before
        await keeper.drop()
        await keeper.close()

    async def test_purges_leave_no_traces(self, connect: Connect, entries: Footprint, clock: VirtualClock) -> None:
        if entries is None:
            pytest.skip(NOT_SEEN + "override `entries` to tell how much the place holds")
        store = await connect()
        await add(store, new_task("first", schedule_id="s"))
        await change(store, cancel("first"))
        clock.advance(HOUR)
        assert await store.purge(older_than=1) == 1
        before = await entries()
        await add(store, new_task("t", name="f", schedule_id="s", ttl=60), new_task("u", delay=60))
        await add(store, *[new_task(f"c{n}", parents=("t", "u")) for n in range(5)])
        await change(store, *map(cancel, ["t", "u", *[f"c{n}" for n in range(5)]]))
        clock.advance(HOUR)
        assert sum([await store.purge(older_than=1) for _ in range(7)]) == 7
        assert await entries() == before


class DropOtherTests(Conformance):
    """Results and events are dropped alike."""

    kind: ClassVar[StoreKind] = "result_store"

    async def test_results_are_gone(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", schedule_id="s")])
        await store.drop()
        await store.connect()
        assert (await store.get(["t"]), await store.find("s")) == ([None], [])


class DropEventTests(Conformance):
    """Results and events are dropped alike."""

    kind: ClassVar[StoreKind] = "event_store"

    async def test_events_are_gone(self, store: BaseEventStorage) -> None:
        await store.append([event(1, schedule_id="s")])
        await store.drop()
        await store.connect()
        assert (await store.query(EventFilter())).events == []

    async def test_purged_events_leave_no_traces(self, store: BaseEventStorage, entries: Footprint) -> None:
        if entries is None:
            pytest.skip(NOT_SEEN + "override `entries` to tell how much the place holds")
        before = await entries()
        await store.append([event(n, schedule_id="s", worker="w") for n in range(9)])
        assert await store.purge(before=1e12) == 9
        assert await entries() == before


async def fill(store: BaseTaskQueue) -> None:
    """Something of everything that a queue keeps."""
    await add(store, new_task("t"), new_task("child", parents=("t",)), new_task("later", delay=HOUR, name="f"))
    await store.put_schedule(new_schedule(next_run=0.0), if_version=None)
    await store.beat(WorkerRecord(name="w"))
