"""What is expected of the figures, and whether they keep it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Figures: TypeAlias = dict[str, float]
"""What one contestant reached, by the name of the figure."""
Round: TypeAlias = Mapping[str, Figures]
"""What all of them reached, one after the other, by the contestant's name."""
Key: TypeAlias = tuple[str, str]
"""A contestant and one of its figures."""


def at_least(label: str, value: float, goal: float) -> str:
    """A line about a value that should be no smaller."""
    return _line(label, value, f"≥ {goal:g}", kept=value >= goal)


def at_most(label: str, value: float, goal: float) -> str:
    """A line about a value that should be no larger."""
    return _line(label, value, f"≤ {goal:g}", kept=value <= goal)


def _line(label: str, value: float, goal: str, *, kept: bool) -> str:
    return f"  {label:<56} {value:>6.2f}   goal {goal:<7} {'kept' if kept else 'MISSED'}"


class Goal(Protocol):
    """An expectation of a comparison."""

    @property
    def keys(self) -> Sequence[Key]:
        """The figures that it looks at."""

    def judge(self, rounds: Iterable[Round]) -> str:
        """A line about it."""


@dataclass(frozen=True)
class Ratio:
    """One contestant's figure over another's, within one round: the median of that should be no smaller."""

    ours: Key
    theirs: Key
    goal: float

    @property
    def keys(self) -> Sequence[Key]:
        return (self.ours, self.theirs)

    def judge(self, rounds: Iterable[Round]) -> str:
        value = statistics.median(_of(row, self.ours) / _of(row, self.theirs) for row in rounds)
        return at_least(f"{' '.join(self.ours)} / {' '.join(self.theirs)}", value, self.goal)


@dataclass(frozen=True)
class Floor:
    """A figure whose median should be no smaller."""

    ours: Key
    goal: float

    @property
    def keys(self) -> Sequence[Key]:
        return (self.ours,)

    def judge(self, rounds: Iterable[Round]) -> str:
        return at_least(" ".join(self.ours), statistics.median(_of(row, self.ours) for row in rounds), self.goal)


@dataclass(frozen=True)
class Ceiling:
    """A figure whose median should be no larger."""

    ours: Key
    goal: float

    @property
    def keys(self) -> Sequence[Key]:
        return (self.ours,)

    def judge(self, rounds: Iterable[Round]) -> str:
        return at_most(" ".join(self.ours), statistics.median(_of(row, self.ours) for row in rounds), self.goal)


def _of(row: Round, key: Key) -> float:
    contestant, figure = key
    return row[contestant][figure]


def medians(rounds: Iterable[Round]) -> dict[Key, float]:
    """The median of each figure."""
    values: defaultdict[Key, list[float]] = defaultdict(list)
    for row in rounds:
        for contestant, figures in row.items():
            for figure, value in figures.items():
                values[contestant, figure].append(value)
    return {key: statistics.median(column) for key, column in values.items()}
