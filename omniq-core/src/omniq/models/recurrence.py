"""Recurrence rules of RFC 5545, by dateutil: their times on the wall clock, without a zone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from omniq.errors import InvalidTask

if TYPE_CHECKING:
    from dateutil.rrule import rrule

# ── what users say ──────────────────────────────────────────────────────────


_TZID: Final = re.compile(r"DTSTART;TZID=([^:;]+)", re.IGNORECASE)
_IN_UTC: Final = re.compile(r"(DTSTART(?:;VALUE=DATE-TIME)?:|UNTIL=)(\d{8}T\d{6})Z", re.IGNORECASE)
"""RFC 5545 wants UNTIL to be so where there is a time zone."""


def written(rule: object, zone: ZoneInfo) -> str:
    """The rule as text, with times of the zone's wall clock where it has a zone. Raises `InvalidTask` for another."""
    text = rule if isinstance(rule, str) else str(_without_zone(rule, zone))
    if (named := _TZID.search(text)) and named[1] != zone.key:
        raise _other_zone(named[1], zone)
    return _IN_UTC.sub(lambda found: f"{found[1]}{_by_the_wall(found[2], zone)}", _TZID.sub("DTSTART", text))


def _by_the_wall(text: str, zone: ZoneInfo) -> str:
    try:
        at = dt.datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
        return f"{at.astimezone(zone):%Y%m%dT%H%M%S}"
    except (ValueError, OverflowError):
        raise InvalidTask(f"rrule: expected a time such as 20300131T090000Z, got {text}Z") from None


def _without_zone(rule: object, zone: ZoneInfo) -> object:
    from dateutil.rrule import rrule

    said = {name: getattr(rule, f"_{name}", None) for name in ("dtstart", "until")}
    times: dict[str, Any] = {
        name: at for name, at in said.items() if isinstance(at, dt.datetime) and at.tzinfo is not None
    }
    if not isinstance(rule, rrule) or not times:
        return rule
    own: dt.tzinfo = times["dtstart"].tzinfo
    if str(own) != zone.key and own.utcoffset(None) != dt.timedelta(0):
        raise _other_zone(str(own), zone)
    return rule.replace(**{name: at.astimezone(zone).replace(tzinfo=None) for name, at in times.items()})


def _other_zone(name: str, zone: ZoneInfo) -> InvalidTask:
    return InvalidTask(f"rrule: it begins in the time zone {name:.80}, and timezone says {zone.key!r}: say the same")


@lru_cache(maxsize=64)
def rule_of(text: str) -> rrule:
    """One rule with its DTSTART. Raises `InvalidTask`."""
    from dateutil.rrule import rrule, rrulestr

    try:
        rule = rrulestr(text, ignoretz=True)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InvalidTask(f"rrule: expected a rule such as 'FREQ=DAILY;BYHOUR=9', got {text!r:.80}: {error}") from None
    if not isinstance(rule, rrule):
        raise InvalidTask("rrule: expected a single RRULE, without RDATE, EXDATE or EXRULE")
    if getattr(rule, "_interval", 1) < 1:  # dateutil would look for its next time for ever
        raise InvalidTask(f"rrule: expected an INTERVAL of 1 or more, got {text!r:.80}")
    if _means_no_position(rule):
        raise InvalidTask(f"rrule: no period has as many times as BYSETPOS asks for, in {text!r:.80}")
    return rule


def _means_no_position(rule: rrule) -> bool:
    """Whether BYSETPOS asks an hour, a minute or a second for more times than it has: dateutil tries all."""
    freq, positions = getattr(rule, "_freq", 0), getattr(rule, "_bysetpos", None)
    if not positions or freq < HOURLY:
        return False
    minutes = len(getattr(rule, "_byminute", None) or "1") if freq == HOURLY else 1
    seconds = len(getattr(rule, "_bysecond", None) or "1") if freq <= MINUTELY else 1
    return all(abs(position) > minutes * seconds for position in positions)


HOURLY: Final = 4
MINUTELY: Final = 5
"""As dateutil has them, which isn't imported before it is needed."""


# ── its times ───────────────────────────────────────────────────────────────


_UNITS: Final = {"WEEKLY": 604_800, "DAILY": 86_400, "HOURLY": 3600, "MINUTELY": 60, "SECONDLY": 1}
"""Seconds of the periods of which a rule has one in so many; others differ in length."""
_SAID: Final = re.compile(r"DTSTART:(?P<start>\d{8}T\d{6})\nRRULE:FREQ=(?P<freq>\w+)(?:.*;INTERVAL=(?P<interval>\d+))?")
_COUNT: Final = re.compile(r";COUNT=(\d+)")


def times(text: str, begin: dt.datetime, *, first_counts: bool) -> Iterator[dt.datetime]:
    """The times of the rule from there on, and perhaps some before. Raises `InvalidTask`.

    Where its DTSTART is one of the rule's times and the `first_counts` not, there are as many as its COUNT besides.
    """
    rule = rule_of(text)
    try:
        yield from _from(rule if first_counts else _one_more(rule), begin)
    except (ValueError, TypeError, IndexError) as error:  # only now dateutil finds that no time is meant
        raise InvalidTask(f"rrule: expected a rule that means a time, got {text!r:.80}: {error}") from None


def _from(rule: rrule, begin: dt.datetime) -> Iterator[dt.datetime]:
    """The times of the rule from there on: dateutil would count from the rule's own beginning.

    It looks until the year 9999, which for a rule that means no time takes a minute. So it is moved close to that year,
    to look ahead from 400 to 800 years.
    """
    text = str(rule)
    said = _SAID.match(text)
    if said is None:
        return iter(rule)
    start = dt.datetime.strptime(said["start"], "%Y%m%dT%H%M%S")
    if ";COUNT=" not in text and (unit := _UNITS.get(said["freq"])) is not None:
        period = dt.timedelta(seconds=unit * int(said["interval"] or 1))
        start += max(0, (begin - start) // period) * period
    moved = CYCLE * (0 if ";BYEASTER=" in text else max(0, (dt.MAXYEAR - max(begin, start).year) // 400 - 1))
    until = getattr(rule, "_until", None)
    until = None if until is None or until > dt.datetime.max - moved else until + moved
    return (at - moved for at in rule.replace(dtstart=start + moved, until=until))


CYCLE: Final = dt.timedelta(days=146_097)
"""400 years, after which the calendar repeats itself, but for Easter."""


def _one_more(rule: rrule) -> rrule:
    """The rule with a COUNT that is one higher, if its DTSTART is among its times."""
    said, count = _SAID.match(str(rule)), _COUNT.search(str(rule))
    first = next(iter(rule), None) if said is not None and count is not None else None
    if said is None or count is None or first is None or f"{first:%Y%m%dT%H%M%S}" != said["start"]:
        return rule
    return rule.replace(count=int(count[1]) + 1)
