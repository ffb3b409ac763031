"""Several kinds of slots in one worker: its own, and those that tasks ask for."""

from __future__ import annotations

import math
import time
from asyncio import gather
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final

from omniq.errors import OmniQError, PluginError
from omniq.texts import get_logger
from omniq.workers.execution import Runner
from omniq.workers.jobs import InFlight, Job, Line, RunStatus
from omniq.workers.stacks import Stack

# ── slots ───────────────────────────────────────────────────────────────────


log = get_logger("omniq.worker")


class Runners:
    """The runner of a worker's own kind, and one of each other kind that a task has asked for: opened when the first
    such task comes."""

    def __init__(self, in_flight: InFlight, kind: str, make: Callable[[str, Line], Runner]) -> None:
        self._in_flight = in_flight
        self._make = make
        self.main = make(kind, in_flight.main)
        self.others: dict[str, Runner] = {}
        self._refused: set[str] = set()

    def of(self, job: Job) -> Runner:
        """The one whose slots a job is for; the worker's own where there is no other of that kind."""
        kind = job.call.worker
        return self.main if kind is None else self.others.get(kind, self.main)

    def all(self) -> list[Runner]:
        return [self.main, *self.others.values()]

    async def open(self) -> None:
        """Open the worker's own. Raises `WorkerError`."""
        await self.main.open()

    async def open_for(self, jobs: Iterable[Job]) -> list[Job]:
        """Open what these jobs are for; returns those for which that can't be done here."""
        refused: list[Job] = []
        for job in jobs:
            kind = job.call.worker
            if kind is None or self._in_flight.line_of(job) is self._in_flight.main or kind in self.others:
                continue
            if not await self._open(kind):
                refused.append(job)
        return refused

    async def _open(self, kind: str) -> bool:
        try:
            runner = self._make(kind, self._in_flight.lines[kind])
            await runner.open()
        except (OmniQError, ImportError) as error:
            if kind not in self._refused:
                self._refused.add(kind)
                hint = "" if isinstance(error, PluginError) else f" ({type(error).__name__})"
                log.error("tasks for a worker of kind %r can't be run here and go back: %s%s", kind, error, hint)
            return False
        self.others[kind] = runner
        log.info("slots of kind %r: %d", kind, runner.max_workers)
        return True

    def wake(self) -> None:
        """Let free slots take jobs."""
        self.main.wake()
        for runner in self.others.values():
            runner.wake()

    def stop_job(self, job: Job, why: RunStatus) -> None:
        self.of(job).stop_job(job, why)

    def end_silent(self, job: Job) -> None:
        self.of(job).end_silent(job)

    def call_off(self) -> list[Job]:
        """The jobs that have a slot and haven't begun there, and never will, as `Runner.call_off` says."""
        return [job for runner in self.all() for job in runner.call_off()]

    async def stacks(self) -> dict[str, Stack]:
        """Where the tasks are that run, by their ids, as `Runner.stacks` says."""
        found: dict[str, Stack] = {}
        for stacks in await gather(*(runner.stacks() for runner in self.all())):
            found |= stacks
        return found

    async def close(self) -> None:
        """Stop everything that still runs, and wait for what can be waited for."""
        await gather(*(runner.close() for runner in self.all()))


# ── how many tasks to claim ─────────────────────────────────────────────────


MAX_PREFETCH: Final = 2000
AHEAD_S: Final = 0.1
"""Seconds of work that are claimed ahead of free slots."""
MEMORY_S: Final = 0.05
"""Seconds within which a worker's pace is forgotten, so that it doesn't hoard once tasks take longer."""
MAX_IN_LINE: Final = 64 * 1024 * 1024
"""Bytes of large arguments and results that wait in a worker's hands before it claims more."""
REMEMBERED: Final = 0.95
"""The part of what is known of a queue that the next task leaves."""
RARE: Final = 0.2
"""The share of a queue's tasks under which the tasks of a kind are few."""
FORGOTTEN: Final = 0.001
"""The share under which it is forgotten that there were any."""
HALF_LIFE: Final = 5.0
"""Seconds within which half of what is known of a queue is forgotten."""
IN_VAIN: Final = 0.5
"""Seconds until a task is claimed again for which there was no room, so that others come first."""


