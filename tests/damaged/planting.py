"""What an attacker, a broken disk or a slip of the hand leaves in a store, planted beneath OmniQ."""

from __future__ import annotations

import sqlite3
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from omniq_redis.config import RedisTaskQueueConfig
from redis import Redis

Damage: TypeAlias = str | bytes
"""SQL for the columns of a row; for Redis the bytes of a record, or a command."""


class Planter(ABC):
    """Damages what is in the store at a URL: rows that are there already, by their ids."""

    tasks: Sequence[Damage] = ()
    """What becomes of the task `b00`, of `b01` and so on."""
    schedules: Sequence[Damage] = ()
    results: Sequence[Damage] = ()
    harmless: Sequence[Damage] = ()
    """Those of the tasks' that a claim overwrites, or that are odd and sound."""
    renamed: Mapping[Damage, str] = MappingProxyType({})
    """The ids that some get."""
    events: Sequence[Damage] = ()
    keys: Sequence[tuple[str | bytes, ...]] = ()
    """Commands on what belongs to no row."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def plant(self) -> None:
        """Damage the tasks b00…, the schedules s00… and the results of the tasks r00…."""


# ── SQLite ───────────────────────────────────────────────────────────────────


class SQLitePlanter(Planter):
    """By SQL, without the checks and strict types that guard against slips: files can be written by other means."""

    renamed = MappingProxyType({"id = 'a' || char(27) || '[2J' || char(10) || 'b'": "a\x1b[2J\nb"})
    harmless = ("lease_until = 'x'", "claimed_at = 'x'", *renamed)

    tasks = (
        "epoch = 'x'",
        "epoch = x'00'",
        "epoch = 9223372036854775807",
        "epoch = -5",
        "epoch = 9e999",
        "attempts = 'many'",
        "attempts = 1e300",
        "crashes = -1",
        "crashes = x'ff'",
        "priority = 'high'",
        "priority = x'ff'",
        "priority = 1000000",
        "priority = -9e999",
        "run_at = 'soon'",
        "run_at = 9e999",
        "run_at = -9e999",
        "created_at = x'01'",
        "created_at = -9e999",
        *(
            "expires_at = 'never'",
            "expires_at = -9e999",
            "finished_at = 9e999",
            "lease_until = 'x'",
            "claimed_at = 'x'",
        ),
        "cancel_requested = 7",
        "cancel_requested = 'yes'",
        "cancel_requested = x'00'",
        "depends_on = '{'",
        "depends_on = '[null]'",
        "depends_on = '[1, 2]'",
        "depends_on = x'00'",
        "schedule_id = cast(x'ff' as text)",
        "schedule_id = x'00'",
        "queue_name = cast(x'ff' as text)",
        "queue_name = x'00'",
        "queue_name = 'nobody''s'",
        "state = 'zombie'",
        "state = x'00'",
        "state = 'PENDING'",
        "state = cast(x'ff' as text)",
        "state = 'zombie', finished_at = 1",
        "id = cast('bad' || x'ff' as text)",
        "id = x'0102'",
        "id = 'a' || char(27) || '[2J' || char(10) || 'b'",
        "body = 'text'",
        "body = null",
        "body = x''",
        "body = x'4f5131'",
        "unique_key = cast(x'ff' as text)",
        "unique_key = x'ff'",
        *(
            "state = 'running', lease_until = null, epoch = 'x'",
            "state = 'running', lease_until = 9e999, priority = 'x'",
        ),
        "state = 'running', lease_until = 'x', priority = 'x'",
        "state = 'scheduled', run_at = 'x'",
        "state = 'waiting', depends_on = '[null]'",
        "state = 'waiting', depends_on = '{'",
        "state = 'waiting', priority = 'x', depends_on = '[\"g0000\"]'",
    )
    schedules = (
        "next_run = -9e999",
        "version = 'x'",
        "version = -1",
        "paused = 0, body = 'text'",
        "queue_name = x'ff'",
    )
    results = ("status = 'zombie'", "epoch = 'x'", "finished_at = 9e999", "body = 'text'", "schedule_id = x'ff'")
    events = ("type = 'NOBODYS'", "time = 9e999", "data = '[1]'", "data = '{'", "task_id = cast(x'ff' as text)")

    async def plant(self) -> None:
        connection = sqlite3.connect(urlsplit(self.url).path[1:], isolation_level=None)
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute("pragma writable_schema = on")
        connection.execute("update sqlite_schema set sql = replace(replace(sql, 'strict, ', ''), 'strict', '')")
        (version,) = connection.execute("pragma schema_version").fetchone()
        connection.execute(f"pragma schema_version = {version + 1}")
        connection.close()
        connection = sqlite3.connect(urlsplit(self.url).path[1:], isolation_level=None)
        connection.execute("pragma ignore_check_constraints = on")
        for number, damage in enumerate(self.tasks):
            connection.execute(f"update task set {damage} where id = 'b{number:02}'")
        for number, damage in enumerate(self.schedules):
            connection.execute(f"update schedule set next_run = 1, {damage} where id = 's{number:02}'")
        for number, damage in enumerate(self.results):
            connection.execute(f"update result set {damage} where task_id = 'r{number:02}'")
        for number, damage in enumerate(self.events):
            connection.execute(f"update event set {damage} where id = {number + 1}")
        connection.close()


# ── PostgreSQL ───────────────────────────────────────────────────────────────


class PostgresPlanter(Planter):
    """By SQL, without the constraints."""

    harmless = ("epoch = -1",)

    tasks = (
        "epoch = 2147483647",
        "epoch = -2147483648",
        "epoch = -1",
        "attempts = 2147483647",
        "attempts = -1",
        "crashes = 2147483647, priority = -32768",
        "crashes = -1",
        "priority = 32767",
        "priority = -32768",
        "priority = 101",
        "priority = -32768, state = 'scheduled'",
        "run_at = 'nan'",
        "run_at = '-infinity'",
        "run_at = 'infinity'",
        "run_at = 1e300",
        "run_at = -1e300",
        "run_at = 'nan', state = 'scheduled'",
        "run_at = '-infinity', state = 'scheduled'",
        "run_at = 'infinity', state = 'scheduled'",
        "created_at = 'nan'",
        "created_at = '-infinity'",
        "expires_at = 'nan'",
        "expires_at = 'infinity'",
        "expires_at = '-infinity'",
        "expires_at = -1e300",
        "finished_at = 'nan'",
        "finished_at = 1e300, priority = 500",
        "claimed_at = 'nan', priority = 500",
        *(
            "depends_on = array['a', null]",
            "depends_on = array[['a', 'b'], ['c', 'd']]",
            "depends_on = array[null]::text[]",
        ),
        "state = 'zombie'",
        "state = ''",
        "state = E'a\\nb'",
        "state = 'zombie', finished_at = 1",
        "state = 'zombie', lease_until = 'nan'",
        "queue_name = ''",
        "queue_name = E'\\x1b[2J'",
        "id = E'\\x1b[2J\\r\\nforged', body = ''",
        "id = '', body = ''",
        "body = ''",
        "body = '\\x4f5131'",
        "body = '\\x00'",
        "state = 'running', lease_until = 'nan', priority = 500",
        "state = 'running', epoch = -5, priority = 500",
        *(
            "state = 'running', lease_until = 'infinity', crashes = 2147483647",
            "state = 'running', lease_until = 1e300, priority = 999",
        ),
        *(
            "state = 'waiting', depends_on = array[null]::text[]",
            "state = 'waiting', depends_on = array['g0000'], priority = 500",
        ),
        "state = 'waiting', run_at = 'nan', depends_on = array['g0000']",
    )
    schedules = (
        "next_run = '-infinity'",
        "next_run = -1e300",
        "version = -1",
        "version = 9223372036854775807",
        "body = ''",
    )
    results = ("status = 'zombie'", "epoch = -5", "finished_at = 'nan'", "body = ''", "expires_at = 'infinity'")
    events = ("type = 'NOBODYS'", "time = 'nan'", "data = '[1]'", "data = '{\"a\": 1e400}'", "attempt = -1, type = ''")

    async def plant(self) -> None:
        schema = dict(parse_qsl(urlsplit(self.url).query))["schema"]
        connection = await asyncpg.connect(self.url.partition("?")[0], server_settings={"search_path": schema})
        await connection.execute("alter table task drop constraint task_state_check")
        await connection.execute("alter table result drop constraint result_status_check")
        for number, damage in enumerate(self.tasks):
            await connection.execute(f"update task set {damage} where id = 'b{number:02}'")
        for number, damage in enumerate(self.schedules):
            await connection.execute(f"update schedule set next_run = 1 where id = 's{number:02}'")
            await connection.execute(f"update schedule set {damage} where id = 's{number:02}'")
        for number, damage in enumerate(self.results):
            await connection.execute(f"update result set {damage} where task_id = 'r{number:02}'")
        for number, damage in enumerate(self.events):
            await connection.execute(f"update event set {damage} where id = {number + 1}")
        await connection.close()


# ── Redis ────────────────────────────────────────────────────────────────────

NAN: Final = struct.pack(">d", float("nan"))
INF: Final = struct.pack(">d", float("inf"))


class RedisPlanter(Planter):
    """By commands on the keys."""

    harmless = (f"at 55 {NAN.hex()}", f"at 63 {NAN.hex()}", "twice ready", "unready")

    tasks: Sequence[Damage] = (
        *(
            b"",
            b"\0",
            b"garbage",
            b"\xff" * 40,
            b"\xff" * 81,
            b"\0" * 81,
            b"\1" + b"\0" * 200,
            b"\x01\x7f" + b"\xff" * 300,
        ),
        "cut 1",
        "cut 5",
        "cut 20",
        "cut 60",
        "more",
        "more than that",
        "at 0 00",
        "at 0 09",
        "at 0 ff",
        "at 1 7f",
        "at 1 80",
        "at 2 ffffffff",
        "at 6 ffffffff",
        "at 10 ffffffff",
        f"at 23 {NAN.hex()}",
        f"at 31 {NAN.hex()}",
        f"at 31 {INF.hex()}",
        f"at 39 {NAN.hex()}",
        f"at 47 {NAN.hex()}",
        *(
            f"at 55 {NAN.hex()}",
            f"at 63 {NAN.hex()}",
            "at 71 ffff",
            "at 71 0000",
            "at 73 ff",
            "at 80 ffff",
            "at 80 00ff",
        ),
        *(
            "del task",
            "del body",
            "del both",
            "del ids",
            "unready",
            "only ready",
            "twice ready",
            "ghost later",
            "ghost lease",
        ),
        *(
            "ghost ended",
            "ghost waiting",
            "ghost expiring",
            "later with rubbish",
            "lease with rubbish",
            "raw id",
            "empty body",
        ),
    )
    schedules: Sequence[Damage] = (b"", b"\xff" * 10, b"\0" + NAN + NAN + b"\0\7default", "ghost", "raw id")
    results = (
        b"",
        b"\xff" * 40,
        b"\0\0\0\1\2" + NAN * 3 + b"\0\0",
        b"\0\0\0\1\5" + NAN * 3 + b"\0\0",
        b"\0\0\0\1\5" + NAN,
    )
    keys = (
        ("HSET", "count", "default pending", "many"),
        ("HSET", "count", "default scheduled", "9" * 400),
        ("HSET", "count", b"\xff\0 zombie", "-1"),
        ("SET", "children:b00", "a text"),
        ("SET", "later:low", "a text"),
        ("SET", "expiring", "a text"),
    )

    async def plant(self) -> None:
        settings = RedisTaskQueueConfig.from_url(self.url).settings
        self._prefix = settings.namespace
        with Redis(*settings.addresses[0]) as client:
            self._client = client
            for number, damage in enumerate(self.tasks):
                self._spoil(f"b{number:02}", damage)
            for number, damage in enumerate(self.schedules):
                self._spoil_schedule(f"s{number:02}", damage)
            for number, record in enumerate(self.results):
                client.hset(self._prefix + "result", f"r{number:02}", record)
            for command, key, *values in self.keys:
                client.execute_command(command, self._prefix + key, *values)

    def _spoil(self, id_: str, damage: Damage) -> None:
        do, key = self._client, self._prefix.__add__
        record = do.hget(key("task"), id_)
        assert isinstance(record, bytes)
        if isinstance(damage, bytes):
            do.hset(key("task"), id_, damage)
            return
        match damage.split():
            case ["cut", count]:
                do.hset(key("task"), id_, record[: -int(count)])
            case ["more", *_]:
                do.hset(key("task"), id_, record + damage.encode())
            case ["at", position, new]:
                start, raw = int(position), bytes.fromhex(new)
                do.hset(key("task"), id_, record[:start] + raw + record[start + len(raw) :])
            case ["del", "both"]:
                do.hdel(key("task"), id_)
                do.hdel(key("body"), id_)
            case ["del", "ids"]:
                do.zrem(key("ids"), id_)
                do.hset(key("task"), id_, b"rubbish")
            case ["del", name]:
                do.hdel(key(name), id_)
            case ["unready"]:
                do.zrem(key("ready:default"), id_)
                do.zrem(key("ids"), id_)
            case ["only", "ready"]:
                do.hdel(key("task"), id_)
                do.hdel(key("body"), id_)
                do.zrem(key("ids"), id_)
            case ["twice", "ready"]:
                do.zadd(key("ready:high"), {id_: 0})
            case ["ghost", name]:
                do.zrem(key("ready:default"), id_)
                do.hdel(key("task"), id_)
                do.zadd(key({"later": "later:default"}.get(name, name)), {id_: 1})
            case [name, "with", "rubbish"]:
                do.zrem(key("ready:default"), id_)
                do.hset(key("task"), id_, b"rubbish")
                do.zadd(key({"later": "later:default"}.get(name, name)), {id_: 1})
            case ["raw", "id"]:
                do.zrem(key("ready:default"), id_)
                do.hset(key("task"), b"raw\xff", record)
                do.hset(key("body"), b"raw\xff", b"")
                do.zadd(key("ids"), {b"raw\xff": 0})
                do.zadd(key("ready:default"), {b"raw\xff": 0})
                do.hdel(key("task"), id_)
            case ["empty", "body"]:
                do.hset(key("body"), id_, b"")

    def _spoil_schedule(self, id_: str, damage: Damage) -> None:
        do, key = self._client, self._prefix.__add__
        do.zadd(key("slot"), {id_: 1})
        if isinstance(damage, bytes):
            do.hset(key("schedule"), id_, damage)
        elif damage == "ghost":
            do.hdel(key("schedule"), id_)
        else:
            do.hset(key("schedule"), b"raw\xff", b"rubbish")
            do.zadd(key("schedules"), {b"raw\xff": 0})
            do.zadd(key("slot"), {b"raw\xff": 1})
