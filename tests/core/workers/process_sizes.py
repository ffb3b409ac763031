"""Tasks of a process worker whose arguments and results have all sizes: each runs once, and nothing is charged.

python -m tests.core.workers.process_sizes [--tasks 500] [--largest 8388608] [--loop uvloop]
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tests.core.support import front_door, lines, reference_place, working
from tests.core.workers import process_tasks
from tests.loops import LOOPS, run_on


async def run_all_sizes(count: int, largest: int, log: Path) -> int:
    """Run so many tasks, with sizes that are log-uniform from 1 byte to the largest, on two children.

    What they return must be right, and nobody is charged. Returns how often one of them has run.
    """
    random = Random(count)
    sizes = [[round(math.exp(random.uniform(0, math.log(largest)))) for _ in range(2)] for _ in range(count)]
    async with front_door(reference_place()) as oq, working(oq, "process", max_workers=2, lease=60.0):
        ids = [
            await oq.enqueue(process_tasks.size_noted, [str(log), result, os.urandom(argument)])
            for argument, result in sizes
        ]
        for task_id, (argument, result) in zip(ids, sizes, strict=True):
            length, value = await oq.get_result(task_id, timeout=60)
            assert (length, len(value)) == (argument, result)
            task = await oq.get_task(task_id)
            assert (task.attempts, task.crashes) == (0, 0)
    return len(lines(log))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--largest", type=int, default=2**23, help="bytes of an argument or a result")
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        runs = run_on(options.loop, run_all_sizes(options.tasks, options.largest, Path(folder) / "log"))
    assert runs == options.tasks, "some have run more than once"
    print(f"{options.tasks} tasks with up to {options.largest} bytes: each ran once, none was charged")


if __name__ == "__main__":
    main()
