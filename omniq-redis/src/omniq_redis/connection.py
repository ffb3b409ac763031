"""What an event loop has open of a server: one client and one subscription for all its stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import cache, partial
from importlib import resources
from typing import Any, ClassVar, NamedTuple, TypeVar

from msgspec.structs import replace
from omniq import clock
from omniq.errors import PayloadTooLarge, StoreUnavailable
from omniq.loops import in_empty_context
from omniq.storage.base import Guarantees
from omniq.storage.channel import Channel, next_message
from omniq.storage.connected import ConnectedStore, Connections, check_layout
from omniq.storage.connected import Connection as Connected
from omniq.storage.wakeups import News, Wakeups
from redis.exceptions import NoScriptError

from omniq_redis.codec import NOTHING, PARCEL, PARCEL_BYTES, Batch, Page, batches, decode, encode
from omniq_redis.config import RedisConfig
from omniq_redis.opening import Client, Server, close_client, hang_up, limit_of, open_client, store_errors

LAYOUT = 6
"""Version of the keys and of what they hold."""
IN_FLIGHT = 32
"""Calls that a loop makes at once, and so the connections it opens; Redis does one after the other anyway."""

T = TypeVar("T")


class Script(NamedTuple):
    """A Lua script: every call of the contract is one, and so one atomic step on the server."""

    source: str
    digest: str
    """By which a server that knows the script runs it."""


@cache
def script(name: str) -> Script:
    """`lua/{name}.lua`, behind the parts that its first line names: each would cost every call some microseconds."""
    folder = resources.files("omniq_redis").joinpath("lua")
    body = folder.joinpath(f"{name}.lua").read_text("utf-8")
    needs = body.partition("\n")[0].removeprefix("-- needs ").split()
    source = "\n".join([*(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in needs), body])
    return Script(source, hashlib.sha1(source.encode()).hexdigest())


class Connection(Connected):
    """A server, as used by one loop. What reaches it raises `StoreUnavailable` or `StoreError`."""

    def __init__(self, settings: RedisConfig) -> None:
        self._settings = settings
        self._location = settings.location
        self._namespace = settings.namespace
        with store_errors(settings):
            self._client = open_client(settings)
        self.server = Server(self._client, settings)
        self._subscriber: Client | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._checked = False
        self._results = f"{settings.namespace}results".encode()
        wakeups = Wakeups.at(self._location)
        self._sender = wakeups.sender
        self._calls = f"{settings.namespace}news:{self._sender}".encode()
        next_due = partial(self.ask, dict[str, float], "next_due")
        self.channel = Channel(wakeups, listen=self._listen, next_due=next_due, call=partial(self.call, "call"))

    async def close(self) -> None:
        await self.channel.close()
        async with AsyncExitStack() as calls:
            for _ in range(IN_FLIGHT):  # those that are under way end first
                await calls.enter_async_context(self._slots)
            await close_client(self._client)

    def abandon(self) -> None:
        self.channel.abandon()
        hang_up(self._client)
        if self._subscriber is not None:
            hang_up(self._subscriber)

    async def check(self) -> None:
        """Reach the server, and see that its keys are of a layout that this version knows."""
        if self._checked:
            return
        answer = await self.call("open", [LAYOUT])
        check_layout(self._location, int(answer) if answer.isdigit() else 0, LAYOUT, "omniq-redis")
        await self.server.learn_limit()
        await self.server.report()
        self._checked = True

    async def drop(self) -> None:
        """Delete the project's keys."""
        cursor = await self.call("drop", ["0"])
        while cursor != b"0":
            cursor = await self.call("drop", [cursor.decode()])
        self._checked = False

    # ── calling ──────────────────────────────────────────────────────────────

    async def call(self, name: str, args: object, bodies: bytes = b"") -> bytes:
        """What the script answers.

        A cancelled call closes its connection, so that nobody else reads its answer.
        """
        packed, limit = encode(args), limit_of(self._location)
        if (size := max(len(packed), len(bodies))) > limit:
            raise PayloadTooLarge(f"{size:,} bytes at once; {self._location} allows {limit:,}")
        try:
            with store_errors(self._settings):
                wanted, offset = script(name), clock.offset()
                return await self._evaluate(wanted, 1, self._namespace, offset, packed, bodies, self._sender)
        except StoreUnavailable:
            await self.server.explain_cut(len(bodies))
            raise

    async def ask(self, kind: type[T], name: str, args: object) -> T:
        """What the script answers, as that type."""
        return decode(kind, await self.call(name, args))

    async def all_pages(self, kind: type[Page[T]], name: str, *args: object) -> list[T]:
        """What the script lists, in as many calls as that takes."""
        page = decode(kind, await self.call(name, (*args, NOTHING)))
        items = page.items
        while page.after != NOTHING:
            page = decode(kind, await self.call(name, (*args, page.after)))
            items += page.items
        return items

    async def _evaluate(self, wanted: Script, *arguments: str | float | bytes) -> bytes:
        async with self._slots:
            try:
                answer = await self._client.execute_command("EVALSHA", wanted.digest, *arguments)
            except NoScriptError:
                answer = await self._client.execute_command("EVAL", wanted.source, *arguments)
        assert isinstance(answer, bytes)
        return answer

    # ── hearing ──────────────────────────────────────────────────────────────

    async def _listen(self) -> AsyncIterator[News]:
        """What others tell, until the connection is lost: the scripts publish it."""
        with store_errors(self._settings):
            client = self._subscriber = await self._open_subscriber()
            try:
                async with aclosing(client.pubsub()) as subscription:
                    topics = [self._calls, f"{self._namespace}news".encode()]
                    await subscription.subscribe(*topics, *([self._results] if self.channel.hears_results else []))
                    receive = partial(subscription.get_message, False)
                    while (message := await next_message(receive, subscription.ping)) is not None:
                        for news in self._news(message):
                            yield news
            finally:
                await close_client(client)

    async def _open_subscriber(self) -> Client:
        """A client for subscriptions: in a cluster, of the node that has the project's keys."""
        settings = self._settings
        if node := await self.server.node():
            settings = replace(settings, cluster=False, nodes=[], host=node.host, port=int(node.port))
        return open_client(settings)

    def _news(self, message: Mapping[str, Any]) -> Iterator[News]:
        """What a message tells that this process doesn't know: it has woken its own waiters for what is due now."""
        kind, channel, data = message["type"], message["channel"], message["data"]
        if kind == "subscribe":
            yield News(ended=None if channel == self._results else ())  # nothing is missed from here on
        elif kind == "message" and channel == self._results:
            yield News(ended=decode(list[str], data))  # ours, too: it may be here before the call's answer is
        elif kind == "message":
            sender, due = decode(tuple[str, list[tuple[str, float]]], data)
            is_call = channel == self._calls
            for queue, left in due:
                if is_call or left > 0 or sender != self._sender:
                    yield News({queue: left}, is_call=is_call)


class RedisStore(ConnectedStore[Connection]):
    """What both stores have in common."""

    connections: ClassVar[Connections[Connection]] = Connections(Connection)
    max_items = PARCEL
    max_bytes = PARCEL_BYTES

    @property
    def max_item_bytes(self) -> int:
        return limit_of(self.location)

    async def connect(self) -> None:
        await in_empty_context(self._connection.check())

    async def guarantees(self) -> Guarantees:
        return await self._connection.server.guarantees()

    async def _write(self, name: str, items: Sequence[T], batch: Callable[[Sequence[T]], Batch]) -> list[bytes]:
        """What the script answers to the items, in parts if they are more than the server takes at once."""
        return [await self._connection.call(name, *each) for each in batches(items, batch, self.max_item_bytes)]

    async def _flags(self, name: str, items: Sequence[T], batch: Callable[[Sequence[T]], Batch]) -> list[bool]:
        """Whether the script has done what each item says."""
        return [letter == ord("1") for answer in await self._write(name, items, batch) for letter in answer]
