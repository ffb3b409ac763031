"""A project's stream, as one event loop uses it: one connection, from its opening to its loss."""

from __future__ import annotations

import asyncio
import itertools
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError
from omniq.errors import PayloadTooLarge, StoreError, StoreUnavailable
from omniq.storage.stream import LOG, Listener, Message, Stream

from omniq_nats.config import NATSConfig
from omniq_nats.opening import close_client, open_client, store_errors

LEAST_PAYLOAD: Final = 1024 * 1024
"""Bytes of a message that the server must take at least: its default."""
BESIDE_DATA: Final = 1024
"""Bytes of headers that a message may have besides."""
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID: Final = "Nats-Msg-Id"
"""Of messages with the same one, the server stores the first."""
KNOWN_FOR: Final = 60.0
"""Seconds for which it does."""
RESEND_INTERVAL: Final = 1.0
"""Seconds without an answer after which what may be sent again is: a cluster that elects a leader loses messages."""
ROLLUP: Final = {"Nats-Rollup": "sub"}
"""Lets a message take the place of all that its subject had."""
WRONG_SEQUENCE: Final = (10071, 10164)
"""Codes of JetStream: what was expected isn't so; the second is a cluster's while another write is under way."""
UNDER_WAY: Final = 10158
"""The code that tells that a message of that id is being stored, by not enough servers of a cluster yet."""
NO_MESSAGE, NO_STREAM = 10037, 10059
"""Other codes."""

PERMISSIONS, PUBLISHING = "ermissions violation", "publish"
"""What stands in a server's errors about rights, as nats-py tells them."""

Headers: TypeAlias = dict[str, str]
NO_HEADERS: Final[Headers] = {}


