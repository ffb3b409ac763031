"""The contract, but for the queue's: what every store promises, results, and events."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Literal

from msgspec import Struct

from omniq.batching import MAX_BYTES
from omniq.errors import UnsupportedCapability
from omniq.models.task import TaskEvent
from omniq.storage.records import EventFilter, EventPage, NewBody, ResultRecord
from omniq.storage.wakeups import DEAF_WAIT, Wakeups

# ── what a store can do ─────────────────────────────────────────────────────


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


# ── what a store promises ───────────────────────────────────────────────────


class Guarantees(Struct, frozen=True, kw_only=True):
    """What holds for every task that `add` has acknowledged, and every result and change that was."""

    survives_process_kill: bool
    """They outlive the sudden death of any process, the server's included."""
    survives_power_loss: bool
    """They outlive a loss of power where they are kept."""
    survives_failover: bool
    """They are still there when a replica takes over."""
    clock: Literal["host", "server"]
    """Whose clock decides what is due, expired or lapsed."""
    push: bool
    """A waiting worker in another process is woken by an `add`, without polling."""
    atomic_results: bool
    """A result is stored in the very step that ends its task, when both live here."""
    fenced: bool = True
    """A worker whose lease has passed on can't finish, retry or release. Every store must."""
    evidence: tuple[str, ...] = ()
    """What the answer rests on, such as the server's own settings: "fsync=on"."""


# ── every store ─────────────────────────────────────────────────────────────


class Store(ABC):
    """What queues, results and events have in common."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    max_items: ClassVar[int] = 1000
    """How many items one call brings at most; what is more is split by the caller."""
    max_bytes: ClassVar[int] = MAX_BYTES
    """Bytes of bodies that one call brings at most: what is more is split by the caller, and a larger item comes alone.
    A `claim` hands out no more than that either."""

    @property
    def max_item_bytes(self) -> int:
        """Bytes of the largest body that the store takes, at least 512 KiB. Known once it is connected.

        The caller sends nothing larger, but a store may raise `PayloadTooLarge` for a body whose size it knows better.
        """
        return 1_000_000_000

    networked: bool = True
    """Whether others than this machine's users may reach the data; False for a local file, or for memory."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the data lives, such as `sqlite:/var/app/omniq.db`: equal for two stores exactly when they share one
        place, in which one atomic step can write both. Holds no secret."""

    @property
    def wakeups(self) -> Wakeups:
        """Everybody in this process who waits for what is kept here: a store tells them of what it writes."""
        return Wakeups.at(self.location)

    @abstractmethod
    async def connect(self) -> None:
        """Open what the running loop needs and create or migrate the schema, now: every other call does it by itself
        where it isn't done yet. Safe to repeat, and safe for many processes at once."""

    @abstractmethod
    async def guarantees(self) -> Guarantees:
        """What the store promises, asked of the live server where that can be asked."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what `connect` opened for the running loop, after the calls that are under way. Safe to repeat."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove everything that this project keeps here, results and events of the place included: its own tables,
        keys, files and folders too. Other projects at the place are untouched. Safe to repeat, and without `connect`.

        A later `connect` starts afresh. Whoever else has the place open mustn't use it meanwhile.
        """


# ── results ─────────────────────────────────────────────────────────────────


class BaseResultStorage(Store):
    """How tasks ended, and how far those have come that tell."""

    @abstractmethod
    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        """Store each record if the stored one gives way; returns whether it was stored.

        `rules.gives_way` decides: neither does a record of an older epoch replace a newer one, nor does one that is
        RUNNING replace a final one of its epoch. The store sets `finished_at` to now and `expires_at` to `ttl`
        seconds from now.
        """

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        """Replace the bodies of results that have the old one; returns whether each was replaced.

        Nothing else of a result changes, neither its times nor its place among those of its schedule. As for tasks, a
        store without it raises `UnsupportedCapability`.
        """
        raise UnsupportedCapability(f"{self.location} can't replace the bodies of results")

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        """The results, or None for those that aren't there or have expired."""

    @abstractmethod
    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        """The results of a schedule's tasks in the order of `finished_at`."""

    @abstractmethod
    async def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired results; returns how many."""

    async def hear(self, timeout: float) -> None:
        """Let `wakeups` be told of the results that other processes store.

        It returns when whoever waits had better look for all that he waits for: after `timeout` seconds at the latest.
        This default can't hear others, and returns within a second. Override it where the store can push.
        """
        await asyncio.sleep(min(timeout, DEAF_WAIT))


# ── events ──────────────────────────────────────────────────────────────────


class BaseEventStorage(Store):
    """What happened, kept as plain columns or JSON."""

    @abstractmethod
    async def append(self, events: Sequence[TaskEvent]) -> None:
        """Store the events."""

    @abstractmethod
    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        """A page of the events that match, newest first; those of one time in the reverse order of their `append`.

        `cursor` is that of the page before, and is good as long as the filter is the same. Serve `task_id`,
        `schedule_id` and `since` from indexes; the other conditions may be looked for among what these leave.
        """

    @abstractmethod
    async def purge(self, *, before: float, limit: int = 1000) -> int:
        """Delete up to `limit` events from before that time (seconds since the epoch); returns how many."""
