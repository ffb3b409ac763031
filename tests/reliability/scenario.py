"""What a run consists of: the tasks, the workers, and what befalls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field

from tests.reliability.run import Expectations


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
    rate: float = 500.0
    """Tasks that are enqueued in a second, while workers and server are disturbed."""
    worker_type: str = "async"
    processes: int = 4
    max_workers: int = 4
    prefetch: int = 4
    lease: float = 2.0
    reap_interval: float = 0.5
    kills: int = 0
    stalls: int = 0
    """How often a worker is frozen for longer than its lease, and thawed."""
    server_kills: int = 0
    """How often the server is killed and started again."""
    pause: tuple[float, float] = (0.2, 1.0)
    """Between two kills or stalls: from, to."""
    down: tuple[float, float] = (0.5, 2.0)
    """For how long the server stays away: from, to. Kills may hit workers meanwhile."""
    max_crashes: int = 3
    max_attempts: int = 1
    schedules: int = 0
    """How many schedules fire while the workers are disturbed."""
    interval: float = 0.5
    """Between two slots of a schedule."""
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
            pickup=2.5,  # a worker may have to start first, on a machine that is busy
            renewal=self.lease / 3,
            in_flight=self.max_workers + self.prefetch,
            lost_leases=self.stalls * (self.max_workers + self.prefetch),
            max_attempts=self.max_attempts,
            max_crashes=self.max_crashes,
            dead=frozenset(task.id for task in self.tasks if task.dead),
        )
