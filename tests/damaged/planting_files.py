"""What is planted into files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.damaged.planting import Planter


class FilesPlanter(Planter):
    """By writing fields, as JSON, into the rows that segments hold."""

    tasks = (
        '{"epoch": "x"}',
        '{"epoch": 9223372036854775807}',
        '{"epoch": -5}',
        '{"epoch": 1e300}',
        '{"attempts": "many"}',
        '{"crashes": -1}',
        '{"crashes": [1]}',
        '{"priority": "high"}',
        '{"priority": 1000000}',
        '{"run_at": "soon"}',
        '{"run_at": null}',
        '{"run_at": 1e300}',
        '{"created_at": {}}',
        '{"expires_at": "never"}',
        '{"expires_at": -1e300}',
        '{"finished_at": 1e300}',
        '{"lease_until": "x"}',
        '{"claimed_at": "x"}',
        '{"cancel_requested": 7}',
        '{"depends_on": "{"}',
        '{"depends_on": [null]}',
        '{"depends_on": [1, 2]}',
        '{"schedule_id": 1}',
        '{"queue_name": 1}',
        '{"queue_name": "../../nobody"}',
        '{"state": "zombie"}',
        '{"state": null}',
        '{"state": "zombie", "finished_at": 1}',
        '{"body": "text"}',
        '{"body": null}',
        '{"body": "T1Ex"}',
        '{"body": "17958355035053c7d541237/00000000000/q00000000113"}',
        '{"body": "17958355035053c7d541237/0000000000q/000000000113"}',
        '{"unique": 1}',
        '{"state": "running", "lease_until": null, "epoch": "x"}',
        '{"state": "running", "lease_until": 1e300, "priority": "x"}',
        '{"state": "running", "lease_until": "x", "priority": "x"}',
        '{"state": "scheduled", "run_at": "x"}',
        '{"state": "waiting", "depends_on": [null]}',
        '{"state": "waiting", "depends_on": "{"}',
    )
    schedules = (
        '{"next_run": "x"}',
        '{"version": "x"}',
        '{"version": -1}',
        '{"paused": 0, "body": "text"}',
        '{"queue_name": 1}',
    )
    results = ('{"status": "zombie"}', '{"epoch": "x"}', '{"finished_at": 1e300}', '{"body": "text"}')
    events = ('{"type": "NOBODYS"}', '{"time": 1e300}', '{"data": [1]}', '{"task_id": 1}')

    async def plant(self) -> None:
        root = Path(urlsplit(self.url).path) / "default"
        fields = {
            **dict(self._of("task", "b", "id", self.tasks)),
            **dict(self._of("schedule", "s", "id", self.schedules)),
            **dict(self._of("result", "r", "task_id", self.results)),
        }
        for path in (root / "log").iterdir():
            lines = path.read_bytes().splitlines()
            path.write_bytes(b"".join(_damaged(line, fields) + b"\n" for line in lines))
        events = iter(self.events)
        for path in sorted((root / "events").iterdir()) if (root / "events").exists() else ():
            lines = path.read_bytes().splitlines()
            path.write_bytes(b"".join(_with(line, next(events, "{}")) + b"\n" for line in lines))

    def _of(self, table: str, start: str, key: str, damages: Any) -> Iterator[tuple[tuple[str, str, str], str]]:
        for number, damage in enumerate(damages):
            yield (table, key, f"{start}{number:02}"), damage


def _damaged(line: bytes, fields: dict[tuple[str, str, str], str]) -> bytes:
    values = msgspec.json.decode(line)
    for (table, key, id_), damage in fields.items():
        row = values.get(table)
        if isinstance(row, dict) and row.get(key) == id_:
            row |= msgspec.json.decode(damage)
            if table == "schedule":
                row.setdefault("next_run", 1.0)
    return msgspec.json.encode(values)


def _with(line: bytes, damage: str) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(line) | msgspec.json.decode(damage))
