"""How the workers of a run came back to work after their server did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

from tests.reliability.history import Event, Kind
from tests.reliability.run import Outage, Run


class Return(Struct, frozen=True):
    """A worker process that lives when the server is back, or is started soon after."""

    worker: str
    since: float
    """When the server was back, or the worker was started if that came later."""
    until: float
    """Up to when it can be expected to work: then it was killed, or the server was, or the run was over."""
    first: Event | None
    """Its first start, before then, of a task that it claimed after the server had gone."""

    @property
    def took(self) -> float | None:
        """Seconds until it had taken up new work."""
        return None if self.first is None else max(0.0, self.first.time - self.since)


def returns(run: Run) -> Iterator[Return]:
    """Every return of every worker process, whether there was work for it or not."""
    for outage, following in pairwise([*run.outages, Outage(math.inf, math.inf)]):
        for worker, spawned_at in run.spawned.items():
            gone_at = run.gone[worker].time if worker in run.gone else math.inf
            since = max(outage.up, spawned_at)
            until = min(gone_at, following.down, run.ended_at)
            if since < until and spawned_at <= outage.up + run.expect.comeback:
                yield Return(worker, since, until, _first_start(run, worker, outage.down, until))


def had_work(run: Run, since: float, until: float) -> bool:
    """Whether at every moment some task waited to be claimed, as far as that is certain.

    It is of tasks without parents, which are due from the beginning, until their first claim.
    """
    covered = since
    for begin, end in _waits(run):
        if begin <= covered:
            covered = max(covered, end)
    return covered >= until


def _first_start(run: Run, worker: str, after: float, until: float) -> Event | None:
    starts = (
        start
        for task in run.tasks.values()
        for start in task.starts
        if start.worker == worker and start.time < until and run.claimed_at(task, start.epoch) > after
    )
    return min(starts, key=lambda start: start.time, default=None)


def _waits(run: Run) -> list[tuple[float, float]]:
    """From when to when tasks waited for their first claim, in the order in which they came."""
    waits: list[tuple[float, float]] = []
    for task in run.tasks.values():
        acknowledged, held = task.of(Kind.ENQ_OK), task.first_held
        if acknowledged and not task.parents and (held is None or held.epoch == 1):
            waits.append((acknowledged[0].time, run.ended_at if held is None else held.time))
    return sorted(waits)
