"""The log of a place: what every segment and snapshot of it looks like.

A place is a state machine that all its processes replicate: a change is the next segment of its log, made by whoever
is first to create a file of that number. Segments hold rows as they are from then on, so that whoever reads all of them
in order has the same tables. A snapshot is all rows as they were after one segment; what came before may be deleted.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct
from omniq.storage import rules
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord
from omniq.storage.table_store import Tables, Written
from omniq.storage.tables import QueueRecord

LAYOUT: Final = 1
"""The version of all this."""
LOG: Final = "log"
_NAME: Final = re.compile(rf"{LOG}/(\d{{16}})(\.snapshot)?\.jsonl")


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"{LOG}/{number:016d}.jsonl"


def snapshot_name(number: int) -> str:
    """The file of the snapshot after that segment."""
    return f"{LOG}/{number:016d}.snapshot.jsonl"


def numbers_in(names: Iterable[str]) -> tuple[list[int], list[int]]:
    """The numbers of the segments and of the snapshots among files of the log, in order."""
    found = [(int(match[1]), bool(match[2])) for name in names if (match := _NAME.fullmatch(name))]
    return sorted(n for n, is_snapshot in found if not is_snapshot), sorted(
        n for n, is_snapshot in found if is_snapshot
    )


class Header(Struct, omit_defaults=True, kw_only=True):
    """The first line of a segment or a snapshot."""

    omniq: int
    number: int
    lines: int
    """How many follow."""
    writer: str
    """Who made it: a text that nobody else has."""
    time: float
    """When, in seconds since the epoch on the writer's clock; for people."""
    compacts: bool = False
    """Whether its writer will make a snapshot: others needn't."""


class Line(Struct, omit_defaults=True, kw_only=True):
    """A row as it is from now on; or the ids of rows that are gone, by the names of their tables."""

    task: TaskRecord | None = None
    queue: QueueRecord | None = None
    schedule: ScheduleRecord | None = None
    result: ResultRecord | None = None
    gone: dict[str, list[str]] | None = None


KINDS: Final[Mapping[str, tuple[str, type[Any]]]] = {
    "task": ("id", TaskRecord),
    "queue": ("name", QueueRecord),
    "schedule": ("id", ScheduleRecord),
    "result": ("task_id", ResultRecord),
}
"""By the names of the tables, where a row has its id, and what it is."""

_encoder = msgspec.json.Encoder()
_decode_header = msgspec.json.Decoder(Header).decode
_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_line = msgspec.json.Decoder(Line).decode


# ── writing ─────────────────────────────────────────────────────────────────


def lines_of(written: Written) -> list[Mapping[str, Any]]:
    """The lines of a segment that tell what was written."""
    lines: list[Mapping[str, Any]] = []
    gone: dict[str, list[str]] = {}
    for name, before in written.before.items():
        rows = written.tables.by_name[name].rows
        lines += ({name: row} for id_ in before if (row := rows.get(id_)) is not None)
        if ids := [id_ for id_, old in before.items() if old is not None and id_ not in rows]:
            gone[name] = ids
    return [*lines, {"gone": gone}] if gone else lines


def encode(header: Header, lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A segment."""
    return _encoder.encode_lines([header, *lines])


def encode_rows(name: str, rows: Iterable[Any]) -> bytes:
    """Lines of a snapshot."""
    return _encoder.encode_lines([{name: row} for row in rows])


# ── reading ─────────────────────────────────────────────────────────────────


class Contents(Struct):
    """What was read of a segment or a snapshot."""

    header: Header | None
    """None if it can't be read."""
    lines: list[Line]
    unreadable: int
    """How many lines can't be read, or are missing."""


def decode_header(data: bytes) -> Header | None:
    """The header of a segment or a snapshot; None if it can't be read."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_header(data.partition(b"\n")[0])
    return None


def decode(data: bytes) -> Contents:
    """Read a segment or a snapshot, line by line where something is damaged."""
    header, rest = decode_header(data), data.partition(b"\n")[2]
    try:
        lines = _decode_lines(rest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        lines = [line for raw in rest.splitlines() if (line := _salvaged(raw)) is not None]
    expected = len(lines) + 1 if header is None else header.lines
    return Contents(header, lines, max(0, expected - len(lines)))


def _salvaged(raw: bytes) -> Line | None:
    """What can be told of a line, with the damage told in its row; None if that is nothing."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_line(raw)
    values: Any = None
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        values = msgspec.json.decode(raw)
    (name, row), *_ = values.items() if isinstance(values, dict) and values else [("", None)]
    if name not in KINDS or not isinstance(row, dict) or not isinstance(row.get(KINDS[name][0]), str):
        return None
    with suppress(ValueError, TypeError):
        row["body"] = b64decode(row.get("body", ""))
    of = {"task": rules.task_of, "schedule": rules.schedule_of, "result": rules.result_of}.get(name)
    return None if of is None else msgspec.structs.replace(Line(), **{name: of(row)})


def apply(tables: Tables, lines: Iterable[Line]) -> None:
    """Let the tables have the rows as the lines tell them."""
    by_name = tables.by_name
    for line in lines:
        if line.task is not None:
            by_name["task"].write(line.task.id, line.task)
        elif line.result is not None:
            by_name["result"].write(line.result.task_id, line.result)
        elif line.schedule is not None:
            by_name["schedule"].write(line.schedule.id, line.schedule)
        elif line.queue is not None:
            by_name["queue"].write(line.queue.name, line.queue)
        for name, ids in (line.gone or {}).items():
            for id_ in ids if name in by_name else ():
                by_name[name].write(id_, None)
