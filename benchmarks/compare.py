"""OmniQ, a peer and a bare probe of the same store in turn: `compare.py sqlite [--rounds 5] [--tasks 10000]`.

Prints the median of each figure and the median of the ratios round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 300
"""Seconds that one measurement may take."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Contestant:
    """Commands that share one fresh folder and each print figures."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    packages: tuple[str, ...] = ()
    """What a peer needs, installed in an environment of its own."""

    def run(self, folder: Path, tasks: int) -> Figures:
        figures: Figures = {}
        for command in self.commands:
            figures |= measure([python(self), *command], environment(folder, tasks))
        return figures


@dataclass(frozen=True)
class Ratio:
    """A goal: one contestant's figure over another's."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    goal: float


SQLITE = (
    Contestant(
        "omniq",
        (("ours.py", "enqueue"), ("ours.py", "work")),
    ),
    Contestant("huey", (("peers/huey_sqlite.py", "enqueue"), ("peers/huey_sqlite.py", "work")), ("huey",)),
    Contestant("probe", (("probes/sqlite.py",),)),
    Contestant("omniq-thread", (("ours.py", "enqueue", "thread"), ("ours.py", "work", "thread"))),
    Contestant("omniq-concurrent", (("ours.py", "concurrent"),)),
    Contestant("omniq-latency", (("ours.py", "latency"),)),
    Contestant("omniq-import", (("ours.py", "import"),)),
)
SQLITE_RATIOS = (
    Ratio(("omniq", "process_per_s"), ("huey", "process_per_s"), 10.0),
    Ratio(("omniq", "process_per_s"), ("probe", "process_per_s"), 0.5),
    Ratio(("omniq-thread", "process_per_s"), ("huey", "process_per_s"), 4.0),
    Ratio(("omniq", "enqueue_per_s"), ("huey", "enqueue_per_s"), 1.0),
)
STORES: Mapping[str, tuple[tuple[Contestant, ...], tuple[Ratio, ...]]] = {"sqlite": (SQLITE, SQLITE_RATIOS)}


def environment(folder: Path, tasks: int) -> dict[str, str]:
    return {
        **os.environ,
        "BENCH_TASKS": str(tasks),
        "BENCH_URL": f"sqlite:///{folder}/omniq.db",
        "BENCH_FILE": f"{folder}/peer.db",
    }


def python(contestant: Contestant) -> str:
    """The interpreter that runs a contestant; a peer's is made at the first call."""
    if not contestant.packages:
        return sys.executable
    home = Path(tempfile.gettempdir()) / "omniq-peers" / contestant.name
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        subprocess.run(["uv", "venv", "-q", "-p", sys.executable, str(home)], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "-p", str(interpreter), *contestant.packages], check=True)
    return str(interpreter)


def measure(command: list[str], env: dict[str, str]) -> Figures:
    """The figures that a command prints. Raises `RuntimeError` with its output when it prints none."""
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=LIMIT)
    for line in done.stdout.splitlines():
        if line.startswith('{"figures"'):
            figures: Figures = json.loads(line)["figures"]
            return figures
    raise RuntimeError(f"{' '.join(command)} printed no figures:\n{done.stdout[-500:]}{done.stderr[-2000:]}")


def rounds(contestants: tuple[Contestant, ...], count: int, tasks: int) -> Iterator[dict[str, Figures]]:
    """One dict of figures per contestant and round, as they come."""
    for number in range(count):
        row: dict[str, Figures] = {}
        for contestant in contestants:
            # Beside the code, not in the system's temporary folder: that may be memory, which never waits for a disk.
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                row[contestant.name] = contestant.run(Path(folder), tasks)
            print(f"round {number + 1}  {contestant.name:<18} {row[contestant.name]}", flush=True)
        yield row


def medians(rows: list[dict[str, Figures]]) -> dict[tuple[str, str], float]:
    values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for name, figures in row.items():
            for figure, value in figures.items():
                values[name, figure].append(value)
    return {key: statistics.median(column) for key, column in values.items()}


def ratio(rows: list[dict[str, Figures]], goal: Ratio) -> float:
    """The median of the ratios, each within one round."""
    (ours, our_figure), (theirs, their_figure) = goal.ours, goal.theirs
    return statistics.median(row[ours][our_figure] / row[theirs][their_figure] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=sorted(STORES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", help="names of contestants")
    options = parser.parse_args()
    contestants, goals = STORES[options.store]
    if options.only:
        contestants = tuple(c for c in contestants if c.name in options.only)
    rows = list(rounds(contestants, options.rounds, options.tasks))
    print(f"\nmedians of {len(rows)} rounds")
    for (name, figure), value in medians(rows).items():
        print(f"  {name:<18} {figure:<18} {value:>12,.1f}")
    print("\nmedian ratios")
    for goal in goals:
        if goal.ours[0] in rows[0] and goal.theirs[0] in rows[0]:
            value = ratio(rows, goal)
            print(f"  {' '.join(goal.ours):<28} / {' '.join(goal.theirs):<24} {value:>6.2f}   goal {goal.goal:g}")


if __name__ == "__main__":
    main()
