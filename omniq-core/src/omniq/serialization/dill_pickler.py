"""dill's pickler, with two of its habits changed that would break tasks. Importing this imports dill.

By default dill leaves the globals of `__main__` behind, so that a script's function fails in a worker with
a NameError. Its option `recurse` copies them, but never ends over two functions that call each other, swaps
`sys.stdout` while it looks for names, and copies the globals of importable modules too. And it
stores a module of one's own as a copy of all that is in it, which loading pours over the worker's module.

Here a function of `__main__` takes along the globals that it names, and no others; a function of any other
module finds them in that module on the worker; and modules always go by name. What dill would write but not
be able to read in another process is refused while it is written.
"""

from __future__ import annotations

import dis
import importlib
import operator
import pickle
import sys
from collections.abc import Iterator
from enum import EnumType
from io import BytesIO
from types import CodeType, FunctionType, ModuleType

import dill
from msgspec import Struct

from omniq.serialization.base import MAIN, reference, type_name

_StructMeta = type(Struct)


def dumps(value: object) -> bytes:
    """The value as a pickle that `dill.loads` reads."""
    file = BytesIO()
    _Pickler(file, pickle.DEFAULT_PROTOCOL, byref=False, recurse=False).dump(value)
    return file.getvalue()


class _Pickler(dill.Pickler):  # type: ignore[misc]  # dill has no types
    def __init__(self, file: BytesIO, protocol: int, *, byref: bool, recurse: bool) -> None:
        super().__init__(file, protocol, byref=byref, recurse=recurse)
        self._globals = vars(sys.modules["__main__"])

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        """Write one object; what it refers to comes back through here."""
        if id(obj) in self.memo:
            super().save(obj, save_persistent_id)
        elif isinstance(obj, ModuleType):
            self.save_reduce(importlib.import_module, (obj.__name__,), obj=obj)
        elif obj is self._globals:
            self._save_empty_globals()
        elif isinstance(obj, type | FunctionType):
            self._save_code(obj, save_persistent_id)
        else:
            super().save(obj, save_persistent_id)

    def save_global(self, obj: object, name: str | None = None) -> None:
        """Write a name to import, which is of no use if it is one of `__main__`: workers have another."""
        if getattr(obj, "__module__", None) in MAIN:
            raise pickle.PicklingError(f"{name or type_name(obj)} goes by name, and workers have another __main__")
        super().save_global(obj, name)

    def _save_code(self, obj: type | FunctionType, save_persistent_id: bool) -> None:
        if id(obj) in self._postproc:
            raise pickle.PicklingError(f"{obj.__qualname__} refers to itself and travels by value")
        if isinstance(obj, EnumType | _StructMeta) and reference(obj) is None:
            raise pickle.PicklingError(f"{obj.__qualname__} is an enum or Struct that no worker can import")
        super().save(obj, save_persistent_id)
        if isinstance(obj, FunctionType) and obj.__globals__ is self._globals:
            self._save_globals_of(obj)

    def _save_empty_globals(self) -> None:
        # All functions of `__main__` share one dict, here and where they are loaded.
        self.write(pickle.EMPTY_DICT)
        self.memoize(self._globals)
        self._save_global("__name__", "__main__")

    def _save_globals_of(self, function: FunctionType) -> None:
        # After the function, so that functions that call each other find it written.
        for name in sorted(set(_globals_of(function.__code__)) & self._globals.keys()):
            try:
                self._save_global(name, self._globals[name])
            except Exception as error:  # the value's own `__reduce__` may raise anything
                raise pickle.PicklingError(f"its global {name!r}: {error}") from error

    def _save_global(self, name: str, value: object) -> None:
        """Write a step that puts the value into the globals and leaves the stack as it was."""
        self.save_reduce(operator.setitem, (self._globals, name, value))
        self.write(pickle.POP)


def _globals_of(code: CodeType) -> Iterator[str]:
    """The names that the code, and the code nested in it, looks up in its globals."""
    for instruction in dis.get_instructions(code):
        if instruction.opname.endswith(("_GLOBAL", "_NAME")):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)
