"""dill's pickler, with two of its habits changed that would break tasks. Importing this imports dill.

By default dill leaves the globals of `__main__` behind, so that a script's function fails in a worker with
a NameError. Its option `recurse` copies them, but never ends over two functions that call each other, swaps
`sys.stdout` while it looks for names, and copies the globals of importable modules too. And it
stores a module of one's own as a copy of all that is in it, which loading pours over the worker's module.

Here a function of `__main__` takes along the globals that it names, and no others; a function of any other
module finds them in that module on the worker; and modules always go by name, with the submodules that a function
names. A class that travels by value is made once in each process, and is itself again where it came from, so that what
was sent there and back equals what it was. What dill would write but not be able to read in another process is
refused while it is written.
"""

from __future__ import annotations

import dis
import importlib
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from enum import EnumType
from io import BytesIO
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import dill
from dill import _dill
from msgspec import Struct

from omniq.models.task import new_id
from omniq.serialization.base import MAIN, reference, type_name
from omniq.threads import new_lock

_StructMeta = type(Struct)


def dumps(value: object) -> bytes:
    """The value as a pickle that `dill.loads` reads."""
    file = BytesIO()
    _Pickler(file, pickle.DEFAULT_PROTOCOL, byref=False, recurse=False).dump(value)
    return file.getvalue()


# ── classes that travel by value ────────────────────────────────────────────


_tokens: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_classes: WeakValueDictionary[str, type] = WeakValueDictionary()
"""The classes of this process that were sent or came here, by what they are known by everywhere."""
_lock = new_lock()
_MAKERS = (_dill._create_type, types.new_class)
"""What dill has make a class from its parts."""


def _token_of(cls: type) -> str:
    """What the class is known by, in every process that it comes to."""
    with _lock:
        token = _tokens.get(cls)
        if token is None:
            token = _tokens[cls] = new_id()
            _classes[token] = cls
        return token


def known_or_made(token: str, shape: tuple[str, ...], make: Callable[..., type], *parts: Any) -> type:
    """The class of that token, made from its parts if it isn't here yet. In every pickle of a class by value.

    What another run of a script has stored is of the script's own class here, if that still has the same shape.
    """
    if (known := _classes.get(token)) is not None:
        return known
    own = vars(sys.modules["__main__"]).get(shape[0])
    cls = own if isinstance(own, type) and _shape_of(own) == shape else make(*parts)
    with _lock:  # not while it is made, which may run code of the user's
        cls = _classes.setdefault(token, cls)
        _tokens.setdefault(cls, token)
    return cls


def _shape_of(cls: type) -> tuple[str, ...]:
    """The class's name, then those of its bases, and of its members and fields; what Python adds differs over time."""
    own = vars(cls)
    members = {name for name in own if not name.startswith("__")}.union(own.get("__dataclass_fields__", ()))
    return (cls.__qualname__, *(base.__qualname__ for base in cls.__bases__), "", *sorted(members))


# ── the pickler ─────────────────────────────────────────────────────────────


class _Pickler(dill.Pickler):  # type: ignore[misc]  # dill has no types
    def __init__(self, file: BytesIO, protocol: int, *, byref: bool, recurse: bool) -> None:
        super().__init__(file, protocol, byref=byref, recurse=recurse)
        self._globals = vars(sys.modules["__main__"])
        self._classes_open = 0
        """Classes whose parts are being written, one inside the other."""
        self._without_globals: list[FunctionType] = []
        """Functions that were written before the globals that they name."""

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

    def save_reduce(self, func: Any, args: Any, *rest: Any, obj: Any = None, **options: Any) -> None:
        """Write a call that makes an object; a class is made only where it isn't known yet."""
        if isinstance(obj, type) and func in _MAKERS:
            func, args = known_or_made, (_token_of(obj), _shape_of(obj), func, *args)
        super().save_reduce(func, args, *rest, obj=obj, **options)

    def _save_code(self, obj: type | FunctionType, save_persistent_id: bool) -> None:
        if id(obj) in self._postproc:
            raise pickle.PicklingError(f"{obj.__qualname__} refers to itself and travels by value")
        if isinstance(obj, EnumType | _StructMeta) and reference(obj) is None:
            raise pickle.PicklingError(f"{obj.__qualname__} is an enum or Struct that no worker can import")
        self._classes_open += isinstance(obj, type)
        super().save(obj, save_persistent_id)
        self._classes_open -= isinstance(obj, type)
        if isinstance(obj, FunctionType) and obj.__globals__ is self._globals:
            self._without_globals.append(obj)
        # Not inside a class, which its methods may name: they find it written then.
        while self._without_globals and not self._classes_open:
            self._save_globals_of(self._without_globals.pop())

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
            if isinstance(module := self._globals[name], ModuleType):
                self._save_imports(module, set(_names_of(function.__code__)))

    def _save_imports(self, package: ModuleType, names: set[str]) -> None:
        """Write steps that import the submodules which the function reaches through a package: `xml.etree`."""
        prefix = f"{package.__name__}."
        for module in sorted(name for name in list(sys.modules) if name.startswith(prefix)):
            if names.issuperset(module.removeprefix(prefix).split(".")):
                self.save_reduce(importlib.import_module, (module,))
                self.write(pickle.POP)

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


def _names_of(code: CodeType) -> Iterator[str]:
    """All names in the code, and in the code nested in it, those of attributes too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_of(constant)
