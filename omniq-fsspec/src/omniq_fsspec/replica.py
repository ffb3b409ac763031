"""What an event loop has open of a place in files: a replica of its tables, which follows the place's log."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from omniq import clock
from omniq.batching import Batcher
from omniq.errors import StoreError, StoreUnavailable
from omniq.loops import Background, forget, spawn
from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.connected import check_layout
from omniq.storage.table_store import Step, Tables
from omniq.storage.wakeups import ANYTHING
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

from omniq_fsspec import log
from omniq_fsspec.bodies import QUEUES, RESULTS, Bodies
from omniq_fsspec.config import Place
from omniq_fsspec.filesystems import Part, files_of
from omniq_fsspec.memory import PlaceConnection

T = TypeVar("T")

_logger = get_logger("omniq.storage")

PIECE: Final = 500
"""Rows of a snapshot that are encoded at a time."""
PER_SEGMENT, PER_ROW, LIGHT = 4096, 300, 1 << 20
"""A snapshot is made once the segments since the last one weigh as much as it would: so many bytes for each segment
besides its own; for each row of the snapshot, and for all of it at least."""
WINDOW: Final = 64
"""Segments that are read at once, at most."""
ORPHANED: Final = 3600.0
"""Seconds after which a file with bodies that no row refers to is deleted: whoever wrote it is gone, or will notice."""


class Replica(PlaceConnection):
    """The tables as they are after some segment of the log, which follow it and add to it.

    All calls that come while a segment is on its way share the next one. If somebody else was first to make that
    segment, their steps are undone, follow what the others have written, and are tried again.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(files_of(place))
        self._batcher = Batcher(self._carry_out, limit=1000)
        self._position = -1
        """The last segment that the tables have; -1 before anything was read."""
        self._base = 0
        """The snapshot on which the tables rest: as long as it is there, so are all later segments."""
        self._weight = 0
        """What the segments since the last snapshot weigh."""
        self._is_damaged = False
        self._changed_at = _uptime()
        self._based_at = self._followed_at = self._tidied_at = -math.inf
        """When the base was last seen, the log last followed, something last changed, and needless files were last
        deleted, by `_uptime`."""
        self._swept_at = -math.inf
        self._watching: Background[None] | None = None
        self._behind: set[Background[None]] = set()
        """What goes on behind the calls."""

    # ── calls ────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        await self.carry_out(_nothing)

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        answer: T = await self._batcher.submit((step, may_lag))
        return answer

    async def _carry_out(self, calls: Sequence[tuple[Step[Any], bool]]) -> list[Any]:
        if self._position < 0:
            await self._load()
        may_lag = self._is_recent and all(may_lag for _, may_lag in calls)
        while True:
            answers = self._try([step for step, _ in calls])
            if not self.tables.written:
                if may_lag or not await self._follow():
                    return answers
            elif await self._append():
                return answers

    def _try(self, steps: Sequence[Step[Any]]) -> list[Any]:
        now = self.now()
        try:
            return [step(self.tables, now) for step in steps]
        except BaseException:
            self.tables.undo()
            raise

    @property
    def _is_recent(self) -> bool:
        """Whether the tables are as they were a moment ago, and nobody in this process has seen later ones."""
        seen = _heads.get(self.files.place.location, -1)
        return seen <= self._position and _uptime() - self._followed_at <= 1.5 * self._pause

    # ── the log ──────────────────────────────────────────────────────────────

    async def _append(self) -> bool:
        """Make what was written the next segment, unless another one is; returns whether it is."""
        number, lines = self._position + 1, log.lines_of(self.tables.written)
        threshold = max(LIGHT, PER_ROW * (len(self.tables.tasks.rows) + len(self.tables.results.rows)))
        header = log.Header(
            omniq=log.LAYOUT,
            number=number,
            lines=len(lines),
            writer=f"{_WRITER}-{secrets.token_hex(8)}",
            time=time.time(),
            compacts=self._weight > threshold,
        )
        data = log.encode(header, lines)
        try:
            made = await self.files.create(log.segment_name(number), data) or await self._is_by(number, header.writer)
            if made:
                await self._check_base(number)
        except BaseException:
            self.tables.undo()
            raise
        if not made:
            self.tables.undo()
            await self._follow()
            return False
        unused = self._advance(header, len(data))
        if unused:
            self._leave_behind(self.files.delete(unused))
        if header.compacts:
            rows = [(name, list(table.rows.values())) for name, table in self.tables.by_name.items()]
            self._leave_behind(self._compact(number, rows))
        return True

    async def _is_by(self, number: int, writer: str) -> bool:
        """Whether that segment was made by this writer, of whose call the answer was lost on the way."""
        (data,) = await self.files.read([Part(log.segment_name(number))])
        header = None if data is None else log.decode_header(data)
        return header is not None and header.writer == writer

    async def _follow(self) -> int:
        """Take over what others have written; returns how many segments."""
        began, window = self._position, 1
        while await self._take_over(window) == window:
            window = min(2 * window, WINDOW)
        if self._position == began or self._base_is_doubtful:
            await self._check_base()
        self._followed_at = _uptime()
        if self._is_damaged:
            self._is_damaged = False
            self._leave_behind(self._salvage())
        return self._position - began

    async def _take_over(self, count: int) -> int:
        """Take over so many segments; returns how many of them there were."""
        numbers = range(self._position + 1, self._position + 1 + count)
        found = await self.files.read([Part(log.segment_name(number)) for number in numbers])
        for number, data in zip(numbers, found, strict=True):
            if data is None:
                return number - numbers.start
            contents = log.decode(data)
            self._is_sound(log.segment_name(number), contents)
            log.apply(self.tables, contents.lines)
            self._advance(contents.header, len(data))
        return count

    def _advance(self, header: log.Header | None, size: int) -> list[str]:
        """The tables have the next segment; returns the files with bodies that aren't needed any more."""
        written = self.tables.settle()
        self._position += 1
        self._weight = 0 if header is not None and header.compacts else self._weight + size + PER_SEGMENT
        self._changed_at = self._followed_at = _uptime()
        _heads[self.files.place.location] = max(self._position, _heads.get(self.files.place.location, -1))
        self.wakeups.tell(written.news(self.now()))
        return self.bodies.count(written)

    # ── snapshots ────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """Begin with the newest snapshot that can be read, and follow from there."""
        await self.files.open()
        known, snapshots = log.numbers_in(await self.files.list(log.LOG))
        if not known and not snapshots:
            await self._begin(0)
            snapshots = [0]
        self.tables, self.bodies, self._weight = Tables(), Bodies(self.files), 0
        number, contents = await self._newest(snapshots)
        if contents is None:  # all snapshots are gone: what the segments tell isn't
            number = known[0] - 1
            await self._begin(number)
            self._is_damaged = True
        else:
            log.apply(self.tables, contents.lines)
            self.bodies.count(self.tables.settle())
        self._position = self._base = number
        self._based_at = -math.inf
        await self._follow()
        self.wakeups.tell(ANYTHING)

    async def _newest(self, snapshots: Sequence[int]) -> tuple[int, log.Contents | None]:
        """The newest snapshot that is sound, else what can be read of the newest one."""
        best: tuple[int, log.Contents | None] = (0, None)
        for number in reversed(snapshots):
            (data,) = await self.files.read([Part(log.snapshot_name(number))])
            if data is not None:
                contents = log.decode(data)
                if self._is_sound(log.snapshot_name(number), contents):
                    return number, contents
                best = best if best[1] is not None else (number, contents)
        return best

    async def _begin(self, number: int) -> None:
        """Make an empty snapshot, unless somebody else does."""
        header = log.Header(omniq=log.LAYOUT, number=number, lines=0, writer=_WRITER, time=time.time())
        await self.files.create(log.snapshot_name(number), log.encode(header, []))

    async def _compact(self, number: int, tables: Sequence[tuple[str, list[Any]]]) -> None:
        """Write a snapshot, and delete what others made needless."""
        lines = sum(len(rows) for _, rows in tables)
        header = log.Header(omniq=log.LAYOUT, number=number, lines=lines, writer=_WRITER, time=time.time())
        data = bytearray(log.encode(header, []))
        for name, rows in tables:
            for start in range(0, len(rows), PIECE):
                data += log.encode_rows(name, rows[start : start + PIECE])
                await asyncio.sleep(0)  # others have their turn
        await self.files.write(log.snapshot_name(number), bytes(data))
        await self.tidy()

    @property
    def _base_is_doubtful(self) -> bool:
        return _uptime() - self._based_at > self.files.trust

    async def _check_base(self, made: int | None = None) -> None:
        """See that no segment was deleted that the tables don't have, as after this process was stopped for long.

        Snapshots are deleted before the segments that they stand for. So while the base is there, a segment that isn't
        was never made; and one that could be `made` is the next one. Else it may be that nobody else reads it: then
        `StoreUnavailable` is raised, and the next call begins anew.
        """
        if not self._base_is_doubtful:
            return
        looked_at = _uptime()
        if await self.files.written_at(log.snapshot_name(self._base)) is None:
            _, snapshots = log.numbers_in(await self.files.list(log.LOG))
            if not snapshots or snapshots[-1] > self._position:
                self._position = -1
                if made is None and snapshots:
                    await self._load()
                    return
                raise StoreUnavailable(f"{self.files.place.location}: others have gone on meanwhile: try again")
            self._base = snapshots[-1]
        self._based_at = looked_at

    # ── damage ───────────────────────────────────────────────────────────────

    def _is_sound(self, name: str, contents: log.Contents) -> bool:
        """Whether all of a file of the log could be read; if not, tells so, and has what was lost looked for.

        Raises `StoreError` if another version of the distribution wrote it.
        """
        header = contents.header
        if header is not None:
            check_layout(self.files.place.location, header.omniq, log.LAYOUT, "omniq-fsspec")
            if not contents.unreadable:
                return True
        what = "its head" if header is None else f"{contents.unreadable} of {header.lines} lines"
        _logger.error("%s: %s can't be read of %s", self.files.place.location, what, name)
        self._is_damaged = True
        return False

    async def _salvage(self) -> None:
        """Let the tasks whose bodies are there, and whose rows are lost, be found in the dead-letter queue."""
        unused = [name for name in await self.files.list(QUEUES) if not self.bodies.is_used(name)]
        lost = await self.bodies.tasks_in(unused)

        def enter(tables: Tables, now: float) -> int:
            new = [task for task in lost if task.id not in tables.tasks.rows]
            for task in new:
                row = rules.new_record(task, now)
                tables.tasks.put(replace(row, state=TaskState.ERROR, finished_at=now, unique=None))
            return len(new)

        if lost and (count := await self.carry_out(enter)):
            _logger.error("%s: %d tasks were lost, and are dead letters now", self.files.place.location, count)

    # ── tidying up ───────────────────────────────────────────────────────────

    async def tidy(self) -> None:
        if _uptime() - self._tidied_at < self.files.grace:
            return
        self._tidied_at = _uptime()
        written = await self.files.list(log.LOG)
        now = max([self.now() - clock.offset(), *written.values()])
        old = [name for name, at in written.items() if at <= now - self.files.grace]
        _, snapshots = log.numbers_in(old)
        if len(snapshots) > 0:
            await self._trim(written, snapshots[-1])
        if _uptime() - self._swept_at > ORPHANED:
            self._swept_at = _uptime()
            await self._sweep(now)

    async def _trim(self, names: Mapping[str, float], number: int) -> None:
        """Delete what a snapshot has made needless: older snapshots first, by whose absence others notice."""
        known, snapshots = log.numbers_in(names)
        await self.files.delete([log.snapshot_name(old) for old in snapshots if old < number])
        await self.files.delete([log.segment_name(old) for old in known if old <= number])

    async def _sweep(self, now: float) -> None:
        """Delete bodies that were written for a row which never came."""
        written = {**await self.files.list(QUEUES), **await self.files.list(RESULTS)}
        await self.files.delete(
            [name for name, at in written.items() if at < now - ORPHANED and not self.bodies.is_used(name)]
        )

    # ── others ───────────────────────────────────────────────────────────────

    def watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = spawn(self._watch(), name="omniq-watch")

    async def _watch(self) -> None:
        while self.wakeups.awaited_queues or self.wakeups.awaits_results:
            await asyncio.sleep(self._pause)
            try:
                await self.carry_out(_nothing)
            except StoreError as error:  # who reads or writes next gets it
                _logger.debug("what others write can't be seen: %s", error)
                await asyncio.sleep(1.0)

    @property
    def _pause(self) -> float:
        """Seconds between two looks at the log."""
        quiet = _uptime() - self._changed_at
        return next(pause for limit, pause in self.files.pauses if quiet < limit)

    async def guarantees(self) -> Guarantees:
        return self.files.guarantees()

    def now(self) -> float:
        return clock.now() + self.files.ahead

    # ── the end ──────────────────────────────────────────────────────────────

    def _leave_behind(self, work: Any) -> None:
        task = spawn(_quietly(work), name="omniq-files")
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def close(self) -> None:
        if self._watching is not None:
            await cancel_and_wait(self._watching)
        await self._batcher.drain()
        while self._behind:
            await asyncio.wait(set(self._behind))
        await self.files.close()

    async def drop(self) -> None:
        await self._batcher.drain()
        await self.files.open()
        await self.files.drop()
        self._position = -1

    def abandon(self) -> None:
        forget(self._watching)
        for task in self._behind:
            forget(task)
        self.files.abandon()


_WRITER: Final = f"{socket.gethostname()}-{os.getpid()}"
_heads: dict[str, int] = {}
"""By location, the last segment that anybody in this process has seen."""


def _uptime() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _nothing(tables: Tables, now: float) -> None:
    """A step that only needs the tables to be as they are now."""


async def _quietly(work: Any) -> None:
    try:
        await work
    except StoreError as error:
        _logger.debug("left for later: %s", error)
