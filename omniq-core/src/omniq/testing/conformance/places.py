"""What stores promise of their places: projects apart, connections, guarantees, errors."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, TypeAlias

import pytest

from omniq.errors import StoreError, UnknownBackend, UnsupportedCapability
from omniq.models.task import TaskState
from omniq.plugins.specs import StoreKind
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Store
from omniq.storage.records import NEW, EventFilter, Firing, LapsedLease, Lease, NewBody, TaskFilter, WorkerRecord
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    QUEUE,
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
    together,
    until_equal,
)
from omniq.testing.conformance.base import NOT_SEEN, Conformance, Connect, Opener, needs, new_project, noted
from omniq.testing.conformance.events import event

# ── places ──────────────────────────────────────────────────────────────────


Footprint: TypeAlias = Callable[[], Awaitable[object]] | None
"""Tells what a place holds, as something that can be compared; None where that can't be told."""
Facts: TypeAlias = Callable[[Any], Awaitable[set[str]]] | None
"""Asks the place of a store what its `evidence` should say; None where that can't be asked."""
Verbs: TypeAlias = dict[str, Callable[[], Coroutine[Any, Any, object]]]


class PlaceTests(Conformance):
    """What holds for queues, results and events alike."""

    async def test_connect_and_close_are_safe_to_repeat(self, store: Store) -> None:
        await store.connect()
        await store.close()
        await store.close()
        await store.connect()

    async def test_a_loop_may_connect_at_once_from_many_places(self, store: Store) -> None:
        await store.close()
        await together(store.connect() for _ in range(5))

    async def test_a_location_stays_the_same(self, store: Store) -> None:
        before = store.location
        await store.close()
        await store.connect()
        assert store.location == before != ""

    async def test_capabilities_are_declared_on_the_class(self, store: Store) -> None:
        assert isinstance(type(store).capabilities, frozenset)
        assert all(isinstance(capability, Capability) for capability in store.capabilities)

    async def test_what_is_closed_is_closed(self, opener: Opener, project: str) -> None:
        other = new_project()
        await self._use(opener, other)  # what a process opens once and for all, is open then
        before = threading.enumerate(), open_files()
        await self._use(opener, project)

        async def left() -> tuple[list[str], int]:
            return [thread.name for thread in new_threads(before[0])], max(0, open_files() - before[1])

        nothing: tuple[list[str], int] = [], 0
        await until_equal(left, nothing)
        for each in (project, other):
            store = opener(self.kind, each)
            await store.drop()
            await store.close()

    async def _use(self, opener: Opener, project: str) -> None:
        store = opener(self.kind, project)
        await store.connect()
        for verb in all_of(store).values():
            await verb()
        await store.close()
        for verb in all_of(store).values():  # it connects again by itself
            await verb()
        await store.close()

    async def test_calls_under_way_end_before_a_close(self, store: Store) -> None:
        calls = [asyncio.ensure_future(verb()) for verb in verbs_of(store).values()]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*calls)

    async def test_errors_of_a_place_that_cannot_be_reached_are_store_errors(
        self, unreachable: Opener, project: str
    ) -> None:
        store = unreachable(self.kind, project)
        for name, verb in {**verbs_of(store), "connect": store.connect}.items():
            assert await complains(name, verb), f"{name} doesn't say that the place can't be reached"
        await store.close()

    async def test_what_needs_no_place_raises_nothing_but_store_errors(self, unreachable: Opener, project: str) -> None:
        store = unreachable(self.kind, project)
        for name, verb in {**hints_of(store), "drop": store.drop}.items():
            await complains(name, verb)
        await store.close()


async def complains(name: str, verb: Callable[[], Awaitable[object]]) -> bool:
    """Whether it raises `StoreError`; any other error fails the test."""
    try:
        await verb()
    except StoreError:
        return True
    except Exception as error:
        pytest.fail(f"{name} raises {type(error).__qualname__}, which is no StoreError")
    return False


def new_threads(before: list[threading.Thread]) -> list[threading.Thread]:
    """Those that weren't there, but for asyncio's own, which loops keep."""
    return [each for each in threading.enumerate() if each not in before and not each.name.startswith("asyncio_")]


def open_files() -> int:
    """How many files and connections this process has open."""
    return len(os.listdir("/dev/fd"))


def verbs_of(store: Store) -> Verbs:
    """Calls of all the verbs of a store; each must succeed on an empty one."""
    if isinstance(store, BaseTaskQueue):
        return {**_verbs_of_tasks(store), **_verbs_of_schedules(store)}
    if isinstance(store, BaseResultStorage):
        return {
            "put": lambda: store.put([result_of("t")]),
            "replace_bodies": lambda: store.replace_bodies([NewBody(task_id="t", old=b"", body=b"new")]),
            "get": lambda: store.get(["t"]),
            "find": lambda: store.find("s"),
            "purge": store.purge,
        }
    assert isinstance(store, BaseEventStorage)
    return {
        "append": lambda: store.append([event(1)]),
        "query": lambda: store.query(EventFilter()),
        "purge": lambda: store.purge(before=0.0),
    }


