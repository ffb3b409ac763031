"""`omniq.testing.VirtualClock`, and what `omniq.testing` needs to be imported."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from omniq import clock as wall
from omniq.storage.wakeups import Wakeups
from omniq.testing import VirtualClock


@pytest.fixture(autouse=True)
def _clock_is_put_back() -> Iterator[None]:
    before = wall.offset()
    yield
    assert wall.offset() == before


def test_it_moves_the_clock_of_every_store() -> None:
    with VirtualClock() as clock:
        clock.advance(60)
        clock.advance(dt.timedelta(hours=1))
        assert clock.now() == pytest.approx(time.time() + 3660, abs=1)
        assert wall.now() == pytest.approx(clock.now(), abs=1)


def test_time_still_passes_by_itself() -> None:
    with VirtualClock() as clock:
        before = clock.now()
        time.sleep(0.01)
        assert before < clock.now() < before + 1


def test_it_is_put_back_after_an_error() -> None:
    with suppress(LookupError), VirtualClock() as clock:
        clock.advance(60)
        raise LookupError
    assert wall.offset() == 0


def test_an_inner_clock_gives_back_the_outer_one() -> None:
    with VirtualClock() as outer:
        outer.advance(60)
        with VirtualClock() as inner:
            inner.advance(60)
            assert wall.offset() == 120
        assert wall.offset() == 60


@pytest.mark.parametrize("step", [-1, -0.001, float("nan"), dt.timedelta(seconds=-1)])
def test_it_takes_no_step_back(step: float | dt.timedelta) -> None:
    with VirtualClock() as clock, pytest.raises(ValueError, match="advance: expected at least 0 seconds"):
        clock.advance(step)


def test_it_moves_nothing_before_it_is_entered() -> None:
    with pytest.raises(RuntimeError, match="enter the clock first"):
        VirtualClock().advance(1)


async def test_it_wakes_whoever_waits(virtual_clock: VirtualClock) -> None:
    news = Wakeups.at("there").subscribe()
    news.follow("t")
    await news.told()
    waits: list[asyncio.Task[object]] = [
        asyncio.create_task(Wakeups.at("here").for_tasks(["q"], 60)),
        asyncio.create_task(news.told()),
    ]
    await asyncio.sleep(0)
    virtual_clock.advance(1)
    _, waiting = await asyncio.wait(waits, timeout=5)
    assert not waiting


def test_importing_it_needs_no_pytest() -> None:
    probe = "import sys, omniq.testing; sys.exit('pytest' in sys.modules or 'hypothesis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
