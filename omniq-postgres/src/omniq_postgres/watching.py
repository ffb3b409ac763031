"""Waking those who wait for what another process writes: NOTIFY on one side, LISTEN on the other, timers for the rest.

All of it is a hint. NOTIFY takes a lock of the whole server at its commit, so each loop sends one for all that it
wrote within `NOTIFY_INTERVAL`, in a statement of its own. While the listening connection is away, waits are short.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from omniq.background import end_task, spawn
from omniq.backoff import Backoff
from omniq.errors import StoreError
from omniq.logs import get_logger
from omniq.loops import forget
from omniq.storage import hints

from omniq_postgres.opening import store_errors

if TYPE_CHECKING:
    from omniq_postgres.connection import Database

NOTIFY_INTERVAL = 0.025
"""Seconds between two notifications of one loop."""
POLL_INTERVAL = 0.8
"""Seconds that a wait lasts at most while nothing is heard."""
HEARTBEAT = 10.0
"""Seconds after which a silent connection is asked whether it lives, and half of that for its answer."""
FIRST_PAUSE, MAX_PAUSE = 0.05, 1.0
"""Seconds between two attempts to listen."""
MAX_PAYLOAD = 7900
"""Bytes; the server refuses 8,000."""

NOTIFY: Final = "select pg_notify($1, $2)"

_log = get_logger("omniq.postgres")


class Hint(Struct, array_like=True, frozen=True):
    """What a notification says."""

    sender: str
    due: dict[str, float] | None = {}
    """Queues that have got tasks, and in how many seconds the first of those is due."""
    ended: list[str] | None = []
    """Tasks that have got results. None, here and there, stands for too many to be named."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Hint).decode


def encode_hint(hint: Hint) -> str:
    """The hint as a payload that isn't too long."""
    for shorter in (hint, Hint(hint.sender, hint.due, None)):
        payload = _encode(shorter)
        if len(payload) <= MAX_PAYLOAD:
            return payload.decode()
    return _encode(Hint(hint.sender, None, None)).decode()


