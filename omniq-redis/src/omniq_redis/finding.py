"""Looking tasks up by anything but their ids, page by page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
from omniq.models.state import TaskState
from omniq.storage.damage import shown
from omniq.storage.records import QueueStats, TaskFilter, TaskPage, TaskRecord

from omniq_redis.connection import Connection
from omniq_redis.rows import TaskRow, task_record, to_server, to_text
from omniq_redis.wire import PARCEL, Kind, states_mask

FAMILIES = 50
"""Parents whose children one call reads."""

_decode_rows = msgspec.msgpack.Decoder(tuple[int, list[TaskRow | None]]).decode
_decode_pages = msgspec.msgpack.Decoder(tuple[list[list[bytes]], bool]).decode
_decode_families = msgspec.msgpack.Decoder(list[list[bytes]]).decode
_STATES = frozenset(TaskState)
_decode_stats = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode


async def fetch_tasks(
    connection: Connection, ids: Sequence[str], where: Kind | None = None, *, bodies: bool
) -> list[TaskRecord | None]:
    """The tasks, None for those that aren't there; with a filter, those that match."""
    found: list[TaskRecord | None] = []
    start = 0
    while start < len(ids):
        parcel = [to_server(id_) for id_ in ids[start : start + PARCEL]]
        done, rows = _decode_rows(await connection.call("get", [parcel, where, bodies]))
        found += [None if row is None else task_record(row) for row in rows]
        start += done
    return found


async def find_tasks(
    connection: Connection, where: TaskFilter, limit: int, cursor: str | None, *, bodies: bool
) -> TaskPage:
    """A page in the order of the ids; the cursor is the last id."""
    tasks: list[TaskRecord] = []
    count = min(limit + 1, PARCEL)
    while len(tasks) <= limit:
        ids = await _next_ids(connection, where, cursor, count)
        found = await fetch_tasks(connection, ids, _filter(where), bodies=bodies) if ids else []
        tasks += [task for task in found if task is not None]
        if len(ids) < count:
            break
        cursor = ids[-1]
    return TaskPage(tasks[:limit], tasks[limit - 1].id if len(tasks) > limit > 0 else None)


async def _next_ids(connection: Connection, where: TaskFilter, cursor: str | None, count: int) -> list[str]:
    """The next ids after the cursor, in order, of tasks that may match."""
    more = True
    after = None if cursor is None else cursor.encode("utf-8", "surrogateescape")
    args = (_filter(where), None if cursor is None else to_server(cursor), count)
    pages: list[list[bytes]] = []
    while more:
        pages, more = _decode_pages(await connection.call("find", args))
    found = sorted({id_ for page in pages for id_ in page if after is None or id_ > after})
    return [to_text(id_) for id_ in found[:count]]


def _filter(where: TaskFilter) -> Kind:
    return (states_mask(where.states or tuple(TaskState)), where.queue_name, where.schedule_id, where.expired)


async def count_tasks(connection: Connection) -> list[QueueStats]:
    """Every queue that holds tasks or is paused, by name."""
    flat, paused_names = _decode_stats(await connection.call("stats", None))
    paused = {shown(name) for name in paused_names}
    counts: defaultdict[str, dict[TaskState, int]] = defaultdict(dict, {name: {} for name in paused})
    for key, count in zip(flat[::2], flat[1::2], strict=True):
        name, _, state = shown(key).partition(" ")
        if state in _STATES and count.isdigit():  # else it is nobody's
            counts[name][TaskState(state)] = int(count)
    return [QueueStats(name=name, paused=name in paused, counts=counts[name]) for name in sorted(counts)]


async def fetch_children(connection: Connection, ids: Sequence[str]) -> list[list[str]]:
    """The children of each task, by id."""
    families: list[list[str]] = []
    for start in range(0, len(ids), FAMILIES):
        parents = ids[start : start + FAMILIES]
        pages = _decode_families(await connection.call("children", [parents, None, PARCEL]))
        whole = [await _rest(connection, parent, page) for parent, page in zip(parents, pages, strict=True)]
        families += [[shown(child) for child in family] for family in whole]
    return families


async def _rest(connection: Connection, parent: str, children: list[bytes]) -> list[bytes]:
    """All children of a parent of which a first page has been read."""
    page = children
    while len(page) == PARCEL:
        (page,) = _decode_families(await connection.call("children", [[parent], to_server(to_text(page[-1])), PARCEL]))
        children = children + page
    return children
