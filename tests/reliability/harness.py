"""Runs a scenario: workers and server are killed at seeded random moments while tasks are worked off.

Then it waits until all tasks have ended, and holds history and final states against the invariants.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace
from omniq import AsyncOmniQ
from omniq.errors import StoreUnavailable
from omniq.sync import new_event_loop

from tests.reliability import history, survey
from tests.reliability.checker import Report, check
from tests.reliability.feeding import Feeder
from tests.reliability.fleet import ERRORS, WARNINGS, Fleet
from tests.reliability.history import History, Kind
from tests.reliability.outages import Outages, Server
from tests.reliability.planted import PLANT_VARIABLE
from tests.reliability.run import Slot
from tests.reliability.scenario import Scenario
from tests.reliability.work import nap
from tests.reliability.worker_main import WorkerOptions, front_door

LEAD = 0.25
"""Seconds that it takes to declare a schedule, at most."""

T = TypeVar("T")


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a scenario."""

    report: Report
    unfinished: int
    """Tasks that hadn't ended when time was up."""
    complaints: list[str]
    """What workers logged as warnings (errors, where the server was killed) or worse, and how they ended if not as
    asked to."""
    seconds: float

    def __str__(self) -> str:
        shown = "".join(f"\n  {line}" for line in self.complaints[:10])
        return f"{self.seconds:.1f} s, {self.unfinished} unfinished; {self.report}{shown}"


