"""Ids: UUIDv7 (RFC 9562) without hyphens, so that they sort by creation time."""

from __future__ import annotations

import os
import random
import time
import uuid

_NAMESPACE = uuid.UUID("6f6d6e69-7100-7000-8000-000000000000")
_random = random.Random(os.urandom(32))
# A forked child must not repeat its parent's sequence.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))

_VERSION = 7 << 76
_VARIANT = 2 << 62


def new_id() -> str:
    """A fresh id: 48 bits of milliseconds, then 74 random bits."""
    bits = _random.getrandbits(74)
    value = (time.time_ns() // 1_000_000) << 80 | _VERSION | (bits >> 62) << 64 | _VARIANT | (bits & ((1 << 62) - 1))
    return f"{value:032x}"


def slot_id(schedule_id: str, slot: float) -> str:
    """The id of the task that a schedule fires for one slot: the same whoever fires it."""
    return uuid.uuid5(_NAMESPACE, f"{schedule_id}/{round(slot * 1000)}").hex