def hints_of(store: Store) -> Verbs:
    """Calls of what may have an answer without its place."""
    hints: Verbs = {"guarantees": store.guarantees}
    if isinstance(store, BaseTaskQueue):
        hints |= {"wait": lambda: store.wait(["none"], 0.01), "now": store.now}
    if isinstance(store, BaseResultStorage):
        hints["hear"] = lambda: store.hear(0.01)
    return hints


def all_of(store: Store) -> Verbs:
    """Calls of everything that a store does."""
    return {**verbs_of(store), **hints_of(store)}


def _verbs_of_tasks(store: BaseTaskQueue) -> Verbs:
    return {
        "add": lambda: store.add([new_task("t", queue="verbs")]),
        "claim": lambda: store.claim(["none"], limit=1, lease=30, worker="w"),
        "extend": lambda: store.extend([Lease("none", 1, "w")], lease=30),
        "held": lambda: store.held("w"),
        "lapsed": lambda: store.lapsed(limit=1),
        "reap": lambda: store.reap([LapsedLease("none", 1, "w", 0.0)]),
        "beat": lambda: store.beat(WorkerRecord(name="w")),
        "inspect": lambda: store.inspect("w"),
        "workers": store.workers,
        "transition": lambda: store.transition([cancel("none")]),
        "replace_bodies": lambda: store.replace_bodies([NewBody(task_id="none", old=b"", body=b"new")]),
        "get": lambda: store.get(["t"]),
        "find": lambda: store.find(TaskFilter()),
        "stats": store.stats,
        "children": lambda: store.children(["t"]),
        "purge": lambda: store.purge(older_than=HOUR),
        "delete": lambda: store.delete(["none"]),
        "pause": lambda: store.pause("verbs", paused=True),
    }


def _verbs_of_schedules(store: BaseTaskQueue) -> Verbs:
    firing = Firing(schedule_id="none", if_version=1, slot=1.0, next_run=None, task=new_task("slot"))
    return {
        "put_schedule": lambda: store.put_schedule(new_schedule(next_run=None), if_version=None),
        "schedules": store.schedules,
        "delete_schedule": lambda: store.delete_schedule("none"),
        "fire": lambda: store.fire([firing]),
    }


