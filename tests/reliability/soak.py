"""The kill test at length, on SQLite, on any store by `--url`, or on a server that is killed too:

`python -m tests.reliability.soak --tasks 5000 --kills 20 --server postgres --server-kills 3`

With schedules of one second on eight processes, of which one is killed every three seconds, for a minute:

`python -m tests.reliability.soak --schedules 20 --kills 20 --server redis`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from msgspec.structs import replace

from tests.reliability import scenarios
from tests.reliability.harness import Outcome, run
from tests.reliability.servers import KINDS, running
from tests.servers import exit_without_server


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--stalls", type=int, default=0, help="how often a worker sleeps through its lease")
    parser.add_argument("--lease", type=float, default=2.0, help="seconds; more where a store takes long to answer")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each round adds one")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--worker", default="async", help="async, thread or process")
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--url", default="", help="of an empty task queue; SQLite in a new directory if not given")
    store.add_argument("--server", choices=KINDS, help="start a new one, which can be killed")
    parser.add_argument("--server-kills", type=int, default=0)
    parser.add_argument("--schedules", type=int, default=0, help="instead of tasks")
    options = parser.parse_args()
    if options.url and options.rounds > 1:
        parser.error("--rounds needs an empty task queue for each round: leave --url out")
    if options.server_kills and not options.server:
        parser.error("--server-kills needs a --server")
    if options.schedules and (options.stalls or options.server_kills):
        parser.error("--schedules excludes --stalls and --server-kills")
    if options.server_kills and options.stalls:
        parser.error("--stalls and --server-kills exclude each other")
    return options


def play(options: argparse.Namespace, seed: int, directory: Path) -> Outcome:
    """Play one round."""
    size = {"tasks": options.tasks, "kills": options.kills, "seed": seed}
    if options.schedules:
        scenario = scenarios.ticks(
            options.worker,
            schedules=options.schedules,
            processes=8,
            kills=options.kills,
            pause=(3.0, 3.0),
            seed=seed,
        )
    elif options.server_kills:
        scenario = scenarios.outages(options.worker, server_kills=options.server_kills, **size)
    else:
        scenario = scenarios.kills(options.worker, stalls=options.stalls, **size)
    scenario = replace(scenario, lease=options.lease, time_limit=scenario.time_limit + 10 * (options.lease - 2.0))
    if not options.server:
        return run(scenario, options.url or f"sqlite:///{directory}/queue.db", directory)
    with exit_without_server(), running(options.server) as server:
        return run(scenario, server.url, directory, server=server)


def main() -> int:
    """Play the rounds; the exit code says whether all kept every promise."""
    options = arguments()
    kept = True
    for seed in range(options.seed, options.seed + options.rounds):
        directory = Path(tempfile.mkdtemp(prefix="omniq-soak-"))
        outcome = play(options, seed, directory)
        print(f"seed {seed}, {directory}: {outcome}", flush=True)
        kept = kept and outcome.report.ok and outcome.unfinished == 0
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
