"""The graph of tasks that wait for each other: from calls or from a store, checked, asked and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from operator import attrgetter
from typing import Final, cast

from msgspec import Struct

from omniq.batching import repeated
from omniq.errors import InvalidTask, TaskNotFound, UnknownParent
from omniq.models.task import TaskRef, TaskState, check_flags, check_limit, id_of
from omniq.queue.options import TaskCall, listed_calls
from omniq.queue.policies import cycle, some
from omniq.queue.request import listed_parents, split_args
from omniq.serialization.manager import SerializationManager
from omniq.storage.base import BaseTaskQueue, look_up
from omniq.storage.records import TaskRecord
from omniq.texts import escaped, shown_name

MAX_NODES: Final = 10_000
GONE: Final = "(no longer kept)"


class TaskNode(Struct, frozen=True, kw_only=True):
    """A task of a graph."""

    id: str
    func: str
    """The function's name, to show."""
    state: TaskState | None = None
    """None before it is enqueued, and where it is no longer kept."""
    depends_on: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.state is not None and self.state.is_terminal


class TaskDependencyGraph:
    """Tasks and what they wait for: of calls that aren't enqueued yet (`of`), or as a store has them (`load`)."""

    def __init__(self, nodes: Iterable[TaskNode], *, complete: bool = True) -> None:
        """Raises `InvalidTask` for what are no nodes."""
        check_flags(complete=complete)
        self.nodes: Final[Mapping[str, TaskNode]] = {node.id: node for node in _listed_nodes(nodes)}
        self.complete: Final = complete
        """Whether all that is connected is in it."""

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self.nodes

    def __str__(self) -> str:
        return self.to_text()

    # ── where it comes from ──────────────────────────────────────────────────

    @classmethod
    def of(cls, calls: Iterable[TaskCall]) -> TaskDependencyGraph:
        """The graph of a chain, a group or other calls as they would be enqueued together.

        Raises `InvalidTask` or `SerializationError` for what `enqueue_many` would refuse of a function, its arguments
        and what it waits for.
        """
        serialization = SerializationManager()

        def node(each: TaskCall) -> TaskNode:
            args, kwargs = split_args(each.func_args)
            packed = serialization.build_call(each.func, args, kwargs)
            parents = dict.fromkeys([*listed_parents(each.options.get("depends_on")), *packed.results_of])
            return TaskNode(id=each.reserve_id(), func=shown_name(packed.func), depends_on=tuple(parents))

        return cls(map(node, listed_calls(calls)))

    @classmethod
    async def load(cls, store: BaseTaskQueue, *task_ids: TaskRef, limit: int = MAX_NODES) -> TaskDependencyGraph:
        """The tasks that are connected with these, parents and children of any degree, as the store has them now.

        At most `limit` of them: see `complete`. Raises `TaskNotFound` for these, `InvalidTask` and `StoreError`.
        """
        limit = check_limit(limit)
        found: dict[str, TaskNode] = {}
        next_ids, asked = [id_of(task_id) for task_id in task_ids], set[str]()
        complete = True
        while next_ids:
            complete = len(next_ids) <= limit - len(found)
            next_ids = next_ids[: limit - len(found)]
            records = await records_of(store, next_ids)
            families = await repeated(partial(_children, store, next_ids))
            if not found and (missing := [id_ for id_ in next_ids if records[id_] is None]):
                raise TaskNotFound(f"no task {some(missing)} in {store.location}")
            parents = {parent for record in records.values() if record is not None for parent in record.depends_on}
            found |= {id_: _node(id_, record) for id_, record in records.items() if record is not None or id_ in asked}
            asked |= parents
            near = dict.fromkeys([*parents, *(child for family in families for child in family)])
            next_ids = [id_ for id_ in near if id_ not in found]
        # However it was found, it is drawn alike: by id, which tells who was there first.
        return cls(sorted(found.values(), key=attrgetter("id")), complete=complete)

    # ── what waits for what ──────────────────────────────────────────────────

    def check(self, known: Iterable[str] = ()) -> None:
        """Raise `DependencyCycle` or `UnknownParent`, naming the tasks, if they can't be enqueued.

        `known` are tasks that are there already.
        """
        _ = self.levels
        there = {*self.nodes, *known}
        for node in self.nodes.values():
            if unknown := [parent for parent in node.depends_on if parent not in there]:
                raise UnknownParent(f"depends_on: of task {node.id}: not known: {some(unknown)}")

    def parents(self, task_id: str) -> tuple[str, ...]:
        """What the task depends on. Raises `TaskNotFound`, as the next two do."""
        return self._node(task_id).depends_on

    def children(self, task_id: str) -> tuple[str, ...]:
        """What depends on the task."""
        return tuple(self._children.get(self._node(task_id).id, ()))

    def waits_for(self, task_id: str) -> tuple[str, ...]:
        """The parents that haven't ended yet."""
        found = (self.nodes.get(parent) for parent in self.parents(task_id))
        return tuple(
            parent.id for parent in found if parent is not None and not parent.has_ended and parent.func != GONE
        )

    @property
    def waiting(self) -> dict[str, tuple[str, ...]]:
        """What waits for what: each task that hasn't ended, and whose parents haven't all, with those."""
        left = {id_: self.waits_for(id_) for id_, node in self.nodes.items() if not node.has_ended}
        return {id_: parents for id_, parents in left.items() if parents}

    @property
    def roots(self) -> tuple[str, ...]:
        """The tasks that depend on none of these."""
        return tuple(id_ for id_, node in self.nodes.items() if self.nodes.keys().isdisjoint(node.depends_on))

    @property
    def leaves(self) -> tuple[str, ...]:
        """The tasks on which none of these depends."""
        return tuple(id_ for id_ in self.nodes if id_ not in self._children)

    @cached_property
    def levels(self) -> list[tuple[str, ...]]:
        """The tasks by how many others come before them at least, each level in the order of `nodes`.

        Raises `DependencyCycle`.
        """
        own = self.nodes
        sorter = TopologicalSorter({id_: [p for p in node.depends_on if p in own] for id_, node in own.items()})
        try:
            sorter.prepare()
        except CycleError as error:
            raise cycle(error) from None
        places = {id_: place for place, id_ in enumerate(own)}
        levels: list[tuple[str, ...]] = []
        while sorter.is_active():
            levels.append(tuple(sorted(sorter.get_ready(), key=places.__getitem__)))
            sorter.done(*levels[-1])
        return levels

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for id_, node in self.nodes.items():
            for parent in node.depends_on:
                children.setdefault(parent, []).append(id_)
        return children

    def _node(self, task_id: str) -> TaskNode:
        if (node := self.nodes.get(task_id)) is None:
            raise TaskNotFound(f"no task {task_id} in this graph")
        return node

    # ── drawings ─────────────────────────────────────────────────────────────

    def to_text(self) -> str:
        """The tasks level by level, numbered, each with its state and the numbers of its parents."""
        numbers = {id_: number for number, id_ in enumerate((id_ for level in self.levels for id_ in level), 1)}
        names = {id_: escaped(node.func) for id_, node in self.nodes.items()}
        wide, digits, states = max(map(len, names.values()), default=0), len(str(len(self))), len(TaskState.SCHEDULED)
        lines: list[str] = []
        for depth, level in enumerate(self.levels, 1):
            lines.append(f"level {depth}")
            for id_ in level:
                node = self.nodes[id_]
                parents = _ranges(numbers[parent] for parent in node.depends_on if parent in numbers)
                row = f"  #{numbers[id_]:<{digits}}  {names[id_]:{wide}}  {node.state or '-':{states}}  {escaped(id_)}"
                lines.append(f"{row}  after {parents}" if parents else row)
        return "\n".join(lines if self.complete else [*lines, f"(cut after {len(self):,} tasks: there are more)"])

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart, as Markdown pages show it."""
        numbers = {id_: f"n{number}" for number, id_ in enumerate(self.nodes, 1)}
        lines = ["flowchart TD"]
        for id_, node in self.nodes.items():
            state = f"<br/>{node.state}" if node.state else ""
            lines.append(f'    {numbers[id_]}["{_label(node.func)}<br/>{_label(id_)}{state}"]{_style(node)}')
        for id_, node in self.nodes.items():
            lines += [f"    {numbers[parent]} --> {numbers[id_]}" for parent in node.depends_on if parent in numbers]
        return "\n".join([*lines, *(f"    classDef {state} fill:{color}" for state, color in COLORS.items())])


COLORS: Final = {"success": "#cfc", "running": "#ffc", "error": "#fcc", "cancelled": "#ddd", "expired": "#ddd"}


def _style(node: TaskNode) -> str:
    return f":::{node.state}" if node.state in COLORS else ""


def _label(text: str) -> str:
    """Text as part of a Mermaid label, in which all that may mean something is written as its number."""
    return "".join(char if char.isalnum() or char in " _.,:-" else f"#{ord(char)};" for char in text)


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as text, runs of them shortened: #1 to #3, #7."""
    runs = groupby(enumerate(sorted(numbers)), lambda placed: placed[1] - placed[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(placed) for _, placed in runs)]
    return ", ".join(f"#{first}" if first == last else f"#{first} to #{last}" for first, last in ends)


