"""What every class of the suite has: a movable clock and the gate before what a store doesn't declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from omniq.storage.base import Capability, Store
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.builders import together

OVERRIDE = "override this fixture: an async generator that yields a connected, empty store and closes it"


def needs(store: Store, capability: Capability) -> None:
    """Skip the test, saying why, where the store doesn't declare the capability."""
    if capability not in store.capabilities:
        pytest.skip(f"the store doesn't declare the capability {capability.value!r}")


@pytest.mark.asyncio
class Conformance:
    """Base of the suite's classes."""

    most: ClassVar[int] = 1000
    """How many tasks the tests of big batches use at most; a slow store may lower it."""

    @pytest.fixture
    def many(self, store: Store) -> int:
        """As many tasks as go into one call."""
        return min(self.most, store.max_items)

    @pytest.fixture
    def clock(self) -> Iterator[VirtualClock]:
        """The clock that moves the store's time."""
        with VirtualClock() as clock:
            yield clock


class StoreConformance(Conformance):
    """What holds for queues, results and events alike."""

    async def test_connect_and_close_are_safe_to_repeat(self, store: Store) -> None:
        await store.connect()
        await store.close()
        await store.close()
        await store.connect()

    async def test_a_loop_may_connect_at_once_from_many_places(self, store: Store) -> None:
        await store.close()
        await together(store.connect() for _ in range(5))

    async def test_a_location_stays_the_same(self, store: Store) -> None:
        before = store.location
        await store.close()
        await store.connect()
        assert store.location == before != ""

    async def test_capabilities_are_declared_on_the_class(self, store: Store) -> None:
        assert isinstance(type(store).capabilities, frozenset)
        assert all(isinstance(capability, Capability) for capability in store.capabilities)
