"""Faults of the network and of the server, while a client enqueues and a worker works:

`python -m tests.reliability.faults --server postgres --loop uvloop --tasks 500`

Every task must succeed with its value, none may be there twice, and the worker must live.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from omniq import AsyncOmniQ
from omniq.models import TaskState
from omniq.workers import AsyncWorkerPool

from tests.loops import LOOPS, run_on
from tests.reliability.injections import LATENCY, OUTAGE, TICK, Injection, Trial, cut_replies, injections
from tests.reliability.load import Load, charged, stored, surely
from tests.reliability.outages import Server
from tests.reliability.proxy import FaultProxy
from tests.reliability.requests import PostgresRequests, RedisRequests
from tests.reliability.servers import KINDS, POSTGRES, running
from tests.reliability.verbs import VERBS
from tests.servers.postgres import with_options

SECONDS = 0.02
"""How long each task takes."""
LEASE = 10.0
LEASES = dict.fromkeys(("everything", "cut:claim", "cut:extend", "cut:lapsed", "cut:beat"), 1.5) | dict.fromkeys(
    ("stalls", "blackholes", "rowlock"), 2.0
)
"""Where leases must run out, or be renewed, for the fault to be seen."""


class Size(Struct, frozen=True):
    """How much of it."""

    tasks: int = 500
    cuts: int = 50
    resets: int = 30
    outage: float = OUTAGE
    latency: tuple[float, float] = LATENCY


class Verdict(Struct, frozen=True):
    """What came of it."""

    fault: str
    tasks: int
    seconds: float
    complaints: list[str]

    def __str__(self) -> str:
        shown = "".join(f"\n  {complaint}" for complaint in self.complaints[:10])
        return f"{self.fault}: {self.tasks} tasks in {self.seconds:.1f} s, {len(self.complaints)} complaints{shown}"


def faults(kind: str) -> list[str]:
    """The faults that such a server can be put through, one for each call of the contract among them."""
    return [*(name for name in injections(kind) if name != "everything"), *(f"cut:{verb}" for verb in VERBS)]


async def play(fault: str, server: Server, kind: str, size: Size) -> Verdict:
    """Let tasks be enqueued and worked off on a place of their own while that fault befalls them."""
    verb = fault.removeprefix("cut:")
    injection = cut_replies(verb) if verb != fault else injections(kind)[fault]
    with proxied(server, kind) as (proxy, url):
        place = place_at(kind, url)
        async with at(place, apart=verb in ("everything", "results_put")) as oq:
            lease = LEASES.get(fault, LEASE)
            trial = Trial(oq, place[0], proxy, server, kind, lease, size.cuts, size.resets, size.outage, size.latency)
            return await _Play(fault, injection, trial).play(size.tasks)


@contextmanager
def proxied(server: Server, kind: str) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy before the server, and the URL by which it is passed."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    requests = PostgresRequests if kind == POSTGRES else RedisRequests
    with FaultProxy((parts.hostname, parts.port), requests) as proxy:
        netloc = parts.netloc.replace(f":{parts.port}", f":{proxy.port}")
        yield proxy, urlunsplit(parts._replace(netloc=netloc))


def place_at(kind: str, url: str) -> tuple[str, str]:
    """The URLs of a queue at a new place of that server, and of results at another one."""
    option, name = "schema" if kind == POSTGRES else "prefix", f"f{secrets.token_hex(4)}"
    return with_options(url, **{option: name}), with_options(url, **{option: f"{name}r"})


def at(place: tuple[str, str], *, apart: bool) -> AsyncOmniQ:
    """OmniQ there; with `apart`, its results are at the other place."""
    queue, results = ({"url": url} for url in place)
    stores = {"task_queue": queue, "result_store": results if apart else queue}
    return AsyncOmniQ(config={**stores, "defaults": {"max_retries": 0}})


def front_door(kind: str, url: str, *, apart: bool) -> AsyncOmniQ:
    """OmniQ at a new place of that server."""
    return at(place_at(kind, url), apart=apart)


class _Play:
    """One fault being played."""

    def __init__(self, fault: str, injection: Injection, trial: Trial) -> None:
        self._fault = fault
        self._injection = injection
        self._trial = trial
        self._load = Load(trial.oq, seconds=trial.lease / 3 if fault in LEASES and fault != "cut:claim" else SECONDS)
        self._worker: dict[str, Any] = {
            "max_workers": 50,
            "lease": trial.lease,
            "reap_interval": 0.2,
            "poll_interval": 0.2,
            "grace_period": 5.0,
        }

    async def play(self, count: int) -> Verdict:
        began, oq = time.monotonic(), self._trial.oq
        await oq.schedule(asyncio.sleep, [0.0], interval=TICK, schedule_id="ticks")
        async with oq.worker_pool("async", **self._worker) as pool:
            complaints = [*await self._disturbed(count), *await self._load.complaints()]
            complaints += await self._at_rest(pool)
        if pool.failure is not None:
            complaints.append(f"the worker has ended: {pool.failure!r}")
        await oq.delete_schedule("ticks")
        complaints += await self._wrongly_stored()
        return Verdict(self._fault, len(self._load.values), time.monotonic() - began, complaints)

    async def _disturbed(self, count: int) -> list[str]:
        """Enqueue, and go on with it until all harm is done."""
        harm = asyncio.ensure_future(self._injection(self._trial))
        await self._load.enqueue(count)
        while not harm.done():
            await self._load.look_around()
            await self._load.enqueue(4)
        return await harm

    async def _at_rest(self, pool: AsyncWorkerPool) -> list[str]:
        """Reset connections of which none is in use, and see that the worker is there for one task more."""
        self._trial.proxy.latency = (0.0, 0.0)
        await surely(pool.drain)
        self._trial.proxy.reset_all()
        await self._load.enqueue(1)
        return await self._load.complaints()

    async def _wrongly_stored(self) -> list[str]:
        found, values = await surely(lambda: stored(self._trial.oq)), self._load.values
        complaints = [f"task {id_} is there, and nobody has enqueued it" for id_ in found.keys() - values.keys()]
        complaints += [f"task {id_} isn't there" for id_ in values.keys() - found.keys()]
        complaints += [f"task {id_} is {state}" for id_, state in found.items() if state is not TaskState.SUCCESS]
        complaints += [f"task {id_} was charged a crash" for id_ in await surely(lambda: charged(self._trial.oq))]
        schedules = {schedule.id for schedule in await surely(self._trial.oq.list_schedules)}
        return complaints + [f"schedule {id_} is wrong" for id_ in schedules ^ self._load.schedules]


def main() -> int:
    """Play the faults; the exit code says whether nobody has a complaint."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.faults", description=__doc__)
    parser.add_argument("--server", choices=KINDS, required=True)
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--resets", type=int, default=30)
    parser.add_argument("--only", action="append", help="a fault, such as resets or cut:claim; all if not given")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    size, kept = Size(options.tasks, options.cuts, options.resets), True
    for fault in options.only or faults(options.server):
        with running(options.server) as server:
            verdict = run_on(options.loop, play(fault, server, options.server, size))
        print(verdict, flush=True)
        kept = kept and not verdict.complaints
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
