"""Adding tasks, and reading them: `add`, `get`, `find`, `stats`, `children`."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import (
    DUPLICATE,
    NEW,
    UNKNOWN_PARENT,
    Added,
    AddStatus,
    Change,
    NewTask,
    TaskFilter,
    TaskRecord,
)
from omniq.testing import VirtualClock
from omniq.testing.builders import (
    HOUR,
    IN_LINE,
    QUEUE,
    add,
    assert_same,
    cancel,
    change,
    claim,
    exactly,
    finish,
    ids,
    new_task,
    new_tasks,
    now,
    read,
    reap,
    running,
    states,
    together,
    until_equal,
)
from omniq.testing.conformance.base import Conformance

# ── adding ──────────────────────────────────────────────────────────────────


ODD_IDS = [
    "Ünï-✓-任务",
    "with space",
    "a/b\\c",
    "..",
    "quote'\"`",
    "%_*?[x]",
    "a:b{c}|d",
    "UPPER",
    "upper",
    "0",
    "x" * 255,
    "任" * 255,
]


ODD_QUEUES = ["a.b", "_", "-", "..", "Q" * 64, "q", "0"]


BODIES = [b"", b"\x00", bytes(range(256)), b"\xff" * 1_000_000]


class AddTests(Conformance):
    """A task comes back as it was given, once, in the right state."""

    async def test_a_new_task_is_stored_as_given(self, store: BaseTaskQueue) -> None:
        task = new_task("t", queue="q", body=b"\x00b", ttl=60, schedule_id="s")
        assert await store.add([task]) == [NEW]
        record = await read(store, "t")
        assert (record.id, record.queue_name, record.body) == ("t", "q", b"\x00b")
        assert (record.depends_on, record.schedule_id) == ((), "s")

    async def test_a_new_task_starts_from_zero(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        record = await read(store, "t")
        fresh = TaskRecord(
            id="t", queue_name=QUEUE, body=b"body", state=TaskState.PENDING, priority=0, created_at=0.0, run_at=0.0
        )
        assert replace(record, created_at=0.0, run_at=0.0) == fresh

    async def test_it_is_created_and_due_now(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        clock.advance(HOUR)
        await add(store, new_task("t"))
        record = await read(store, "t")
        assert record.created_at == now()
        assert record.run_at == exactly(record.created_at)

    async def test_a_delay_counts_from_the_stores_now(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", delay=60))
        record = await read(store, "t")
        assert record.state is TaskState.SCHEDULED
        assert record.run_at - record.created_at == exactly(60)

    async def test_a_run_at_is_kept_and_wins_over_the_delay(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        later, earlier = clock.now() + 60.25, clock.now() - 60.25
        await add(store, new_task("later", run_at=later), new_task("earlier", run_at=earlier, delay=HOUR))
        assert (await read(store, "later")).run_at == exactly(later)
        assert (await read(store, "earlier")).run_at == exactly(earlier)
        assert await states(store, ["later", "earlier"]) == [TaskState.SCHEDULED, TaskState.PENDING]

    async def test_a_run_at_may_be_as_long_ago_as_anybody_likes(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("epoch", run_at=0.0), new_task("before", run_at=-5.5), new_task("long", run_at=-1e9))
        assert await states(store, ["epoch", "before", "long"]) == [TaskState.PENDING] * 3
        assert ids(await claim(store)) == {"epoch", "before", "long"}

    @pytest.mark.parametrize("delay", [0.0, 60.0])
    async def test_a_ttl_counts_from_run_at(self, store: BaseTaskQueue, delay: float) -> None:
        await add(store, new_task("t", delay=delay, ttl=30.5))
        record = await read(store, "t")
        assert record.expires_at is not None
        assert record.expires_at - record.run_at == exactly(30.5)

    @pytest.mark.parametrize("body", BODIES, ids=len)
    async def test_a_body_is_any_bytes(self, store: BaseTaskQueue, body: bytes) -> None:
        await add(store, new_task("t", body=body))
        assert (await read(store, "t")).body == body
        assert [record.body for record in await claim(store)] == [body]

    async def test_an_id_is_any_printable_text(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(id_, body=id_.encode()) for id_ in ODD_IDS])
        records = await store.get(ODD_IDS)
        assert [(r.id, r.body) for r in records if r is not None] == [(id_, id_.encode()) for id_ in ODD_IDS]
        for record in await claim(store):
            assert await change(store, finish(record)) == ["applied"]

    async def test_a_queue_may_have_any_legal_name(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(f"in-{name}", queue=name) for name in ODD_QUEUES])
        for name in ODD_QUEUES:
            assert [(r.id, r.queue_name) for r in await claim(store, name)] == [(f"in-{name}", name)]

    async def test_many_are_added_in_one_call(self, store: BaseTaskQueue, many: int) -> None:
        tasks = new_tasks(many)
        assert await store.add(tasks) == [NEW] * many
        assert await store.add(tasks) == [DUPLICATE] * many
        assert [record.id for record in await store.get([t.id for t in tasks]) if record] == [t.id for t in tasks]


class DuplicateTests(Conformance):
    """`add` is idempotent by id, so that it can be repeated after a lost reply."""

    @pytest.mark.parametrize("to", [TaskState.PENDING, *sorted(TERMINAL)])
    async def test_a_task_that_was_claimed_is_untouched(self, store: BaseTaskQueue, to: TaskState) -> None:
        await add(store, new_task("t"))
        (record,) = await claim(store)
        await change(store, finish(record, to))
        await self._assert_untouched(store, "t")

    async def test_a_running_task_is_untouched(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        await claim(store)
        await self._assert_untouched(store, "t")

    @pytest.mark.parametrize("delay", [0.0, HOUR])
    async def test_a_task_in_line_is_untouched(self, store: BaseTaskQueue, delay: float) -> None:
        await add(store, new_task("t", delay=delay))
        await self._assert_untouched(store, "t")

    async def test_a_waiting_task_is_untouched(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"), new_task("t", parents=("parent",)))
        await self._assert_untouched(store, "t")

    async def _assert_untouched(self, store: BaseTaskQueue, task_id: str) -> None:
        before = await read(store, task_id)
        other = new_task(task_id, queue="other", body=b"other", delay=HOUR, ttl=1)
        assert await store.add([other]) == [DUPLICATE]
        assert await read(store, task_id) == before
        assert await claim(store, "other") == []

    async def test_a_duplicate_gets_no_new_parents(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"), new_task("t"))
        assert await store.add([new_task("t", parents=("parent",))]) == [DUPLICATE]
        assert await store.add([new_task("t", parents=("nobody",))]) == [DUPLICATE]
        assert await store.children(["parent"]) == [[]]

    async def test_of_concurrent_calls_one_adds(self, store: BaseTaskQueue) -> None:
        calls = [store.add([new_task("t", body=b"%d" % n), new_task(f"own-{n}")]) for n in range(20)]
        answers = await together(calls)
        assert sorted(first.status for first, _ in answers) == [AddStatus.DUPLICATE] * 19 + [AddStatus.NEW]
        assert {own for _, own in answers} == {NEW}
        winner = next(n for n, (first, _) in enumerate(answers) if first == NEW)
        assert (await read(store, "t")).body == b"%d" % winner


class ParentTests(Conformance):
    """A task with parents waits; one with a parent that isn't known isn't stored."""

    async def test_a_task_with_parents_waits(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"))
        await add(store, new_task("child", parents=("b", "a")))
        record = await read(store, "child")
        assert (record.state, record.depends_on) == (TaskState.WAITING, ("b", "a"))
        assert ids(await claim(store)) == {"a", "b"}

    async def test_it_waits_even_for_parents_that_have_ended(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"))
        (record,) = await claim(store)
        await change(store, finish(record))
        await add(store, new_task("child", parents=("parent",)))
        assert await states(store, ["child"]) == [TaskState.WAITING]

    @pytest.mark.parametrize("delay", [0.0, 60.0])
    async def test_it_waits_whenever_it_is_due(self, store: BaseTaskQueue, clock: VirtualClock, delay: float) -> None:
        await add(store, new_task("parent", queue="elsewhere"), new_task("child", parents=("parent",), delay=delay))
        clock.advance(120)
        assert await claim(store) == []
        record = await read(store, "child")
        assert (record.state, record.run_at - record.created_at) == (TaskState.WAITING, exactly(delay))

    async def test_a_parent_may_come_earlier_in_the_call(self, store: BaseTaskQueue) -> None:
        family = [new_task("a"), new_task("b", parents=("a",)), new_task("c", parents=("a", "b"))]
        assert await store.add(family) == [NEW] * 3
        assert await states(store, "abc") == [TaskState.PENDING, TaskState.WAITING, TaskState.WAITING]

    async def test_a_parent_may_not_come_later_in_the_call(self, store: BaseTaskQueue) -> None:
        assert await store.add([new_task("b", parents=("a",)), new_task("a")]) == [UNKNOWN_PARENT, NEW]
        assert await states(store, "ba") == [None, TaskState.PENDING]

    async def test_of_an_unknown_parents_child_nothing_is_stored(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("known"))
        orphan = new_task("orphan", parents=("known", "unknown"))
        assert await store.add([orphan, new_task("other")]) == [UNKNOWN_PARENT, NEW]
        assert await states(store, ["orphan", "other"]) == [None, TaskState.PENDING]
        assert await store.children(["known", "unknown"]) == [[], []]

    async def test_an_orphan_is_unknown_to_its_own_children(self, store: BaseTaskQueue) -> None:
        family = [new_task("orphan", parents=("unknown",)), new_task("child", parents=("orphan",))]
        assert await store.add(family) == [UNKNOWN_PARENT] * 2

    async def test_a_task_is_no_parent_of_itself(self, store: BaseTaskQueue) -> None:
        assert await store.add([new_task("t", parents=("t",))]) == [UNKNOWN_PARENT]
        assert await states(store, ["t"]) == [None]

    async def test_an_orphan_can_be_added_once_its_parent_is_there(self, store: BaseTaskQueue) -> None:
        child = new_task("child", parents=("parent",))
        assert await store.add([child]) == [UNKNOWN_PARENT]
        await add(store, new_task("parent"), child)

    async def test_a_parent_named_twice_counts_once(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"), new_task("child", parents=("parent", "parent")))
        assert await store.children(["parent"]) == [["child"]]

    async def test_adding_reads_back_as_the_rules_say(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        tasks: list[NewTask] = [
            new_task("p"),
            new_task("now", ttl=5),
            new_task("later", delay=9, ttl=5),
            new_task("child", parents=("p",), delay=9, ttl=5, schedule_id="s"),
        ]
        await add(store, *tasks)
        for record, task in zip(await store.get([t.id for t in tasks]), tasks, strict=True):
            assert_same(record, rules.new_record(task, clock.now()))


def held_by(task_id: str) -> Added:
    """The answer for a task whose key another one has."""
    return Added(AddStatus.DUPLICATE, task_id)


class UniqueTests(Conformance):
    """While a task that has a key hasn't ended, no other with that key is added."""

    needed = Capability.UNIQUE

    async def test_the_task_that_comes_first_has_the_key(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("first", unique="key"))
        assert (await read(store, "first")).unique == "key"
        assert await store.add([new_task("second", unique="key")]) == [held_by("first")]
        assert await states(store, ["second"]) == [None]

    async def test_other_keys_and_none_are_free(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", unique="key"))
        others = [new_task("b", unique="Key"), new_task("c"), new_task("d", unique="key ")]
        assert await store.add(others) == [NEW] * 3

    async def test_the_queue_makes_no_difference(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("first", unique="key"))
        assert await store.add([new_task("second", queue="other", unique="key")]) == [held_by("first")]

    async def test_a_task_added_again_is_a_duplicate_of_itself(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", unique="key"))
        assert await store.add([new_task("t", unique="key")]) == [DUPLICATE]
        assert await store.add([new_task("t", unique="other")]) == [DUPLICATE]
        assert await store.add([new_task("u", unique="other")]) == [NEW]

    async def test_within_one_call_the_first_has_it(self, store: BaseTaskQueue) -> None:
        several = [new_task(name, unique="key") for name in "abc"]
        assert await store.add([*several, new_task("d")]) == [NEW, held_by("a"), held_by("a"), NEW]
        assert await states(store, "abcd") == [TaskState.PENDING, None, None, TaskState.PENDING]

    async def test_a_task_that_is_not_stored_takes_no_key(self, store: BaseTaskQueue) -> None:
        orphan = new_task("orphan", parents=("unknown",), unique="key")
        assert await store.add([orphan, new_task("t", unique="key")]) == [UNKNOWN_PARENT, NEW]

    async def test_a_task_whose_key_is_taken_is_no_parent(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("holder", unique="key"))
        family = [new_task("parent", unique="key"), new_task("child", parents=("parent",))]
        assert await store.add(family) == [held_by("holder"), UNKNOWN_PARENT]

    @pytest.mark.parametrize("delay", [0.0, HOUR])
    async def test_it_is_held_whenever_the_task_is_due(self, store: BaseTaskQueue, delay: float) -> None:
        await add(store, new_task("t", delay=delay, unique="key"))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    async def test_it_is_held_while_the_task_waits_for_its_parents(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("parent"), new_task("t", parents=("parent",), unique="key"))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    async def test_it_is_held_from_claim_to_claim(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store, lease=10)
        assert record.unique == "key"
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]
        await change(store, finish(record, TaskState.PENDING, delay=5))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]
        clock.advance(10)
        await claim(store, lease=10)
        clock.advance(20)
        await reap(store)
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_a_task_that_ends_gives_it_up(self, store: BaseTaskQueue, to: TaskState) -> None:
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store)
        await change(store, finish(record, to))
        assert (await read(store, "t")).unique is None
        assert await store.add([new_task("u", unique="key")]) == [NEW]

    async def test_so_does_one_that_ends_before_it_runs(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", delay=HOUR, unique="key"))
        await change(store, cancel("t"))
        assert await store.add([new_task("u", unique="key")]) == [NEW]

    async def test_a_requeued_task_doesnt_take_it_back(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store)
        await change(store, finish(record, TaskState.ERROR))
        await add(store, new_task("u", unique="key"))
        again = Change(task_id="t", to=TaskState.PENDING, from_states=(TaskState.ERROR,), fresh=True)
        await change(store, again)
        assert (await read(store, "t")).unique is None
        assert await store.add([new_task("v", unique="key")]) == [held_by("u")]

    async def test_a_key_is_any_printable_text(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(f"t{n}", unique=key) for n, key in enumerate(ODD_IDS)])
        others = [new_task(f"u{n}", unique=key) for n, key in enumerate(ODD_IDS)]
        assert await store.add(others) == [held_by(f"t{n}") for n in range(len(ODD_IDS))]

    async def test_of_concurrent_calls_one_gets_the_key(self, store: BaseTaskQueue) -> None:
        calls = [store.add([new_task(f"t{n}", unique="key"), new_task(f"own-{n}")]) for n in range(20)]
        answers = await together(calls)
        winner = next(n for n, (first, _) in enumerate(answers) if first == NEW)
        assert [first for first, _ in answers].count(held_by(f"t{winner}")) == 19
        assert {own for _, own in answers} == {NEW}
        assert [state for state in await states(store, [f"t{n}" for n in range(20)]) if state] == [TaskState.PENDING]


