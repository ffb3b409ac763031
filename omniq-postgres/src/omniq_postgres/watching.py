"""Telling other processes what was written, by NOTIFY, and hearing them, by LISTEN.

All of it is a hint. NOTIFY takes a lock of the whole server at its commit, so each loop sends one for all that it
wrote within a moment, in a statement of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from omniq.logs import get_logger
from omniq.storage.wakeups import ANYTHING, News

if TYPE_CHECKING:
    from omniq_postgres.opening import Connection

HEARTBEAT = 10.0
"""Seconds after which a silent connection is asked whether it lives, and half of that for its answer."""
MAX_PAYLOAD = 7900
"""Bytes; the server refuses 8,000."""

NOTIFY: Final = "select pg_notify($1, $2)"

_log = get_logger("omniq.postgres")

Heard: TypeAlias = asyncio.Queue[News | None]
"""What was heard and not looked at yet; None when the connection is lost."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, News]).decode
"""A notification: who tells what."""


def payload_of(sender: str, news: News) -> str:
    """The news as a payload that isn't too long: what can't be named then stands for anything."""
    payloads = (_encode((sender, shorter)) for shorter in (news, News(news.due, None), ANYTHING))
    return next(payload for payload in payloads if len(payload) <= MAX_PAYLOAD).decode()


async def hear(connection: Connection, channel: str, sender: str) -> Heard:
    """Begin to listen to what others than the sender tell on the channel."""
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
    return heard


async def next_news(connection: Connection, heard: Heard) -> News | None:
    """What is heard next, nothing new when a silent connection is found to live, or None once it is lost."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            return await heard.get()
    except TimeoutError:
        await connection.execute("select 1", timeout=HEARTBEAT / 2)
        return News()
