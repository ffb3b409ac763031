"""A task as a document, and the index entries that lead to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from omniq.models.task import QUEUED, TERMINAL, TaskState
from omniq.storage.documents.base import Document, Documents, Entry, Version, Write, in_order, out_of_order
from omniq.storage.records import TaskRecord, WorkerRecord
from omniq.storage.rules import task_of

INLINE = 4096
"""Bytes up to which a body is kept in the task's document; a longer one has its own, so that it is written once."""

LEASES, EXPIRING, WORKERS = "leases", "expiring", "workers"


A = TypeVar("A")


class TaskDocument(Struct, frozen=True, kw_only=True, gc=False):
    """What is stored of a task."""

    record: TaskRecord
    """Without its body where that has a document of its own."""
    body_key: str | None = None
    size: int = 0
    """Bytes of the body."""
    has_children: bool = False
    version: Version | None = None
    """Under which it was read. Not stored; None: it isn't there yet."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskDocument).decode


def task_key(task_id: str) -> str:
    return f"task/{task_id}"


def _load(task_id: str, document: Document | None) -> TaskDocument | None:
    """The stored task; a damaged one has its `damage`, and stand-ins for what can't be read."""
    if document is None:
        return None
    try:
        task = _decode(document.value)
        if task.record.id != task_id:
            raise ValueError(f"it is the document of task {task.record.id}")
    except ValueError:
        task = _damaged(task_id, document.value)
    return replace(task, version=document.version)


def _damaged(task_id: str, value: bytes) -> TaskDocument:
    try:
        stored: Any = msgspec.msgpack.decode(value)
        values = dict(stored["record"])
    except (ValueError, TypeError, KeyError):
        values = {"queue_name": "", "state": None, "priority": 0, "created_at": 0.0, "run_at": 0.0}
    return TaskDocument(record=task_of({**values, "id": task_id}))


def with_body(task: TaskDocument, body: bytes) -> tuple[TaskDocument, list[Write]]:
    """The document of a task with that body, and the write that the body takes if it has a document of its own."""
    size, record = len(body), task.record
    if size <= INLINE:
        return replace(task, record=replace(record, body=body), body_key=None, size=size), []
    # Two callers that add one id at the same time each keep the body that they were given.
    key = body_key(record.id, body)
    write = Write(key=key, value=body, always=True)
    return replace(task, record=replace(record, body=b""), body_key=key, size=size), [write]


def body_key(task_id: str, body: bytes) -> str:
    return f"body/{task_id}/{hashlib.blake2b(body, digest_size=16).hexdigest()}"


def first_version(record: TaskRecord) -> tuple[TaskDocument, list[Write]]:
    """As `with_body`, for a new task."""
    return with_body(TaskDocument(record=record), record.body)


def write(before: TaskDocument | None, after: TaskDocument, found_by: Entry | None = None) -> Write:
    """The write that takes a task from one version to the next.

    The entry that it was found by goes too, unless it leads to the new version: that of a damaged task can't be told
    from its document. Nor is damage kept: what stands in for it has been written by then.
    """
    old, new = set(_entries(before)), set(_entries(after))
    if found_by is not None:
        old.add(found_by)
    return Write(
        key=task_key(after.record.id),
        value=_encode(replace(after, version=None, record=replace(after.record, damage=None))),
        if_version=None if before is None else before.version,
        put=tuple(new - old),
        drop=tuple(old - new),
    )


def writes(before: TaskDocument | None, after: TaskDocument, found_by: Entry | None = None) -> list[Write]:
    """As `write`, with that of the document of the unique key which the task gets, or gives up."""
    old = None if before is None else before.record.unique
    new = after.record.unique
    task = write(before, after, found_by)
    if old == new:
        return [task]
    if new is not None:
        return [task, Write(key=unique_key(new), value=after.record.id.encode())]
    return [task] if old is None else [task, Write(key=unique_key(old), value=None, always=True)]


def unique_key(unique: str) -> str:
    return f"unique/{unique}"


