"""What the web service has workers do: counting primes takes a while, and tells how far it is."""

from __future__ import annotations

from omniq import AsyncOmniQ, current_task

oq = AsyncOmniQ(project_name="web")  # SQLite in ./.omniq, unless configured otherwise
PART = 50_000
"""Numbers that are looked at between two reports."""


@oq.task(worker="process", timeout=600, retries=1)
def count_primes(limit: int) -> int:
    """How many primes are below a limit: a computation, so it runs in a process, where it can also be stopped."""
    count = 0
    for start in range(0, limit, PART):
        current_task().progress(start / limit, f"{count:,} primes below {start:,}")
        count += sum(map(is_prime, range(start, min(start + PART, limit))))
    return count


def is_prime(number: int) -> bool:
    """By trial division, which takes its time."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
