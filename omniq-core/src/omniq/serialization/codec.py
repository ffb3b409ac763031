"""From calls and values to bytes and back."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct, field

from omniq.errors import CorruptPayload, SerializationError
from omniq.models.config import Abridged, NotNegative
from omniq.models.task import Call, ParentFailure, Timing
from omniq.serialization.base import Format, Function, NotCarried, Serializer, display_name, type_name
from omniq.serialization.msgspec_ import MsgspecSerializer

# ── dill's serializer ───────────────────────────────────────────────────────


class DillSerializer(Serializer):
    """Carries nearly every Python object: closures, lambdas, local classes, what `__main__` defines, …

    dill is imported when it is first needed, not with this module.
    """

    format = Format.DILL

    def dumps(self, value: object) -> bytes:
        from omniq.serialization.dill_pickler import dumps

        try:
            return dumps(value)
        except RecursionError as error:
            raise SerializationError(f"can't serialize {type_name(value)}: it is nested too deeply") from error
        except Exception as error:  # the value's own `__reduce__` may raise anything
            advice = "pass what it can be rebuilt from (an id, a path, plain data), or define it in a module"
            raise SerializationError(f"can't serialize {type_name(value)}: {error}; {advice}") from error

    def loads(self, data: bytes) -> Any:
        import dill

        try:
            return dill.loads(data)
        except (pickle.UnpicklingError, EOFError) as error:
            raise CorruptPayload(f"these bytes aren't a value that dill wrote: {error}") from error
        except (Exception, SystemExit) as error:  # the value's own `__setstate__` may raise anything
            raise SerializationError(f"can't rebuild a value here: {type(error).__name__}: {error}") from error


# ── what is packed ──────────────────────────────────────────────────────────


class CallOptions(Abridged, Struct, frozen=True, kw_only=True):
    """How a call is to be run. Durations are seconds."""

    timeout: float | None = None
    max_retries: int = 0
    retry_delay: float = 0.0
    result_ttl: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Text keys and plain values: None, bools, numbers, text, bytes, lists and dicts of them."""
    on_success: Function | None = None
    """Called with the result; like `on_failure`, something that a worker can import."""
    on_failure: Function | None = None
    on_parent_failure: ParentFailure = "cancel"


class LoadedCall(Abridged, Struct, frozen=True):
    """A call that is ready to run: `func(*args, **kwargs)`."""

    func: Function
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class ScheduledCall(Struct, frozen=True, kw_only=True):
    """What a schedule stores: when it fires, and the call from which each firing's task is made."""

    timing: Timing
    call: Call
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    ttl: NotNegative | None = None
    """Each task expires so many seconds after its slot."""

    def __post_init__(self) -> None:
        if self.timing.interval is None:
            raise ValueError("its timing says nothing")


# ── values ──────────────────────────────────────────────────────────────────


Mode: TypeAlias = Literal["auto", "msgspec"]


class ValueCodec:
    """Chooses the serializer for each value, and keeps dill within its bounds.

    `refusal` says why dill is neither written nor read, and is None where it may be.
    """

    def __init__(self, refusal: str | None = None) -> None:
        self._msgspec = MsgspecSerializer()
        self._dill = DillSerializer()
        self._refusal = refusal
        self.uses_dill = False
        """Whether dill has been written or read yet."""

    def dump(self, value: object) -> tuple[Format, bytes]:
        """The value's format and bytes. Raises `SerializationError`, which names the value's type."""
        try:
            return Format.MSGSPEC, self._msgspec.dumps(value)
        except NotCarried as error:
            if self._refusal is not None:
                raise SerializationError(f"{error}, and {self._refusal}") from error
        return Format.DILL, self.dump_by_dill(value)

    def dump_by_dill(self, value: object) -> bytes:
        """The value in dill's format. Raises `SerializationError` where dill is refused, too."""
        if self._refusal is not None:
            raise SerializationError(f"it needs dill, and {self._refusal}")
        self.uses_dill = True
        return self._dill.dumps(value)

    def load(self, format: str, data: bytes) -> Any:
        """The value again.

        Raises `CorruptPayload` when the bytes aren't in that format, and `SerializationError` when they
        can't be rebuilt here, or are dill's where dill is refused; then they were not decoded.
        """
        if format == Format.MSGSPEC:
            return self._msgspec.loads(data)
        if format != Format.DILL:
            raise CorruptPayload(f"unknown format {format!r}")
        if self._refusal is not None:
            raise SerializationError(f"it was packed by dill, and {self._refusal}; it was not decoded")
        self.uses_dill = True
        return self._dill.loads(data)


