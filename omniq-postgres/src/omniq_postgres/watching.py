"""Telling other processes what was written, by NOTIFY, and hearing them, by LISTEN.

All of it is a hint. NOTIFY takes a lock of the whole server at its commit, so each loop sends one for all that it
wrote within a moment, in a statement of its own. A worker that has found nothing is noted in a table; so many of those
are called, each by its process's own channel, as there are tasks, and everybody only where there are none. Each process
that listens holds an advisory lock, by which those are known that are still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from omniq.storage.channel import IdleWorkers
from omniq.storage.wakeups import ANYTHING, News
from omniq.texts import get_logger

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection

HEARTBEAT = 10.0
"""Seconds after which a silent connection is asked whether it lives, and half of that for its answer."""
MAX_PAYLOAD = 7900
"""Bytes; the server refuses 8,000."""

NOTIFY: Final = "select pg_notify($1, $2)"
_BE_THERE: Final = "select pg_advisory_lock_shared($1)"
WAIT: Final = """
    insert into omniq.idle_worker as idle (name, process, queues) values ($1, $2, $3)
    on conflict (name) do update set process = excluded.process, queues = excluded.queues
        where (idle.process, idle.queues) <> (excluded.process, excluded.queues)
"""
LEAVE: Final = "delete from omniq.idle_worker where name = $1"
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

Heard: TypeAlias = asyncio.Queue[News | None]
"""What was heard and not looked at yet; None when the connection is lost."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, News]).decode
"""A notification: who tells what."""
_decode_call = msgspec.json.Decoder(tuple[str, str]).decode
"""Which worker is called, and for a task of which queue."""


def process_of(sender: str) -> int:
    """What stands for a process in the table, in the name of its channel and as its lock."""
    return int(sender, 16)


def results_of(schema: str) -> str:
    """The channel on which those who wait for results are told of them."""
    return f"results:{schema}"[:63]  # bytes, which a name may have


def payload_of(sender: str, news: News) -> str:
    """The news as a payload that isn't too long: what can't be named then stands for anything."""
    payloads = (_encode((sender, shorter)) for shorter in (news, News(news.due, None), ANYTHING))
    return next(payload for payload in payloads if len(payload) <= MAX_PAYLOAD).decode()


async def hear(connection: Connection, channels: Sequence[str], sender: str, idle: IdleWorkers) -> Heard:
    """Begin to listen to what others than the sender tell on the channels, and to calls of the idle workers."""
    heard: Heard = asyncio.Queue()

    def note(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            teller, news = _decode(str(payload))
        except msgspec.DecodeError as error:
            _log.debug("a notification can't be read: %s", error)
        else:
            if teller != sender:
                heard.put_nowait(news)

    def note_call(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        worker, queue = _decode_call(str(payload))
        idle.called(worker)
        heard.put_nowait(News({queue: 0.0}, is_call=True))

    connection.add_termination_listener(lambda _: heard.put_nowait(None))
    idle.forget()
    await connection.execute(_BE_THERE, process_of(sender))
    await connection.add_listener(f"omniq:{process_of(sender)}", note_call)
    for channel in channels:
        await connection.add_listener(channel, note)
    return heard


async def next_news(connection: Connection, heard: Heard) -> News | None:
    """What is heard next, nothing new when a silent connection is found to live, or None once it is lost."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            return await heard.get()
    except TimeoutError:
        await connection.execute("select 1", timeout=HEARTBEAT / 2)
        return News()
