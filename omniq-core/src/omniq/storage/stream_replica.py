"""Tables as a process has them: every process reads the same log, one subject of a stream.

A segment is a message of the log: transactions, as `omniq.storage.transactions` knows them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from omniq import clock
from omniq.batching import Backoff, Batcher
from omniq.errors import StoreError, StoreUnavailable
from omniq.loops import Background, spawn
from omniq.storage.lines import decode_rows
from omniq.storage.snapshots import BackgroundWork, Head, Snapshots
from omniq.storage.stream import LOG, Message, Stream, StreamClock, unused_bodies
from omniq.storage.table_set import Step, Tables, Written
from omniq.storage.transactions import Competition, Segment, Trial, encode_segment, read_segment, replay
from omniq.storage.wakeups import DEAF_WAIT, Wakeups
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

T = TypeVar("T")

PER_SEGMENT, PER_ROW, LIGHT = 500, 300, 1 << 20
"""A snapshot is made once the segments since the last one weigh as much as it would: so many bytes for each segment
besides its own; for each row of the snapshot, and for all of it at least."""
WORTH_IT: Final = 64 * 1024
"""What segments must weigh for a snapshot after a purge."""
LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks whether the connection is still there."""
CLOCK_INTERVAL: Final = 300.0
"""Seconds between two looks at the server's clock."""
UNHEARD_INTERVAL: Final = 5.0
"""Seconds without news after which is looked whether any were lost: nothing else tells of the last ones."""
REMEMBERED: Final = 10_000
"""Segments whose writers are remembered: of what was read already, news come late."""
HEARD_WITHIN: Final = 1.0
"""Seconds after which a segment that was added, and wasn't heard, is read."""
PATIENCE: Final = 10
"""How often the newest snapshot is looked for, while others make and delete some."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 0.25
"""Seconds between two attempts to connect."""
FIRST_LONG_PAUSE, MAX_LONG_PAUSE = 0.25, 5.0
"""The same, where something is wrong that doesn't pass by itself."""

_log = get_logger("omniq.storage")


class _Overtaken(StoreUnavailable):
    """What is missing before the next segment was deleted: a snapshot has it."""


class _Call(NamedTuple):
    """What is to be carried out."""

    step: Step[Any]
    may_lag: bool
    is_again: bool = False
    """Whether it was tried before, and others were faster."""