class Notifier:
    """Tells other processes what this loop wrote, and this one what will be due."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due: dict[str, float] = {}
        self._ended: list[str] = []
        self._sending: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        """On the loop's clock. Kept here, since uvloop gives a handle that doesn't know it for what is due at once."""
        self.sender = os.urandom(6).hex()
        """Who sends: this loop's own listener doesn't listen to it."""

    def tasks_due(self, due: dict[str, float]) -> None:
        """Queues have got tasks, due in so many seconds."""
        if due:
            self.wake_in(min(due.values()))
            for queue, seconds in due.items():
                self._due[queue] = min(seconds, self._due.get(queue, seconds))
            self._send_soon()

    def results_stored(self, ids: Collection[str]) -> None:
        """Tasks have got results."""
        if ids:
            hints.results_stored(self._database.settings.location, ids)
            self._ended += ids
            self._send_soon()

    def wake_in(self, seconds: float) -> None:
        """Wake this process's waiters for tasks so many seconds from now, at the latest."""
        if seconds <= 0:
            hints.tasks_added(self._database.settings.location)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds + 0.001  # better late by a hair than in vain
        if self._alarm is not None:
            if loop.time() <= self._alarm_at <= when:
                return
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = loop.call_at(when, hints.tasks_added, self._database.settings.location)

    def _send_soon(self) -> None:
        if self._sending is None and self._database.settings.notify is not False:
            self._sending = spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._due or self._ended:
                await self._send_once()
                await asyncio.sleep(NOTIFY_INTERVAL)
        finally:
            self._sending = None

    async def _send_once(self) -> None:
        payload = encode_hint(Hint(self.sender, self._due, self._ended))
        self._due, self._ended = {}, []
        try:
            await self._database.run(lambda session: session.fetch(NOTIFY, self._database.settings.schema, payload))
        except StoreError as error:
            _log.debug("a notification couldn't be sent, the others will poll: %s", error)

    async def close(self) -> None:
        """Send what is left."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._sending is not None:
            await asyncio.wait([self._sending])

    def abandon(self) -> None:
        """Its loop has ended."""
        forget(self._sending)


class Listener:
    """Hears what other processes have written, from the first wait on."""

    def __init__(self, database: Database) -> None:
        self.live = False
        """Notifications arrive."""
        self._database = database
        self._for_tasks: defaultdict[str, set[Callable[[], None]]] = defaultdict(set)
        self._for_results: defaultdict[str, set[Callable[[], None]]] = defaultdict(set)
        self._runner: asyncio.Task[None] | None = None
        self._backoff = Backoff(FIRST_PAUSE, MAX_PAUSE)

    @contextmanager
    def for_tasks(self, queues: Sequence[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when one of the queues has got something due."""
        with self._registered(self._for_tasks, queues, wake):
            yield

    @contextmanager
    def for_results(self, ids: Sequence[str], wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when one of the results is there."""
        with self._registered(self._for_results, ids, wake):
            yield

    def patience(self, timeout: float) -> float:
        """How long to wait: not for long while nothing can be heard."""
        return timeout if self.live else min(timeout, POLL_INTERVAL)

    @contextmanager
    def _registered(
        self, wakers: dict[str, set[Callable[[], None]]], keys: Sequence[str], wake: Callable[[], None]
    ) -> Iterator[None]:
        if self._runner is None:
            self._runner = spawn(self._run())
        for key in keys:
            wakers[key].add(wake)
        try:
            yield
        finally:
            for key in set(keys):
                wakers[key].discard(wake)
                if not wakers[key]:
                    del wakers[key]

    async def close(self) -> None:
        """Listen no longer."""
        if self._runner is not None:
            end_task(self._runner)
            await asyncio.wait([self._runner])
            self._runner = None

    def abandon(self) -> None:
        """Its loop has ended."""
        forget(self._runner)

    async def _run(self) -> None:
        """Listen, and again after each loss, until cancelled."""
        while await self._wanted():
            try:
                await self._listen()
            except StoreError as error:
                _log.debug("can't listen, polling: %s", error)
            await self._backoff.pause()

    async def _wanted(self) -> bool:
        """Through a pooler, notifications don't come."""
        with suppress(StoreError):
            await self._database.prepare()
        return self._database.listens

    async def _listen(self) -> None:
        """Listen until the connection is lost."""
        settings = self._database.settings
        with store_errors(settings):
            connection = await self._database.connect(direct=False)
            lost = asyncio.Event()
            try:
                connection.add_termination_listener(lambda _: lost.set())
                await connection.add_listener(settings.schema, self._hear)
                self.live = True
                self._backoff.reset()
                self._wake_all()  # what was told before isn't heard: they look, and wait for longer then
                while not await _happened(lost, HEARTBEAT):
                    await connection.execute("select 1", timeout=HEARTBEAT / 2)
            finally:
                self.live = False
                connection.terminate()
                self._wake_all()  # they look, and know then how long to wait

    def _wake_all(self) -> None:
        for wakers in (*self._for_tasks.values(), *self._for_results.values()):
            _wake(wakers)

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            hint = _decode(str(payload))
        except msgspec.DecodeError as error:
            _log.debug("a notification can't be read: %s", error)
            return
        if hint.sender != self._database.notifier.sender:
            self._take(hint)

    def _take(self, hint: Hint) -> None:
        due = dict.fromkeys(self._for_tasks, 0.0) if hint.due is None else hint.due
        for queue in due.keys() & self._for_tasks.keys():
            if due[queue] > 0:
                self._database.notifier.wake_in(due[queue])
            else:
                _wake(self._for_tasks[queue])
        for task_id in list(self._for_results) if hint.ended is None else hint.ended:
            _wake(self._for_results.get(task_id, ()))


def _wake(wakers: Collection[Callable[[], None]]) -> None:
    for wake in wakers:
        wake()


async def _happened(event: asyncio.Event, patience: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await event.wait()
    return event.is_set()
