"""Rows that make no sense, as records: each column that isn't what it should be gets a stand-in.

A store reads its rows in one go, and only if that fails one by one, by these functions. They take what is in the
columns, of whatever types, and never raise.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields, replace

from omniq.models.event import TaskEvent
from omniq.models.state import EventType, TaskState
from omniq.storage.records import MAX_COUNT, ResultRecord, ScheduleRecord, TaskRecord, WorkerRecord
from omniq.texts import escaped

R = TypeVar("R", bound=Struct)

MAX_SHOWN: Final = 100
"""Characters of a text that isn't one, and of what is said of a column."""

_STAND_INS: Final[Mapping[str, object]] = {
    "body": b"",
    "state": TaskState.ERROR,
    "status": TaskState.ERROR,
    "type": EventType.UNKNOWN,
    "priority": 0,
    "epoch": MAX_COUNT // 2,  # beyond any claim, so that all of them are fenced off, and with room for more
    "created_at": 0.0,
    "run_at": 0.0,
    "time": 0.0,
    "next_run": None,
    "paused": False,
}
"""For other fields than texts, where it isn't the field's default."""
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")


def record_of(kind: type[R], values: Mapping[str, object]) -> R:
    """The task, result or schedule that a row is, quickly if it is sound. Its texts must be such as can be encoded."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError:
        return _record(kind, values)


def task_of(values: Mapping[str, object]) -> TaskRecord:
    """The task that a row is, by the names of its columns.

    A column that is left out has its default; if it has none, it is damaged.
    """
    return _record(TaskRecord, values)


def result_of(values: Mapping[str, object]) -> ResultRecord:
    """The result that a row is."""
    record = _record(ResultRecord, values)
    if record.is_final or record.status is TaskState.RUNNING:
        return record
    return replace(record, status=TaskState.ERROR, damage=_joined(record.damage, "status: no task ends in it"))


def schedule_of(values: Mapping[str, object]) -> ScheduleRecord:
    """The schedule that a row is."""
    return _record(ScheduleRecord, values)


def event_of(values: Mapping[str, object]) -> TaskEvent:
    """The event that a row is."""
    return _record(TaskEvent, values)


def worker_of(name: str, report: bytes | str, last_seen: float) -> WorkerRecord:
    """The worker that has told this of itself, as JSON: if that can't be read, its name and when it was seen."""
    try:
        return replace(_decode_worker(report), name=shown(name), last_seen=last_seen)
    except ValueError:
        return WorkerRecord(name=shown(name), last_seen=last_seen)


_decode_worker = msgspec.json.Decoder(WorkerRecord).decode


def state_of(value: object) -> TaskState:
    """The state of that name; ERROR for a name that no state has."""
    try:
        return TaskState(value)  # type: ignore[arg-type]  # any object may be asked for
    except ValueError:
        return TaskState.ERROR


def shown(value: object) -> str:
    """What can be shown of a value that should be a text."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return escaped(_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text[:MAX_SHOWN]))


def _record(kind: type[R], values: Mapping[str, object]) -> R:
    sound: dict[str, Any] = {}
    wrong: str | None = None
    for column in _columns(kind):
        if column.name not in values and not column.required:
            continue
        value = values.get(column.name)
        try:
            if column.name not in values:
                raise ValueError("it is missing")
            sound[column.name] = column.check(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            wrong = _joined(wrong, f"{column.name}: {_words(error)}")
            sound[column.name] = column.stand_in(value)
    return kind(**sound, damage=wrong)


def _joined(first: str | None, second: str) -> str:
    return second if first is None else f"{first}; {second}"


def _words(error: Exception) -> str:
    words = "it isn't UTF-8" if isinstance(error, UnicodeError) else str(error)
    return escaped(words[:MAX_SHOWN])


class _Column(NamedTuple):
    name: str
    required: bool
    check: Callable[[Any], object]
    stand_in: Callable[[object], object]


@functools.cache
def _columns(kind: type[Struct]) -> list[_Column]:
    known = [field for field in fields(kind) if field.name != "damage"]
    return [_Column(field.name, field.required, _check(field), _stand_in(field)) for field in known]


def _check(field: FieldInfo) -> Callable[[Any], object]:
    """What returns a value of the field's type, or raises."""
    return _bytes if field.type is bytes else functools.partial(_converted, field.type)


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError(f"Expected `bytes`, got `{type(value).__name__}`")


def _converted(type_: Any, value: object) -> object:
    converted: object = msgspec.convert(value, type_)
    for text in converted if isinstance(converted, tuple) else (converted,):
        if isinstance(text, str):
            text.encode()  # raises for what a store couldn't decode
    return converted


def _stand_in(field: FieldInfo) -> Callable[[object], object]:
    """What returns a value to take instead of one that isn't of the field's type."""
    if field.name == "depends_on":
        return _texts_among
    if field.name in _STAND_INS:
        return lambda _: _STAND_INS[field.name]
    if field.default_factory is not NODEFAULT:
        return lambda _: field.default_factory()
    if field.type in (str, str | None):
        return lambda value: "" if value is None else shown(value)
    return lambda _: field.default


def _texts_among(value: object) -> tuple[str, ...]:
    """The parents that can be told: without them a task would run too early."""
    items = value if isinstance(value, list | tuple) else ()
    return tuple(item for item in items if isinstance(item, str) and item.isprintable())
