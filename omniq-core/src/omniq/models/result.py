"""How tasks ended, or how far they have come: results as users see them, and what stores carry of them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from omniq.clock import LAST_SECOND, now, utc
from omniq.errors import InvalidTask, ResultError, ResultTimeout, TaskCancelled, TaskExpired, TaskFailed
from omniq.models.config import Abridged, Moment
from omniq.texts import cut, encodable


class ResultStatus(StrEnum):
    """What is known of a task's outcome."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_UNREAD = object()
_KNOWN = "known"


class StoredValue:
    """A value as it is stored, which is rebuilt when it is first asked for.

    `load` makes the value of `format` and `data`; it raises `SerializationError`. Two are equal when their bytes are.
    """

    __slots__ = ("_data", "_format", "_load", "_value")

    def __init__(self, format: str, data: bytes, load: Callable[[str, bytes], Any]) -> None:
        self._format = format
        self._data = data
        self._load = load
        self._value: Any = _UNREAD

    def get(self) -> Any:
        """The value. Raises `SerializationError` when it can't be rebuilt here."""
        if self._value is _UNREAD:
            self._value = self._load(self._format, self._data)
        return self._value

    @property
    def packed(self) -> tuple[str, bytes]:
        """Format and bytes."""
        return self._format, self._data

    @classmethod
    def of(cls, value: object) -> StoredValue:
        """A value that needn't be rebuilt."""
        stored = cls(_KNOWN, b"", _no_load)
        stored._value = value
        return stored

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredValue):
            return NotImplemented
        same = (self._format, self._data) == (other._format, other._data)
        return same and (self._format != _KNOWN or bool(self._value == other._value))

    def __hash__(self) -> int:
        return hash((self._format, self._data))

    def __repr__(self) -> str:
        return f"<{len(self._data)} bytes>"  # never the value

    def __reduce__(self) -> tuple[Callable[..., StoredValue], tuple[Any]]:
        # What loads it knows the signing keys, which must not travel with a copy.
        return StoredValue.of, (self.get(),)


def _no_load(format: str, data: bytes) -> None:
    """Never called: the value is there."""


NO_VALUE = StoredValue.of(None)
MAX_PROGRESS_MESSAGE: Final = 1024
"""Characters of a progress message; longer ones are cut."""


class Progress(Abridged, Struct, array_like=True, frozen=True, gc=False):
    """How far a running task has come, as it said last."""

    fraction: Annotated[float, Meta(ge=0, le=1)]
    """0 to 1."""
    message: Annotated[str, Meta(max_length=MAX_PROGRESS_MESSAGE)]
    at: Moment
    """When it said so, on the clock of its process."""

    def __post_init__(self) -> None:
        if math.isnan(self.fraction):
            raise ValueError("fraction: expected 0 to 1, got nan")

    @classmethod
    def of(cls, fraction: object, message: object = "") -> Progress:
        """Progress as of now; a long message is cut. Raises `InvalidTask`."""
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidTask(f"fraction: expected a number from 0 to 1, got {fraction!r:.80}")
        if not isinstance(message, str):
            raise InvalidTask(f"message: expected text, got {type(message).__name__}")
        text = encodable(cut(message, MAX_PROGRESS_MESSAGE))  # which may be longer again
        return cls(float(fraction), cut(text, MAX_PROGRESS_MESSAGE), utc(now()))


class TaskResult(Abridged, Struct, frozen=True, kw_only=True):
    """A snapshot of a task's outcome."""

    task_id: str
    status: ResultStatus
    stored: StoredValue = NO_VALUE
    """What the function returned, as it is stored: see `value`."""
    error_type: str | None = None
    """Qualified name of the exception."""
    error_message: str | None = None
    traceback: str | None = None
    """The traceback as the worker saw it."""
    epoch: int = 0
    """The claim that ended it."""
    attempts: int = 0
    """Attempts made, the last one included."""
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    worker: str | None = None
    schedule_id: str | None = None
    progress: Progress | None = None
    """How far it has come, while it is running and if it says so."""

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.status not in (ResultStatus.PENDING, ResultStatus.RUNNING)

    @property
    def value(self) -> Any:
        """What the function returned; None where the task didn't succeed.

        It is decoded when it is first asked for. Raises `SerializationError` when that can't be done here.
        """
        return self.stored.get()

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())

    def unwrap(self) -> Any:
        """Return `value`.

        Raises `TaskFailed`, `TaskCancelled` or `TaskExpired` when there is none, `ResultTimeout` when the task hadn't
        ended, and what `value` raises.
        """
        if self.status is ResultStatus.SUCCESS:
            return self.value
        raise self.failure()

    def failure(self) -> ResultError:
        """What says that there is no value: what `unwrap` raises where the task didn't succeed."""
        if self.status is ResultStatus.CANCELLED:
            return TaskCancelled(f"task {self.task_id} was cancelled")
        if self.status is ResultStatus.EXPIRED:
            if self.error_type is None:
                return TaskExpired(f"task {self.task_id} wasn't started before its TTL ended")
            error = f"{self.error_type}: {self.error_message}"
            return TaskExpired(f"task {self.task_id}: its TTL ended before it could be tried again after {error}")
        if not self.is_final:
            return ResultTimeout(f"task {self.task_id} hasn't ended: it is {self.status}")
        return TaskFailed(self.task_id, self.error_type or "", self.error_message or "", self.traceback or "")


class Outcome(Abridged, Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a task ended, or how far it has come: the part of a result that stores carry as opaque bytes."""

    value: bytes = b""
    value_format: str = ""
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    attempts: Annotated[int, Meta(ge=0)] = 0
    started_at: Annotated[float, Meta(ge=0, le=LAST_SECOND)] | None = None
    worker: str | None = None
    progress: Progress | None = None
    """Of a task that is running."""