# ── reading ─────────────────────────────────────────────────────────────────


Stats: TypeAlias = tuple[str, bool, dict[TaskState, int]]
"""A queue's name, whether it is paused, and the counts that aren't zero."""


async def zoo(store: BaseTaskQueue) -> dict[TaskState, str]:
    """One task in every state, by state."""
    await add(store, *new_tasks(1 + len(TERMINAL)))
    held, *others = await claim(store)
    await change(store, *[finish(r, to) for r, to in zip(others, sorted(TERMINAL), strict=True)])
    await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
    ended = {to: record.id for to, record in zip(sorted(TERMINAL), others, strict=True)}
    queued = {TaskState.PENDING: "due", TaskState.SCHEDULED: "later", TaskState.WAITING: "child"}
    return {TaskState.RUNNING: held.id, **ended, **queued}


async def found(store: BaseTaskQueue, where: TaskFilter) -> list[str]:
    """The ids of the matching tasks on one page."""
    page = await store.find(where)
    assert page.cursor is None
    return [record.id for record in page.tasks]


async def pages(
    store: BaseTaskQueue, where: TaskFilter, limit: int, *, newest_first: bool = False
) -> list[list[TaskRecord]]:
    """All pages of the matching tasks."""
    result = []
    cursor = None
    while True:
        page = await store.find(where, newest_first=newest_first, limit=limit, cursor=cursor)
        result.append(page.tasks)
        if page.cursor is None:
            return result
        cursor = page.cursor