def _node(task_id: str, record: TaskRecord | None) -> TaskNode:
    if record is None:
        return TaskNode(id=task_id, func=GONE)
    return TaskNode(id=task_id, func=record.name, state=record.state, depends_on=record.depends_on)


async def records_of(store: BaseTaskQueue, ids: Sequence[str]) -> dict[str, TaskRecord | None]:
    """The tasks as the store holds them, without their bodies. Raises `StoreError`."""
    found = await repeated(lambda _: look_up(store, partial(store.get, bodies=False), ids))
    return dict(zip(ids, found, strict=True))


async def _children(store: BaseTaskQueue, ids: Sequence[str], again: bool) -> list[list[str]]:
    return await look_up(store, store.children, ids)


def _listed_nodes(nodes: object) -> list[TaskNode]:
    listed: list[object] = list(nodes) if isinstance(nodes, Iterable) else [nodes]
    if bad := [type(each).__name__ for each in listed if not isinstance(each, TaskNode)]:
        raise InvalidTask(f"nodes: expected TaskNode, got {bad[0]}")
    return cast("list[TaskNode]", listed)


# ── of records ──────────────────────────────────────────────────────────────


def components(family: Mapping[str, TaskRecord]) -> list[list[str]]:
    """The ids of the tasks that are connected with each other."""
    near: dict[str, set[str]] = {id_: set() for id_ in family}
    for id_, record in family.items():
        for parent in family.keys() & set(record.depends_on):
            near[id_].add(parent)
            near[parent].add(id_)
    found: list[list[str]] = []
    while near:
        reached, front = [], [next(iter(near))]
        while front:
            if (neighbours := near.pop(id_ := front.pop(), None)) is not None:
                reached.append(id_)
                front += neighbours
        found.append(reached)
    return found


def parents_first(family: Mapping[str, TaskRecord], ids: Sequence[str]) -> list[TaskRecord]:
    """Those of these ids, each behind the tasks that it depends on."""
    chosen = set(ids)
    parents = {id_: chosen & set(family[id_].depends_on) for id_ in ids}
    return [family[id_] for id_ in TopologicalSorter(parents).static_order()]
