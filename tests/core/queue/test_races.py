"""Cancels and TTLs race against claims: see `tests.reliability.races`, which runs as many as one likes on any store."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.storage.records import TaskRecord
from omniq.testing import ReferenceQueueStore

from tests.core.support import Place, front_door, reference_place
from tests.reliability import races

COUNT = 50


@pytest.fixture(autouse=True)
def _nothing_started() -> None:
    races.started.clear()


@pytest.mark.parametrize("race", races.RACES)
async def test_each_task_has_one_end_and_nothing_starts_after_it(place: Place, race: str) -> None:
    async with front_door(place) as oq:
        faults, ends = await races.run(oq, races.RACES[race], COUNT, seed=1)
    assert faults == []
    assert ends.total() == COUNT


class HandsOutExpiredOnesAsGood(ReferenceQueueStore):
    async def claim(self, *args: object, **kwargs: object) -> list[TaskRecord]:
        return [replace(r, expires_at=None) for r in await super().claim(*args, **kwargs)]  # type: ignore[arg-type]


async def too_late(oq: AsyncOmniQ, count: int, chance: Random) -> list[str]:
    return [await oq.enqueue(races.start, ttl=0) for _ in range(count)]


async def test_the_races_notice_what_starts_too_late() -> None:
    async with front_door(reference_place(queue=HandsOutExpiredOnesAsGood)) as oq:
        faults, _ = await races.run(oq, too_late, COUNT, seed=1)
    assert any("its TTL was over" in fault for fault in faults)
