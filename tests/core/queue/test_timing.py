"""Slots of cron expressions and rules, beside those found minute by minute without croniter or dateutil."""

from __future__ import annotations

import datetime as dt
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import DAILY as EACH_DAY
from dateutil.rrule import rrule
from omniq.errors import InvalidTask
from omniq.models.schedule import FiringPolicy, Timing, build_timing, delay_of

MINUTE = dt.timedelta(minutes=1)
WEEKDAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
CHANGES = {
    "Europe/Berlin": [(2026, 3, 29), (2026, 10, 25)],
    "America/New_York": [(2026, 3, 8), (2026, 11, 1)],
    "Australia/Lord_Howe": [(2026, 4, 5), (2026, 10, 4)],
    "America/Santiago": [(2026, 4, 5), (2026, 9, 6)],
    "Africa/Cairo": [(2026, 4, 24), (2026, 10, 30)],
    "America/St_Johns": [(2010, 3, 14), (2010, 11, 7)],
    "Pacific/Apia": [(2011, 12, 30)],
    "Asia/Kolkata": [(2026, 3, 29)],
}
"""Days on which clocks are set, by zones that do it in different ways: by half an hour, at midnight, by a whole day."""
DAILY = ("30 2 * * *", "0 3 * * *", "15 1 * * *", "0 0 * * *", "0 0,2,3 * * *", "5,35 0-3 * * *", "0 9 * * mon-fri")
ELAPSED = ("0 * * * *", "*/15 * * * *", "30 * * * *", "*/7 2 * * *", "0 */2 * * *")


class Minute(NamedTuple):
    """A minute, as a clock on the wall shows it."""

    at: int
    wall: dt.datetime
    is_repeated: bool
    """Whether the clock has shown this before."""
    skipped: Sequence[dt.datetime]
    """What the clock should have shown since the minute before, and hasn't."""


