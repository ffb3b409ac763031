"""Telling other processes what was written, by NOTIFY, and hearing them, by LISTEN.

All of it is a hint. NOTIFY takes a lock of the whole server at its commit, so each loop sends one for all that it
wrote within a moment, in a statement of its own. A worker that has found nothing is noted in a table; so many of those
are called, each by its process's own channel, as there are tasks, and everybody only where there are none. Each process
that listens holds an advisory lock, by which those are known that are still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from omniq.background import Background, spawn
from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.loops import forget
from omniq.storage.wakeups import ANYTHING, News
from omniq.sync import cancel_and_wait

if TYPE_CHECKING:
    from omniq_postgres.opening import Connection

HEARTBEAT = 10.0
"""Seconds after which a silent connection is asked whether it lives, and half of that for its answer."""
IDLE_AFTER = 0.01
"""Seconds for which a worker waits before it is noted: where tasks come one after the other, noting costs too much."""
MAX_PAYLOAD = 7900
"""Bytes; the server refuses 8,000."""

NOTIFY: Final = "select pg_notify($1, $2)"
_BE_THERE: Final = "select pg_advisory_lock_shared($1)"
_WAIT: Final = """
    insert into omniq.idle_worker as idle (name, process, queues) values ($1, $2, $3)
    on conflict (name) do update set process = excluded.process, queues = excluded.queues
        where (idle.process, idle.queues) <> (excluded.process, excluded.queues)
"""
_LEAVE: Final = "delete from omniq.idle_worker where name = $1"
CALL: Final = """
    with chosen as materialized (
        select name from omniq.idle_worker where $1::text = any(queues) limit $2 for update skip locked),
    called as (
        delete from omniq.idle_worker as idle using chosen where idle.name = chosen.name returning idle.name, process),
    found as materialized (select name, process, pg_try_advisory_xact_lock(process) as is_gone from called)
    select pg_notify('omniq:' || process, json_build_array(name, $1::text)::text) from found where not is_gone
    union all
    select pg_notify($3, $4) where (select coalesce(bool_or(is_gone), true) from found)
"""
"""Calls a worker for each of so many tasks, and everybody where there are none or some have gone."""

_log = get_logger("omniq.postgres")

Fetch: TypeAlias = Callable[..., Awaitable[None]]
"""Executes a statement with values."""
Heard: TypeAlias = asyncio.Queue[News | None]
"""What was heard and not looked at yet; None when the connection is lost."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, News]).decode
"""A notification: who tells what."""
_decode_call = msgspec.json.Decoder(tuple[str, str]).decode
"""Which worker is called, and for a task of which queue."""


def payload_of(sender: str, news: News) -> str:
    """The news as a payload that isn't too long: what can't be named then stands for anything."""
    payloads = (_encode((sender, shorter)) for shorter in (news, News(news.due, None), ANYTHING))
    return next(payload for payload in payloads if len(payload) <= MAX_PAYLOAD).decode()


class IdleWorkers:
    """Those of one loop that wait for a task: they are noted in the table, so that they are called one by one."""

    def __init__(self, sender: str, fetch: Fetch) -> None:
        self._process = int(sender, 16)
        self._fetch = fetch
        self._queues: dict[str, Sequence[str]] = {}
        """From which queues each of them claims."""
        self._noted: set[str] = set()
        self._noting: Background[None] | None = None

    def note(self, worker: str, queues: Sequence[str] | None) -> None:
        """Let a worker be called for a task of these queues, if it still waits in a moment; or no longer (None)."""
        if queues is None:
            self._queues.pop(worker, None)
        else:
            self._queues[worker] = queues
        if self._noting is None and self._queues.keys() != self._noted:
            self._noting = spawn(self._write(), name="omniq-idle")

    async def _write(self) -> None:
        try:
            while self._queues.keys() != self._noted:
                for worker in self._noted - self._queues.keys():
                    self._noted.discard(worker)
                    await self._fetch(_LEAVE, worker)
                await asyncio.sleep(IDLE_AFTER)
                for worker, queues in list(self._queues.items()):
                    if worker not in self._noted:
                        await self._fetch(_WAIT, worker, self._process, queues)
                        self._noted.add(worker)
        except StoreError as error:
            _log.debug("idle workers can't be noted, and hear what all hear: %s", error)
        finally:
            self._noting = None

    async def listen(self, connection: Connection, hear: Callable[[News], None]) -> None:
        """Begin to hear calls."""

        def note(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            worker, queue = _decode_call(str(payload))
            self._noted.discard(worker)
            self._queues.pop(worker, None)
            hear(News({queue: 0.0}, is_call=True))

        self._noted.clear()
        await connection.execute(_BE_THERE, self._process)
        await connection.add_listener(f"omniq:{self._process}", note)

    async def close(self) -> None:
        """Note nobody any more."""
        if self._noting is not None:
            await cancel_and_wait(self._noting)

    def abandon(self) -> None:
        """Its loop has ended."""
        forget(self._noting)


async def hear(connection: Connection, channel: str, sender: str, idle: IdleWorkers) -> Heard:
    """Begin to listen to what others than the sender tell on the channel, and to calls."""
    heard: Heard = asyncio.Queue()

    def note(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            teller, news = _decode(str(payload))
        except msgspec.DecodeError as error:
            _log.debug("a notification can't be read: %s", error)
        else:
            if teller != sender:
                heard.put_nowait(news)

    connection.add_termination_listener(lambda _: heard.put_nowait(None))
    await connection.add_listener(channel, note)
    await idle.listen(connection, heard.put_nowait)
    return heard


async def next_news(connection: Connection, heard: Heard) -> News | None:
    """What is heard next, nothing new when a silent connection is found to live, or None once it is lost."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            return await heard.get()
    except TimeoutError:
        await connection.execute("select 1", timeout=HEARTBEAT / 2)
        return News()
