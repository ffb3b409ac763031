"""A heap over records that change: what no longer holds is dropped when it comes up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeAlias, TypeVar

R = TypeVar("R")

Key: TypeAlias = tuple[float, float, str]
"""Two numbers to order by, then the record's id."""

_SMALL = 64


class Index(Generic[R]):
    """Records in the order of their keys.

    A record is never taken out when it changes: its old key no longer equals the one that `key` gives, and
    is skipped. So adding costs O(log n), leaving costs nothing, and taking costs O(log n) on average.
    """

    def __init__(self, records: Mapping[str, R], key: Callable[[R], Key | None]) -> None:
        self._records = records
        self._key = key
        self._heap: list[Key] = []
        self._compact_at = _SMALL

    def __len__(self) -> int:
        """How many keys there are, stale ones included."""
        return len(self._heap)

    def add(self, record: R) -> None:
        """Enter a record as it is now; one whose key is None doesn't belong here."""
        key = self._key(record)
        if key is None:
            return
        heappush(self._heap, key)
        if len(self._heap) > self._compact_at:
            self._compact()

    def first(self) -> R | None:
        """The record with the smallest key."""
        while self._heap:
            record = self._live(self._heap[0])
            if record is not None:
                return record
            heappop(self._heap)
        return None

    def take(self, until: float = inf) -> R | None:
        """Take out the first record, if its key doesn't begin beyond `until`."""
        record = self.first()
        if record is None or self._heap[0][0] > until:
            return None
        heappop(self._heap)
        return record

    def _live(self, key: Key) -> R | None:
        record = self._records.get(key[2])
        return record if record is not None and self._key(record) == key else None

    def _compact(self) -> None:
        """Drop the stale keys, at the latest when they are as many as the live ones."""
        self._heap = list({key for key in self._heap if self._live(key) is not None})
        heapify(self._heap)
        self._compact_at = max(_SMALL, 2 * len(self._heap))