@cache
def minutes(zone: str, begin: int, end: int) -> list[Minute]:
    """Every minute, by zoneinfo alone."""
    place, shown, found = ZoneInfo(zone), set[dt.datetime](), []
    before: dt.datetime | None = None
    for at in range(begin, end, 60):
        wall = dt.datetime.fromtimestamp(at, place).replace(tzinfo=None, fold=0)
        missing = max(0, (wall - before) // MINUTE - 1) if before is not None else 0
        found.append(Minute(at, wall, wall in shown, [wall - n * MINUTE for n in range(1, missing + 1)]))
        shown.add(wall)
        before = wall
    return found


def numbers(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if first == "*":
            first, last = str(low), str(high)
        begin = WEEKDAYS.get(first) if first in WEEKDAYS else int(first)
        end = WEEKDAYS.get(last) if last in WEEKDAYS else int(last or begin or 0)
        assert begin is not None
        assert end is not None
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def matcher(expression: str) -> Callable[[dt.datetime], bool]:
    minute, hour, day, month, weekday = expression.split()
    minutes, hours, months = numbers(minute, 0, 59), numbers(hour, 0, 23), numbers(month, 1, 12)
    days, weekdays = numbers(day, 1, 31), numbers(weekday, 0, 6)
    either = day != "*" and weekday != "*"

    def matches(wall: dt.datetime) -> bool:
        if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
            return False
        on_day, on_weekday = wall.day in days, wall.isoweekday() % 7 in weekdays
        return on_day or on_weekday if either else on_day and on_weekday

    return matches


def expected(expression: str, zone: str, begin: int, end: int) -> list[int]:
    """Minute by minute: as soon as the wall clock shows a time that matches, or has skipped one; the first time only,
    unless minutes or hours begin with a star."""
    matches, found = matcher(expression), []
    elapsed = expression.startswith("*") or expression.split()[1].startswith("*")
    for minute in minutes(zone, begin, end)[1:]:
        if (matches(minute.wall) and (elapsed or not minute.is_repeated)) or (
            minute.skipped and not elapsed and any(map(matches, minute.skipped))
        ):
            found.append(minute.at)
    return found


def slots(timing: Timing, begin: float, end: float) -> Iterator[float]:
    at: float | None = begin
    while at is not None and (at := timing.after(at)) is not None and at < end:
        yield at


@pytest.mark.parametrize("zone", CHANGES)
def test_clocks_that_are_set_neither_double_nor_swallow_a_slot(zone: str) -> None:
    for day, expression in product(CHANGES[zone], DAILY + ELAPSED):
        begin = int(dt.datetime(*day).replace(tzinfo=ZoneInfo(zone)).timestamp()) // 60 * 60 - 86_400
        end = begin + 3 * 86_400
        found = list(slots(Timing(cron=expression, timezone=zone), begin, end))
        assert found == expected(expression, zone, begin, end), (expression, day)


def test_a_daily_expression_fires_once_on_both_days() -> None:
    for day in CHANGES["Europe/Berlin"]:
        begin = dt.datetime(*day).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        end = (dt.datetime(*day) + dt.timedelta(days=1)).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        assert len(list(slots(Timing(cron="30 2 * * *", timezone="Europe/Berlin"), begin, end))) == 1


def random_field(random: Random, low: int, high: int) -> str:
    first = random.randint(low, high - 1)
    last = random.randint(first + 1, high)
    listed = ",".join(map(str, sorted({random.randint(low, high) for _ in range(3)})))
    step = random.randint(2, (high - low) // 2)
    return random.choice(["*", "*", f"*/{step}", str(first), f"{first}-{last}", f"{first}-{last}/3", listed])


@pytest.mark.parametrize("seed", range(4))
def test_random_expressions_fire_as_they_should(seed: int) -> None:
    random = Random(seed)
    begin = int(dt.datetime(2026, random.randint(1, 12), 1, tzinfo=dt.UTC).timestamp())
    zone, end = random.choice(list(CHANGES)), begin + 31 * 86_400
    for _ in range(50):
        month = random_field(random, 1, 12) if random.random() < 0.3 else "*"
        limits = [(0, 59), (0, 23), (1, 31)]
        fields = [*(random_field(random, *bounds) for bounds in limits), month, random_field(random, 0, 6)]
        expression = " ".join(fields)
        timing, wanted = Timing(cron=expression, timezone=zone), expected(expression, zone, begin, end)
        if len(wanted) < 100:
            assert list(slots(timing, begin, end)) == wanted, (expression, zone)
        else:  # to walk all of it takes long
            starts = sorted(random.sample(range(begin, wanted[-1]), 40))
            assert [timing.after(at) for at in starts] == [wanted[bisect(wanted, at)] for at in starts], expression


def test_a_sixth_field_is_seconds() -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()
    assert list(slots(Timing(cron="* * * * * */20"), begin, begin + 61)) == [begin + 20, begin + 40, begin + 60]


@pytest.mark.parametrize(
    ("name", "seconds"), [("@hourly", 3600), ("@daily", 86_400), ("@midnight", 86_400), ("@weekly", 604_800)]
)
def test_names_stand_for_expressions(name: str, seconds: int) -> None:
    timing = Timing(cron=name)
    first = timing.after(0.0)
    assert first is not None
    assert timing.after(first) == first + seconds


# ── recurrence rules ────────────────────────────────────────────────────────


def test_a_rule_goes_by_the_wall_clock() -> None:
    timing = Timing(rrule="DTSTART:20260327T023000\nRRULE:FREQ=DAILY", timezone="Europe/Berlin")
    begin = dt.datetime(2026, 3, 27, tzinfo=dt.UTC).timestamp()
    times = [
        dt.datetime.fromtimestamp(at, ZoneInfo("Europe/Berlin")) for at in slots(timing, begin, begin + 4 * 86_400)
    ]
    assert [f"{at:%d %H:%M}" for at in times] == ["27 02:30", "28 02:30", "29 03:00", "30 02:30"]


FREQUENCIES = ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"]


@pytest.mark.parametrize("frequency", FREQUENCIES[2:])
def test_an_old_rule_keeps_its_step_and_is_found_at_once(frequency: str) -> None:
    timing = Timing(rrule=f"DTSTART:20000101T000000\nRRULE:FREQ={frequency};INTERVAL=7")
    unit = {"WEEKLY": 604_800, "DAILY": 86_400, "HOURLY": 3600, "MINUTELY": 60, "SECONDLY": 1}[frequency]
    start, now = dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp(), 1_800_000_000.0
    slot = timing.after(now)
    assert slot is not None
    assert slot > now
    assert (slot - start) % (7 * unit) == 0
    assert slot - now <= 7 * unit


def test_a_rule_that_counts_ends() -> None:
    timing = Timing(rrule="DTSTART:20260101T000000\nRRULE:FREQ=DAILY;COUNT=3")
    begin = dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp()
    assert len(list(slots(timing, begin, begin + 1e9))) == 3


@pytest.mark.parametrize("rule", ["FREQ=DAILY;COUNT=3", "FREQ=DAILY;BYHOUR=9;COUNT=3", "FREQ=MONTHLY;COUNT=3"])
@pytest.mark.parametrize("start", [None, dt.datetime(2026, 1, 2, 10, 30, tzinfo=dt.UTC)])
def test_it_counts_slots_and_not_its_declaration(rule: str, start: dt.datetime | None) -> None:
    now = dt.datetime(2026, 1, 1, 10, 30, 7, tzinfo=dt.UTC).timestamp()
    timing = build_timing(rrule=rule, start=start).anchored(now)
    assert len(timing.preview(timing.first(now), 9)) == 3


def test_a_rule_without_a_beginning_begins_when_it_is_declared() -> None:
    now = dt.datetime(2026, 1, 1, 10, 30, 7, tzinfo=dt.UTC).timestamp()
    timing = build_timing(rrule="FREQ=DAILY").anchored(now)
    assert timing.first(now) == now + 86_400
    assert timing.is_same(build_timing(rrule="FREQ=DAILY").anchored(now + 1234.5))


FIRST, THIRD = (dt.datetime(2030, 1, day, 8, tzinfo=dt.UTC) for day in (1, 3))


@pytest.mark.parametrize(
    "rule",
    [
        "DTSTART:20300101T080000Z\nRRULE:FREQ=DAILY;UNTIL=20300103T080000Z",
        "DTSTART;TZID=Europe/Berlin:20300101T090000\nRRULE:FREQ=DAILY;UNTIL=20300103T080000Z",
        rrule(EACH_DAY, dtstart=FIRST, until=THIRD),
        rrule(EACH_DAY, dtstart=FIRST.astimezone(ZoneInfo("Europe/Berlin")), until=THIRD),
    ],
)
def test_times_of_a_rule_that_have_a_zone_are_those(rule: object) -> None:
    begin = FIRST.timestamp()
    timing = build_timing(rrule=rule, timezone="Europe/Berlin")
    assert timing.preview(timing.first(begin - 1), 9) == [begin, begin + 86_400, begin + 2 * 86_400]


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_a_rule_without_any_time_is_found_out_soon(frequency: str) -> None:
    began = time.process_time()
    timing = build_timing(rrule=f"FREQ={frequency};BYMONTH=2;BYMONTHDAY=30").anchored(1.8e9)
    assert timing.first(1.8e9) is None
    assert time.process_time() - began < 5


@pytest.mark.parametrize("rule", ["FREQ=MINUTELY;BYHOUR=25", "FREQ=HOURLY;BYHOUR=25", "FREQ=MONTHLY;BYDAY=9MO"])
def test_a_rule_that_means_no_time_is_refused(rule: str) -> None:
    timing = build_timing(rrule=rule)
    with pytest.raises(InvalidTask, match="^rrule: "):
        timing.anchored(0.0).first(0.0)


# ── late schedulers ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "timing",
    [
        Timing(interval=7.0),
        Timing(cron="*/5 * * * *"),
        Timing(cron="0 4 * * *", timezone="Europe/Berlin"),
        Timing(cron="0 0 1 1 *"),
        Timing(rrule="DTSTART:20260101T000000\nRRULE:FREQ=HOURLY"),
    ],
)
def test_the_latest_slot_is_the_last_of_all(timing: Timing) -> None:
    slot = timing.first(1_780_000_000.0)
    assert slot is not None
    for late in (0.0, 1.0, 1000.0, 400_000.0):
        now = slot + late
        passed = [slot, *(at for at in slots(timing, slot, now + 1e-3))]
        assert timing.latest(slot, now) == passed[-1]


def test_nothing_fires_before_the_start_or_after_the_end() -> None:
    start, end = (dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (2, 4))
    for kind in ({"cron": "0 0 * * *"}, {"interval": 86_400}, {"rrule": "DTSTART:20250101T000000\nRRULE:FREQ=DAILY"}):
        timing = build_timing(**kind, start=start, end=end)
        first = timing.first(start.timestamp() - 1e6)
        assert timing.preview(first, 9) == [start.timestamp() + n * 86_400 for n in range(3)]


def test_jitter_is_the_same_for_all_and_within_bounds() -> None:
    delays = [delay_of("s", float(slot), 10.0) for slot in range(200)]
    assert delays == [delay_of("s", float(slot), 10.0) for slot in range(200)]
    assert 0.0 <= min(delays) < 1.0
    assert 9.0 < max(delays) < 10.0


# ── what is refused ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "expected exactly one of cron, interval, run_at and rrule, got none"),
        ({"cron": "* * * * *", "interval": 1}, "got cron and interval"),
        ({"cron": "61 * * * *"}, "cron: "),
        ({"cron": "* * * *"}, "cron: expected five fields"),
        ({"cron": "* * * * * * *"}, "cron: expected five fields"),
        ({"cron": "@reboot"}, "cron: "),
        ({"cron": "R * * * *"}, "cron: 'R' in"),
        ({"cron": "H H * * *"}, "cron: 'H' in"),
        ({"cron": ""}, "cron: expected 1 to 1000 characters"),
        ({"cron": 5}, "cron: expected text"),
        ({"cron": "0 0 * * nosuchday"}, "cron: "),
        ({"rrule": "EVERY DAY"}, "rrule: expected a rule such as"),
        ({"rrule": 5}, "rrule: "),
        ({"rrule": "RRULE:FREQ=DAILY\nEXDATE:20260101T000000"}, "rrule: expected a single RRULE"),
        ({"interval": 0}, "interval: expected 0.001 to"),
        ({"interval": float("nan")}, "interval: "),
        ({"run_at": dt.datetime(2026, 1, 1)}, "run_at: expected a datetime with a time zone"),
        ({"interval": 1, "timezone": "Mars/Olympus"}, "timezone: expected a name such as"),
        ({"interval": 1, "timezone": "../../etc/passwd"}, "timezone: "),
        ({"interval": 1, "timezone": None}, "timezone: "),
        ({"interval": 1, "timezone": ["UTC"]}, "timezone: "),
        *(({"rrule": f"FREQ={each};INTERVAL=0"}, "rrule: expected an INTERVAL of 1 or more") for each in FREQUENCIES),
        ({"rrule": "FREQ=DAILY;INTERVAL=-1"}, "rrule: expected an INTERVAL of 1 or more"),
        ({"rrule": rrule(EACH_DAY, interval=0)}, "rrule: expected an INTERVAL of 1 or more"),
        ({"rrule": "DTSTART;TZID=America/New_York:20300101T090000\nRRULE:FREQ=DAILY"}, "rrule: it begins in the time"),
        ({"rrule": rrule(EACH_DAY, dtstart=FIRST.astimezone(ZoneInfo("Asia/Tokyo")))}, "time zone Asia/Tokyo"),
        ({"rrule": "FREQ=HOURLY;BYSETPOS=2"}, "rrule: no period has as many times as BYSETPOS asks for"),
        ({"rrule": "FREQ=MINUTELY;BYSECOND=1,2;BYSETPOS=-3"}, "rrule: no period has as many times"),
        ({"rrule": "FREQ=DAILY;UNTIL=20309901T000000Z"}, "rrule: expected a time such as"),
        (
            {
                "interval": 1,
                "start": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
                "end": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            },
            "end: expected a time after start",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        build_timing(**given)  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"misfire": "never"}, "misfire: expected 'latest', 'skip' or 'all'"),
        ({"grace": -1}, "grace: "),
        ({"jitter": "1"}, "jitter: "),
        ({"max_running": 0}, "max_running: expected a whole number from 1"),
        ({"max_running": True}, "max_running: "),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        FiringPolicy.of(**given)  # type: ignore[arg-type]
    assert words in str(caught.value)
