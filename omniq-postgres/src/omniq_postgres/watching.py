"""Telling other processes what was written, by NOTIFY, and hearing them, by LISTEN.

All of it is a hint. NOTIFY takes a lock of the whole server at its commit, so each loop sends one for all that it
wrote within a moment, in a statement of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from omniq.logs import get_logger
from omniq.storage.channel import Channel
from omniq.storage.wakeups import News, Wakeups

from omniq_postgres.opening import store_errors

if TYPE_CHECKING:
    from omniq_postgres.connection import Database

HEARTBEAT = 10.0
"""Seconds after which a silent connection is asked whether it lives, and half of that for its answer."""
MAX_PAYLOAD = 7900
"""Bytes; the server refuses 8,000."""

NOTIFY: Final = "select pg_notify($1, $2)"

_log = get_logger("omniq.postgres")


class Message(Struct, array_like=True, frozen=True):
    """What a notification says, and who says it."""

    sender: str
    news: News


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def payload_of(sender: str, news: News) -> str:
    """The news as a payload that isn't too long: what can't be named then stands for anything."""
    for shorter in (news, News(news.due, None)):
        payload = _encode(Message(sender, shorter))
        if len(payload) <= MAX_PAYLOAD:
            return payload.decode()
    return _encode(Message(sender, News(None, None))).decode()


def open_channel(database: Database) -> Channel:
    """The channel of one loop to all who use the same schema."""
    wakeups = Wakeups.at(database.settings.location)

    async def send(news: News) -> None:
        payload = payload_of(wakeups.sender, news)
        await database.run(lambda session: session.fetch(NOTIFY, database.settings.schema_name, payload))

    notify = database.settings.notify is not False
    return Channel(wakeups, send=send if notify else None, listen=lambda: _listen(database, wakeups.sender))


async def _listen(database: Database, sender: str) -> AsyncIterator[News]:
    """What others tell, until the connection is lost. Raises `StoreError`."""
    await database.prepare()
    if not database.listens:  # through a pooler, notifications don't come
        await asyncio.Event().wait()
    heard: asyncio.Queue[News | None] = asyncio.Queue()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            message = _decode(str(payload))
        except msgspec.DecodeError as error:
            _log.debug("a notification can't be read: %s", error)
        else:
            if message.sender != sender:
                heard.put_nowait(message.news)

    with store_errors(database.settings):
        connection = await database.connect(direct=False)
        try:
            connection.add_termination_listener(lambda _: heard.put_nowait(None))
            await connection.add_listener(database.settings.schema_name, hear)
            yield News()
            while (news := await _next(heard)) is not None:
                if news is SILENCE:
                    await connection.execute("select 1", timeout=HEARTBEAT / 2)
                else:
                    yield news
        finally:
            connection.terminate()


SILENCE: Final = News()
"""Nothing was heard for a while."""


async def _next(heard: asyncio.Queue[News | None]) -> News | None:
    try:
        async with asyncio.timeout(HEARTBEAT):
            return await heard.get()
    except TimeoutError:
        return SILENCE