_OVERTAKEN: Final = object()
"""The answer to a call that has to be tried again."""


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
        self._under_way = 0
        """How many calls are."""
        self._competition = Competition(0)
        self._log = ""
        self._position = -1
        """The last segment that the tables have; -1 where they have to be read anew."""
        self._writers: dict[int, str] = {}
        """Who wrote the last segments, by their sequences."""
        self._before = -1
        """The segment before that at `_position`; -1 where that isn't known."""
        self._heard = 0
        """How many segments were heard on this connection."""
        self._reread = -1
        """The last segment because of which all was read anew."""
        self._trial: Trial | None = None
        """The steps that are tried on the tables, while their segment is on its way."""
        self._writer = ""
        self._outcome: asyncio.Future[list[bool]] | None = None
        self._weight = 0
        """What the segments since the last snapshot weigh."""
        self._wants_snapshot = False
        self._snapshots, self._background = Snapshots(stream), BackgroundWork(stream)
        self._clock = StreamClock(stream)
        self._following: Background[None] | None = None
        self._connected: asyncio.Future[None] | None = None
        """Done once the log is followed; failed if the last attempt has."""

    # ── calls ────────────────────────────────────────────────────────────────

    def now(self) -> float:
        """The server's clock."""
        return self._clock.now()

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
        call, self._under_way = _Call(step, may_lag), self._under_way + 1
        try:
            while (answer := await self._batcher.submit(call)) is _OVERTAKEN:
                call = call._replace(is_again=True)
            return answer  # type: ignore[no-any-return]
        finally:
            self._under_way -= 1

    async def _carry_out(self, calls: Sequence[_Call]) -> Sequence[Any]:
        """Try the calls once: what they are answered, or that it isn't so. If this fails, nothing has taken effect that
        is known of; and nobody waits here until somebody else's call isn't overtaken any more."""
        await self.open()
        is_current = any(call.is_again for call in calls)
        if is_current:
            await self._catch_up()
        trial = Trial(self.tables, [call.step for call in calls], self.now(), self._position)
        if not any(trial.lines) and (is_current or not self._wants_snapshot):
            trial.undo()
            stands = [is_current or call.may_lag for call in calls]
        else:
            taken = await self._append(trial, None if is_current else trial.position)
            is_known = is_current or taken is not None
            stands = trial.standing(taken, [is_known or call.may_lag for call in calls])
        return [answer if is_so else _OVERTAKEN for answer, is_so in zip(trial.answers, stands, strict=True)]

    async def _append(self, trial: Trial, after: int | None) -> list[bool] | None:
        """Send what was tried; returns which transactions have taken effect, or None if others were faster."""
        self._trial, self._writer = trial, secrets.token_hex(8)
        outcome: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._outcome = outcome
        try:
            compacts = after is not None and self._is_heavy
            id_ = None if compacts else self._writer
            added = await self.stream.append(self._encoded(trial, compacts=compacts), after, id_)
            return None if added is None else await self._hear_back(outcome, later=added > trial.position)
        finally:
            self._give_up_trial()
            self._outcome = None

    async def _hear_back(self, outcome: asyncio.Future[list[bool]], *, later: bool) -> list[bool]:
        """What became of a segment that was added; unless it is `later` than all that is known, the log is another."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout if later else 0.0):
                while not (outcome.done() or await self._is_passed(outcome)):
                    continue
        if outcome.done():
            return outcome.result()
        self._begin_anew()
        raise StoreUnavailable(f"{self.location}: what was sent didn't come back")

    async def _is_passed(self, outcome: asyncio.Future[list[bool]]) -> bool:
        """Whether the tables have all that was added, a moment later: then a snapshot has had it."""
        await asyncio.wait([outcome], timeout=HEARD_WITHIN)
        if not self._follows or outcome.done():
            return False
        with suppress(StoreError):
            await self._catch_up()
            return True
        return False

    def _encoded(self, trial: Trial, *, compacts: bool) -> bytes:
        sizes = [len(lines) for lines in trial.lines]
        head = Segment(log=self._log, writer=self._writer, base=trial.position, sizes=sizes, compacts=compacts)
        return encode_segment(head, [line for lines in trial.lines for line in lines])

    def _give_up_trial(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.undo()

    # ── the log ──────────────────────────────────────────────────────────────

    async def _hear(self, message: Message) -> None:
        """Take over a segment that was added, and those before it that weren't heard."""
        self._heard += 1
        if not self._follows or self._position < 0 or message.after is None:
            return
        if message.after == self._position < message.sequence:
            self._apply(message)
            return
        with suppress(StoreError):  # then it is looked again, before long
            if await self._is_of_another_past(message, message.after):
                self._follow_another_log()
            elif message.sequence > self._position:
                await self._read_on()

    async def _is_of_another_past(self, message: Message, after: int) -> bool:
        """Whether what the tables have isn't in the log any more: the stream was deleted, emptied, or replaced."""
        if message.sequence > self._position:
            return after < self._position
        if message.sequence == self._position and after != self._before >= 0:
            return True
        is_known = self._writers.get(message.sequence) == _writer_of(message)
        return not is_known and not await self._has_same_past()

    def _follow_another_log(self) -> None:
        _log.warning("%s: the log isn't the one that was followed: it is read anew", self.location)
        self._begin_anew()

    async def _look_for_unheard(self) -> None:
        """Take over what was added and not heard, if the log is still the one that was followed."""
        with suppress(StoreError):  # then it is looked again, before long
            if self._writers.get(self._position) and not await self._has_same_past():
                self._follow_another_log()
            else:
                await self._read_on()

    async def _catch_up(self) -> None:
        """Take over all that was added before this call. Raises `StoreError`."""
        try:
            await self._read_on()
        except _Overtaken:
            await self.open()  # which reads all anew

    async def _read_on(self) -> None:
        """Take over all that was added before this call. Raises `StoreError`, and leaves it to others to begin anew."""
        if await self._next() is not None:
            last = await self.stream.last(LOG)
            while last is not None and self._position < last.sequence and await self._next() is not None:
                continue

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
        segment, data = read_segment(message.data)
        if segment is None:
            self._pass_over(message, "it can't be read")
        elif segment.log != self._log or (segment.compacts and segment.base != self._position):
            if self._reread == message.sequence:
                self._pass_over(message, "it isn't of this log, or not where it says")
            else:
                self._reread = message.sequence
                self._begin_anew()  # the log is another, or what is between was deleted
        else:
            self._take_over(segment, data, message)

    def _pass_over(self, message: Message, reason: str) -> None:
        _log.error("%s: segment %d is passed over: %s", self.location, message.sequence, reason)
        self._go_on_from(message.sequence, _writer_of(message))

    def _go_on_from(self, sequence: int, writer: str) -> None:
        self._before, self._position = self._position, sequence
        self._writers[sequence] = writer
        if len(self._writers) > REMEMBERED:
            del self._writers[next(iter(self._writers))]

    def _begin_anew(self) -> None:
        """Let all be read anew, from the newest snapshot on."""
        self._position = -1
        self._expect_connection()
        self.stream.lost.set()

    def _take_over(self, segment: Segment, data: bytes, message: Message) -> None:
        taken, outcome = self._replayed(segment, data, message.sequence)
        self._go_on_from(message.sequence, segment.writer)
        self._weight += len(message.data) + PER_SEGMENT
        if segment.compacts:
            self._competition, self._weight = Competition(message.sequence), 0
        if self._outcome is not None and segment.writer == self._writer and not self._outcome.done():
            self._outcome.set_result(outcome)
            self._background.delete_later([name for written in taken for name in unused_bodies(written)])
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
        backoff, long_backoff = Backoff(FIRST_PAUSE, MAX_PAUSE), Backoff(FIRST_LONG_PAUSE, MAX_LONG_PAUSE)
        while True:
            self._heard = 0
            try:
                await self.stream.open(self._hear)
                await self._clock.measure()
                await self._load()
            except Exception as error:  # whatever it is: those who wait would else wait for ever
                if not isinstance(error, _Overtaken):
                    self._conclude(error)
                await (backoff if isinstance(error, StoreUnavailable) else long_backoff).pause()
                continue
            self._conclude(None)
            backoff.reset()
            long_backoff.reset()
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
        measured_at = looked_at = clock.uptime()
        heard = self._heard
        while not self.stream.lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.stream.lost.wait()
            self.stream.look()
            if clock.uptime() - measured_at > CLOCK_INTERVAL:
                measured_at = clock.uptime()
                with suppress(StoreError):
                    await self._clock.measure()
            if heard != self._heard:
                heard, looked_at = self._heard, clock.uptime()
            elif clock.uptime() - looked_at > UNHEARD_INTERVAL:
                looked_at = clock.uptime()
                await self._look_for_unheard()

    # ── snapshots ────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """Know what is there: from the newest snapshot on, unless the tables follow it already."""
        for _ in range(PATIENCE):
            head, _ = await self._snapshots.newest()
            if head.log == self._log and head.after <= self._position and await self._has_same_past():
                break
            if (tables := await self._snapshots.read(head)) is not None:
                self._begin_with(tables, head)
                await self._remember_writer()
                break
        else:
            raise StoreUnavailable(f"{self.location}: others make snapshots faster than they can be read")
        heard = -1
        while await self._next() is not None or heard != self._heard:  # what is heard now isn't taken over yet
            heard = self._heard

    async def _has_same_past(self) -> bool:
        """Whether the last segment that the tables have is still there: a server may have lost some with its power."""
        while (position := self._position) > 0:
            found = await self.stream.next(LOG, position - 1)
            if position == self._position:
                writer = self._writers.get(position)
                return bool(writer and found and found.sequence == position and _writer_of(found) == writer)
        return False

    async def _remember_writer(self) -> None:
        """Learn who wrote the segment after which a snapshot was made."""
        found = await self.stream.next(LOG, self._position - 1) if self._position else None
        if found is not None and found.sequence == self._position:
            self._writers[found.sequence] = _writer_of(found)

    def _begin_with(self, tables: Tables, head: Head) -> None:
        """Go on from a snapshot."""
        self._give_up_trial()
        if head.log != self._log and self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(StoreUnavailable(f"{self.location}: its log was deleted meanwhile"))
            self._outcome.exception()  # nobody may wait yet
        self.tables, self._competition = tables, Competition(head.after)
        self._log, self._position, self._weight = head.log, head.after, 0
        self._writers, self._before = {}, -1

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
        self._background.start(self._write_snapshot(sequence, rows))

    async def _write_snapshot(self, sequence: int, rows: Sequence[tuple[str, list[Any]]]) -> None:
        """Write a snapshot, and delete what it makes needless."""
        first = await self._snapshots.write(self._log, sequence, rows)
        if first is not None:
            await self._background.rest()
            await self._snapshots.trim(sequence, first)
            if self._follows:
                await self._snapshots.sweep(self.now(), lambda: self.tables)

    # ── the end ──────────────────────────────────────────────────────────────

    async def drop(self) -> None:
        """Delete the stream. Raises `StoreError`."""
        await self._stop()  # else what goes on finds no stream, and connects anew
        try:
            await self.stream.open(self._hear)  # whether or not what it holds can be read
            await self.stream.drop()
        finally:
            await self.close()

    async def close(self) -> None:
        """Give back what is open, after the calls under way; the next call begins anew."""
        await self._stop()
        await self.stream.close()
        self._position = -1

    async def _stop(self) -> None:
        """Let the calls under way end, and then all that goes on behind them."""
        await self._batcher.drain()
        while self._under_way:
            await asyncio.sleep(0)  # who was overtaken tries again
            await self._batcher.drain()
        await self._background.end()
        if self._following is not None:
            await cancel_and_wait(self._following)
            if self._follows:
                self.wakeups.hears(False)
        self._following = self._connected = None


def _writer_of(message: Message) -> str:
    segment, _ = read_segment(message.data)
    return "" if segment is None else segment.writer
