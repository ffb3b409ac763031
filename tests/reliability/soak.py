"""The kill test at length: `python -m tests.reliability.soak --tasks 2000 --kills 20`, on any store by `--url`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.reliability import scenarios
from tests.reliability.harness import run


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round adds one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--worker", default="async", help="async, thread or process")
    parser.add_argument("--url", default="", help="of an empty task queue; SQLite in a new directory if not given")
    options = parser.parse_args()
    if options.url and options.rounds > 1:
        parser.error("--rounds needs an empty task queue for each round: leave --url out")
    return options


def main() -> int:
    """Play the rounds; the exit code says whether all kept every promise."""
    options = arguments()
    kept = True
    for seed in range(options.seed, options.seed + options.rounds):
        directory = Path(tempfile.mkdtemp(prefix="omniq-soak-"))
        url = options.url or f"sqlite:///{directory}/queue.db"
        scenario = scenarios.kills(options.worker, tasks=options.tasks, kills=options.kills, seed=seed)
        outcome = run(scenario, url, directory)
        print(f"seed {seed}, {directory}: {outcome}", flush=True)
        kept = kept and outcome.report.ok and outcome.unfinished == 0
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
