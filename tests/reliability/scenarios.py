"""What the runs consist of: each function makes a scenario from a worker type, a size and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.reliability import work
from tests.reliability.scenario import Planned, Scenario

OFTEN = 1000
"""Crashes that a task survives where workers are killed at random: it isn't the task's fault."""
PROCESSES = 4
SLOTS = 4
"""Of each process."""
MEAN_SECONDS = 0.2
"""What a task of the mixture takes."""


def kills(
    worker_type: str, *, tasks: int = 200, kills: int = 6, stalls: int = 0, seed: int = 1, plant: str = ""
) -> Scenario:
    """Workers are killed, and sleep through their leases, at random moments while they work off tasks, some of which
    fail or have parents."""
    return Scenario(
        tasks=list(_mixture(worker_type, tasks, Random(seed))),
        worker_type=worker_type,
        kills=kills,
        stalls=stalls,
        max_crashes=OFTEN,
        time_limit=30.0 + tasks * 0.05 + kills * 3.0 + stalls * 5.0,
        seed=seed,
        plant=plant,
    )


def outages(
    worker_type: str, *, tasks: int = 450, kills: int = 3, server_kills: int = 1, seed: int = 1, plant: str = ""
) -> Scenario:
    """Workers and their server are killed, spread over half of the time that the tasks take, and enqueueing goes on.

    So there is work left for those that come back from the last outage.
    """
    seconds = tasks * MEAN_SECONDS / (PROCESSES * SLOTS)
    pause = 0.5 * seconds / (kills + server_kills)
    return Scenario(
        tasks=list(_mixture(worker_type, tasks, Random(seed))),
        rate=1.5 * tasks / seconds,
        worker_type=worker_type,
        processes=PROCESSES,
        max_workers=SLOTS,
        kills=kills,
        server_kills=server_kills,
        pause=(0.3 * pause, 1.3 * pause),
        max_crashes=OFTEN,
        time_limit=30.0 + tasks * 0.05 + kills * 3.0 + server_kills * 10.0,
        seed=seed,
        plant=plant,
    )


def stalls(
    worker_type: str, *, tasks: int = 40, seconds: float = 2.0, stalls: int = 1, seed: int = 1, plant: str = ""
) -> Scenario:
    """Workers sleep through their leases and come back while others run their tasks, or, if short, have run them."""
    return Scenario(
        tasks=[_napping(worker_type, n, seconds=seconds) for n in range(tasks)],
        worker_type=worker_type,
        stalls=stalls,
        max_crashes=OFTEN,
        seed=seed,
        plant=plant,
    )


def computing(worker_type: str, *, tasks: int = 2, lease: float = 2.0, seed: int = 1, plant: str = "") -> Scenario:
    """Tasks compute for three leases, and nothing disturbs them: each must run once, though an idle worker looks on."""
    func = work.hog if worker_type == "async" else work.compute
    return Scenario(
        tasks=[Planned(id=f"t{n:05d}", func=func, args=(3 * lease,)) for n in range(tasks)],
        worker_type=worker_type,
        processes=3,
        max_workers=1,
        prefetch=0,
        lease=lease,
        seed=seed,
        plant=plant,
    )


def poison(worker_type: str, *, innocents: int = 100, poisonous: int = 2, seed: int = 1, plant: str = "") -> Scenario:
    """Some tasks kill the process that runs them; those beside them must not suffer."""
    tasks = [_napping(worker_type, n, seconds=0.4) for n in range(innocents)]
    for n in range(poisonous):
        tasks.insert(1 + n * 7, Planned(id=f"p{n:05d}", func=work.die, dead=True))
    return Scenario(tasks=tasks, worker_type=worker_type, processes=2, max_workers=8, seed=seed, plant=plant)


def crowd(worker_type: str, *, tasks: int = 400, seed: int = 1, plant: str = "") -> Scenario:
    """Many short async tasks and workers that get in each other's way, but nothing fails."""
    naps = [Planned(id=f"t{n:05d}", func=work.nap, args=(0.005,)) for n in range(tasks)]
    return Scenario(tasks=naps, worker_type=worker_type, seed=seed, plant=plant)


def ticks(
    worker_type: str,
    *,
    schedules: int = 3,
    processes: int = 4,
    kills: int = 6,
    pause: tuple[float, float] = (0.2, 1.0),
    seed: int = 1,
    plant: str = "",
) -> Scenario:
    """Schedules of one second fire while workers, which are all schedulers, are killed."""
    return Scenario(
        tasks=[_napping(worker_type, n, seconds=0.05) for n in range(20)],
        worker_type=worker_type,
        processes=processes,
        kills=kills,
        pause=pause,
        schedules=schedules,
        interval=1.0,
        max_crashes=OFTEN,
        time_limit=60.0 + kills * pause[1],
        seed=seed,
        plant=plant,
    )


def _napping(worker_type: str, n: int, *, seconds: float) -> Planned:
    func = work.nap if worker_type == "async" else work.work
    return Planned(id=f"t{n:05d}", func=func, args=(seconds,))


def _mixture(worker_type: str, count: int, random: Random) -> Iterator[Planned]:
    """Seven in ten just take their time, one fails at first, two wait for one or two earlier ones."""
    for n in range(count):
        kind = random.random()
        if kind < 0.1:
            retry = {"max_retries": 1, "retry_delay": 0.2}
            yield Planned(id=f"t{n:05d}", func=work.stumble, args=(1,), options=retry)
            continue
        nap = _napping(worker_type, n, seconds=random.uniform(0.02, 0.4))
        if kind < 0.3 and n > 1:
            parents = {f"t{random.randrange(max(0, n - 20), n):05d}" for _ in range(2)}
            nap = Planned(id=nap.id, func=nap.func, args=nap.args, parents=tuple(sorted(parents)))
        yield nap
