"""How the calls of the contract look on the wire, by server, so that the reply to one of them can be cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from omniq_redis.connection import script

from tests.reliability.servers import POSTGRES

SCRIPTS: Mapping[str, str] = {
    "add": "add",
    "claim": "claim",
    "extend": "extend",
    "lapsed": "lapsed",
    "beat": "beat",
    "now": "now",
    "transition": "transition",
    "get": "get",
    "find": "find",
    "stats": "stats",
    "children": "children",
    "put_schedule": "put_schedule",
    "schedules": "get_schedules",
    "fire": "fire",
    "results_put": "put_results",
    "results_get": "get_results",
}
STATEMENTS: Mapping[str, str] = {
    "add": r"insert into \S+\.task\b|^copy ",
    "claim": r"set state = 'running'",
    "extend": r"set lease_until =",
    "lapsed": r"as double precision\) as lease_until from",
    "beat": r"insert into \S+\.worker\b",
    "now": r"^select \(select extract\(epoch from clock_timestamp",
    "transition": r"update \S+\.task set state = (\$\d+::|given\.)",
    "get": r"from \S+\.task where id = any\(\$1",
    "find": r"from \S+\.task where .*order by id (asc|desc)? *limit",
    "stats": r"select queue_name, 'pending' as state, count",
    "children": r"select parent, child from",
    "put_schedule": r"insert into \S+\.schedule\b|update \S+\.schedule set queue_name",
    "schedules": r"from \S+\.schedule\s+where",
    "fire": r"update \S+\.schedule as schedule\s+set next_run",
    "results_put": r"insert into \S+\.result .*\s+select task_id, epoch, status, schedule_id, now",
    "results_get": r"from \S+\.result\s+where task_id = any",
    "listen": r"^listen ",
}
VERBS = tuple(STATEMENTS)


def asks_for(verb: str, kind: str) -> Callable[[bytes], bool]:
    """Whether a request to that kind of server is this call."""
    if kind == POSTGRES:
        pattern = re.compile(STATEMENTS[verb].encode(), re.IGNORECASE | re.DOTALL)
        return lambda request: pattern.search(request) is not None
    word = script(SCRIPTS[verb]).digest.encode() if verb in SCRIPTS else b"\r\nSUBSCRIBE\r\n"
    return lambda request: word in request
