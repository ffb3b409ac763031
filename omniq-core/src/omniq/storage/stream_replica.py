"""Tables as a process has them: every process reads the same log, one subject of a stream.

A segment is a message of the log: transactions, as `omniq.storage.transactions` knows them. A snapshot is all rows as
they were after one segment, in as many messages as that takes; what came before it is deleted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from omniq import clock
from omniq.batching import Backoff, Batcher
from omniq.errors import StoreError, StoreUnavailable
from omniq.loops import Background, spawn
from omniq.storage.connected import check_layout
from omniq.storage.log_files import decode_rows, encode_lines
from omniq.storage.stream import LOG, BodySweeper, Message, Stream, snapshot_parts, unused_bodies
from omniq.storage.table_store import Step, Tables, Written
from omniq.storage.transactions import Competition, Trial, replay
from omniq.storage.wakeups import DEAF_WAIT, Wakeups
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

T = TypeVar("T")

LAYOUT: Final = 1
"""The version of the subjects and of what their messages hold."""
SNAPSHOT: Final = "snapshot"
"""The subject that tells of the newest snapshot. Its messages are at `part.<snapshot>.<number>`."""
PER_SEGMENT, PER_ROW, LIGHT = 500, 300, 1 << 20
"""A snapshot is made once the segments since the last one weigh as much as it would: so many bytes for each segment
besides its own; for each row of the snapshot, and for all of it at least."""
WORTH_IT: Final = 64 * 1024
"""What segments must weigh for a snapshot after a purge."""
GRACE: Final = 2.0
"""Seconds for which what a snapshot has made needless is kept: whoever is about to read it needn't begin anew."""
CLOCK: Final = "clock"
"""The subject of what is only stored to learn the time."""
LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks whether the connection is still there."""
CLOCK_INTERVAL: Final = 300.0
"""Seconds between two looks at the server's clock."""
PATIENCE: Final = 10
"""How often the newest snapshot is looked for, while others make and delete some."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 0.25
"""Seconds between two attempts to connect."""

_log = get_logger("omniq.storage")


class Head(Struct, omit_defaults=True, kw_only=True):
    """What is told of the newest snapshot."""

    omniq: int
    """The layout."""
    log: str
    """Which log it is of: another one may be begun, once the stream was deleted."""
    after: int = 0
    """The segment after which it was made, by its sequence; 0 for the empty one, with which a log begins."""
    name: str = ""
    parts: int = 0


class Segment(Struct, omit_defaults=True, kw_only=True):
    """The first line of a message of the log."""

    log: str
    writer: str
    """A text that no other segment has."""
    base: int
    """The sequence of the segment up to which its writer had the tables."""
    sizes: Sequence[int] = ()
    """How many of the lines that follow belong to each of its transactions."""
    compacts: bool = False
    """Whether its writer makes a snapshot, so that others needn't; no transaction after it rests on what is before."""


class _Overtaken(StoreUnavailable):
    """What is missing before the next segment was deleted: a snapshot has it."""


_encode = msgspec.json.Encoder().encode
_decode_segment = msgspec.json.Decoder(Segment).decode


