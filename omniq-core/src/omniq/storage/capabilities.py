"""What a store can do beyond the contract's minimum."""

from __future__ import annotations

from enum import StrEnum


class Capability(StrEnum):
    """A declared ability. The conformance suite tests it where it is declared.

    Where it isn't, the suite asserts that asking for it raises `UnsupportedCapability`, if it can be asked for.
    """

    ATOMIC_RESULTS = "atomic-results"
    """`transition` writes the changes' results in the same atomic step, where both live in one `location`."""
    CROSS_PROCESS = "cross-process"
    """Several processes may share the store."""
    PERSISTENT = "persistent"
    """What is acknowledged survives the death of every process that uses the store."""
    PUSH = "push"
    """`wait` is woken by another process's `add` without polling."""
    PRIORITY = "priority"
    """Within a queue, a higher priority is claimed first."""
    UNIQUE = "unique"
    """`add` knows the `unique` keys of tasks."""
    TRANSACTIONAL_ENQUEUE = "transactional-enqueue"
    """`add` can join a transaction of the caller's."""
