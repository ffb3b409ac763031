"""What is planted into PostgreSQL."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import asyncpg

from tests.damaged.planting import Planter


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
            which = f"(select id from event order by id limit 1 offset {number})"
            await connection.execute(f"update event set {damage} where id = {which}")
        await connection.close()
