"""Rude tasks among innocent ones on one worker: `python -m tests.reliability.rude --tasks 2000 --worker async`.

Every innocent task has to succeed at its first attempt, every rude one has to end as it is stated, and descriptors,
threads and processes must be back to where they were. Exits with 1 and says what was wrong if that isn't so.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import Struct
from omniq import OmniQ
from omniq.errors import StoreUnavailable
from omniq.models import Task, TaskResult, TaskState
from omniq.sync import portal
from omniq.testing.rude_tasks import ACTS, INNOCENT, SUCCESS, Act

DESCRIPTORS = 500
"""As many as the process may have: so that they can be used up."""
SETTLING = 15.0
"""Seconds after which nothing that a task left behind is there any more."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to run."""

    worker: str
    url: str
    tasks: int = 2000
    seed: int = 1
    memory: int = 1 << 30
    """Bytes that a greedy task allocates."""
    acts: tuple[str, ...] = tuple(ACTS)
    patience: float = 240.0
    """Seconds after which a task that hasn't ended hangs."""


class Footprint(Struct, frozen=True):
    """What this process has open."""

    descriptors: int
    threads: int
    children: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        me = psutil.Process()
        children = [child for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
        return cls(me.num_fds(), threading.active_count(), len(children))

    def within(self, other: Footprint) -> bool:
        return (
            self.descriptors <= other.descriptors and self.threads <= other.threads and self.children <= other.children
        )


class Trial:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.complaints: list[str] = []

    def run(self) -> list[str]:
        """What was wrong."""
        with OmniQ(config={"task_queue": {"url": self._plan.url}}) as oq:
            self._warm_up(oq)
            before, self._files = Footprint.now(), _open_files()
            innocent, rude = self._enqueue(oq)
            oq.start_worker(self._plan.worker, lease=10.0, reap_interval=1.0, poll_interval=0.2)
            self._judge(oq, innocent, rude)
            oq.stop_worker()
            self._look_around(before)
        return self.complaints

    def _warm_up(self, oq: OmniQ) -> None:
        """Let everything be opened that stays open."""
        oq.start_worker(self._plan.worker)
        assert oq.get_result(oq.enqueue(INNOCENT[0], [1, 1]), timeout=SETTLING) == 2
        oq.stop_worker()

    def _enqueue(self, oq: OmniQ) -> tuple[dict[str, int], dict[str, str]]:
        innocent: dict[str, int] = {}
        rude: dict[str, str] = {}
        places = set(self._random.sample(range(self._plan.tasks), self._plan.tasks // 10))
        for number in range(self._plan.tasks):
            if number in places:
                name = self._plan.acts[len(rude) % len(self._plan.acts)]
                rude[self._add(oq, ACTS[name])] = name
            else:
                function = self._random.choice(INNOCENT)
                innocent[oq.enqueue(function, [number, 1], max_retries=0)] = number + 1
        return innocent, rude

    def _add(self, oq: OmniQ, act: Act) -> str:
        args = [self._plan.memory] if act.run.__name__ == "allocate" else []
        return oq.enqueue(act.run, args, max_retries=0, **act.options)

    def _judge(self, oq: OmniQ, innocent: dict[str, int], rude: dict[str, str]) -> None:
        deadline = time.monotonic() + self._plan.patience
        for task_id, name in rude.items():
            result = self._result(oq, task_id, name, deadline)
            if result is not None and _end(result) not in ACTS[name].ends | SCARCE:
                self.complaints.append(f"{name}: {_end(result)}: {result.error_message}")
        for task_id, value in innocent.items():
            result = self._result(oq, task_id, "innocent", deadline)
            if result is not None and (_end(result), result.value, result.attempts) != (SUCCESS, value, 1):
                self.complaints.append(f"an innocent one: {_end(result)}: {result.error_message} {result.traceback}")

    def _result(self, oq: OmniQ, task_id: str, name: str, deadline: float) -> TaskResult | None:
        """Its result, once it has ended."""
        while (task := _task(oq, task_id)) is None or task.state not in ENDED:
            if task is not None and time.monotonic() > deadline:
                self.complaints.append(f"{name}: it hangs: {task.state}, {task.attempts} attempts")
                return None
            time.sleep(0.01)
        if name == "innocent" and task.crashes:
            self.complaints.append(f"an innocent one was charged {task.crashes} crashes")
        while True:
            with suppress(StoreUnavailable):  # there are no descriptors for looking
                return portal().call(oq.aio.result_store.get(task_id))

    def _look_around(self, before: Footprint) -> None:
        deadline = time.monotonic() + SETTLING
        while not (now := Footprint.now()).within(before) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not now.within(before):
            threads = sorted(thread.name for thread in threading.enumerate())
            files = list((Counter(_open_files()) - Counter(self._files)).elements())
            self.complaints.append(f"left behind: {before} has become {now}, {threads}, {files}")


SCARCE = {"OSError"}
"""How a rude task may end, too, while another one has all descriptors."""
ENDED = {TaskState.SUCCESS, TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED}


def _task(oq: OmniQ, task_id: str) -> Task | None:
    """The task; None while there are no descriptors for looking."""
    with suppress(StoreUnavailable):
        return oq.get_task(task_id)
    return None


def _open_files() -> list[str]:
    """What the descriptors stand for, where the system tells."""
    with suppress(OSError):
        return sorted(os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink())
    return []


def _end(result: TaskResult) -> str:
    return SUCCESS if result.error_type is None else result.error_type


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--worker", choices=("async", "thread", "process", "gevent"), default="async")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1 << 30, help="bytes that a greedy task allocates")
    parser.add_argument("--only", action="append", choices=sorted(ACTS), help="this act; may be repeated")
    parser.add_argument("--without", action="append", default=[], choices=sorted(ACTS))
    parser.add_argument("--patience", type=float, default=240.0, help="seconds after which a task hangs")
    parser.add_argument("--url", help="where the queue is; a SQLite file of its own by default")
    parser.add_argument("--report", type=Path, help="a file for what was wrong; it may close stdout")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    logging.basicConfig(level=logging.ERROR)
    screen = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as directory:
        plan = Plan(
            worker=options.worker,
            url=options.url or f"sqlite:///{directory}/rude.db?synchronous=NORMAL",
            tasks=options.tasks,
            seed=options.seed,
            memory=options.memory,
            patience=options.patience,
            acts=tuple(name for name in options.only or ACTS if name not in options.without),
        )
        began = time.monotonic()
        try:
            complaints = Trial(plan).run()
        except BaseException:
            traceback.print_exc(file=screen)  # there may be no other place to say it
            raise
    print(*(complaints or ["all is well"]), f"{time.monotonic() - began:.1f} s", sep="\n", file=screen, flush=True)
    if options.report:
        options.report.write_text("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