def without_entry(entry: Entry, found: TaskDocument | None) -> list[Write]:
    """The write by which an entry goes that is out of date: nothing, if it isn't."""
    if found is None:
        return [Write(key=task_key(entry.key), value=None, drop=(entry,))]
    return [] if entry in _entries(found) else [write(found, found, entry)]


def deletion(document: TaskDocument, child_ids: Sequence[str] = ()) -> list[Write]:
    """The writes by which a task goes, with its body, its unique key, and its edges to parents and children."""
    id_, unique = document.record.id, document.record.unique
    edges = [Entry(children(id_), b"", child) for child in child_ids]
    drop = (*_entries(document), *edges)
    task = Write(key=task_key(id_), value=None, if_version=document.version, drop=drop)
    beside = (document.body_key, None if unique is None else unique_key(unique))
    return [task, *(Write(key=key, value=None, always=True) for key in beside if key is not None)]


Step: TypeAlias = Callable[[int, TaskDocument | None, Document | None], tuple[A, list[Write]]]
"""Decides about the n-th task as it is now: the answer, and the writes that make it true."""


class TaskDocuments:
    """Reads tasks, and writes what was decided about them if nobody else wrote meanwhile."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def change(
        self, ids: Sequence[str], step: Step[A], *, beside: Sequence[str | None] = (), once: bool = False
    ) -> list[A]:
        """Decide about each task and write what was decided; again for those that somebody else wrote meanwhile.

        A step also gets the document that `beside` names for it. With `once`, a lost race isn't run again: its answer
        is that of a task which isn't there. Several steps of one task are taken one after the other.
        """
        answers: dict[int, A] = {}
        left = list(range(len(ids)))
        while left:
            turn = list({ids[n]: n for n in reversed(left)}.values())
            turn.sort()
            found = await self.read([ids[n] for n in turn])
            others = await self._read_beside([beside[n] if beside else None for n in turn])
            decided = [step(n, task, other) for n, task, other in zip(turn, found, others, strict=True)]
            written = await self._write([writes for _, writes in decided])
            for n, (answer, _), was_written in zip(turn, decided, written, strict=True):
                if was_written:
                    answers[n] = answer
                elif once:
                    answers[n] = step(n, None, None)[0]
            left = [n for n in left if n not in answers]
        return [answers[n] for n in range(len(ids))]

    async def _read_beside(self, keys: Sequence[str | None]) -> list[Document | None]:
        wanted = [key for key in keys if key is not None]
        found = iter(await self._documents.read(wanted) if wanted else [])
        return [None if key is None else next(found) for key in keys]

    async def _write(self, groups: Sequence[list[Write]]) -> list[bool]:
        """As `Documents.write`; a group of nothing is written."""
        filled = [group for group in groups if group]
        answers = iter(await self._documents.write(filled) if filled else [])
        return [next(answers) if group else True for group in groups]

    async def read(self, ids: Sequence[str]) -> list[TaskDocument | None]:
        """The tasks, or None for those that aren't there."""
        found = await self._documents.read([task_key(id_) for id_ in ids]) if ids else []
        return [_load(id_, document) for id_, document in zip(ids, found, strict=True)]

    async def records(self, found: Sequence[TaskDocument], *, bodies: bool) -> list[TaskRecord]:
        """Their records, with their bodies if those are asked for."""
        if not bodies:
            return [replace(task.record, body=b"") for task in found]
        apart = await self._read_beside([task.body_key for task in found])
        return [_with_stored_body(task, body) for task, body in zip(found, apart, strict=True)]


# ── workers ──────────────────────────────────────────────────────────────────


_decode_worker = msgspec.msgpack.Decoder(WorkerRecord).decode


def worker_key(name: str) -> str:
    return f"worker/{name}"


def load_worker(document: Document) -> WorkerRecord:
    return _decode_worker(document.value)