class GetTests(Conformance):
    """The tasks that were asked for, in that order."""

    async def test_what_is_not_there_is_none(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"))
        records = await store.get(["b", "nobody", "a"])
        assert [record and record.id for record in records] == ["b", None, "a"]

    async def test_many_are_read_in_one_call(self, store: BaseTaskQueue, many: int) -> None:
        added = await add(store, *new_tasks(many - 1))
        records = await store.get([*added, "nobody"])
        assert [record and record.id for record in records] == [*added, None]


class FindTests(Conformance):
    """The tasks that match, page by page."""

    async def test_an_empty_filter_finds_all_in_order_of_ids(self, store: BaseTaskQueue) -> None:
        names = ["b", "C", "a", "B", "1", "aa", "a-b", "a.b", "a_b"]
        await add(store, *[new_task(name) for name in names])
        assert await found(store, TaskFilter()) == sorted(names)

    async def test_long_ids_are_in_order_too(self, store: BaseTaskQueue) -> None:
        stems = ["x" * 253, "任" * 253, "𝄞" * 253]  # of up to 1,020 bytes
        names = [stem + end for stem in stems for end in ("b", "a", "ba", "ab", "任", "𝄞z", "\uff5a")]
        await add(store, *[new_task(name, schedule_id="s", name="f") for name in names])
        wheres = [TaskFilter(schedule_id="s"), TaskFilter(queue_name=QUEUE), TaskFilter(name="f")]
        for where in (TaskFilter(), TaskFilter(states=IN_LINE), *wheres):
            forward = [record.id for page in await pages(store, where, 5) for record in page]
            backward = [record.id for page in await pages(store, where, 5, newest_first=True) for record in page]
            assert forward == backward[::-1] == sorted(names)

    async def test_tasks_are_found_by_state(self, store: BaseTaskQueue) -> None:
        animals = await zoo(store)
        for state, task_id in animals.items():
            assert await found(store, TaskFilter(states=(state,))) == [task_id]
        two = (TaskState.ERROR, TaskState.WAITING)
        assert await found(store, TaskFilter(states=two)) == sorted(animals[state] for state in two)

    async def test_tasks_are_found_by_queue(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", queue="x"), new_task("b", queue="y"), new_task("c", queue="x"))
        assert await found(store, TaskFilter(queue_name="x")) == ["a", "c"]
        assert await found(store, TaskFilter(queue_name="unheard-of")) == []

    async def test_tasks_are_found_by_name(self, store: BaseTaskQueue) -> None:
        names = {"a": "shop:sell", "b": "shop:größe", "c": "shop:sell", "d": "Shop:sell", "e": "", "f": "x" * 255}
        await add(store, *[new_task(id_, name=name) for id_, name in names.items()])
        await change(store, cancel("c"))
        assert await found(store, TaskFilter(name="shop:sell")) == ["a", "c"]
        assert await found(store, TaskFilter(name="shop:sell", states=(TaskState.CANCELLED,))) == ["c"]
        assert await found(store, TaskFilter(name="shop:größe")) == ["b"]
        assert await found(store, TaskFilter(name="x" * 255)) == ["f"]
        assert await found(store, TaskFilter(name="shop")) == []

    async def test_they_come_backwards_if_the_newest_are_wanted_first(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(id_, name="f", queue=f"q{n % 2}") for n, id_ in enumerate("bdacfe")])
        await change(store, cancel("d"))
        pending = (TaskState.PENDING,)
        wheres = [TaskFilter(), TaskFilter(name="f"), TaskFilter(name="f", states=pending), TaskFilter(queue_name="q1")]
        for where in wheres:
            forward = [record.id for page in await pages(store, where, 2) for record in page]
            backward = [record.id for page in await pages(store, where, 2, newest_first=True) for record in page]
            assert backward == forward[::-1]
            assert len(forward) >= 3

    async def test_tasks_are_found_by_schedule(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", schedule_id="s"), new_task("b"), new_task("c", schedule_id="r"))
        assert await found(store, TaskFilter(schedule_id="s")) == ["a"]

    async def test_conditions_must_all_hold(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a", queue="x", schedule_id="s"), new_task("b", queue="x"))
        await add(store, new_task("c", schedule_id="s"), new_task("d", queue="x", schedule_id="s"))
        await change(store, cancel("d"))
        where = TaskFilter(states=(TaskState.PENDING,), queue_name="x", schedule_id="s")
        assert await found(store, where) == ["a"]

    async def test_expired_are_those_that_wait_past_their_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        held, ended = await running(store, 2)
        await change(store, finish(ended))
        await add(store, new_task("pending", ttl=10), new_task("child", ttl=10, parents=("pending",)))
        await add(store, new_task("endless"), new_task("long", ttl=HOUR), new_task("later", delay=15, ttl=10))
        assert await found(store, TaskFilter(expired=True)) == []
        clock.advance(20)
        assert await found(store, TaskFilter(expired=True)) == ["child", "pending"]
        assert held.id not in await found(store, TaskFilter(expired=True))
        clock.advance(10)
        assert await found(store, TaskFilter(expired=True)) == ["child", "later", "pending"]

    async def test_claimed_and_ended_tasks_never_count_as_expired(
        self, store: BaseTaskQueue, clock: VirtualClock
    ) -> None:
        await add(store, *new_tasks(3, ttl=10))
        ended, given_back, _ = await claim(store)
        await change(store, finish(ended), finish(given_back, TaskState.PENDING))
        clock.advance(20)
        assert await found(store, TaskFilter(expired=True)) == [given_back.id]

    async def test_records_are_those_that_get_returns(self, store: BaseTaskQueue) -> None:
        await zoo(store)
        for bodies in (False, True):
            tasks = (await store.find(TaskFilter(), bodies=bodies)).tasks
            assert await store.get([record.id for record in tasks], bodies=bodies) == tasks

    async def test_bodies_are_told_only_where_they_are_asked_for(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("large", body=bytes(100_000)), new_task("small", body=b"body"))
        told = {"large": bytes(100_000), "small": b"body"}
        for where in (TaskFilter(), TaskFilter(states=IN_LINE), TaskFilter(queue_name=QUEUE)):
            assert {record.body for record in (await store.find(where)).tasks} == {b""}
            assert {record.id: record.body for record in (await store.find(where, bodies=True)).tasks} == told
        assert [record and record.body for record in await store.get(list(told), bodies=False)] == [b"", b""]

    async def test_the_functions_name_is_told_beside_the_body(self, store: BaseTaskQueue) -> None:
        names = {"a": "shop.tasks:größe", "b": "", "c": "x" * 255}
        await add(store, *[new_task(id_, name=name) for id_, name in names.items()])
        assert {record.id: record.name for record in (await store.find(TaskFilter())).tasks} == names
        assert {record.id: record.name for record in await claim(store)} == names
        assert {id_: (await read(store, id_)).name for id_ in names} == names


class PageTests(Conformance):
    """A cursor leads through all pages without gaps or repeats."""

    async def test_pages_hold_the_limit_and_end(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(10))
        result = await pages(store, TaskFilter(), 3)
        assert [len(page) for page in result if page] == [3, 3, 3, 1]
        assert [record.id for page in result for record in page] == sorted(added)

    async def test_a_page_that_ends_exactly_is_the_last(self, store: BaseTaskQueue) -> None:
        added = await add(store, *new_tasks(6))
        result = await pages(store, TaskFilter(), 3)
        assert [len(page) for page in result if page] == [3, 3]
        assert ids(record for page in result for record in page) == set(added)

    async def test_nothing_found_is_one_empty_page(self, store: BaseTaskQueue) -> None:
        assert await pages(store, TaskFilter(), 3) == [[]]

    async def test_a_filter_holds_on_every_page(self, store: BaseTaskQueue) -> None:
        await add(store, *new_tasks(7), *new_tasks(7, queue="other"))
        result = await pages(store, TaskFilter(queue_name="other"), 2)
        records = [record for page in result for record in page]
        assert {record.queue_name for record in records} == {"other"}
        assert len(ids(records)) == 7

    async def test_tasks_added_meanwhile_move_no_others(self, store: BaseTaskQueue) -> None:
        added = await add(store, *[new_task(f"m{n:02}") for n in range(10)])
        seen: list[TaskRecord] = []
        cursor = None
        for turn in range(20):
            page = await store.find(TaskFilter(), limit=3, cursor=cursor)
            seen += page.tasks
            if page.cursor is None:
                break
            cursor = page.cursor
            if turn < 3:
                await add(store, new_task(f"a{turn}"), new_task(f"m0{turn}x"), new_task(f"z{turn}"))
        assert set(added) <= ids(seen)
        assert [record.id for record in seen] == sorted(record.id for record in seen)

    async def test_tasks_that_leave_meanwhile_move_no_others(self, store: BaseTaskQueue) -> None:
        await add(store, *[new_task(f"t{n}") for n in range(6)])
        where = TaskFilter(states=(TaskState.PENDING,))
        first = await store.find(where, limit=2)
        await change(store, *[cancel(record.id) for record in first.tasks])
        second = await store.find(where, limit=9, cursor=first.cursor)
        assert [record.id for record in second.tasks] == ["t2", "t3", "t4", "t5"]


class StatsTests(Conformance):
    """How many tasks are where."""

    async def test_an_empty_store_has_no_queues(self, store: BaseTaskQueue) -> None:
        assert await store.stats() == []

    async def test_every_queue_is_counted_by_state(self, store: BaseTaskQueue) -> None:
        await zoo(store)
        await add(store, *new_tasks(2, queue="b"), *new_tasks(3, queue="a", delay=HOUR))
        a = ("a", False, {TaskState.SCHEDULED: 3})
        b = ("b", False, {TaskState.PENDING: 2})
        await self._assert_stats(store, a, b, (QUEUE, False, dict.fromkeys(TaskState, 1)))

    async def test_counts_follow_the_tasks(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("a"), new_task("b"), new_task("c", delay=10))
        clock.advance(20)
        records = await claim(store)
        await change(store, finish(records[0]))
        await self._assert_stats(store, (QUEUE, False, {TaskState.RUNNING: 2, TaskState.SUCCESS: 1}))

    async def test_a_paused_queue_is_there_without_tasks(self, store: BaseTaskQueue) -> None:
        await store.pause("empty", paused=True)
        await self._assert_stats(store, ("empty", True, {}))
        await store.pause("empty", paused=False)
        await self._assert_stats(store)

    async def test_a_queue_is_gone_with_its_last_task(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        await change(store, finish(record))
        clock.advance(20)
        await store.purge(older_than=10)
        await self._assert_stats(store)

    async def test_the_oldest_due_task_is_told(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        start = clock.now()
        await add(store, new_task("later", queue="later", run_at=start + 10))
        await add(store, new_task("child", queue="c", parents=("later",)))
        await add(store, *[new_task(f"t{n}", run_at=start - n) for n in (3, 9, 1, 8, 2)])
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 9)}
        await claim(store, limit=1)
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 8)}
        clock.advance(20)
        assert await self._oldest(store) == {"later": exactly(start + 10), "c": None, QUEUE: exactly(start - 8)}
        await store.pause(QUEUE, paused=True)
        await claim(store, "later")
        assert await self._oldest(store) == {"later": None, "c": None, QUEUE: exactly(start - 8)}

    async def _oldest(self, store: BaseTaskQueue) -> dict[str, object]:
        return {queue.name: queue.oldest_due for queue in await store.stats()}

    async def _assert_stats(self, store: BaseTaskQueue, *wanted: Stats) -> None:
        """Wait until these are the queues: counts may lag, and may name a state that no task is in."""

        async def stats() -> list[Stats]:
            return [
                (queue.name, queue.paused, {state: count for state, count in queue.counts.items() if count})
                for queue in await store.stats()
            ]

        await until_equal(stats, list(wanted))


class ChildrenTests(Conformance):
    """The edges from parents to children."""

    async def test_every_task_has_its_children(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b"), new_task("c", parents=("a",)))
        await add(store, new_task("d", parents=("b", "a")), new_task("e", parents=("c",)))
        assert await self._children(store, "a", "b", "c", "d") == [["c", "d"], ["d"], ["e"], []]

    async def test_what_is_not_there_has_none(self, store: BaseTaskQueue) -> None:
        assert await store.children(["nobody"]) == [[]]

    async def test_children_stay_whatever_their_state(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("a"), new_task("b", parents=("a",)), new_task("c", parents=("a",)))
        await change(store, cancel("b"), cancel("a"))
        assert await self._children(store, "a") == [["b", "c"]]

    async def test_a_task_may_have_many_children(self, store: BaseTaskQueue, many: int) -> None:
        await add(store, new_task("a"))
        added = await add(store, *[new_task(parents=("a",)) for _ in range(many)])
        assert await self._children(store, "a") == [sorted(added)]

    async def _children(self, store: BaseTaskQueue, *task_ids: str) -> list[list[str]]:
        return [sorted(children) for children in await store.children(task_ids)]