class StreamReplica:
    """The tables as they are after some segment of the log. It belongs to one event loop.

    All calls that come while a segment is on its way share the next one. The first attempt is for the end of the log
    that is known here; who was overtaken follows, and then adds a segment wherever that comes to stand, which is
    judged there, row by row. So who is far away isn't always overtaken.
    """

    def __init__(self, stream: Stream, timeout: float) -> None:
        """`timeout` is in seconds: how long a message that was stored may take to be heard."""
        self.location = stream.location
        self.stream = stream
        self.tables = Tables()
        self.wakeups = Wakeups.at(stream.location)
        self._timeout = timeout
        self._batcher = Batcher(self._carry_out, limit=1000)
        self._competition = Competition(0)
        self._log = ""
        self._position = -1
        """The last segment that the tables have; -1 where they have to be read anew."""
        self._last_writer = ""
        """Who wrote it."""
        self._heard = 0
        """The last segment of which the server has told."""
        self._trial: Trial | None = None
        """The steps that are tried on the tables, while their segment is on its way."""
        self._writer = ""
        self._outcome: asyncio.Future[list[bool]] | None = None
        self._weight = 0
        """What the segments since the last snapshot weigh."""
        self._wants_snapshot = False
        self._sweeper = BodySweeper(stream)
        self._ahead = 0.0
        """Seconds by which the server's clock is ahead of this machine's."""
        self._following: Background[None] | None = None
        self._connected: asyncio.Future[None] | None = None
        """Done once the log is followed; failed if the last attempt has."""
        self._closing = asyncio.Event()
        self._background: set[Background[None]] = set()

    # ── calls ────────────────────────────────────────────────────────────────

    def now(self) -> float:
        """The server's clock."""
        return clock.now() + self._ahead

    async def open(self) -> None:
        """Follow the log, from now on. Raises `StoreError` if that can't be reached."""
        if self._following is None:
            self._expect_connection()
            self._following = spawn(self._follow(), name="omniq-follow")
        assert self._connected is not None
        await asyncio.shield(self._connected)

    def watch(self) -> None:
        """Those who wait are told as long as the log is followed."""

    async def hear(self, timeout: float) -> None:
        """As `BaseResultStorage.hear`."""
        if not self._follows:
            await asyncio.sleep(min(timeout, DEAF_WAIT))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.stream.lost.wait()

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        answer: T = await self._batcher.submit((step, may_lag))
        return answer

    async def _carry_out(self, calls: Sequence[tuple[Step[Any], bool]]) -> list[Any]:
        await self.open()
        answers: dict[int, Any] = {}
        is_current = False
        while left := [n for n in range(len(calls)) if n not in answers]:
            if is_current:
                await self._catch_up()
            trial = Trial(self.tables, [calls[n][0] for n in left], self.now(), self._position)
            stands = await self._settle(trial, [calls[n][1] for n in left], is_current=is_current)
            told = zip(left, trial.answers, stands, strict=True)
            answers.update((n, answer) for n, answer, is_so in told if is_so)
            is_current = True
        return [answers[n] for n in range(len(calls))]

    async def _settle(self, trial: Trial, may_lag: Sequence[bool], *, is_current: bool) -> list[bool]:
        """Which answers of a trial are so: of those that have written something, if that has taken effect."""
        if not any(trial.lines) and (is_current or not self._wants_snapshot):
            trial.undo()
            return [is_current or lags for lags in may_lag]
        taken = await self._append(trial, None if is_current else trial.position)
        if taken is None:
            return [lags and not lines for lags, lines in zip(may_lag, trial.lines, strict=True)]
        return [took or not lines for took, lines in zip(taken, trial.lines, strict=True)]

    async def _append(self, trial: Trial, after: int | None) -> list[bool] | None:
        """Send what was tried; returns which transactions have taken effect, or None if others were faster."""
        self._trial, self._writer = trial, secrets.token_hex(8)
        outcome: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._outcome = outcome
        try:
            compacts = after is not None and self._is_heavy
            id_ = None if compacts else self._writer
            if not await self.stream.append(self._encoded(trial, compacts=compacts), after, id_):
                return None
            async with asyncio.timeout(self._timeout):
                return await outcome
        except TimeoutError:
            raise StoreUnavailable(f"{self.location}: what was sent didn't come back") from None
        finally:
            self._give_up_trial()
            self._outcome = None

    def _encoded(self, trial: Trial, *, compacts: bool) -> bytes:
        sizes = [len(lines) for lines in trial.lines]
        head = Segment(log=self._log, writer=self._writer, base=trial.position, sizes=sizes, compacts=compacts)
        return _encode(head) + b"\n" + encode_lines([line for lines in trial.lines for line in lines])

    def _give_up_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.undo()

    # ── the log ──────────────────────────────────────────────────────────────

    async def _hear(self, message: Message) -> None:
        """Take over a segment that was added, and those before it that weren't heard."""
        self._heard = max(self._heard, message.sequence)
        if not self._follows or message.sequence <= self._position:
            return
        if message.after == self._position:
            self._apply(message)
        else:
            with suppress(StoreError):  # then all is read anew
                await self._catch_up()

    async def _catch_up(self) -> None:
        """Take over all that was added before this call. Raises `StoreError`."""
        try:
            if await self._next() is not None:
                last = await self.stream.last(LOG)
                while last is not None and self._position < last.sequence and await self._next() is not None:
                    continue
        except _Overtaken:
            await self.open()  # which reads all anew

    async def _next(self) -> Message | None:
        """Take over the next segment, if there is one."""
        found = await self.stream.next(LOG, self._position)
        if found is not None:
            self._apply(found)
        if self._position < 0:
            raise _Overtaken(f"{self.location}: others have gone on meanwhile")
        return found

    def _apply(self, message: Message) -> None:
        """Let the transactions of the next segment take effect, as all processes do."""
        if not 0 <= self._position < message.sequence:
            return
        segment, data = _read(message.data)
        if segment is None or segment.log != self._log:
            _log.error("%s: segment %d can't be read, and is passed over", self.location, message.sequence)
            self._position = message.sequence
        elif segment.compacts and segment.base != self._position:
            self._position = -1  # what is between was deleted
            self._expect_connection()
            self.stream.lost.set()
        else:
            self._take_over(segment, data, message)

    def _take_over(self, segment: Segment, data: bytes, message: Message) -> None:
        taken, outcome = self._replayed(segment, data, message.sequence)
        self._position, self._last_writer = message.sequence, segment.writer
        self._weight += len(message.data) + PER_SEGMENT
        if segment.compacts:
            self._competition, self._weight = Competition(message.sequence), 0
        if self._outcome is not None and segment.writer == self._writer and not self._outcome.done():
            self._outcome.set_result(outcome)
            self._delete_later([name for written in taken for name in unused_bodies(written)])
            if segment.compacts:
                self._compact(message.sequence)
        now = self.now()
        for written in filter(None, taken):
            self.wakeups.tell(written.news(now))

    def _replayed(self, segment: Segment, data: bytes, sequence: int) -> tuple[list[Written], list[bool]]:
        """What has taken effect, and which of the transactions have."""
        trial = self._trial
        if trial is not None and segment.writer == self._writer and trial.position == self._position:
            self._trial = None  # it is there already
            for wanted in trial.footprints:
                self._competition.note(sequence, wanted)
            return trial.written, [True] * len(trial.written)
        self._give_up_trial()
        lines = decode_rows(data)
        found = list(replay(self.tables, lines, segment.sizes, segment.base, sequence, self._competition))
        return [written for written in found if written is not None], [written is not None for written in found]

    # ── following ────────────────────────────────────────────────────────────

    @property
    def _follows(self) -> bool:
        return self._connected is not None and self._connected.done() and self._connected.exception() is None

    async def _follow(self) -> None:
        """Be connected, and know what is there; again after each loss."""
        backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)
        while True:
            self._heard = 0
            try:
                await self.stream.open(self._hear)
                await self._measure_clock()
                await self._load()
            except Exception as error:  # whatever it is: those who wait would else wait for ever
                if not isinstance(error, _Overtaken):
                    self._conclude(error)
                await backoff.pause()
                continue
            self._conclude(None)
            backoff.reset()
            self.wakeups.hears(True)
            await self._until_lost()
            self.wakeups.hears(False)
            self._expect_connection()

    def _expect_connection(self) -> None:
        """Let those wait who call from now on; those who wait already go on to."""
        if self._connected is None or self._connected.done():
            self._connected = asyncio.get_running_loop().create_future()

    def _conclude(self, problem: Exception | None) -> None:
        """Tell those who wait how the attempt went."""
        self._expect_connection()
        assert self._connected is not None
        if problem is None:
            self._connected.set_result(None)
        else:
            _log.debug("%s", problem)
            self._connected.set_exception(problem)
            self._connected.exception()  # nobody may wait

    async def _until_lost(self) -> None:
        looked_at = clock.uptime()
        while not self.stream.lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.stream.lost.wait()
            self.stream.look()
            if clock.uptime() - looked_at > CLOCK_INTERVAL:
                looked_at = clock.uptime()
                with suppress(StoreError):
                    await self._measure_clock()

    async def _measure_clock(self) -> None:
        """Learn by how much the server's clock is ahead: it was read between sending and hearing."""
        sent = time.time()
        await self.stream.put(CLOCK, b"")
        heard = time.time()
        message = await self.stream.last(CLOCK)
        if message is not None:
            self._ahead = min(max(self._ahead, message.time - heard), message.time - sent)

    # ── snapshots ────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """Know what is there: from the newest snapshot on, unless the tables follow it already."""
        for _ in range(PATIENCE):
            head, _ = await self._head()
            known = head.log == self._log and head.after <= self._position
            if (known and await self._has_same_past()) or await self._has_read(head):
                break
        else:
            raise StoreError(f"{self.location}: the snapshot {head.name} is there, and a part of it is missing")
        while await self._next() is not None or self._position < self._heard:
            continue

    async def _head(self) -> tuple[Head, int]:
        """What is told of the newest snapshot, and the sequence of that message. A log is begun where there is none."""
        found = await self.stream.last(SNAPSHOT)
        if found is None:
            begun = Head(omniq=LAYOUT, log=secrets.token_hex(8))
            await self.stream.put(SNAPSHOT, _encode(begun), after=0)
            found = await self.stream.last(SNAPSHOT)
        if found is None:
            raise StoreUnavailable(f"{self.location}: the stream was deleted meanwhile: try again")
        try:
            head = msgspec.json.decode(found.data, type=Head)
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self.location}: what is kept there isn't OmniQ's: {error}") from error
        check_layout(self.location, head.omniq, LAYOUT, "omniq-core")
        return head, found.sequence

    async def _has_same_past(self) -> bool:
        """Whether the last segment that the tables have is still there: a server may have lost some with its power."""
        if not self._position:
            return False
        found = await self.stream.next(LOG, self._position - 1)
        segment = None if found is None or found.sequence != self._position else _read(found.data)[0]
        return segment is not None and segment.writer == self._last_writer

    async def _has_read(self, head: Head) -> bool:
        """Begin with that snapshot, unless it was replaced meanwhile."""
        tables = Tables()
        for number in range(head.parts):
            data = await self.stream.read(f"part.{head.name}.{number}")
            if data is None:
                return False
            tables.apply(decode_rows(data))
        tables.settle()
        self.tables, self._competition = tables, Competition(head.after)
        self._log, self._position, self._last_writer, self._weight = head.log, head.after, "", 0
        return True

    @property
    def _is_heavy(self) -> bool:
        """Whether it is time for a snapshot."""
        rows = len(self.tables.tasks.rows) + len(self.tables.results.rows)
        return self._wants_snapshot or self._weight > max(LIGHT, PER_ROW * rows)

    async def vacuum(self) -> None:
        """Make a snapshot if there is much that it makes needless."""
        if self._weight > WORTH_IT:
            self._wants_snapshot = True
            await self.carry_out(lambda tables, now: None, may_lag=True)

    def _compact(self, sequence: int) -> None:
        """Make a snapshot of the tables as they are now, after that segment."""
        self._wants_snapshot = False
        rows = [(name, list(table.rows.values())) for name, table in self.tables.by_name.items()]
        self._run_in_background(self._write_snapshot(sequence, rows))

    def _delete_later(self, names: Sequence[str]) -> None:
        """Delete bodies to which rows led a moment ago: somebody may be about to read them."""
        if names:
            self._run_in_background(self._delete(names))

    async def _delete(self, names: Sequence[str]) -> None:
        await self._rest()
        with suppress(StoreError):  # they stay, and harm nobody
            for name in names:
                await self.stream.delete(name)

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._closing.wait()

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn(work, name="omniq-stream")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _write_snapshot(self, sequence: int, rows: Sequence[tuple[str, list[Any]]]) -> None:
        """Write a snapshot, and delete what it makes needless."""
        try:
            head, at = await self._head()
            new = Head(omniq=LAYOUT, log=self._log, after=sequence, name=secrets.token_hex(4))
            first = 0
            async for part in snapshot_parts(rows):
                written = await self.stream.put(f"part.{new.name}.{new.parts}", part)
                first, new.parts = first or written or 0, new.parts + 1
            told = await self.stream.put(SNAPSHOT, _encode(new), after=at) if head.log == new.log else None
            if told is None:  # others have made a later one
                await self.stream.delete(f"part.{new.name}.>")
                return
            await self._rest()
            await self.stream.delete(LOG, before=sequence)
            await self.stream.delete("part.>", before=first or told)
            await self._sweeper.run(rows)
        except StoreError as error:
            _log.debug("%s: left for the next snapshot: %s", self.location, error)

    # ── the end ──────────────────────────────────────────────────────────────

    async def drop(self) -> None:
        """Delete the stream. Raises `StoreError`."""
        await self.open()
        await self._stop()  # else what goes on finds no stream, and connects anew
        await self.stream.drop()
        await self.close()

    async def close(self) -> None:
        """Give back what is open, after the calls under way; the next call begins anew."""
        await self._stop()
        await self.stream.close()
        self._closing.clear()
        self._position = -1

    async def _stop(self) -> None:
        """Let the calls under way end, and then all that goes on behind them."""
        await self._batcher.drain()
        self._closing.set()
        while self._background:
            await asyncio.wait(set(self._background))
        if self._following is not None:
            await cancel_and_wait(self._following)
            if self._follows:
                self.wakeups.hears(False)
        self._following = self._connected = None


def _read(data: bytes) -> tuple[Segment | None, bytes]:
    """The head of a segment, None if it can't be read, and its lines."""
    first, _, rest = data.partition(b"\n")
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_segment(first), rest
    return None, rest
