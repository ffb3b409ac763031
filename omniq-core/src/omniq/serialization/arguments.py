"""Arguments to bytes and back, with the function where it has to travel along, and errors that name the argument."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization.base import Format
from omniq.serialization.calls import LoadedCall
from omniq.serialization.codec import ValueCodec
from omniq.serialization.functions import Function, display_name

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
