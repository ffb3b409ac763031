"""What is planted into SQLite."""

from __future__ import annotations

import sqlite3
from types import MappingProxyType
from urllib.parse import urlsplit

from tests.damaged.planting import Planter


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
            which = f"(select id from event order by id limit 1 offset {number})"
            connection.execute(f"update event set {damage} where id = {which}")
        connection.close()
