"""What is planted into Redis."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from omniq_redis.config import RedisTaskQueueConfig
from redis import Redis

from tests.damaged.planting import Damage, Planter

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
