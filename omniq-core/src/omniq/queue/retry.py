"""How long to wait before trying again."""

from __future__ import annotations

import random


class RetryManager:
    """Exponential backoff with jitter.

    The delay before retry *n* is `base * factor ** (n - 1)`, at most `maximum` seconds, then spread over
    its upper half ("equal jitter" in Brooker, "Exponential Backoff and Jitter", AWS 2015), so that tasks
    which failed together don't come back together.
    """

    def __init__(self, *, factor: float = 2.0, maximum: float = 3600.0, seed: int | None = None) -> None:
        self._factor = factor
        self._maximum = maximum
        self._random = random.Random(seed)

    def delay(self, base: float, attempt: int) -> float:
        """Seconds to wait after `attempt` (1 for the first) has failed."""
        exponent = min(attempt - 1, 64)
        full = min(self._maximum, base * self._factor**exponent)
        return full * (0.5 + self._random.random() / 2)

    @staticmethod
    def exhausted(attempt: int, max_retries: int) -> bool:
        """Whether the attempt that has just failed was the last one."""
        return attempt > max_retries
