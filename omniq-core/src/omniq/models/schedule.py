"""Schedules: when they fire, in which time zone, and what becomes of slots that were missed.

croniter and dateutil only ever see times of the wall clock, without a zone. What such a time means where clocks change
is decided here, in one place.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Final, Literal, Self, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct
from msgspec.structs import replace

from omniq.clock import FIRST_SECOND, LAST_SECOND, Duration, due_time, seconds, utc
from omniq.errors import InvalidTask
from omniq.models import recurrence
from omniq.models.config import TEN_YEARS

MIN_INTERVAL: Final = 0.001
"""Seconds between two firings, at least."""
GRACE: Final = 60.0
"""Seconds by which a slot may be late, unless a schedule says so: long enough for a restart."""
MAX_PREVIEW: Final = 1000
MAX_COUNT: Final = 1_000_000
MAX_TEXT: Final = 1000
"""Characters of a cron expression or a rule."""

Misfire: TypeAlias = Literal["latest", "skip", "all"]
At: TypeAlias = Annotated[float, Meta(ge=FIRST_SECOND, le=LAST_SECOND)]

# ── zones ───────────────────────────────────────────────────────────────────


@lru_cache
def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name, such as "Europe/Berlin". Raises `InvalidTask`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise InvalidTask(f"timezone: expected a name such as 'Europe/Berlin' or 'UTC', got {name!r:.80}") from None


def _wall(at: float, zone: ZoneInfo) -> dt.datetime:
    """What a clock on the wall shows then."""
    return utc(at).astimezone(zone).replace(tzinfo=None)


def _instant(wall: dt.datetime, zone: ZoneInfo) -> float:
    """When a clock on the wall first shows that time; if it never does, when it first shows a later one."""
    first = wall.replace(tzinfo=zone, fold=0)
    at = first.timestamp()
    if _wall(at, zone) == wall.replace(fold=0):
        return at
    # It is skipped: `at` counts with the offset from before the change, so it is the same span after it.
    before, after = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    return _change(at - (after - before).total_seconds(), at, zone)


def _change(low: float, high: float, zone: ZoneInfo) -> float:
    """The first second, after `low` and by `high`, at which the zone has the offset that it has at `high`."""
    final = _offset(high, zone)
    first, last = int(low), -int(-high // 1)
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if _offset(middle, zone) == final else (middle, last)
    return float(last)


def _offset(at: float, zone: ZoneInfo) -> float:
    offset = utc(at).astimezone(zone).utcoffset()
    assert offset is not None
    return offset.total_seconds()


# ── timing ──────────────────────────────────────────────────────────────────


class Timing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a schedule fires: by exactly one of `cron`, `interval`, `run_at` and `rrule`.

    A clock that is set forward or back: a time of the wall clock that comes twice counts once, the first time; one that
    is skipped counts as the next one that there is. But a cron expression whose minutes or hours begin with `*` follows
    elapsed time, as with cronie: every quarter of an hour is every quarter of an hour.
    """

    cron: str | None = None
    """Five fields, `minute hour day month weekday`, a sixth for seconds after them, or one of `@hourly`, `@daily`, …"""
    interval: Annotated[float, Meta(ge=MIN_INTERVAL, le=TEN_YEARS)] | None = None
    """Seconds between two firings."""
    run_at: At | None = None
    """Once, at this time (seconds since the epoch)."""
    rrule: str | None = None
    """A recurrence rule of RFC 5545; a DTSTART in it is a time of the wall clock."""
    anchor: At | None = None
    """Where a rule without a DTSTART begins: when it was declared."""
    timezone: str = "UTC"
    """Whose wall clock `cron` and `rrule` go by."""
    start: At | None = None
    """No slot is before this time."""
    end: At | None = None
    """No slot is after this time."""

    @property
    def is_set(self) -> bool:
        """Whether it says anything."""
        return any(kind is not None for kind in (self.cron, self.interval, self.run_at, self.rrule))

    def anchored(self, now: float) -> Timing:
        """The same, declared now."""
        if self.rrule is None or "DTSTART" in self.rrule.upper():
            return self
        return replace(self, anchor=float(int(now if self.start is None else max(self.start, now))))

    def is_same(self, other: Timing) -> bool:
        """Whether both say the same, whenever they were declared."""
        return replace(self, anchor=None) == replace(other, anchor=None)

    def first(self, now: float) -> float | None:
        """The first slot of a schedule that is declared now."""
        if self.run_at is not None:
            return self._bounded(self.run_at)
        if self.interval is not None:
            return self._bounded(now + self.interval if self.start is None else _next_step(self, self.start, now))
        return self.after(now if self.start is None or self.start <= now else self.start - 1e-6)

    def after(self, slot: float) -> float | None:
        """The slot that follows this time; None if there is none."""
        if self.run_at is not None:
            return None
        if self.interval is not None:
            return self._bounded(slot + self.interval)
        found = _after_cron(self, slot) if self.cron is not None else _after_rrule(self, slot)
        return self._bounded(found)

    def latest(self, slot: float, now: float) -> float:
        """The last slot that isn't after `now`, at least `slot`: what a late scheduler catches up with."""
        if self.interval is not None:
            last = now if self.end is None else min(now, self.end)
            return slot + max(0.0, (last - slot) // self.interval) * self.interval
        span = 60.0
        while (since := now - span) > slot:
            if (found := self._last_between(since, now)) is not None:
                return found
            span *= 4
        return self._last_between(slot, now) or slot

    def _last_between(self, since: float, now: float) -> float | None:
        """The last slot after `since` and by `now`."""
        last = None
        while (following := self.after(since)) is not None and following <= now:
            last = since = following
        return last

    def preview(self, slot: float | None, count: int) -> list[float]:
        """Up to so many slots, beginning with `slot`."""
        slots: list[float] = []
        while slot is not None and len(slots) < count:
            slots.append(slot)
            slot = self.after(slot)
        return slots

    def _bounded(self, slot: float | None) -> float | None:
        too_late = slot is not None and slot > (LAST_SECOND if self.end is None else self.end)
        return None if too_late else slot


def _next_step(timing: Timing, start: float, now: float) -> float:
    """The first of the steps from `start` that isn't before `now`."""
    assert timing.interval is not None
    return start if start >= now else start - (start - now) // timing.interval * timing.interval


# ── cron ────────────────────────────────────────────────────────────────────


def _after_cron(timing: Timing, at: float) -> float | None:
    assert timing.cron is not None
    zone = zone_of(timing.timezone)
    if _follows_elapsed_time(timing.cron):
        return _next_match(timing.cron, at, zone)
    for wall in _walls(timing.cron, _wall(at, zone)):
        if (found := _instant(wall, zone)) > at:
            return found
    return None


def _follows_elapsed_time(expression: str) -> bool:
    """Whether minutes or hours begin with `*`, which for cronie means that the change of a clock doesn't matter."""
    fields = _EXPANDED.get(expression.strip().lower(), expression).split()
    return any(field.startswith("*") for field in fields[:2])


_EXPANDED: Final = {"@hourly": "0 * * * *"}
"""Of the names, the one that isn't a time of day."""


def _next_match(expression: str, at: float, zone: ZoneInfo) -> float | None:
    """The next time at which a clock on the wall shows what the expression asks for, however often it has before."""
    offset = _offset(at, zone)
    begin = dt.datetime.fromtimestamp(max(at + offset, FIRST_SECOND), dt.UTC).replace(tzinfo=None)
    while (wall := next(_walls(expression, begin), None)) is not None:
        found = wall.replace(tzinfo=dt.UTC).timestamp() - offset
        if _offset(found, zone) == offset and not _changes_between(at, found, zone):
            return found
        at = _first_change(at, found, zone)
        offset = _offset(at, zone)
        begin = _wall(at, zone) - dt.timedelta(microseconds=1)  # what it shows then may be what is asked for
    return None


def _changes_between(low: float, high: float, zone: ZoneInfo) -> bool:
    return any(_offset(at, zone) != _offset(low, zone) for at in _days(low, high))


def _first_change(low: float, high: float, zone: ZoneInfo) -> float:
    """The first second after `low` from which on the zone has another offset, by `high`."""
    before = low
    for at in _days(low, high):
        if _offset(at, zone) != _offset(low, zone):
            return _change(before, at, zone)
        before = at
    return high


def _days(low: float, high: float) -> Iterator[float]:
    """Times between, no more than a day apart: no zone changes its offset and back within one."""
    at = low + 86_400.0
    while at < high:
        yield at
        at += 86_400.0
    yield high


def _walls(expression: str, begin: dt.datetime) -> Iterator[dt.datetime]:
    """The times after `begin` that match. Raises `InvalidTask`."""
    from croniter import CroniterBadDateError, CroniterError, croniter

    try:
        times = croniter(expression, begin, ret_type=dt.datetime)
    except (CroniterError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidTask(f"cron: {error}") from None
    while True:
        try:
            yield times.get_next(dt.datetime)
        except (CroniterBadDateError, OverflowError, ValueError):
            return


# ── recurrence rules ────────────────────────────────────────────────────────


def _after_rrule(timing: Timing, at: float) -> float | None:
    assert timing.rrule is not None
    zone = zone_of(timing.timezone)
    # Two walls may be one instant, and times within a day of a change may be out of order.
    text = timing.rrule
    if timing.anchor is not None:
        text = f"DTSTART:{_wall(timing.anchor, zone):%Y%m%dT%H%M%S}\n{text}"
    declared = timing.anchor is not None and timing.anchor != timing.start  # which is no slot, then
    for wall in recurrence.times(text, _wall(at, zone) - dt.timedelta(days=1), first_counts=not declared):
        if (found := _instant(wall, zone)) > at:
            return found
    return None


# ── what users say ──────────────────────────────────────────────────────────


def build_timing(
    *,
    cron: object = None,
    interval: Duration | None = None,
    run_at: dt.datetime | None = None,
    rrule: object = None,
    timezone: str = "UTC",
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
) -> Timing:
    """The timing, checked. Raises `InvalidTask`, naming the argument."""
    kinds = {"cron": cron, "interval": interval, "run_at": run_at, "rrule": rrule}
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) != 1:
        said = " and ".join(given) or "none"
        raise InvalidTask(f"schedule: expected exactly one of cron, interval, run_at and rrule, got {said}")
    if not isinstance(timezone, str):
        raise InvalidTask(f"timezone: expected a name such as 'Europe/Berlin' or 'UTC', got {timezone!r:.80}")
    zone = zone_of(timezone)
    timing = Timing(
        cron=None if cron is None else _check_cron(cron),
        interval=seconds("interval", interval, minimum=MIN_INTERVAL, maximum=TEN_YEARS),
        run_at=due_time("run_at", run_at),
        rrule=None if rrule is None else _check_rule(rrule, zone),
        timezone=timezone,
        start=due_time("start", start),
        end=due_time("end", end),
    )
    if timing.start is not None and timing.end is not None and timing.end < timing.start:
        raise InvalidTask(f"end: expected a time after start ({start}), got {end}")
    return timing


def _check_cron(expression: object) -> str:
    text = _check_text(expression, "cron", "'0 9 * * mon-fri'")
    fields = len(text.split())
    if not text.startswith("@") and fields not in (5, 6):
        raise InvalidTask(
            f"cron: expected five fields (minute hour day month weekday), a sixth for seconds after them, or a name "
            f"such as '@daily', got {fields} in {text!r}"
        )
    if random := _RANDOM.search(text):
        raise InvalidTask(
            f"cron: {random[0]!r} in {text!r} means another time in each process: say which, or set jitter"
        )
    next(_walls(text, dt.datetime(2000, 1, 1)), None)
    return text


_RANDOM: Final = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)
"""The letters by which croniter draws lots."""


