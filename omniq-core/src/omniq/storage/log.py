"""Stores on a log: every process has the tables, and a change is the next segment of a log that all of them follow.

A segment is a small file, made by whoever is first to create one of its number. It holds rows as they are from then on,
so that whoever reads all segments in order has the same tables: a replicated state machine (Schneider, 1990) on
create-only files. A snapshot is all rows as they were after one segment; what came before it may be deleted.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from omniq import clock
from omniq.batching import Batcher
from omniq.errors import StoreError, StoreUnavailable, ValueRefused
from omniq.loops import Background, spawn
from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.connected import check_layout
from omniq.storage.lines import Line, decode_rows, encode_lines, encode_rows
from omniq.storage.log_files import LAYOUT, LOG, Files, Header, Part, encode, numbers_in, segment_name, snapshot_name
from omniq.storage.records import Change
from omniq.storage.table_set import Step, Tables, Written, undoing
from omniq.storage.wakeups import ANYTHING, Wakeups
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

T = TypeVar("T")

_logger = get_logger("omniq.storage")

# ── the replica ─────────────────────────────────────────────────────────────


PIECE: Final = 500
"""Rows of a snapshot that are encoded at a time."""
PER_SEGMENT, PER_ROW, LIGHT = 4096, 300, 1 << 20
"""A snapshot is made once the segments since the last one weigh as much as it would: so many bytes for each segment
besides its own; for each row of the snapshot, and for all of it at least."""
PATIENCE: Final = 10
"""How often the newest snapshot is looked for, while others make and delete some."""
HEAD: Final = 4096
"""Bytes in which there is the header of a segment or a snapshot."""
WINDOW: Final = 64
"""Segments that are read at once, at most."""


class Replica:
    """The tables as they are after some segment of a log, which follow it and add to it. It belongs to one event loop.

    All calls that come while a segment is on its way share the next one. If somebody else was first to make that
    segment, their steps are undone, follow what the others have written, and are tried again.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.tables = Tables()
        self.wakeups = Wakeups.at(files.location)
        self._batcher = Batcher(self._carry_out, limit=1000)
        self._position = -1
        """The last segment that the tables have; -1 before anything was read."""
        self._log = ""
        """Which log it is: another one may be begun at the same place, once all files of this one are deleted."""
        self._base, self._base_written_at = 0, math.nan
        """The snapshot on which the tables rest: as long as it is there, so are all later segments."""
        self._sound = 0
        """The newest snapshot that was read or made here."""
        self._weight = 0
        """What the segments since the last snapshot weigh."""
        self._needs_vacuum = False
        """Whether there are files of the log that a snapshot has made needless."""
        self._is_damaged = False
        """Whether something couldn't be read, and what was lost isn't put in order yet."""
        self._changed_at = clock.uptime()
        self._followed_at = self._vacuumed_at = -math.inf
        """When something last changed, the log was last followed to its end, and needless files were last deleted, by
        `clock.uptime`."""
        self._closing = asyncio.Event()
        self._watching: Background[None] | None = None
        self._background: set[Background[None]] = set()
        """What goes on behind the calls."""

    def begin(self) -> Tables:
        """New tables, as the log is read from the start; for who keeps count of what is in them."""
        return Tables()

    def on_written(self, written: Written) -> list[str]:
        """Take note of what this or another process has written; returns the files that aren't needed any more."""
        return []

    async def has_rows(self) -> bool:
        """Whether something is there of which only a log can tell, so that there was one."""
        return False

    async def recovery(self) -> Step[Any]:
        """The step that puts what was lost in order again: something couldn't be read."""
        return end_by_results

    # ── calls ────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        """Read what is there. Raises `StoreError`."""
        if self._position < 0:
            await self.carry_out(_nothing)

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        answer: T = await self._batcher.submit((step, may_lag))
        return answer

    async def _carry_out(self, calls: Sequence[tuple[Step[Any], bool]]) -> list[Any]:
        if self._position < 0:
            await self._load()
        may_lag = self._is_recent and all(may_lag for _, may_lag in calls)
        while True:
            while self._is_damaged:
                await self._recover()
            answers = self._try([step for step, _ in calls])
            if not self.tables.written:
                if may_lag or not await self._follow():
                    return answers
            elif await self._append():
                return answers

    async def _recover(self) -> None:
        """Put what was lost in order before anybody decides by what is left."""
        step = await self.recovery()
        self._try([step])
        if not self.tables.written or await self._append():
            self._is_damaged = False

    def _try(self, steps: Sequence[Step[Any]]) -> list[Any]:
        now = self.now()
        with undoing(self.tables):
            return [step(self.tables, now) for step in steps]

    @property
    def _is_recent(self) -> bool:
        """Whether the tables are as they were a moment ago."""
        return clock.uptime() - self._followed_at <= 1.5 * self._pause

    # ── the log ──────────────────────────────────────────────────────────────

    async def _append(self) -> bool:
        """Make what was written the next segment, unless another one is; returns whether it is."""
        number, began = self._position + 1, clock.uptime()
        threshold = max(LIGHT, PER_ROW * (len(self.tables.tasks.rows) + len(self.tables.results.rows)))
        with undoing(self.tables):
            lines = self.tables.written.lines()
            header = Header.new(self._log, number, len(lines), compacts=self._weight > threshold)
            data = encode(header, self._encoded(lines))
            made = await self.files.create(segment_name(number), data) or await self._is_by(number, header.writer)
            if made:
                await self._check_base(number)
        if not made:
            self.tables.undo()
            if not await self._follow():
                raise StoreError(f"{self.files.location}: {segment_name(number)} is there and can't be read")
            return False
        self._followed_at = began
        unused = self._advance(header, len(data))
        if unused:
            self.run_in_background(self._delete_later(unused))
        if header.compacts:
            rows = [(name, list(table.rows.values())) for name, table in self.tables.by_name.items()]
            self.run_in_background(self._compact(number, rows))
        return True

    def _encoded(self, lines: Sequence[Mapping[str, Any]]) -> bytes:
        try:
            return encode_lines(lines)
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueRefused(f"{self.files.location}: {error}") from error

    async def _is_by(self, number: int, writer: str) -> bool:
        """Whether that segment was made by this writer, of whose call the answer was lost on the way."""
        (data,) = await self.files.read([Part(segment_name(number))])
        header = None if data is None else Header.read(data)
        return header is not None and header.writer == writer

    async def _follow(self) -> int:
        """Take over what others have written; returns how many segments."""
        start, window, began = self._position, 1, clock.uptime()
        while await self._apply_segments(window) == window:
            window, began = min(2 * window, WINDOW), clock.uptime()
        await self._check_base()
        self._followed_at = began
        return self._position - start

    async def _apply_segments(self, count: int) -> int:
        """Take over so many segments; returns how many of them there were."""
        numbers = range(self._position + 1, self._position + 1 + count)
        found = await self.files.read([Part(segment_name(number)) for number in numbers])
        for number, data in zip(numbers, found, strict=True):
            if data is None:
                return number - numbers.start
            header, lines, _ = self._read(segment_name(number), data)
            self.tables.apply(lines)
            self._advance(header, len(data))
        return count

    def _advance(self, header: Header | None, size: int) -> list[str]:
        """The tables have the next segment; returns the files with bodies that aren't needed any more."""
        written = self.tables.settle()
        self._position += 1
        self._weight = 0 if header is not None and header.compacts else self._weight + size + PER_SEGMENT
        self._needs_vacuum |= header is not None and header.compacts
        self._changed_at = clock.uptime()
        self.wakeups.tell(written.news(self.now()))
        return self.on_written(written)

    # ── snapshots ────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """Begin with the newest snapshot that can be read, and follow from there."""
        await self.files.open()
        number, lines = 0, None
        self.tables, self._weight, self._log = self.begin(), 0, ""
        for _ in range(PATIENCE):
            known, snapshots = await self._numbers()
            number, lines = await self._newest(snapshots)
            if lines is not None or not snapshots:
                break  # else all were replaced by a newer one meanwhile
        if lines is None:  # all snapshots are gone: what the segments tell isn't
            number = known[0] - 1
            (first,) = await self.files.read([Part(segment_name(known[0]))])
            self._read(segment_name(known[0]), first or b"")  # which tells what log it is
            await self._begin(number)
            self._is_damaged = True
        else:
            self.tables.apply(lines)
            self.on_written(self.tables.settle())
        self._position = self._base = self._sound = number
        self._base_written_at = await self.files.written_at(snapshot_name(number)) or math.nan
        self._needs_vacuum = bool(known and known[0] <= number)
        self._followed_at = -math.inf
        await self._follow()
        for later in known:
            while later > self._position + 1 and await self._is_of_this_log(segment_name(later)):
                await self._close_gap()
        if self.files.may_change:  # by its late writer, who can't know of the segment after it
            await self.files.create(
                segment_name(self._position + 1), encode(Header.new(self._log, self._position + 1, 0))
            )
            self.files.may_change = False
            await self._follow()
        self.wakeups.tell(ANYTHING)

    async def _numbers(self) -> tuple[list[int], list[int]]:
        """Those of the segments and of the snapshots that are there; where none is, a log is begun."""
        known, snapshots = numbers_in(await self.files.list(LOG))
        if not known and not snapshots:
            was_lost = await self.has_rows()  # they come after the beginning of their log
            known, snapshots = numbers_in(await self.files.list(LOG))
            if not known and not snapshots:
                await self._begin(0)
                snapshots, self._is_damaged = [0], was_lost
        return known, snapshots

    async def _close_gap(self) -> None:
        """Let an empty segment stand for one that is missing before others: rows tell all of themselves."""
        number = self._position + 1
        _logger.error("%s: %s is missing", self.files.location, segment_name(number))
        if not await self.files.create(segment_name(number), encode(Header.new(self._log, number, 0))):
            raise StoreError(f"{self.files.location}: {segment_name(number)} is there and can't be read")
        self._is_damaged = True
        await self._follow()

    async def _newest(self, snapshots: Sequence[int]) -> tuple[int, list[Line] | None]:
        """The newest snapshot that is sound, else what can be read of the newest one."""
        best: tuple[int, list[Line] | None] = (0, None)
        for number in reversed(snapshots):
            (data,) = await self.files.read([Part(snapshot_name(number))])
            if data is not None:
                _, lines, is_sound = self._read(snapshot_name(number), data)
                if is_sound:
                    return number, lines
                best = best if best[1] is not None else (number, lines)
        return best

    def _read(self, name: str, data: bytes) -> tuple[Header | None, list[Line], bool]:
        """The header and the lines of a file of the log, and whether all of it could be read.

        Raises `StoreError` if it has another layout.
        """
        rest = data.partition(b"\n")[2]
        header, lines = Header.read(data), decode_rows(rest)
        if header is not None:
            check_layout(self.files.location, header.omniq, LAYOUT, "omniq-core")
        if header is not None and header.crc == header.checksum(rest):
            self._log = self._log or header.log
            if header.log == self._log:
                return header, lines, True
            _logger.error("%s: %s is of another log, which was deleted: passed over", self.files.location, name)
            return header, [], True
        unread = "its head" if header is None else f"{max(0, header.lines - len(lines))} of {header.lines} lines"
        _logger.error("%s: %s is damaged: %s can't be read", self.files.location, name, unread)
        self._is_damaged = True
        return header, lines, False

    async def _begin(self, number: int) -> None:
        """Make an empty snapshot, unless somebody else does."""
        await self.files.create(snapshot_name(number), encode(Header.new(self._log or secrets.token_hex(8), number, 0)))

    async def _compact(self, number: int, tables: Sequence[tuple[str, list[Any]]]) -> None:
        """Write a snapshot, and delete what others made needless."""
        lines = sum(len(rows) for _, rows in tables)
        data = bytearray()
        for name, rows in tables:
            for start in range(0, len(rows), PIECE):
                data += encode_rows(name, rows[start : start + PIECE])
                await asyncio.sleep(0)  # others have their turn
        await self.files.write(snapshot_name(number), encode(Header.new(self._log, number, lines), bytes(data)))
        self._sound = max(self._sound, number)
        await self.vacuum()

    async def _check_base(self, made: int | None = None) -> None:
        """See that no segment was deleted that the tables don't have, if the log wasn't followed for some time.

        Snapshots are deleted before the segments that they stand for, and both after the grace. So while the base is
        there, a segment that isn't was never made; and one that could be `made` is the next one. Else it may be that
        nobody reads it: then `StoreUnavailable` is raised, and the next call begins anew.
        """
        if clock.uptime() - self._followed_at < self.files.trust:
            return
        if await self.files.written_at(snapshot_name(self._base)) == self._base_written_at:
            return
        _, snapshots = numbers_in(await self.files.list(LOG))
        if not snapshots or snapshots[-1] > self._position or not await self._rest_on(snapshots[-1]):
            self._position = -1
            if made is not None or not snapshots:
                raise StoreUnavailable(f"{self.files.location}: others have gone on meanwhile: try again")
            await self._load()

    async def _rest_on(self, number: int) -> bool:
        """Take a snapshot that the tables are beyond as their base; returns whether it is one of this log."""
        name = snapshot_name(number)
        self._base, self._base_written_at = number, await self.files.written_at(name) or math.nan
        return await self._is_of_this_log(name)

    async def _is_of_this_log(self, name: str) -> bool:
        """Whether a file of the log is there, and not of another one or of somebody else."""
        (data,) = await self.files.read([Part(name, 0, HEAD)])
        header = None if data is None else Header.read(data)
        return header is not None and header.log == self._log

    # ── tidying up ───────────────────────────────────────────────────────────

    async def vacuum(self) -> None:
        """Delete what snapshots have made needless, now and then. Raises `StoreError`."""
        if not self._needs_vacuum or clock.uptime() - self._vacuumed_at < self.files.grace:
            return
        self._vacuumed_at = clock.uptime()
        written = await self.files.list(LOG)
        now = max([self.now() - clock.offset(), *written.values()])
        old = [name for name, at in written.items() if at <= now - self.files.grace]
        _, snapshots = numbers_in(old)
        if sound := [number for number in snapshots if number <= self._sound]:
            self._needs_vacuum = False
            await self._trim(written, sound[-1])

    async def _delete_later(self, names: Sequence[str]) -> None:
        """Delete files to which rows led a moment ago: somebody may be about to read them."""
        await self.rest(self.files.grace)
        await self.files.delete(names)

    async def rest(self, seconds: float) -> None:
        """Let so much time pass, or less if this is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _trim(self, names: Mapping[str, float], number: int) -> None:
        """Delete what a snapshot has made needless: older snapshots first, by whose absence others notice."""
        known, snapshots = numbers_in(names)
        await self.files.delete([snapshot_name(old) for old in snapshots if old < number])
        await self.files.delete([segment_name(old) for old in known if old <= number])

    # ── others ───────────────────────────────────────────────────────────────

    def watch(self) -> None:
        """Let `wakeups` be told of what others write, as long as anybody waits."""
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
        """Seconds between two looks for the next segment."""
        quiet = clock.uptime() - self._changed_at
        return next(pause for limit, pause in self.files.pauses if quiet < limit)

    def now(self) -> float:
        """The store's clock."""
        return clock.now() + self.files.ahead

    # ── the end ──────────────────────────────────────────────────────────────

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn(_quietly(work), name="omniq-files")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Give back what is open, after the calls under way."""
        await self.quiesce()
        await self.files.close()

    async def quiesce(self) -> None:
        """End what goes on by itself, after the calls under way; the next call begins anew."""
        self._closing.set()
        if self._watching is not None:
            await cancel_and_wait(self._watching)
        await self._batcher.drain()
        while self._background:
            await asyncio.wait(set(self._background))
        self._closing.clear()
        self._position = -1


def end_by_results(tables: Tables, now: float) -> int:
    """End the tasks whose ends were lost while their results weren't, which came in the same segments."""
    results = [result for result in tables.results.rows.values() if result.is_final and result.damage is None]
    found = [(row, result) for result in results if (row := tables.tasks.rows.get(result.task_id)) is not None]
    ended = [(row, result) for row, result in found if rules.is_held(row, result.epoch)]
    for row, result in ended:
        change = Change(
            task_id=row.id,
            to=result.status,
            from_states=(row.state,),
            epoch=row.epoch,
            attempted=result.status is TaskState.ERROR,
        )
        tables.tasks.change(change, result.finished_at)
    return len(ended)


def _nothing(tables: Tables, now: float) -> None:
    """A step that only needs the tables to be as they are now."""


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except StoreError as error:
        _logger.debug("left for later: %s", error)
