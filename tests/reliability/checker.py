"""Whether a run kept OmniQ's promises, judged from the outside history and the final states alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from tests.reliability.history import Event, Kind
from tests.reliability.invariants import INVARIANTS
from tests.reliability.returns import had_work, returns
from tests.reliability.run import Expectations, Final, Run

SHOWN = 20


class Violation(Struct, frozen=True):
    """One broken promise."""

    invariant: str
    """Its name, such as `I3`."""
    subject: str
    """The id of the task or schedule, or the name of the worker process."""
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.detail}"


class Report(Struct, frozen=True, kw_only=True):
    """What the checker found, with the figures that show that it had something to look at."""

    violations: list[Violation]
    tasks: int
    starts: int
    re_executions: int
    kills: int
    outages: int
    cut: int
    """Starts that a kill cut short."""
    refused: int
    """Changes that the store refused to a claim's holder."""
    slowest_recovery: float
    """Seconds from a kill to the next start of a task that it cut short; 0.0 without one."""
    comebacks: int
    """How often a worker took up new work after an outage, with work to be had all the time."""
    slowest_comeback: float
    """Seconds from the server's return, or the worker's start if that came later; 0.0 without one."""

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def broken(self) -> set[str]:
        """The names of the invariants that were violated."""
        return {violation.invariant for violation in self.violations}

    def __str__(self) -> str:
        figures = (
            f"{self.tasks} tasks, {self.starts} starts, {self.kills} kills that cut {self.cut} starts short, "
            f"{self.re_executions} re-executions, {self.refused} refused, "
            f"slowest recovery {self.slowest_recovery:.2f} s, {self.outages} server kills, after which workers came "
            f"back {self.comebacks} times, slowest {self.slowest_comeback:.2f} s: {len(self.violations)} violations"
        )
        hidden = len(self.violations) - SHOWN
        lines = [figures, *(f"  {violation}" for violation in self.violations[:SHOWN])]
        return "\n".join([*lines, f"  and {hidden} more"] if hidden > 0 else lines)


def check(history: Sequence[Event], final: Mapping[str, Final], expect: Expectations) -> Report:
    """Hold the run against every invariant."""
    run = Run(history, final, expect)
    violations = [Violation(name, *broken) for name, invariant in INVARIANTS.items() for broken in invariant(run)]
    cuts, comebacks = run.cuts(), list(_comebacks(run))
    return Report(
        violations=violations,
        tasks=len(final),
        starts=sum(len(task.starts) for task in run.tasks.values()),
        re_executions=len(run.re_executions()),
        kills=sum(event.kind is Kind.KILL for event in run.gone.values()),
        outages=len(run.outages),
        cut=len(cuts),
        refused=sum(len(task.of(Kind.SETTLED_LOST)) for task in run.tasks.values()),
        slowest_recovery=max((cut.recovery for cut in cuts if cut.recovery is not None), default=0.0),
        comebacks=len(comebacks),
        slowest_comeback=max(comebacks, default=0.0),
    )


def _comebacks(run: Run) -> Iterator[float]:
    """How long workers took until they had taken up new work, where there was some for them all the time."""
    for back in returns(run):
        if back.took is not None and had_work(run, back.since, back.since + back.took):
            yield back.took