def _check_rule(rule: object, zone: ZoneInfo) -> str:
    text = _check_text(recurrence.written(rule, zone), "rrule", "'FREQ=DAILY;BYHOUR=9'")
    recurrence.rule_of(text if "DTSTART" in text.upper() else f"DTSTART:20000101T000000\n{text}")
    return text


def _check_text(value: object, name: str, example: str) -> str:
    if not isinstance(value, str):
        raise InvalidTask(f"{name}: expected text such as {example}, got {type(value).__name__}")
    if not value.strip() or len(value) > MAX_TEXT:
        raise InvalidTask(f"{name}: expected 1 to {MAX_TEXT} characters such as {example}, got {len(value)}")
    return value.strip()


class FiringPolicy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a schedule's slots become tasks."""

    misfire: Misfire = "latest"
    """Of slots that are more than `grace` late: fire the `latest` one only, `skip` them, or fire `all`."""
    grace: Annotated[float, Meta(ge=0, le=TEN_YEARS)] = GRACE
    """Seconds by which a slot may be late and still be fired like any other."""
    jitter: Annotated[float, Meta(ge=0, le=TEN_YEARS)] = 0.0
    """Each task is due up to so many seconds after its slot."""
    max_running: Annotated[int, Meta(ge=1, le=MAX_COUNT)] | None = None
    """A slot is skipped while so many of the schedule's tasks haven't ended."""

    @classmethod
    def of(
        cls,
        misfire: object = "latest",
        grace: Duration | None = GRACE,
        jitter: Duration | None = None,
        max_running: object = None,
    ) -> Self:
        """The policy, checked. Raises `InvalidTask`, naming the argument."""
        if misfire not in ("latest", "skip", "all"):
            raise InvalidTask(f"misfire: expected 'latest', 'skip' or 'all', got {misfire!r:.80}")
        late = seconds("grace", grace, maximum=TEN_YEARS)
        return cls(
            misfire=misfire,
            grace=TEN_YEARS if late is None else late,
            jitter=seconds("jitter", jitter, maximum=TEN_YEARS) or 0.0,
            max_running=None if max_running is None else _check_count("max_running", max_running, MAX_COUNT),
        )