def worker_write(worker: WorkerRecord, *, leaving: bool) -> Write:
    """The write by which a worker is seen, or leaves."""
    entry = (Entry(WORKERS, b"", worker.name),)
    if leaving:
        return Write(key=worker_key(worker.name), value=None, always=True, drop=entry)
    return Write(key=worker_key(worker.name), value=_encode(worker), always=True, put=entry)


def asked_key(name: str) -> str:
    return f"asked/{name}"


def asked_write(name: str, value: bytes | None) -> Write:
    """The write by which a worker is asked what it runs (a value), or was (None)."""
    return Write(key=asked_key(name), value=value, always=True)


def _with_stored_body(task: TaskDocument, body: Document | None) -> TaskRecord:
    if task.body_key is None:
        return task.record
    if body is None:
        return replace(task.record, damage=task.record.damage or "its body is missing")
    return replace(task.record, body=body.value)


# ── indexes ──────────────────────────────────────────────────────────────────


def due(queue_name: str) -> str:
    """The index of a queue's PENDING tasks: by priority, then `run_at`."""
    return f"due/{queue_name}"


def later(queue_name: str) -> str:
    """The index of a queue's SCHEDULED tasks: by priority, then `run_at`."""
    return f"later/{queue_name}"


def ended(state: TaskState) -> str:
    """The index of the tasks that have ended in that state: by when they did."""
    return f"ended/{state}"


def listed(queue_name: str, state: TaskState) -> str:
    """The index of a queue's tasks in one state: by id."""
    return f"listed/{queue_name}/{state}"


def named(name: str, state: TaskState) -> str:
    """The index of the tasks of one function in one state: by id."""
    return f"named/{short(name)}/{state}"


def children(task_id: str) -> str:
    """The index of the tasks that depend on this one: by id."""
    return f"children/{short(task_id)}"


def of_schedule(schedule_id: str) -> str:
    """The index of a schedule's tasks: by id."""
    return f"scheduled/{short(schedule_id)}"


def short(id_: str) -> str:
    """An id as part of an index's name, which is short."""
    return id_ if len(id_.encode()) <= 64 else hashlib.blake2b(id_.encode(), digest_size=32).hexdigest()


def _entries(document: TaskDocument | None) -> Iterator[Entry]:
    if document is None:
        return
    record = document.record
    yield Entry(listed(record.queue_name, record.state), b"", record.id)
    if record.name:
        yield Entry(named(record.name, record.state), b"", record.id)
    yield from (Entry(children(parent), b"", record.id) for parent in record.depends_on)
    if record.schedule_id is not None:
        yield Entry(of_schedule(record.schedule_id), b"", record.id)
    if record.state in QUEUED and record.expires_at is not None:
        yield Entry(EXPIRING, in_order(record.expires_at), record.id)
    if (place := _place(record)) is not None:
        yield place


def _place(record: TaskRecord) -> Entry | None:
    """The entry by which the next step of a task is found. The epoch makes each claim's entries its own."""
    match record.state:
        case TaskState.PENDING | TaskState.SCHEDULED:
            index = due if record.state is TaskState.PENDING else later
            order = in_order(-record.priority, record.run_at, record.epoch)
            return Entry(index(record.queue_name), order, record.id)
        case TaskState.RUNNING:
            return lease_entry(record.id, record.lease_until or 0.0)
        case state if state in TERMINAL:
            return Entry(ended(state), in_order(record.finished_at or 0.0, record.epoch), record.id)
    return None


def lease_entry(task_id: str, lease_until: float) -> Entry:
    return Entry(LEASES, in_order(lease_until), task_id)


def run_at(entry: Entry) -> float:
    """When the task that an entry of `due` or `later` leads to becomes due."""
    return out_of_order(entry.order)[1]


def due_by(entry: Entry, now: float) -> bytes:
    """The `order` up to which the tasks of that one's priority have come due."""
    return entry.order[:8] + in_order(now)


def end_of_priority(entry: Entry) -> bytes:
    """The `order` after all tasks of that one's priority."""
    return entry.order[:8] + b"\xff" * 16
