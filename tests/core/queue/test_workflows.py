"""Chains and groups as one thing: laid out, enqueued, waited for, looked at, cancelled; and their graph."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, call, chain, group, result_of
from omniq.errors import (
    DependencyCycle,
    InvalidTask,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    UnknownParent,
)
from omniq.models import TaskState
from omniq.queue import TaskCall, TaskDependencyGraph, TaskNode
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import SOON, Place, blocking_door, lines, states_of, until_states, working


def named(*names: str, **options: Any) -> list[TaskCall]:
    """Calls with these ids."""
    return [call(tasks.nothing, task_id=name, **options) for name in names]


def edges(steps: Any) -> dict[str, set[str]]:
    """What waits for what."""
    return {node.id: set(node.depends_on) for node in TaskDependencyGraph.of(steps).nodes.values()}


class TestLayout:
    def test_a_chain_goes_step_by_step_and_takes_chains_in(self) -> None:
        a, b, c, d = named("a", "b", "c", "d")
        assert (
            edges(chain(a, b, c, d))
            == edges(chain(chain(a, b), chain(c, d)))
            == {
                "a": set(),
                "b": {"a"},
                "c": {"b"},
                "d": {"c"},
            }
        )

    def test_a_group_waits_for_all_before_it_and_all_behind_it_for_the_group(self) -> None:
        a, b, c, d = named("a", "b", "c", "d")
        assert edges(chain(a, group(b, c), d)) == {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
        assert edges(group([b, c]).then(d)) == {"b": set(), "c": set(), "d": {"b", "c"}}

    def test_chains_and_groups_inside_each_other(self) -> None:
        a, b, c, d, e = named("a", "b", "c", "d", "e")
        assert edges(group(chain(a, b), group(c, chain(d, e)))) == {
            "a": set(),
            "b": {"a"},
            "c": set(),
            "d": set(),
            "e": {"d"},
        }

    def test_an_empty_group_is_passed_by(self) -> None:
        a, b = named("a", "b")
        assert edges(chain(a, group(), b)) == {"a": set(), "b": {"a"}}
        assert result_of(group()) == []

    def test_what_calls_say_themselves_stays(self) -> None:
        first, last = named("first", "last")
        middle = call(tasks.echo, [result_of(first)], depends_on="elsewhere", task_id="middle")
        assert edges(chain(first, middle, last)) == {
            "first": set(),
            "middle": {"elsewhere", "first"},
            "last": {"middle"},
        }
        assert middle.options == {"depends_on": "elsewhere", "task_id": "middle"}

    def test_the_result_of_a_step(self) -> None:
        a, b, c = named("a", "b", "c")
        found = result_of(group(chain(a, b), c))
        assert [mark.task_id for mark in found] == ["b", "c"]

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            (lambda: chain(), "chain: it has no step"),
            (lambda: chain(tasks.nothing), "expected calls, chains and groups, got function"),  # type: ignore[arg-type]
            (lambda: group(tasks.nothing), "got function"),  # type: ignore[arg-type]
            (lambda: group(None), "got NoneType"),  # type: ignore[arg-type]
            (lambda: group("ab"), "got str"),  # type: ignore[arg-type]
            (lambda: list(group()), "workflow: it has no call"),
            (lambda: list(group(named("a", "a"))), r"more than once \(a\)"),
            (lambda: list(group(named("a", unique_key="key"))), "unique_key: "),
            (lambda: call(tasks.nothing, task_idd="x"), "task_idd: no such option"),  # type: ignore[call-arg]
            (lambda: list(chain(*named("a"), group(named("b", depends_on=3)))), "depends_on: expected task ids"),
            (lambda: list(wide(1001)), "1,001 steps would each wait for 1,001 tasks"),
            (lambda: list(deep(101)), "nested deeper than 100"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: Callable[[], object], complaint: str) -> None:
        with pytest.raises(InvalidTask, match=complaint):
            wrong()


def wide(count: int) -> Any:
    return chain(*(group(call(tasks.nothing) for _ in range(count)) for _ in range(2)))


def deep(levels: int) -> Any:
    step: Any = call(tasks.nothing)
    for _ in range(levels):
        step = group(step)
    return step


class TestTheHandle:
    async def test_it_waits_for_the_result_of_the_last_step(self, oq: AsyncOmniQ) -> None:
        numbers = group(call(tasks.add, [n, 1]) for n in range(4))
        flow = await oq.enqueue_workflow(numbers.then(call(sum, [result_of(numbers)])))
        assert await flow.status() == {TaskState.PENDING: 4, TaskState.WAITING: 1}
        with pytest.raises(ResultTimeout):
            await flow.result(timeout=0.01)
        async with working(oq, "async"):
            assert await flow.result(timeout=SOON) == 10
            ended = await flow.results(timeout=SOON)
        assert [ended[id_].value for id_ in flow.ids] == [1, 2, 3, 4, 10]
        assert await flow.status() == {TaskState.SUCCESS: 5}

    async def test_a_group_gives_the_results_of_its_steps(self, oq: AsyncOmniQ) -> None:
        one = call(tasks.add, [1, 1])
        steps = group(
            call(tasks.echo, ["a"]), group(call(tasks.echo, ["b"])), chain(one, call(tasks.echo, [result_of(one)]))
        )
        flow, calls = (
            await oq.enqueue_workflow(steps),
            await oq.enqueue_workflow(call(tasks.echo, [n]) for n in range(3)),
        )
        single = await oq.enqueue_workflow(call(tasks.echo, [7]))
        async with working(oq, "async"):
            assert await flow.result(timeout=SOON) == ["a", ["b"], 2]
            assert await calls.result(timeout=SOON) == [0, 1, 2]
            assert await single.result(timeout=SOON) == 7

    async def test_the_task_that_failed_is_told_and_not_those_that_were_cancelled_for_it(self, oq: AsyncOmniQ) -> None:
        flow = await oq.enqueue_workflow(chain(call(tasks.fail), call(tasks.nothing), call(tasks.nothing)))
        async with working(oq, "async"):
            with pytest.raises(TaskFailed, match="no luck"):
                await flow.result(timeout=SOON)
            statuses = [result.status for result in (await flow.results(timeout=SOON)).values()]
        assert statuses == ["error", "cancelled", "cancelled"]

    async def test_cancelling_ends_all_that_has_not_ended(self, oq: AsyncOmniQ, log: Path) -> None:
        done, running = call(tasks.nothing), call(tasks.wait_until_cancelled, [str(log)])
        rest = [call(tasks.append, [str(log), "ran"], on_parent_failure="run") for _ in range(3)]
        flow = await oq.enqueue_workflow(chain(done, group(running, call(tasks.nothing, run_in=3600)), *rest))
        async with working(oq, "thread"):
            await until_states(oq, [running.reserve_id()], TaskState.RUNNING)
            assert await flow.cancel() == 5
            with pytest.raises(TaskCancelled):
                await flow.result(timeout=SOON)
            await until_states(oq, [running.reserve_id()], TaskState.CANCELLED)
        assert await flow.status() == {TaskState.SUCCESS: 1, TaskState.CANCELLED: 5}
        assert "ran" not in lines(log)
        assert await flow.cancel() == 0

    async def test_any_of_its_tasks_leads_back_to_it(self, oq: AsyncOmniQ) -> None:
        a, b, c, d = named("a", "b", "c", "d")
        await oq.enqueue_workflow(chain(a, group(b, c)))
        await oq.enqueue_workflow([d])
        for task_id in "abc":
            flow = await oq.get_workflow(task_id)
            assert (flow.ids[0], set(flow.ids)) == ("a", {"a", "b", "c"})
        async with working(oq, "async"):
            assert await flow.result(timeout=SOON) == [None, None]
        assert (await oq.get_workflow(await oq.get_task("d"))).ids == ("d",)
        with pytest.raises(TaskNotFound, match="nobody"):
            await oq.get_workflow("nobody")

    async def test_nothing_is_added_if_a_call_is_bad(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="priority"):
            await oq.enqueue_workflow(chain(call(tasks.nothing), call(tasks.nothing, priority=101)))
        with pytest.raises(DependencyCycle):
            await oq.enqueue_workflow([*named("a", depends_on="b"), *named("b", depends_on="a")])
        with pytest.raises(InvalidTask, match="got function"):
            await oq.enqueue_workflow(tasks.nothing)  # type: ignore[arg-type]
        assert await oq.list_tasks() == []

    async def test_a_component_takes_workflows_as_calls(self, oq: AsyncOmniQ) -> None:
        a, b = named("a", "b")
        assert await oq.task_queue.enqueue_many(chain(a, b)) == ["a", "b"]
        assert await states_of(oq, "ab") == [TaskState.PENDING, TaskState.WAITING]


def test_the_blocking_handle_does_the_same(place: Place) -> None:
    with blocking_door(place) as oq:
        one = call(tasks.add, [1, 1])
        flow = oq.enqueue_workflow(chain(one, call(tasks.add, [result_of(one), 5])))
        later = oq.enqueue_workflow(named("later", run_in=3600))
        oq.start_worker()
        assert flow.result(timeout=SOON) == 7
        assert [result.value for result in flow.results().values()] == [2, 7]
        assert flow.status() == {TaskState.SUCCESS: 2}
        assert set(flow.graph().nodes) == set(flow.ids)
        assert oq.get_workflow(one.reserve_id()).ids == flow.ids
        assert later.cancel() == 1
        assert repr(flow) == f"Workflow(2 tasks, {one.reserve_id()!r} the first)"


# ── the graph ───────────────────────────────────────────────────────────────


def graph(**parents: str) -> TaskDependencyGraph:
    """A graph of tasks of one letter each."""
    return TaskDependencyGraph(TaskNode(id=id_, func="shop:sell", depends_on=tuple(of)) for id_, of in parents.items())


class TestTheGraph:
    def test_who_is_who(self) -> None:
        found = graph(a="", b="a", c="a", d="bc", e="")
        assert (found.roots, found.leaves) == (("a", "e"), ("d", "e"))
        assert (found.parents("d"), found.children("a")) == (("b", "c"), ("b", "c"))
        assert [set(level) for level in found.levels] == [{"a", "e"}, {"b", "c"}, {"d"}]
        assert found.waits_for("d") == ("b", "c")
        assert found.waiting == {"b": ("a",), "c": ("a",), "d": ("b", "c")}
        with pytest.raises(TaskNotFound):
            found.children("x")

    def test_a_circle_is_named(self) -> None:
        with pytest.raises(DependencyCycle, match=r"circle: \w → \w → \w → \w$"):
            graph(a="c", b="a", c="b", d="").check()

    def test_unknown_parents_are_named_and_not_thousands_of_them(self) -> None:
        with pytest.raises(UnknownParent, match="of task b: not known: x, y$"):
            graph(a="", b="axy").check()
        graph(a="", b="axy").check(known=["x", "y"])
        many = TaskDependencyGraph([TaskNode(id="t", func="f", depends_on=tuple(f"p{n}" for n in range(5000)))])
        with pytest.raises(UnknownParent, match="p9, and 4,990 more") as error:
            many.check()
        assert len(str(error.value)) < 200

    async def test_unknown_parents_are_named_at_enqueue_too(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(UnknownParent, match="of task t: not known: nobody$"):
            await oq.enqueue_many([*named("known"), *named("t", depends_on=["known", "nobody"])])

    def test_as_text(self) -> None:
        nodes = [TaskNode(id=f"p{n}", func="shop:sell", state=TaskState.SUCCESS) for n in range(12)]
        nodes.append(TaskNode(id="last", func="shop:sum\x1b[2J", depends_on=("p0", *(f"p{n}" for n in range(4, 12)))))
        text = str(TaskDependencyGraph(nodes, complete=False)).splitlines()
        assert text[:2] == ["level 1", "  #1   shop:sell        success    p0"]
        assert text[-3] == "level 2"
        assert text[-2] == r"  #13  shop:sum\x1b[2J  -          last  after #1, #5 to #12"
        assert text[-1] == "(cut after 13 tasks: there are more)"

    def test_as_mermaid(self) -> None:
        nodes = [
            TaskNode(id='a"]', func="shop:<lambda>", state=TaskState.ERROR),
            TaskNode(id="b", func="shop:sell", depends_on=('a"]', "elsewhere")),
        ]
        assert TaskDependencyGraph(nodes).to_mermaid().splitlines()[:4] == [
            "flowchart TD",
            '    n1["shop:#60;lambda#62;<br/>a#34;#93;<br/>error"]:::error',
            '    n2["shop:sell<br/>b"]',
            "    n1 --> n2",
        ]

    async def test_it_is_loaded_from_any_task_with_the_states_of_all(self, oq: AsyncOmniQ) -> None:
        a, b, c, d = named("a", "b", "c", "d")
        await oq.enqueue_workflow(chain(a, group(b, c), d))
        await oq.enqueue(tasks.nothing, task_id="other")
        await oq.cancel("b")
        for task_id in "abcd":
            found = await TaskDependencyGraph.load(oq.task_queue.store, task_id)
            assert {id_: node.state for id_, node in found.nodes.items()} == {
                "a": TaskState.PENDING,
                "b": TaskState.CANCELLED,
                "c": TaskState.WAITING,
                "d": TaskState.CANCELLED,
            }
            assert (found.complete, found.waiting) == (True, {"c": ("a",)})
            found.check()

    async def test_no_more_is_loaded_than_was_asked_for(self, oq: AsyncOmniQ) -> None:
        await oq.enqueue_workflow(chain(*named(*(f"t{n}" for n in range(10)))))
        store = oq.task_queue.store
        found = await TaskDependencyGraph.load(store, "t0", limit=3)
        assert (list(found.nodes), found.complete) == (["t0", "t1", "t2"], False)
        assert (await TaskDependencyGraph.load(store, "t0", limit=10)).complete
        with pytest.raises(InvalidTask, match="limit"):
            await TaskDependencyGraph.load(store, "t0", limit=10_001)

    async def test_what_was_purged_meanwhile_is_told_as_gone(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        await oq.enqueue_workflow(chain(*named("a", "b"), *named("c", run_in=7000)))
        async with working(oq, "async") as pool:
            await pool.drain()
            virtual_clock.advance(6000)
            await oq.task_queue.ttl.purge(retention=60)
        found = await TaskDependencyGraph.load(oq.task_queue.store, "c")
        assert (found.nodes["b"].func, found.nodes["b"].state) == ("(no longer kept)", None)
        assert (set(found.nodes), found.waits_for("c")) == ({"b", "c"}, ())


async def test_no_child_is_left_waiting_that_is_enqueued_while_its_parent_ends(oq: AsyncOmniQ) -> None:
    """Each child takes its parent's result, in a race against the parent's end."""
    async with working(oq, "async"):
        children = []
        for n in range(50):
            parent = await oq.enqueue(tasks.add_async, [n, 0])
            await asyncio.sleep(0.0003 * (n % 8))
            children.append(await oq.enqueue(tasks.add_async, [result_of(parent), 1]))
        values = await asyncio.gather(*(oq.get_result(child, timeout=SOON) for child in children))
    assert values == [n + 1 for n in range(50)]
