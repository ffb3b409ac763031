"""Results of other tasks as arguments: the places that are kept for them in a packed call, and how these are filled.

What stands for a result packs itself as a number, which says which parent's it is; the call names the parents. Nothing
looks for such places: the first one that is met raises `OutOfPlace`, unless its call is being packed `for_parents`. So
calls without any pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from msgspec import Struct

from omniq.errors import (
    CorruptPayload,
    ResultError,
    ResultExpired,
    SerializationError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from omniq.models.config import Abridged


class OutOfPlace(SerializationError):
    """Raised for a `result_of` anywhere but among the arguments of a task."""

    def __init__(self) -> None:
        super().__init__("result_of: it stands for a result among the arguments of a task, and nowhere else")


# ── packing ─────────────────────────────────────────────────────────────────


NO_DEFAULT: Final = object()
_named: ContextVar[dict[str, int] | None] = ContextVar("omniq_parents_named", default=None)


class ResultOf:
    """Stands for another task's result among the arguments of a task: see `result_of`."""

    __slots__ = ("default", "has_default", "task_id")
    __hash__ = None  # type: ignore[assignment]  # a result may be a list: it can be neither a key nor in a set

    def __init__(self, task_id: str, default: object = NO_DEFAULT) -> None:
        self.task_id: Final = task_id
        self.has_default: Final = default is not NO_DEFAULT
        self.default: Final = default if self.has_default else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResultOf):
            return NotImplemented
        mine, its = (self.task_id, self.has_default, self.default), (other.task_id, other.has_default, other.default)
        return bool(mine == its)

    def __repr__(self) -> str:
        return f"ResultOf({self.task_id!r})"  # not the default, which is an argument

    def __copy__(self) -> ResultOf:
        return self

    def __deepcopy__(self, memo: object) -> ResultOf:
        return self

    @property
    def packed(self) -> tuple[Any, ...]:
        """The parent's number in the call, and the default if there is one. Raises `OutOfPlace`."""
        named = _named.get()
        if named is None:
            raise OutOfPlace
        number = named.setdefault(self.task_id, len(named))
        return (number, self.default) if self.has_default else (number,)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return fill, self.packed


@contextmanager
def for_parents() -> Iterator[dict[str, int]]:
    """Let a call be packed that has results among its arguments; gives their tasks, in the order of their numbers."""
    named: dict[str, int] = {}
    token = _named.set(named)
    try:
        yield named
    finally:
        _named.reset(token)


# ── unpacking ───────────────────────────────────────────────────────────────


_ERRORS: Final = {kind.__name__: kind for kind in (ResultExpired, TaskCancelled, TaskExpired, TaskFailed)}


class ParentResult(Abridged, Struct, frozen=True, array_like=True, gc=False):
    """How a parent ended, verified: its value, still packed, or what `get_result` raises. It crosses processes."""

    value_format: str = ""
    value: bytes = b""
    error: str = ""
    """The name of the error; empty where there is a value."""
    about: tuple[str, ...] = ()
    """What the error is made of."""

    @classmethod
    def of_error(cls, error: ResultError) -> ParentResult:
        """The result that there is none. Of a task that failed, its traceback is left out."""
        return cls(error=type(error).__name__, about=tuple(map(str, error.args[:3])))

    @property
    def has_value(self) -> bool:
        return not self.error

    def failure(self) -> ResultError:
        """What says that there is no value."""
        return _ERRORS[self.error](*self.about)


_filling: ContextVar[Sequence[object]] = ContextVar("omniq_parents_filling", default=())


@contextmanager
def filled(results: Sequence[ParentResult], load: Callable[[str, bytes], Any]) -> Iterator[None]:
    """Let a call be unpacked with its parents' results; `load` makes the value of a format and bytes."""
    values = [load(result.value_format, result.value) if result.has_value else result for result in results]
    token = _filling.set(values)
    try:
        yield
    finally:
        _filling.reset(token)


def fill(number: object, *default: Any) -> Any:
    """What belongs where a result was packed: it, or else the default.

    Raises what `get_result` would where there is neither, and `CorruptPayload` for a number that the call doesn't have.
    """
    values = _filling.get()
    if type(number) is not int or not 0 <= number < len(values) or len(default) > 1:
        raise CorruptPayload("a call has a place for a result that it doesn't name")
    value = values[number]
    if not isinstance(value, ParentResult):
        return value
    if default and value.error != ResultExpired.__name__:
        return default[0]
    raise value.failure()
