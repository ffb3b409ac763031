"""Runs a scenario: workers that are killed and stalled at seeded random moments while they work off tasks.

Then it waits until all tasks have ended, and holds history and final states against the invariants.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from signal import SIGCONT
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from omniq.errors import StoreError

from tests.reliability import history, survey
from tests.reliability.checker import Report, check
from tests.reliability.fleet import Fleet
from tests.reliability.history import History, Kind
from tests.reliability.planted import PLANT_VARIABLE
from tests.reliability.run import Expectations, Slot
from tests.reliability.work import nap
from tests.reliability.worker_main import WorkerOptions, front_door

SCHEDULE = "ticks"
BATCH = 25
"""Tasks that are enqueued together."""


class Planned(Struct, frozen=True, kw_only=True):
    """A task to enqueue."""

    id: str
    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    parents: tuple[str, ...] = ()
    dead: bool = False
    """Whether it must end as a dead letter."""
    options: dict[str, Any] = field(default_factory=dict)


class Scenario(Struct, frozen=True, kw_only=True):
    """What to do to which workers while they do what. Durations are seconds."""

    tasks: Sequence[Planned]
    worker_type: str = "async"
    processes: int = 4
    max_workers: int = 4
    prefetch: int = 4
    lease: float = 2.0
    reap_interval: float = 0.5
    kills: int = 0
    stalls: int = 0
    """How often a worker is frozen for longer than its lease, and thawed."""
    pause: tuple[float, float] = (0.2, 1.0)
    """Between two kills or stalls: from, to."""
    max_crashes: int = 3
    max_attempts: int = 1
    schedule: float | None = None
    """Interval of a schedule that fires while the workers are disturbed."""
    time_limit: float = 60.0
    """By when all tasks must have ended."""
    seed: int = 1
    plant: str = ""
    """A bug to plant in the workers, by name."""

    @property
    def worker_config(self) -> dict[str, Any]:
        return {
            "max_workers": self.max_workers,
            "prefetch": self.prefetch,
            "lease": self.lease,
            "reap_interval": self.reap_interval,
            "max_crashes": self.max_crashes,
            "poll_interval": 0.2,
            "grace_period": 3.0,
        }

    @property
    def expectations(self) -> Expectations:
        return Expectations(
            lease=self.lease,
            reap_interval=self.reap_interval,
            pickup=1.5,
            in_flight=self.max_workers + self.prefetch,
            lost_leases=self.stalls * (self.max_workers + self.prefetch),
            max_attempts=self.max_attempts,
            max_crashes=self.max_crashes,
            dead=frozenset(task.id for task in self.tasks if task.dead),
        )


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of a scenario."""

    report: Report
    unfinished: int
    """Tasks that hadn't ended when time was up."""
    complaints: list[str]
    """What workers logged as warnings or worse, and how they ended if not as asked to."""
    seconds: float

    def __str__(self) -> str:
        shown = "".join(f"\n  {line}" for line in self.complaints[:10])
        return f"{self.seconds:.1f} s, {self.unfinished} unfinished; {self.report}{shown}"


def run(scenario: Scenario, url: str, directory: Path) -> Outcome:
    """Play the scenario on the store at `url`; `directory` takes the history and the workers' logs."""
    return asyncio.run(_Play(scenario, url, directory).play())