def run(scenario: Scenario, url: str, directory: Path, *, server: Server | None = None) -> Outcome:
    """Play the scenario on the empty store at `url`; `directory` takes the history and the workers' logs.

    `server` is what has to be killed for the scenario's `server_kills`.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_Play(scenario, url, directory, server).play())


class _Play:
    """One scenario being played."""

    def __init__(self, scenario: Scenario, url: str, directory: Path, server: Server | None) -> None:
        self._scenario = scenario
        self._history = History(directory / "history.jsonl")
        self._random = Random(scenario.seed)
        self._began = time.monotonic()
        self._oq = front_door(url)
        self._feeder = Feeder(
            self._oq, self._history, scenario.tasks, rate=scenario.rate, may_go_on=lambda: not self._time_is_up
        )
        options = WorkerOptions(url=url, worker_type=scenario.worker_type, worker_config=scenario.worker_config)
        self._fleet = Fleet(
            options, size=scenario.processes, directory=directory, history=self._history, seed=scenario.seed
        )
        self._outages = Outages(server, self._history, down=scenario.down, seed=scenario.seed) if server else None

    async def play(self) -> Outcome:
        """Enqueue, disturb, wait, stop, judge."""
        if self._scenario.plant:
            self._fleet.set_environment(**{PLANT_VARIABLE: self._scenario.plant})
        try:
            async with self._oq:
                return await self._play()
        finally:
            self._fleet.abandon()
            self._history.close()

    async def _play(self) -> Outcome:
        await self._feeder.feed()  # so that there is work when the workers come
        self._fleet.tend()
        await self._until_something_runs()
        first_slots = await self._begin_schedules()
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feeder.feed_all())
            await self._disturb()
            self._feeder.hurry.set()
            while not feeding.done():
                await self._pass(0.1)
        slots = await self._end_schedules(first_slots)
        unfinished = await self._wait()
        endings = await asyncio.to_thread(self._fleet.stop, 10.0, self._working())
        return await self._judge(unfinished, endings, slots)

    # ── what happens meanwhile ───────────────────────────────────────────────

    async def _until_something_runs(self) -> None:
        """Python takes a while to start: disturb nobody before there is something to disturb."""
        while not any(event.kind is Kind.START for event in history.read(self._history.path)):
            self._fleet.tend()
            self._check_time()
            await asyncio.sleep(0.1)

    async def _disturb(self) -> None:
        """Kill and freeze workers, and kill the server, in a random order."""
        scenario = self._scenario
        blows = [self._kill] * scenario.kills + [self._freeze] * scenario.stalls
        blows += [self._kill_server] * scenario.server_kills
        self._random.shuffle(blows)
        pause = scenario.pause
        for blow in blows:
            await self._pass(self._random.uniform(*pause))
            await blow()
            # Some of the workers that are killed next can't be replaced before the server is back.
            pause = (0.0, scenario.down[1]) if blow == self._kill_server else scenario.pause
        if self._outages is not None:
            await self._outages.over()

    async def _pass(self, seconds: float) -> None:
        """Let time pass, with workers alive."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._fleet.tend()
            await asyncio.sleep(0.05)

    async def _kill(self) -> None:
        self._fleet.kill_one(self._working())

    async def _freeze(self) -> None:
        worker = self._fleet.freeze_one(self._working())
        await self._pass(self._scenario.lease + self._scenario.reap_interval + 1.0)
        self._fleet.thaw(worker)

    def _working(self) -> set[str]:
        """The workers that have begun to work, some of which may be gone."""
        return {event.worker for event in history.read(self._history.path) if event.kind is Kind.START}

    async def _kill_server(self) -> None:
        """Kill it while tasks are being enqueued, so that it may take the answer along."""
        assert self._outages is not None, "the scenario kills the server: give one"
        self._feeder.hurry.set()
        await asyncio.sleep(0.02)  # then it has begun
        await self._outages.begin()
        self._feeder.hurry.clear()

    # ── the schedule ─────────────────────────────────────────────────────────

    async def _begin_schedules(self) -> dict[str, float]:
        """Declare the schedules; returns the first slot of each."""
        count, interval = self._scenario.schedules, self._scenario.interval
        begin = await self._oq.task_queue.store.now() + LEAD * count
        firsts = {f"ticks{n}": round(begin + n * interval / 10, 6) for n in range(count)}
        for id_, first in firsts.items():
            start = dt.datetime.fromtimestamp(first, dt.UTC)
            await self._oq.schedule(nap, [0.0], interval=interval, start=start, misfire="all", schedule_id=id_)
        return firsts

    async def _end_schedules(self, firsts: Mapping[str, float]) -> frozenset[Slot]:
        """Every slot from the first to the last one that was fired."""
        slots: set[Slot] = set()
        for id_, first in firsts.items():
            await self._oq.pause_schedule(id_)
            next_run = (await self._oq.get_schedule(id_)).next_run
            assert next_run is not None
            count = round((next_run.timestamp() - first) / self._scenario.interval)
            slots |= {(id_, round(first + n * self._scenario.interval, 6)) for n in range(count)}
        return frozenset(slots)

    # ── the end ──────────────────────────────────────────────────────────────

    async def _wait(self) -> int:
        """Wait until all tasks have ended, or time is up; returns how many haven't."""
        while (left := await self._ask(survey.unfinished)) and not self._time_is_up:
            self._fleet.tend()
            await asyncio.sleep(0.1)
        return left

    async def _ask(self, question: Callable[[AsyncOmniQ], Awaitable[T]]) -> T:
        """What the store says, which may have been away up to now."""
        while True:
            try:
                return await question(self._oq)
            except StoreUnavailable:
                if self._outages is None or self._time_is_up:
                    raise
                await asyncio.sleep(0.1)

    async def _judge(self, unfinished: int, endings: list[str], slots: frozenset[Slot]) -> Outcome:
        expect = replace(self._scenario.expectations, slots=slots)
        return Outcome(
            report=check(history.read(self._history.path), await self._ask(survey.final_states), expect),
            unfinished=unfinished,
            complaints=[*self._complaints(), *endings],
            seconds=time.monotonic() - self._began,
        )

    def _complaints(self) -> Iterator[str]:
        """What store and workers had to say; not, where the server is killed, the warnings that it is away."""
        yield from self._feeder.refused.values()
        if self._outages is None:
            yield from self._feeder.unavailable.values()
        yield from self._fleet.complaints(WARNINGS + ERRORS if self._outages is None else ERRORS)

    @property
    def _time_is_up(self) -> bool:
        return time.monotonic() > self._began + self._scenario.time_limit

    def _check_time(self) -> None:
        if self._time_is_up:
            raise TimeoutError(f"no task was started: {list(self._fleet.complaints())[:5]}")
