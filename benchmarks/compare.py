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

from contestants import Contestant, LeftOut
from goals import Goal, Round, medians
from stores import NAMES, load
from stores.base import Store
from versions import versions

from tests.servers import exit_without_server


def introduce(store: Store, contestants: Sequence[Contestant]) -> Iterator[Contestant]:
    """Print what is compared, and why some are not; gives those that are."""
    print(store.describe())
    print(f"  {'omniq, probe':<18} {versions(store.packages)}")
    for contestant in contestants:
        try:
            shown = contestant.versions() if contestant.packages else ""
        except LeftOut as reason:
            leave_out(contestant, reason)
            continue
        if shown:
            print(f"  {contestant.name:<18} {shown}")
        yield contestant


def leave_out(contestant: Contestant, reason: LeftOut) -> None:
    """Say that one doesn't take part, or no longer."""
    print(f"  {contestant.name:<18} left out: {reason}", flush=True)


def rounds(store: Store, contestants: Sequence[Contestant], count: int, tasks: int) -> Iterator[Round]:
    """The figures of each round, as they come. Whoever fails is left out from then on."""
    running = list(contestants)
    for number in range(count):
        row = {}
        for contestant in list(running):
            try:
                with store.place() as place:
                    row[contestant.name] = contestant.run(place, tasks)
            except LeftOut as reason:
                leave_out(contestant, reason)
                running.remove(contestant)
            else:
                print(f"round {number + 1}  {contestant.name:<18} {row[contestant.name]}", flush=True)
        yield row


def conclude(rows: Sequence[Round], goals: Sequence[Goal]) -> None:
    """Print the medians, and what became of the goals whose contestants took part to the end."""
    print(f"\nmedians of {len(rows)} rounds")
    for (name, figure), value in medians(rows).items():
        print(f"  {name:<18} {figure:<18} {value:>12,.1f}")
    print("\ngoals")
    for goal in goals:
        if all(contestant in rows[-1] for contestant, _ in goal.keys):
            print(goal.judge(rows))


def compare(store: Store, only: Sequence[str] | None, count: int, tasks: int | None) -> None:
    """Compare who can be compared. Raises `SystemExit` where one of ours can't be."""
    wanted = [contestant for contestant in store.contestants if not only or contestant.name in only]
    contestants = list(introduce(store, wanted))
    rows = list(rounds(store, contestants, count, tasks or store.tasks))
    conclude(rows, store.goals)
    if missing := [c.name for c in wanted if not c.packages and c.name not in rows[-1]]:
        raise SystemExit(f"without figures: {', '.join(missing)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, help="of each contestant in each round")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    options = parser.parse_args()
    with exit_without_server():
        compare(load(options.store), options.only, options.rounds, options.tasks)


if __name__ == "__main__":
    main()