def _check_count(name: str, value: object, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise InvalidTask(f"{name}: expected a whole number from 1 to {maximum}, got {value!r:.80}")
    return int(value)


# ── what users see ──────────────────────────────────────────────────────────


class Schedule(Struct, frozen=True, kw_only=True):
    """A recurring task and its timing."""

    id: str
    func: str
    queue_name: str
    timing: Timing
    """Without anything where it can't be read."""
    paused: bool
    next_run: dt.datetime | None
    """The next slot; None when there is none left."""
    last_run: dt.datetime | None = None
    """The last slot for which a task was added."""
    policy: FiringPolicy = FiringPolicy()
    damage: str | None = None
    """What is wrong with the stored schedule, which doesn't fire then. None for a schedule that is sound."""

    @property
    def state(self) -> str:
        """`active`, `paused`, `ended` where no slot is left, or `damaged`."""
        if self.damage is not None:
            return "damaged"
        if self.next_run is None:
            return "ended"
        return "paused" if self.paused else "active"

    def preview(self, count: int = 10) -> list[dt.datetime]:
        """The next `count` slots, at most 1,000; none of one that is damaged. Raises `InvalidTask`."""
        slot = None if self.next_run is None or self.damage is not None else self.next_run.timestamp()
        return [utc(at) for at in self.timing.preview(slot, _check_count("count", count, MAX_PREVIEW))]


def delay_of(schedule_id: str, slot: float, jitter: float) -> float:
    """Seconds from 0 to `jitter` by which a slot's task is due later: the same for all who fire it."""
    digest = hashlib.sha256(f"jitter/{schedule_id}/{slot!r}".encode()).digest()
    return jitter * (int.from_bytes(digest[:6]) / (1 << 48))
