"""The contract: what every store promises, and what it is promised.

A store implements `BaseTaskQueue` (`omniq.storage.queue`), `BaseResultStorage` (`omniq.storage.results`) and
`BaseEventStorage` (`omniq.storage.events`), or the first of them alone. Everything is batch-first, and everything
crosses as bytes, times and durations. `omniq.testing.conformance` is the executable form of these pages.

**What a store is promised.** No batch is empty, and none has more than `max_items` items or `max_bytes` bytes of
bodies, unless one item alone has more, and no item has more than `max_item_bytes`. The ids of one call are unique, so
that no call changes a task twice; queues are unique and in the order in which they are to be emptied. A `limit` is
between 1 and 10,000. Ids, unique keys and names of schedules are printable text of 1 to 255 characters, and so of up
to 1,020 bytes in UTF-8; queue names are `omniq.models.config.NAME`. Where ids are ordered, it is by code point.
`omniq.storage.calls` keeps these promises.

**What it promises.** A method returns one answer per item, in order. `claim`, `lapsed`, `reap`, `purge` may do less
than they were asked for, and are asked again; only the lists of `find` and `query` are complete up to their `limit`. A
batch need not be atomic across its items, except where it says so; after `StoreUnavailable` some may be done, and the
caller repeats the whole call. A cancelled call may have taken effect. Times are data: they are compared with the
store's clock plus `omniq.clock.offset()`, so a store's own timers (TTLs, delayed delivery) must not decide anything.
Two projects at one place never see each other's tasks, schedules, results, events and workers, nor wake each other.

**Errors.** What a store can't do it says by `UnsupportedCapability`; what it can't reach, or can't do now, by
`StoreUnavailable`: the same call may succeed later; by `StoreFull` if it has no room; what it refuses by `StoreError`,
and by `ValueRefused` if that is for the size or content of an item, which a worker takes for the end of its task; all
else is tried again. Never does it raise an error of its driver, nor one of the event loop's (`omniq.storage.transport`
tells those). A full store still lets tasks end, as far as that needs no room.

**Loops, threads and processes.** Every method may be called from any event loop; connections are per loop, and end
with it (`omniq.loops.PerLoop`). A store connects by itself at the first call of a loop, and again after `close`, which
lets the calls end that are under way. A forked child uses no connection of its parent's, and closes none
(`omniq.storage.connected` does all of this).

**Waking.** A store tells `wakeups` of what it has made due, and of results, after the write; and where it can push,
other processes too, once for all that was written together. Nobody may rely on it for more than speed.

**No row spoils the others.** Whatever is in the store, a method answers for the rest; and a row that isn't what it
should be (a wrong type, a number out of bounds, text that isn't UTF-8, a state that there is none of) is a record with
stand-ins and with `damage`, by the functions of `omniq.storage.damage`. What reads shows it so, and writes nothing.
`claim` hands it out, and writes the stand-ins too, so that the caller can end it by `transition` like any other: it
dead-letters it. What can't be handed out, since nobody could name it, becomes ERROR in the claim, so that no queue is
blocked by it. `reap` takes back what is said to run without a lease, or with one that never ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from omniq.batching import MAX_BYTES
from omniq.storage.capabilities import Capability
from omniq.storage.guarantees import Guarantees
from omniq.storage.wakeups import Wakeups


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
        """Open what the running loop needs and create or migrate the schema. Safe to repeat, and safe for
        many processes at once."""

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
