"""Pauses between attempts to reach what is away."""

from __future__ import annotations

import asyncio


class Backoff:
    """Pauses that double from `first` to `most` seconds."""

    def __init__(self, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self.next = first
        """Seconds of the next pause."""

    def reset(self) -> None:
        """Begin again: it was reached."""
        self.next = self._first

    async def pause(self) -> None:
        """Wait before the next attempt."""
        pause, self.next = self.next, min(2 * self.next, self._most)
        await asyncio.sleep(pause)