class ProjectTests(Conformance):
    """Two projects at one place never see each other."""

    async def test_their_locations_differ(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        assert one.location != other.location
        assert one.wakeups is not other.wakeups

    async def test_tasks_are_kept_apart(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await add(one, new_task("t", body=b"one"), new_task("mine"), new_task("child", parents=("t",)))
        assert await states(other, ["t", "mine", "child"]) == [None] * 3
        assert await claim(other) == await other.stats() == (await other.find(TaskFilter())).tasks == []
        assert await other.children(["t"]) == [[]]
        assert await other.add([new_task("t", body=b"other")]) == [NEW]
        (held,) = await claim(other)
        assert (held.id, held.body, await one.held("worker")) == ("t", b"other", [])
        assert await change(other, finish(held)) == ["applied"]
        assert await states(one, ["t"]) == [TaskState.PENDING]

    async def test_names_that_are_much_alike_are_different(self, connect: Connect, project: str) -> None:
        names = [project, f"{project}-2", project[:-1], project.upper()]
        stores = [await connect(project=noted(name)) for name in names]
        for store, name in zip(stores, names, strict=True):
            assert await store.add([new_task("t", body=name.encode())]) == [NEW]
        await stores[0].drop()
        found = [record and record.body for store in stores for record in await store.get(["t"])]
        assert found == [None, *(name.encode() for name in names[1:])]

    @needs(Capability.UNIQUE)
    async def test_a_unique_key_concerns_one_project(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await add(one, new_task("t", unique="key"))
        await add(other, new_task("u", unique="key"))
        assert await change(other, cancel("u")) == ["applied"]
        assert [added.holder for added in await one.add([new_task("v", unique="key")])] == ["t"]

    async def test_a_pause_concerns_one_project(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await one.pause(QUEUE, paused=True)
        await add(other, new_task("t"))
        assert len(await claim(other)) == 1

    async def test_so_do_lapsed_leases_and_purges(self, connect: Connect, clock: VirtualClock) -> None:
        one, other = await connect(), await connect(project=new_project())
        held, ended = await running(one, 2, lease=10)
        await change(one, finish(ended))
        await one.beat(WorkerRecord(name="w"))
        clock.advance(60)
        lapsed = await one.lapsed(limit=9)
        assert await other.lapsed(limit=9) == await other.reap(lapsed) == []
        assert await other.purge(older_than=0) == 0
        assert await states(one, [held.id, ended.id]) == [TaskState.RUNNING, TaskState.SUCCESS]
        assert [worker.name for worker in await one.workers()] == ["w"]

    async def test_schedules_and_workers_are_kept_apart(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await one.beat(WorkerRecord(name="w"))
        assert await one.put_schedule(new_schedule(next_run=0.0), if_version=None)
        assert await other.workers() == await other.schedules() == await other.schedules(within=0.0) == []
        assert not await other.inspect("w")
        assert not await other.delete_schedule("nightly")
        firing = Firing(schedule_id="nightly", if_version=1, slot=1.0, next_run=None, task=new_task("slot"))
        assert await other.fire([firing]) == [False]
        assert await other.put_schedule(new_schedule(next_run=None), if_version=None)

    async def test_two_stores_of_one_project_have_everything_in_common(self, connect: Connect) -> None:
        one, other = await connect(), await connect()
        await other.claim([QUEUE], limit=1, lease=30, worker="w")  # what is looked up now and then, was looked up now
        await one.beat(WorkerRecord(name="w"))
        assert await one.put_schedule(new_schedule(next_run=0.0), if_version=None)
        assert (await other.workers(), await other.schedules()) == (await one.workers(), await one.schedules())
        assert len(await other.workers()) == len(await other.schedules(within=0.0)) == 1
        assert await other.inspect("w")

        async def told() -> bool:
            asked: bool = await one.beat(WorkerRecord(name="w"))
            return asked

        await until_equal(told, True)

        async def handed() -> int:
            await add(one, new_task())
            return len(await claim(other))

        await one.pause(QUEUE, paused=True)
        await until_equal(handed, 0)
        assert [queue.paused for queue in await other.stats()] == [True]


class ProjectResultTests(Conformance):
    """Nor do their results."""

    kind: ClassVar[StoreKind] = "result_store"

    async def test_results_are_kept_apart(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await one.put([result_of("t", 5, schedule_id="s")])
        assert (await other.get(["t"]), await other.find("s")) == ([None], [])
        assert await other.put([result_of("t", 1, body=b"other")]) == [True]
        assert [record.body for record in await one.get(["t"])] == [b"result"]

    async def test_a_purge_concerns_one_project(self, connect: Connect, clock: VirtualClock) -> None:
        one, other = await connect(), await connect(project=new_project())
        await one.put([result_of("t", ttl=10)])
        clock.advance(20)
        assert [await other.purge(), await one.purge()] == [0, 1]


class ProjectEventTests(Conformance):
    """Nor do their events."""

    kind: ClassVar[StoreKind] = "event_store"

    async def test_events_are_kept_apart(self, connect: Connect) -> None:
        one, other = await connect(), await connect(project=new_project())
        await one.append([event(1)])
        assert (await other.query(EventFilter())).events == []
        assert await other.purge(before=1e12) == 0
        assert len((await one.query(EventFilter(task_id="t"))).events) == 1


# ── promises ────────────────────────────────────────────────────────────────


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
        assert promised.fenced, "every store must"

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
        await add(store, new_task("other", unique="key" if Capability.UNIQUE in store.capabilities else None))
        assert await change(store, cancel("other")) == ["applied"]
        await fill(store)

    async def test_results_and_events_of_the_place_go_too(self, connect: Connect) -> None:
        store = await connect()
        try:
            results, events = await connect("result_store"), await connect("event_store")
        except UnknownBackend:
            pytest.skip(NOT_SEEN + "the plugin doesn't keep both results and events")
        await results.put([result_of("t", schedule_id="s")])
        await events.append([event(1)])
        await store.drop()
        assert results.location != store.location or await results.get(["t"]) == [None]
        assert events.location != store.location or (await events.query(EventFilter())).events == []

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
        before = await other.get(["t", "child", "later"]), await other.stats()
        await one.drop()
        assert (await other.get(["t", "child", "later"]), await other.stats()) == before
        assert len(await other.schedules()) == len(await other.workers()) == 1
        assert len(await claim(other)) == 1

    async def test_a_place_is_as_it_was(self, opener: Opener, project: str, footprint: Footprint) -> None:
        if footprint is None:
            pytest.skip(NOT_SEEN + "override `footprint` to tell what the place holds")
        before = await footprint()
        store = opener(self.kind, project)
        await fill(store)
        filled = await footprint()
        await store.drop()
        await store.close()
        after = await footprint()
        if project in repr(filled):  # then others may use the place at the same time
            assert project not in repr(after)
        else:
            assert after == before != filled

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

    async def test_purged_results_leave_no_traces(
        self, store: BaseResultStorage, entries: Footprint, clock: VirtualClock
    ) -> None:
        if entries is None:
            pytest.skip(NOT_SEEN + "override `entries` to tell how much the place holds")
        before = await entries()
        await store.put([result_of(f"t{n}", ttl=10, schedule_id="s") for n in range(9)])
        await store.put([result_of("t0", ttl=20, schedule_id="other")])
        clock.advance(60)
        assert await store.purge() == 9
        assert await entries() == before


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
    key = "key" if Capability.UNIQUE in store.capabilities else None
    await add(store, new_task("t"), new_task("child", parents=("t",)))
    await add(store, new_task("later", delay=HOUR, name="f", unique=key))
    await store.pause("paused", paused=True)
    await store.put_schedule(new_schedule(next_run=0.0), if_version=None)
    await store.beat(WorkerRecord(name="w"))
    await store.inspect("w")
