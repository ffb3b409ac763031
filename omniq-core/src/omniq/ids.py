"""Ids: UUIDs (RFC 9562) without hyphens that sort by time, and what an id of a user's own may be.

New ids are of version 7 and begin with the milliseconds of their creation. Those of the tasks that schedules fire are
of version 8 and begin with the milliseconds of their slot; no user can take one of these for a task of their own.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time

from omniq.errors import InvalidTask

MAX_LENGTH = 255
MAX_PAGE = 10_000
"""Items of one list."""

_random = random.Random(os.urandom(32))
# A forked child must not repeat its parent's sequence.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

_VERSION_7 = 7 << 76
_VERSION_8 = 8 << 76
_VARIANT = 2 << 62
_MAX_MILLISECONDS = (1 << 48) - 1
_SLOT_ID = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_id() -> str:
    """A fresh id: 48 bits of milliseconds, then 74 random bits."""
    return _uuid(time.time_ns() // 1_000_000, _VERSION_7, _random.getrandbits(74))


def slot_id(schedule_id: str, slot: float) -> str:
    """The id of the task that a schedule fires for one slot (seconds since the epoch): the same whoever fires it.

    48 bits of the slot's milliseconds, then 74 bits of a hash of both.
    """
    milliseconds = round(slot * 1000)
    digest = hashlib.sha256(f"{schedule_id}/{milliseconds}".encode()).digest()
    return _uuid(min(max(milliseconds, 0), _MAX_MILLISECONDS), _VERSION_8, int.from_bytes(digest) >> 256 - 74)


def check_id(value: object, name: str) -> str:
    """The id, if it can be one. `name` is that of the argument. Raises `InvalidTask`."""
    if not isinstance(value, str):
        raise InvalidTask(f"{name}: expected text, got {type(value).__name__}")
    id_ = str.__str__(value)  # of a subclass of str, the text itself: stores know no other
    if not 0 < len(id_) <= MAX_LENGTH or not id_.isprintable():
        raise InvalidTask(f"{name}: expected 1 to {MAX_LENGTH} printable characters, got {id_!r:.80}")
    return id_


def check_new_id(value: object, name: str) -> str:
    """As `check_id`, for a task that isn't there yet: it can't have the id of a schedule's slot."""
    id_ = check_id(value, name)
    if _SLOT_ID.fullmatch(id_):
        raise InvalidTask(f"{name}: {id_} is a UUID of version 8, which only the tasks of schedules have")
    return id_


def check_limit(limit: object) -> int:
    """How many items a list may have, if that is a number from 1 to `MAX_PAGE`. Raises `InvalidTask`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MAX_PAGE:
        raise InvalidTask(f"limit: expected 1 to {MAX_PAGE}, got {limit!r:.80}")
    return int(limit)


def _uuid(milliseconds: int, version: int, bits: int) -> str:
    """32 digits of 48 bits of time and 74 others."""
    return f"{milliseconds << 80 | version | (bits >> 62) << 64 | _VARIANT | (bits & ((1 << 62) - 1)):032x}"
