"""What goes wrong between OmniQ and a server, or with the server, while tasks are worked off."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from msgspec import Struct
from omniq import AsyncOmniQ
from omniq.errors import ResultTimeout
from omniq.queue import stores as store_clock
from omniq.storage.records import TaskFilter

from tests.reliability.outages import Server
from tests.reliability.proxy import FaultProxy
from tests.reliability.servers import POSTGRES
from tests.reliability.verbs import VERBS, asks_for
from tests.servers.redis import RedisServer

OUTAGE = 3.0
"""Seconds that a server refuses, is full or is silent."""
LATENCY = (0.2, 0.1)
"""Seconds by which data is late: mean and standard deviation."""
TIMEOUT, ALLOWANCE = 2.0, 0.5
"""Seconds that somebody wants to wait for a result, and that it may take on top of it to tell."""
RESET_EVERY = 0.1
"""Seconds between two resets, on the average."""
TICK = 0.2
"""Interval of a schedule that fires meanwhile."""
WATCHED = 10.0
"""Seconds for which that schedule is watched while clocks differ."""
OFTEN = 0.5
"""Seconds after which the store's clock is asked again here."""
RARE = 2.0
"""Seconds after which a call that nobody makes is not waited for."""


class Trial(Struct, frozen=True):
    """What an injection has to do with."""

    oq: AsyncOmniQ
    url: str
    """Of the queue, through the proxy."""
    proxy: FaultProxy
    server: Server
    kind: str
    lease: float
    cuts: int
    """How many replies to each call are cut."""
    resets: int
    outage: float = OUTAGE
    latency: tuple[float, float] = LATENCY


Injection: TypeAlias = Callable[[Trial], Awaitable[list[str]]]
"""Does harm while others work; returns what was wrong with what it saw itself."""


def cut_replies(verb: str) -> Injection:
    """Lose the replies to this call, one after the other."""

    async def cut(trial: Trial) -> list[str]:
        matches, lost = asks_for(verb, trial.kind), 0
        vars(store_clock)["ASK_AGAIN"] = OFTEN  # else a trial would see few replies to "now"
        for _ in range(trial.cuts):
            order = trial.proxy.cut_replies(matches, after=random.choice((0, 1, 20)))
            if verb == "listen":  # which is said once on each connection
                trial.proxy.reset_all()
            give_up_at = time.monotonic() + RARE
            while not order.done and time.monotonic() < give_up_at:
                await asyncio.sleep(0.005)
            trial.proxy.stop_cutting()
            lost += order.done
        return [] if lost else [f"no reply to {verb} was there to be lost"]

    return cut


async def cut_replies_of_all(trial: Trial) -> list[str]:
    """Lose the replies to each call."""
    return [complaint for verb in VERBS for complaint in await cut_replies(verb)(trial)]


async def reset(trial: Trial) -> list[str]:
    """Reset all connections again and again."""
    for _ in range(trial.resets):
        await asyncio.sleep(random.uniform(0.0, 2 * RESET_EVERY))
        trial.proxy.reset_all()
    return []


async def delay(trial: Trial) -> list[str]:
    """Let everything be late for the rest of the time."""
    trial.proxy.latency = trial.latency
    return []


async def refuse(trial: Trial) -> list[str]:
    """Refuse connections, and end those there are."""
    with trial.proxy.refusing():
        await asyncio.sleep(trial.outage)
    return []


async def fill(trial: Trial) -> list[str]:
    """Let the server's memory be full."""
    assert isinstance(trial.server, RedisServer)
    trial.server.ask("CONFIG SET", "maxmemory", "1")
    await asyncio.sleep(trial.outage)
    trial.server.ask("CONFIG SET", "maxmemory", "0")
    return []


async def silence(trial: Trial) -> list[str]:
    """Stop the server where it stands, and see that a deadline holds all the same."""
    trial.server.freeze()
    began = time.monotonic()
    try:
        await trial.oq.get_result("nothing", timeout=TIMEOUT)
    except ResultTimeout:
        took = time.monotonic() - began
    finally:
        await asyncio.sleep(max(0.0, trial.outage - TIMEOUT))
        trial.server.thaw()
    return [f"it took {took:.2f} s to tell"] if took > TIMEOUT + ALLOWANCE else []


async def lock_out(trial: Trial) -> list[str]:
    """Take the user's rights away for a while, and end the sessions that have them."""
    if isinstance(trial.server, RedisServer):
        trial.server.ask("ACL SETUSER", "default", "-evalsha", "-eval")
        await asyncio.sleep(trial.outage)
        trial.server.ask("ACL SETUSER", "default", "+@all")
        return []
    admin = await asyncpg.connect(trial.server.url)
    await admin.execute("alter role postgres nologin")
    await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    await asyncio.sleep(trial.outage)
    await admin.execute("alter role postgres login")
    await admin.close()
    return []


async def stall(trial: Trial) -> list[str]:
    """Stop the server three times, for two leases each."""
    for _ in range(3):
        trial.server.freeze()
        await asyncio.sleep(2 * trial.lease)
        trial.server.thaw()
        await asyncio.sleep(trial.lease)
    return []


async def swallow(trial: Trial) -> list[str]:
    """Let nothing get through for two leases, twice, though the connections stay open."""
    for _ in range(2):
        trial.proxy.silent = True
        await asyncio.sleep(2 * trial.lease)
        trial.proxy.silent = False
        await asyncio.sleep(trial.lease)
    return []


async def lock_row(trial: Trial) -> list[str]:
    """Hold the row of a running task locked for two leases."""
    schema = dict(parse_qsl(urlsplit(trial.url).query))["schema"]
    admin = await asyncpg.connect(trial.server.url)
    while (row := await admin.fetchrow(f"select id from {schema}.task where state = 'running' limit 1")) is None:
        await asyncio.sleep(0.01)
    async with admin.transaction():
        await admin.execute(f"select 1 from {schema}.task where id = $1 for update", row["id"])
        await asyncio.sleep(2 * trial.lease)
    await admin.close()
    return []


async def other_clocks(trial: Trial) -> list[str]:
    """Let two workers help whose hosts' clocks are an hour ahead and an hour behind."""
    program = (sys.executable, "-m", "tests.reliability.off_clock")
    helpers = [await asyncio.create_subprocess_exec(*program, str(off), trial.url) for off in (3600, -3600)]
    before = await _ticks(trial)
    await asyncio.sleep(WATCHED)
    fired = await _ticks(trial) - before
    for helper in helpers:
        helper.terminate()
        await helper.wait()
    due = WATCHED / TICK
    return [] if 0.7 * due <= fired <= 1.3 * due else [f"{fired} slots of a schedule were fired instead of {due:.0f}"]


async def _ticks(trial: Trial) -> int:
    page = await trial.oq.task_queue.store.find(TaskFilter(schedule_id="ticks"), limit=10_000)
    return len(page.tasks)


async def everything(trial: Trial) -> list[str]:
    """One after the other, all that ends by itself."""
    harm = [cut_replies_of_all, reset, refuse, lock_out, *([fill] if trial.kind != POSTGRES else [])]
    return [complaint for each in harm for complaint in await each(trial)]


def injections(kind: str) -> Mapping[str, Injection]:
    """Those that such a server can be put through."""
    found: dict[str, Injection] = {
        "everything": everything,
        "resets": reset,
        "latency": delay,
        "refusals": refuse,
        "silence": silence,
        "lockout": lock_out,
        "clocks": other_clocks,
        "stalls": stall,
        "blackholes": swallow,
    }
    return {**found, "rowlock": lock_row} if kind == POSTGRES else {**found, "full": fill}