# ── arguments ───────────────────────────────────────────────────────────────


# Bytecode is good for one minor version of Python only; in another it may crash the process.
_PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PREFIX: Final = _PYTHON.encode() + b"\n"


class ArgumentCodec:
    """Packs the arguments of a call."""

    def __init__(self, values: ValueCodec) -> None:
        self._values = values
        self._nothing = values.dump([[], {}])

    def pack(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Format, bytes]:
        """The arguments' format and bytes. Raises `SerializationError`, which names the argument at fault."""
        if not args and not kwargs:
            return self._nothing
        try:
            return self._values.dump([list(args), dict(kwargs)])
        except SerializationError as error:
            self._blame_argument(func, args, kwargs)
            raise SerializationError(f"arguments of {display_name(func)}: {error}") from error

    def unpack(self, func: Function, format: str, data: bytes) -> LoadedCall:
        """The function with its arguments. Raises what `ValueCodec.load` does."""
        packed = self._values.load(format, data)
        # Spelt out, since a match statement would take longer than the decoding.
        if type(packed) is list and len(packed) == 2 and type(packed[0]) is list and type(packed[1]) is dict:
            return LoadedCall(func, packed[0], packed[1])
        raise CorruptPayload(f"arguments of {display_name(func)}: expected a list and a dict")

    def pack_with_function(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Function and arguments together, by dill. Raises `SerializationError`, which names what is at fault."""
        try:
            return _PREFIX + self._values.dump_by_dill([func, list(args), dict(kwargs)])
        except SerializationError as error:
            self._blame_function(func)
            self._blame_argument(func, args, kwargs)
            raise SerializationError(f"call of {display_name(func)}: {error}") from error

    def unpack_with_function(self, data: bytes) -> LoadedCall:
        """What `pack_with_function` packed, by the same minor version of Python."""
        prefix, newline, pickled = data.partition(b"\n")
        if not newline or not prefix.startswith(b"python"):
            raise CorruptPayload("these bytes aren't a function that OmniQ wrote")
        if prefix + newline != _PREFIX:
            packed_by = prefix.decode("ascii", "replace")
            raise SerializationError(
                f"the function travels by value and was packed by {packed_by}, but this is {_PYTHON}: "
                "define it in a module that the worker can import"
            )
        match self._values.load(Format.DILL, pickled):
            case [func, list(args), dict(kwargs)] if callable(func):
                return LoadedCall(func, args, kwargs)
        raise CorruptPayload("expected a function, a list and a dict")

    def _blame_function(self, func: Function) -> None:
        try:
            self._values.dump_by_dill(func)
        except SerializationError as error:
            raise SerializationError(
                f"function {display_name(func)!r}: a worker can't import it (it is a lambda, closure, method or "
                f"part of __main__), so it would have to travel by value: {error}"
            ) from error

    def _blame_argument(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise an error that names the first argument that can't be packed by itself, if there is one."""
        for name, value in _named(func, args, kwargs):
            try:
                self._values.dump(value)
            except SerializationError as error:
                raise SerializationError(f"argument {name!r}: {error}") from error


def _named(func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    try:
        positional = [p.name for p in inspect.signature(func).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):  # some builtins don't tell
        positional = []
    for index, value in enumerate(args):
        yield positional[index] if index < len(positional) else str(index), value
    yield from kwargs.items()
