"""OmniQ, peers and a bare probe of the same store in turn: medians of the figures, and of the ratios round by round.

    python benchmarks/compare.py sqlite [--rounds 5] [--tasks 10000]
    python benchmarks/compare.py postgres [--rounds 5] [--tasks 20000]
    python benchmarks/compare.py redis [--rounds 5] [--tasks 40000]

Servers are started from wheels, unless `OMNIQ_TEST_POSTGRES_URL` or `OMNIQ_TEST_REDIS_URL` names one; each contestant
of each round works in a place of its own that is empty. Servers keep their data in the system's temporary folder:
where that is memory, name one on a disk by `TMPDIR`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from contestants import Contestant
from goals import Goal, Round, medians
from stores import NAMES, load
from stores.base import Store
from versions import versions


def introduce(store: Store, contestants: Sequence[Contestant]) -> None:
    """Print what is compared."""
    print(store.describe())
    print(f"  {'omniq, probe':<18} {versions(store.packages)}")
    for contestant in contestants:
        if contestant.packages:
            print(f"  {contestant.name:<18} {contestant.versions()}")


def rounds(store: Store, contestants: Sequence[Contestant], count: int, tasks: int) -> Iterator[Round]:
    """The figures of each round, as they come."""
    for number in range(count):
        row = {}
        for contestant in contestants:
            with store.place() as place:
                row[contestant.name] = contestant.run(place, tasks)
            print(f"round {number + 1}  {contestant.name:<18} {row[contestant.name]}", flush=True)
        yield row


def conclude(rows: Sequence[Round], goals: Sequence[Goal]) -> None:
    """Print the medians, and what became of the goals whose contestants took part."""
    print(f"\nmedians of {len(rows)} rounds")
    for (name, figure), value in medians(rows).items():
        print(f"  {name:<18} {figure:<18} {value:>12,.1f}")
    print("\ngoals")
    for goal in goals:
        if all(contestant in rows[0] for contestant, _ in goal.keys):
            print(goal.judge(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, help="of each contestant in each round")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    options = parser.parse_args()
    store = load(options.store)
    contestants = [c for c in store.contestants if not options.only or c.name in options.only]
    introduce(store, contestants)
    rows = list(rounds(store, contestants, options.rounds, options.tasks or store.tasks))
    conclude(rows, store.goals)


if __name__ == "__main__":
    main()