class _Play:
    """One scenario being played."""

    def __init__(self, scenario: Scenario, url: str, directory: Path) -> None:
        self._scenario = scenario
        self._history = History(directory / "history.jsonl")
        self._random = Random(scenario.seed)
        self._began = time.monotonic()
        self._oq = front_door(url)
        self._left = iter(scenario.tasks)
        self._refused: list[str] = []
        options = WorkerOptions(url=url, worker_type=scenario.worker_type, worker_config=scenario.worker_config)
        self._fleet = Fleet(
            options, size=scenario.processes, directory=directory, history=self._history, seed=scenario.seed
        )

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
        await self._enqueue(BATCH)  # so that there is work when the workers come
        self._fleet.tend()
        await self._until_something_runs()
        first_slot = await self._begin_schedule()
        await self._disturb()
        await self._enqueue(len(self._scenario.tasks))
        slots = await self._end_schedule(first_slot)
        unfinished = await self._wait()
        endings = await asyncio.to_thread(self._fleet.stop, 10.0)
        return await self._judge(unfinished, endings, slots)

    # ── what happens meanwhile ───────────────────────────────────────────────

    async def _enqueue(self, limit: int) -> None:
        """Enqueue up to `limit` more tasks, one by one."""
        for task in islice(self._left, limit):
            try:
                await self._oq.enqueue(task.func, task.args, task_id=task.id, depends_on=task.parents, **task.options)
            except StoreError as error:
                self._history.enqueued(task.id, task.parents, known=False)
                self._refused.append(f"{task.id} wasn't enqueued: {error}")
            else:
                self._history.enqueued(task.id, task.parents)

    async def _until_something_runs(self) -> None:
        """Python takes a while to start: disturb nobody before there is something to disturb."""
        while not any(event.kind is Kind.START for event in history.read(self._history.path)):
            self._fleet.tend()
            self._check_time()
            await asyncio.sleep(0.1)

    async def _disturb(self) -> None:
        """Kill and freeze workers in a random order."""
        blows = [self._kill] * self._scenario.kills + [self._freeze] * self._scenario.stalls
        self._random.shuffle(blows)
        for blow in blows:
            await self._pass(self._random.uniform(*self._scenario.pause))
            await blow()

    async def _pass(self, seconds: float) -> None:
        """Let time pass, with workers alive and tasks coming in."""
        until = time.monotonic() + seconds
        self._fleet.tend()
        while time.monotonic() < until:
            await self._enqueue(BATCH)
            await asyncio.sleep(0.05)

    async def _kill(self) -> None:
        self._fleet.kill_one()

    async def _freeze(self) -> None:
        worker = self._fleet.freeze_one()
        await self._pass(self._scenario.lease + self._scenario.reap_interval + 1.0)
        worker.send(SIGCONT)

    # ── the schedule ─────────────────────────────────────────────────────────

    async def _begin_schedule(self) -> float | None:
        """The time of the schedule's first slot, if the scenario has a schedule."""
        if self._scenario.schedule is None:
            return None
        await self._oq.schedule(nap, [0.0], interval=self._scenario.schedule, schedule_id=SCHEDULE)
        return await self._next_slot()

    async def _end_schedule(self, first: float | None) -> frozenset[Slot]:
        """Every slot from the first to the last one that was fired."""
        if first is None or self._scenario.schedule is None:
            return frozenset()
        await self._oq.pause_schedule(SCHEDULE)
        count = round((await self._next_slot() - first) / self._scenario.schedule)
        return frozenset((SCHEDULE, round(first + n * self._scenario.schedule, 6)) for n in range(count))

    async def _next_slot(self) -> float:
        next_run = (await self._oq.get_schedule(SCHEDULE)).next_run
        assert next_run is not None
        return next_run.timestamp()

    # ── the end ──────────────────────────────────────────────────────────────

    async def _wait(self) -> int:
        """Wait until all tasks have ended, or time is up; returns how many haven't."""
        while (left := await survey.unfinished(self._oq)) and not self._time_is_up:
            self._fleet.tend()
            await asyncio.sleep(0.1)
        return left

    async def _judge(self, unfinished: int, endings: list[str], slots: frozenset[Slot]) -> Outcome:
        expect = replace(self._scenario.expectations, slots=slots)
        return Outcome(
            report=check(history.read(self._history.path), await survey.final_states(self._oq), expect),
            unfinished=unfinished,
            complaints=[*self._refused, *endings, *self._fleet.complaints()],
            seconds=time.monotonic() - self._began,
        )

    @property
    def _time_is_up(self) -> bool:
        return time.monotonic() > self._began + self._scenario.time_limit

    def _check_time(self) -> None:
        if self._time_is_up:
            raise TimeoutError(f"no task was started: {list(self._fleet.complaints())[:5]}")
