"""Looking tasks up: by their ids, by what they are, page by page, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from omniq.models.state import TaskState
from omniq.storage import rules
from omniq.storage.damage import shown
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import QueueStats, TaskFilter, TaskPage, TaskRecord

from omniq_redis.connection import RedisStore
from omniq_redis.wire import PARCEL, Kind, TaskRow, states_mask, task_record, to_server, to_text

_STATES = frozenset(TaskState)
_decode_found = msgspec.msgpack.Decoder(tuple[int, list[TaskRow | None]]).decode
_decode_pages = msgspec.msgpack.Decoder(tuple[list[bytes], list[list[bytes]], int, bool]).decode
_decode_families = msgspec.msgpack.Decoder(tuple[list[list[bytes]], bool]).decode
_decode_stats = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes], list[bytes]]).decode


class Finding(RedisStore, BaseTaskQueue):
    """That part of the contract."""

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        return await self._get(ids, None, bodies)

    async def _get(self, ids: Sequence[str], where: Kind | None, bodies: bool) -> list[TaskRecord | None]:
        """The tasks, None for those that aren't there; with a filter, those that match."""
        found: list[TaskRecord | None] = []
        asked = list(map(to_server, ids))
        while asked:
            done, rows = _decode_found(await self._connection.call("get", (asked, where, bodies)))
            found += [None if row is None else task_record(row) for row in rows]
            del asked[:done]
        return found

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        wanted = (states_mask(where.states or tuple(TaskState)), *_other_conditions(where))
        tasks: list[TaskRecord] = []
        after, more = cursor, True
        while more and len(tasks) <= limit:
            ids, more = await self._next_ids(wanted, after, newest_first, min(limit + 1, PARCEL))
            tasks += [task for task in await self._get(ids, wanted, bodies) if task is not None]
            after = ids[-1] if ids else after
        return TaskPage(tasks[:limit], tasks[limit - 1].id if len(tasks) > limit else None)

    async def _next_ids(self, where: Kind, cursor: str | None, backwards: bool, count: int) -> tuple[list[str], bool]:
        """The next ids after the cursor, in order, of tasks that may match; and whether there may be more."""
        args = (where, None if cursor is None else to_server(cursor), count, backwards)
        unseen = True
        while unseen:
            some, pages, size, unseen = _decode_pages(await self._connection.call("find", args))
        found = {id_ for page in (some, *pages) for id_ in page}
        ends = [page[0 if backwards else -1] for page in pages if len(page) == size]
        if ends:  # what comes beyond the nearest of them isn't known yet
            found = {id_ for id_ in found if (id_ >= max(ends) if backwards else id_ <= min(ends))}
        if cursor is not None:
            after = cursor.encode("utf-8", "surrogateescape")
            found = {id_ for id_ in found if (id_ < after if backwards else id_ > after)}
        ids = sorted(found, reverse=backwards)
        return list(map(to_text, ids[:count])), bool(ends) or len(ids) > count

    async def stats(self) -> list[QueueStats]:
        counts, paused, due = _decode_stats(await self._connection.call("stats", None))
        numbers: list[tuple[str, TaskState, int]] = []
        for key, count in zip(counts[::2], counts[1::2], strict=True):
            name, _, state = shown(key).partition(" ")
            if state in _STATES and count.isdigit():  # else it is nobody's
                numbers.append((name, TaskState(state), int(count)))
        oldest = {shown(name): float(at) for name, at in zip(due[::2], due[1::2], strict=True)}
        return rules.queue_stats(numbers, map(shown, paused), oldest)

    async def children(self, ids: Sequence[str]) -> list[list[str]]:
        families: list[list[str]] = [[] for _ in ids]
        start, after, more = 0, None, False
        while start < len(ids):
            pages, more = _decode_families(await self._connection.call("children", (ids[start:], after)))
            for family, page in zip(families[start:], pages, strict=False):
                family += map(shown, page)
            start += len(pages) - more
            after = to_server(to_text(pages[-1][-1])) if more else None
        return families


def _other_conditions(where: TaskFilter) -> Kind:
    return (where.queue_name, where.name, where.schedule_id, where.expired)
