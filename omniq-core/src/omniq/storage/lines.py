"""Rows as lines of JSON, as logs and snapshots have them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct

from omniq.storage import rules
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord
from omniq.storage.tables import AskedRecord, QueueRecord


class Line(Struct, omit_defaults=True, kw_only=True):
    """A row as it is from now on; or the ids of rows that are gone, by the names of their tables."""

    task: TaskRecord | None = None
    queue: QueueRecord | None = None
    schedule: ScheduleRecord | None = None
    result: ResultRecord | None = None
    asked: AskedRecord | None = None
    gone: dict[str, list[str]] | None = None


KINDS: Final[Mapping[str, tuple[str, type[Any]]]] = {
    "task": ("id", TaskRecord),
    "queue": ("name", QueueRecord),
    "schedule": ("id", ScheduleRecord),
    "result": ("task_id", ResultRecord),
    "asked": ("name", AskedRecord),
}
"""By the names of the tables, where a row has its id, and what it is."""

_encode_lines = msgspec.json.Encoder().encode_lines
_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_line = msgspec.json.Decoder(Line).decode


def encode_rows(name: str, rows: Iterable[Any]) -> bytes:
    """Rows of a table, each as a line."""
    return encode_lines([{name: row} for row in rows])


def encode_lines(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """What `Written.lines` gives, as lines that `decode_rows` reads."""
    return _encode_lines(lines)


def decode_rows(data: bytes) -> list[Line]:
    """What lines tell, read one by one where something is damaged; those of which nothing can be told are left out."""
    try:
        return _decode_lines(data)
    except rules.DAMAGE:
        return [line for raw in data.splitlines() if (line := _repaired(raw)) is not None]


def _repaired(raw: bytes) -> Line | None:
    """What can be told of a line, with the damage told in its row; None if that is nothing."""
    with suppress(*rules.DAMAGE):
        return _decode_line(raw)
    values: Any = None
    with suppress(*rules.DAMAGE):
        values = msgspec.json.decode(raw)
    (name, row), *_ = values.items() if isinstance(values, dict) and values else [("", None)]
    if name not in KINDS or not isinstance(row, dict) or not isinstance(row.get(KINDS[name][0]), str):
        return None
    with suppress(ValueError, TypeError):
        row["body"] = b64decode(row.get("body", ""))
    of = {"task": rules.task_of, "schedule": rules.schedule_of, "result": rules.result_of}.get(name)
    return None if of is None else msgspec.structs.replace(Line(), **{name: of(row)})