class _Answer:
    """What is waited for after a message to a subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self.is_repeated = False
        """Whether the message was sent again, under its id: a refusal of the first copy says nothing of the others."""

    def take(self, message: Msg) -> None:
        if not (self.future.done() or (self.is_repeated and _is_provisional(message.data))):
            self.future.set_result(message)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class NATSStream(Stream):
    """A JetStream stream. The server repeats what is added to the log on a subject of core NATS."""

    def __init__(self, settings: NATSConfig) -> None:
        super().__init__(settings.location)
        self._settings = settings
        self._name = settings.stream
        self._client: Client | None = None
        self._servers: list[str] = []
        """Those of which a server has told."""
        self._answers: dict[str, _Answer] = {}
        self._tokens = itertools.count()
        self._inbox = ""

    # ── the connection ───────────────────────────────────────────────────────

    async def open(self, listener: Listener) -> None:
        await self.close()
        self.lost.clear()

        async def hear(message: Msg) -> None:
            await listener(_heard(message))

        try:
            client = self._client = await open_client(self._settings, self._servers, self._on_loss, self._on_error)
            self._servers = [server.netloc for server in client.discovered_servers]
            if client.max_payload < LEAST_PAYLOAD:
                raise StoreError(
                    f"{self.location}: max_payload is {client.max_payload:,} bytes, and OmniQ needs "
                    f"{LEAST_PAYLOAD:,}: raise it in the server's configuration"
                )
            with store_errors(self._settings):
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
                await client.subscribe(self._news, cb=hear)
            await self._make()
        except BaseException:
            await self.close()
            raise

    def look(self) -> None:
        # A client that fails to send what was left when its connection broke doesn't say that it is closed.
        if self._client is None or self._client.is_closed:
            self._on_loss()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await close_client(client)
        self._on_loss()

    def _on_loss(self) -> None:
        self.lost.set()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.fail(StoreUnavailable(f"{self.location}: the connection was lost"))

    def _on_error(self, error: Exception) -> None:
        """Tell those whose message was refused; all of them, if the server won't let this client hear answers."""
        if PERMISSIONS in str(error):
            for answer in self._answers.values():
                if PUBLISHING not in str(error) or f'"{answer.subject}"' in str(error):
                    answer.fail(error)

    @property
    def max_message(self) -> int:
        return LEAST_PAYLOAD if self._client is None else self._client.max_payload - BESIDE_DATA

    @property
    def version(self) -> str:
        """The server's."""
        if self._client is None:
            return "unknown"
        told = self._client.connected_server_version
        return f"{told.major}.{told.minor}.{told.patch}"

    # ── asking ───────────────────────────────────────────────────────────────

    async def _ask(
        self, subject: str, data: bytes = b"", headers: Headers | None = None, *, again: Headers | None = NO_HEADERS
    ) -> Msg:
        """The server's answer to a message, which is sent with the headers `again` while none comes; None: only once.

        Raises `StoreUnavailable`.
        """
        self.look()
        if self._client is None or self.lost.is_set():
            raise StoreUnavailable(f"{self.location}: not connected")
        token = str(next(self._tokens))
        answer = self._answers[token] = _Answer(subject)
        try:
            with store_errors(self._settings):
                async with asyncio.timeout(self._settings.timeout):
                    while True:
                        await self._client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=headers)
                        await asyncio.wait([answer.future], timeout=None if again is None else RESEND_INTERVAL)
                        if answer.future.done():
                            return answer.future.result()
                        headers, answer.is_repeated = again, again is not None and MESSAGE_ID in again
        finally:
            self._answers.pop(token, None)

    async def _on_answer(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is None:
            return
        if message.headers and message.headers.get("Status") == "503":
            self.lost.set()  # the stream may be gone
            answer.fail(
                StoreUnavailable(f"{self.location}: JetStream doesn't answer: is it enabled (nats-server -js)?")
            )
        else:
            answer.take(message)

    async def _call(self, verb: str, what: object = None) -> Any:
        """What JetStream's API answers. Raises `APIError`, for who knows what to do about some."""
        data = b"" if what is None else msgspec.json.encode(what)
        return _checked((await self._ask(f"$JS.API.{verb}.{self._name}", data)).data)

    # ── messages ─────────────────────────────────────────────────────────────

    async def append(self, data: bytes, after: int | None, id_: str | None) -> int | None:
        named = None if id_ is None else {MESSAGE_ID: id_}
        headers = {**(named or {}), **({} if after is None else {EXPECTED: str(after)})}
        return await self._publish(LOG, data, headers, again=named)

    async def put(self, name: str, data: bytes, after: int | None = None) -> int | None:
        if after is None:
            return await self._publish(name, data, ROLLUP, again=ROLLUP)
        return await self._publish(name, data, {**ROLLUP, EXPECTED: str(after)}, again=None)

    async def _publish(self, name: str, data: bytes, headers: Headers, *, again: Headers | None) -> int | None:
        if len(data) > self.max_message:
            raise PayloadTooLarge(f"{len(data):,} bytes at once; {self.location} allows {self.max_message:,}")
        answer = await self._ask(self._subject(name), data, headers, again=again)
        with store_errors(self._settings):
            try:
                return int(_checked(answer.data)["seq"])
            except APIError as error:
                if error.err_code in WRONG_SEQUENCE:
                    return None
                raise

    async def last(self, name: str) -> Message | None:
        return await self._get({"last_by_subj": self._subject(name)})

    async def next(self, name: str, after: int) -> Message | None:
        return await self._get({"seq": after + 1, "next_by_subj": self._subject(name)})

    async def _get(self, which: Mapping[str, object]) -> Message | None:
        with store_errors(self._settings):
            try:
                found = (await self._call("STREAM.MSG.GET", which))["message"]
            except APIError as error:
                if error.err_code == NO_MESSAGE:
                    return None
                if error.err_code == NO_STREAM:
                    self.lost.set()
                raise
        time = datetime.fromisoformat(found["time"]).timestamp()
        return Message(int(found["seq"]), b64decode(found.get("data") or ""), time)

    async def read(self, name: str) -> bytes | None:
        found = await self._ask(f"$JS.API.DIRECT.GET.{self._name}.{self._subject(name)}")
        if not (found.headers and "Status" in found.headers):
            return found.data
        message = await self.last(name)
        return None if message is None else message.data

    async def names(self, pattern: str) -> list[str]:
        with store_errors(self._settings):
            found = await self._call("STREAM.INFO", {"subjects_filter": self._subject(pattern)})
        start = len(self._subject(""))
        return [subject[start:] for subject in found["state"].get("subjects") or ()]

    async def delete(self, pattern: str, before: int | None = None) -> None:
        until = {} if before is None else {"seq": before}
        with store_errors(self._settings):
            await self._call("STREAM.PURGE", {"filter": self._subject(pattern), **until})

    def _subject(self, name: str) -> str:
        return f"{self._settings.subject}.{name}"

    # ── the stream ───────────────────────────────────────────────────────────

    @property
    def _news(self) -> str:
        """Where the server repeats what was added to the log."""
        return f"{self._settings.subject.replace('.', '-news.', 1)}"

    async def info(self) -> dict[str, Any]:
        """What the server knows of the stream."""
        with store_errors(self._settings):
            found: dict[str, Any] = await self._call("STREAM.INFO")
            return found

    async def _make(self) -> None:
        """Make the stream, unless it is there, and see that one which is there serves."""
        config = self._config()
        with store_errors(self._settings):
            try:
                found = (await self._call("STREAM.INFO"))["config"]
            except APIError as error:
                if error.err_code != NO_STREAM:
                    raise
                found = (await self._call("STREAM.CREATE", config))["config"]
        free = ("name", "description", "num_replicas", "max_bytes", "duplicate_window")
        wrong = [name for name in config if name not in free and (found.get(name) or 0) != (config[name] or 0)]
        if wrong:
            raise StoreError(
                f"{self.location}: its {wrong[0]} is {found.get(wrong[0])!r}, and OmniQ needs "
                f"{config[wrong[0]]!r}: give OmniQ a stream of its own, which it makes itself, or another prefix"
            )

    def _config(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "description": "A project of OmniQ: https://omniq.dev",
            "subjects": [self._subject(">")],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "num_replicas": self._settings.replicas,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "no_ack": False,
            "duplicate_window": int(KNOWN_FOR * 1e9),
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "republish": {"src": self._subject(LOG), "dest": self._news},
        }

    async def drop(self) -> None:
        with store_errors(self._settings):
            try:
                await self._call("STREAM.DELETE")
            except APIError as error:
                if error.err_code != NO_STREAM:
                    raise


def _checked(answer: bytes) -> Any:
    found = msgspec.json.decode(answer)
    if "error" in found:
        raise APIError(**{name: found["error"].get(name) for name in ("code", "description", "err_code")})
    return found


def _is_provisional(answer: bytes) -> bool:
    """Whether a copy was refused in favour of others: what was expected isn't so, or another one is being stored."""
    error = msgspec.json.decode(answer).get("error")
    return error is not None and error.get("err_code") in (*WRONG_SEQUENCE, UNDER_WAY)


def _heard(message: Msg) -> Message:
    headers = message.headers or {}
    return Message(int(headers["Nats-Sequence"]), message.data, after=int(headers["Nats-Last-Sequence"]))
