"""What an event loop has open of a server: one client and one subscription for all its stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, ClassVar

import msgspec
from omniq import clock
from omniq.background import in_empty_context
from omniq.errors import PayloadTooLarge, StoreError, StoreUnavailable
from omniq.logs import get_logger
from omniq.storage.channel import Channel
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.connected import Connection as Connected
from omniq.storage.guarantees import Guarantees
from omniq.storage.wakeups import Wakeups
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError

from omniq_redis.config import RedisConfig
from omniq_redis.limits import LONGEST, SHORTEST, TRIES, ask_limit, find_limit
from omniq_redis.opening import Server, ask_server, close_client, hang_up, open_client, store_errors
from omniq_redis.scripts import script
from omniq_redis.watching import Subscription, in_bounds
from omniq_redis.wire import Batch, encode

AT_ONCE = 2
"""Scripts that are sent at once: the server does them in a row, while all others wait."""
LAYOUT = 2
"""Version of the keys and of what they hold."""
IN_FLIGHT = 32
"""Calls that a loop makes at once, and so the connections it opens; Redis does one after the other anyway."""

_log = get_logger("omniq.redis")
_limits: dict[str, int] = {}
"""By location: bytes of the longest string that the server takes."""
_decode_due = msgspec.msgpack.Decoder(list[float | bool]).decode
_reported: set[str] = set()


class Connection(Connected):
    """A server, as used by one loop."""

    def __init__(self, settings: RedisConfig) -> None:
        self._settings = settings
        self._location = settings.location
        self._namespace = settings.namespace
        with store_errors(settings):
            self._client = open_client(settings)
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._checked = False
        wakeups = Wakeups.at(self._location)
        self._sender = wakeups.sender
        self._subscription = Subscription(settings, self._sender)
        self.channel = Channel(wakeups, listen=self._subscription.listen, next_due=self._next_due)

    async def close(self) -> None:
        await self.channel.close()
        await close_client(self._client)

    def abandon(self) -> None:
        self.channel.abandon()
        self._subscription.hang_up()
        hang_up(self._client)

    async def call(self, name: str, args: object, bodies: bytes = b"") -> bytes:
        """What the script answers. Raises `StoreUnavailable` or `StoreError`.

        A cancelled call closes its connection, so that nobody else reads its answer.
        """
        rest = self._arguments(args, bodies)
        try:
            with store_errors(self._settings):
                wanted = script(name)
                async with self._slots:
                    try:
                        answer = await self._client.execute_command("EVALSHA", wanted.digest, *rest)
                    except NoScriptError:
                        answer = await self._client.execute_command("EVAL", wanted.source, *rest)
        except StoreUnavailable:
            await self._cut_off(len(bodies))
            raise
        assert isinstance(answer, bytes)
        return answer

    async def calls(self, name: str, batches: Iterable[Batch]) -> list[bytes]:
        """What the script answers to each batch, one after the other, with no time lost between them.

        Raises as `call` does; some of the batches may be done then.
        """
        answers: list[bytes] = []
        remaining = iter(batches)
        while some := list(islice(remaining, AT_ONCE)):
            if len(some) == 1 or isinstance(self._client, RedisCluster):
                answers += [await self.call(name, *batch) for batch in some]
            else:
                answers += await self._pipelined(self._client, name, some)
        return answers

    async def _pipelined(self, client: Redis, name: str, batches: Sequence[Batch]) -> list[bytes]:
        try:
            answers = await self._pipeline(client, name, batches)
        except StoreUnavailable:
            await self._cut_off(max(len(batch.bodies) for batch in batches))
            raise
        with store_errors(self._settings):
            if not all(isinstance(answer, NoScriptError) for answer in answers):
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
                return answers
        return [await self.call(name, *batch) for batch in batches]  # the first one brings the script

    async def _pipeline(self, client: Redis, name: str, batches: Sequence[Batch]) -> list[Any]:
        with store_errors(self._settings):
            async with self._slots, client.pipeline(transaction=False) as pipeline:
                for batch in batches:
                    pipeline.execute_command("EVALSHA", script(name).digest, *self._arguments(*batch))
                return await pipeline.execute(raise_on_error=False)

    def _arguments(self, args: object, bodies: bytes) -> tuple[str | int | float | bytes, ...]:
        packed = encode(args)
        if (size := max(len(packed), len(bodies))) > self.limit:
            raise PayloadTooLarge(f"{size:,} bytes at once; {self._location} allows {self.limit:,}")
        return (1, self._namespace, clock.offset(), packed, bodies, self._sender)

    async def check(self) -> None:
        """Reach the server, and see that its keys are of a layout that this version knows. Raises `StoreError`."""
        if self._checked:
            return
        answer = await self.call("open", [LAYOUT])
        layout = int(answer) if answer.isdigit() else 0
        if layout < 1:
            raise StoreError(f"{self._location}: what is kept there isn't OmniQ's: give OmniQ a prefix of its own")
        if layout > LAYOUT:
            raise StoreError(
                f"{self._location}: a newer omniq-redis wrote this (layout {layout}, this one knows "
                f"{LAYOUT}): upgrade omniq-redis"
            )
        await self._learn_limit()
        if self._location not in _reported:
            _reported.add(self._location)
            _report(self._location, await self.server())
        self._checked = True

    @property
    def limit(self) -> int:
        """Bytes of the longest string that the server takes, as far as is known."""
        return _limits.get(self._location, LONGEST)

    async def _cut_off(self, size: int) -> None:
        """A call with a string of that size was cut off: see whether it was too long, so that a repeat is split."""
        for _ in range(TRIES if size > SHORTEST else 0):
            with suppress(StoreError):  # the client's connections may have been cut off too
                await self._learn_limit(size)
                return

    async def _learn_limit(self, size: int = 0) -> None:
        """What the server says it takes; where it won't, what it is found to take, if that is less than `size`."""
        namespace = self._namespace
        with store_errors(self._settings):
            limit = await ask_limit(self._client, namespace)
            if limit is None and size:
                limit = await find_limit(self._client, namespace, size)
        if limit is not None:
            _limits[self._location] = limit

    async def server(self) -> Server:
        """What the server says of itself. Raises `StoreUnavailable` or `StoreError`."""
        with store_errors(self._settings):
            return await ask_server(self._client, self._namespace)

    async def _next_due(self, queues: Sequence[str]) -> dict[str, float]:
        answers = _decode_due(await self.call("next_due", queues))
        return {queue: in_bounds(due) for queue, due in zip(queues, answers, strict=True) if due is not False}


def _report(location: str, server: Server) -> None:
    """Tell once what can be relied upon."""
    _log.info("%s: version %s, %s", location, server.version, server.guarantees)
    for warning in server.warnings:
        _log.warning("%s: %s", location, warning)


class RedisStore(ConnectedStore[Connection]):
    """What both stores have in common."""

    connections: ClassVar[Connections[Connection]] = Connections(Connection)
    _settings: RedisConfig

    @property
    def max_item_bytes(self) -> int:
        return _limits.get(self._location, LONGEST)

    async def connect(self) -> None:
        await in_empty_context(self._connection.check())

    async def guarantees(self) -> Guarantees:
        return (await self._connection.server()).guarantees