class RateMeter:
    """How many jobs a second leave a line for good, as a moving average."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._rate = 0.0
        self._settled = line.settled
        self._since = time.monotonic()

    def ahead(self) -> int:
        """How many tasks are `AHEAD_S` seconds of work."""
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= 0.02:
            remembered, count = math.exp(-elapsed / MEMORY_S), self._line.settled - self._settled
            self._rate = remembered * self._rate + (1 - remembered) * count / elapsed
            self._settled, self._since = self._line.settled, now
        return min(MAX_PREFETCH, int(self._rate * AHEAD_S))


class ClaimLimits:
    """How many tasks more there is room for, in the slots of each kind and in line for them.

    A store doesn't know for which kind of slots a task is. So what the last claims have brought tells how many to claim
    of a queue: none, while the slots are taken that some of its tasks are for. What has come in vain goes back.
    """

    def __init__(self, in_flight: InFlight, runners: Runners, prefetch: int | None) -> None:
        self._in_flight = in_flight
        self._runners = runners
        self._prefetch = prefetch
        self._meters = {"": RateMeter(in_flight.main)}
        self.demand = Demand()

    def claims(self, queues: Sequence[str]) -> Iterator[tuple[Sequence[str], int]]:
        """The claims that are to be made, one after the other: of which queues, and of how many tasks at most."""
        if not self.demand:
            yield queues, max(1, self._room(""))  # a result may have taken the room meanwhile
            return
        for alone, group in groupby(queues, self.demand.knows):
            for names in ([name] for name in group) if alone else [list(group)]:
                if (limit := self._limit(names[0])) > 0:
                    yield names, limit

    def closed(self, queues: Sequence[str]) -> bool:
        """Whether nothing is claimed of some of these queues at present."""
        return bool(self.demand) and any(self._limit(name) == 0 for name in queues if self.demand.knows(name))

    def are_worth_a_claim(self) -> bool:
        """Whether a quarter of the capacity is free, or slots are about to be idle."""
        return any(self._is_worth_a_claim(kind) for kind in ("", *self._runners.others))

    def excess(self) -> list[Job]:
        """The jobs for which there is no room after all, which are in line no longer."""
        jobs: list[Job] = []
        for kind, runner in self._of_each_kind():
            line = self._line(kind)
            if (count := line.held - runner.max_workers - self._ahead(kind)) > 0:
                jobs += line.withdraw(max(0, len(line) - count))
        return jobs

    def stale(self, seconds: float) -> list[Job]:
        """The jobs that have been waiting for longer behind others, which are in line no longer."""
        jobs: list[Job] = []
        for kind, runner in self._of_each_kind():
            if (line := self._line(kind)).oldest_wait > seconds:
                jobs += line.withdraw(self._ahead(kind) if runner.slots else 0)
        return jobs

    def _is_worth_a_claim(self, kind: str) -> bool:
        room = self._room(kind)
        return room >= max(1, self._capacity(kind) // 4) or (room > 0 and not self._line(kind))

    def _limit(self, queue: str) -> int:
        return self.demand.limit(queue, self._room)

    def _room(self, kind: str) -> int:
        if self._runner(kind).blocked or self._in_flight.bytes_in_line >= MAX_IN_LINE:
            return 0
        return max(0, self._capacity(kind) - self._line(kind).held)

    def _capacity(self, kind: str) -> int:
        slots = self._runner(kind).slots
        return slots + self._ahead(kind) if slots else 0

    def _ahead(self, kind: str) -> int:
        """How many tasks may wait here for a slot."""
        if self._prefetch is not None:
            return self._prefetch
        if kind not in self._meters:
            self._meters[kind] = RateMeter(self._line(kind))
        return self._meters[kind].ahead()

    def _of_each_kind(self) -> Iterator[tuple[str, Runner]]:
        yield "", self._runners.main
        yield from self._runners.others.items()

    def _runner(self, kind: str) -> Runner:
        return self._runners.others[kind] if kind else self._runners.main

    def _line(self, kind: str) -> Line:
        return self._in_flight.lines[kind] if kind else self._in_flight.main


class Demand:
    """For which kinds of slots the tasks of each queue were of late; none of the worker's own kind is called "".

    Nothing is kept as long as no task asks for another kind.
    """

    def __init__(self) -> None:
        self._shares: dict[str, dict[str, float]] = {}
        """By queue and kind, the worker's own left out."""
        self._noted_at: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._shares)

    def knows(self, queue: str) -> bool:
        """Whether tasks of this queue have asked for another kind."""
        return queue in self._shares

    def note(self, in_flight: InFlight, jobs: Sequence[Job]) -> None:
        """Take note of what a claim has brought."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for job in jobs:
            own = in_flight.line_of(job) is in_flight.main
            kinds[job.record.queue_name].append("" if own else job.call.worker or "")
        for queue, found in kinds.items():
            if queue in self._shares or any(found):
                self._shares[queue] = _mixed(self._now(queue), found)
                self._noted_at[queue] = time.monotonic()

    def limit(self, queue: str, room: Callable[[str], int]) -> int:
        """How many tasks of a queue may be claimed, so that about as many of each kind come as there is room for.

        One of a kind that is rare in it may come in vain: it doesn't close the queue to the others.
        """
        shares = self._now(queue)
        limits = [int((room(kind) + (share < RARE)) / share) for kind, share in shares.items()]
        if (own := 1.0 - sum(shares.values())) >= FORGOTTEN:
            limits.append(int(room("") / own))
        return min(limits)

    def _now(self, queue: str) -> dict[str, float]:
        """The shares as they are taken to be now: nobody knows what comes behind tasks that are left alone."""
        age = time.monotonic() - self._noted_at.get(queue, 0.0)
        remembered = 0.5 ** (age / HALF_LIFE)
        shares = ((kind, share * remembered) for kind, share in self._shares.get(queue, {}).items())
        return {kind: share for kind, share in shares if share >= FORGOTTEN}


def _mixed(before: Mapping[str, float], found: Sequence[str]) -> dict[str, float]:
    """The share of each kind, now that these were found."""
    old = REMEMBERED ** len(found)
    new = (1 - old) / len(found)
    return {kind: old * before.get(kind, 0.0) + new * found.count(kind) for kind in {*before, *found} if kind}
