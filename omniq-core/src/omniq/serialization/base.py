"""What serializers are, and functions as text."""

from __future__ import annotations

import functools
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from importlib import import_module
from types import FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, Final, TypeAlias

from omniq.errors import FunctionNotFound, InvalidTask, SerializationError
from omniq.threads import is_object_patched


class Format(StrEnum):
    """How bytes were made. It is stored beside them, so that they can be read again."""

    MSGSPEC = "m"
    DILL = "d"


MSGSPEC: Final = Format.MSGSPEC
DILL: Final = Format.DILL
"""As `Format` has them: a member of an enum takes its time to be found, and these are asked for with every task."""


class NotCarried(SerializationError):
    """Raised when msgspec's format can't carry a value exactly; in mode `auto`, dill does."""


class Serializer(ABC):
    """Turns a value into bytes and back."""

    format: ClassVar[Format]

    @abstractmethod
    def dumps(self, value: object) -> bytes:
        """The value as bytes. Raises `SerializationError` when it has no such form."""

    @abstractmethod
    def loads(self, data: bytes) -> Any:
        """The value that `dumps` was given.

        Raises `CorruptPayload` when the bytes aren't such a value, and `SerializationError` when they
        are and something that they need is missing here.
        """


def type_name(value: object) -> str:
    """The qualified name of the value's type, without `builtins`: safe to show, unlike the value."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# ── functions ───────────────────────────────────────────────────────────────


Function: TypeAlias = Callable[..., Any]

MAIN = frozenset({"__main__", "__mp_main__"})
"""Another process has another module under these names."""


def reference(func: Function) -> str | None:
    """`module:qualname` when importing that gives this very function, else None.

    It does for functions and classes at the top of a module, for static and class methods, for decorated
    functions where the module holds what the decorator returned, and for builtins. It doesn't for lambdas,
    closures, bound methods, partials, and what `__main__` defines.
    """
    module, qualname = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module in MAIN:
        return None
    holder = sys.modules.get(module)
    if holder is None:
        return None
    try:
        found = _walk(holder, qualname)
    except FunctionNotFound:
        return None
    return f"{module}:{qualname}" if _is_same(function_of(found), function_of(func)) else None


def display_name(func: Function) -> str:
    """A name to show for a function that travels by value."""
    module = getattr(func, "__module__", None) or type(func).__module__
    return f"{module}:{getattr(func, '__qualname__', type(func).__qualname__)}"


_EMPTY: Final = inspect.Signature.empty
_STARRED: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def surely_takes(func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a plain function takes these arguments, as far as that is seen at once: looking at a signature would
    cost each task as much as packing it."""
    if type(func) is not FunctionType:
        return False
    code = func.__code__
    count = code.co_argcount
    needed = count - len(func.__defaults__ or ())
    if code.co_kwonlyargcount or code.co_posonlyargcount:
        return False
    if code.co_flags & _STARRED:
        return code.co_flags & _STARRED == _STARRED and needed <= len(args) and not kwargs
    if not kwargs:
        return needed <= len(args) <= count
    names, keys = code.co_varnames[:count], kwargs.keys()
    return not args and keys <= {*names} and keys >= {*names[:needed]}


def check_arguments(func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise `InvalidTask` if the function doesn't take these arguments; what has no signature is left to the worker."""
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):  # as for some builtins
        return
    _bound(func, signature, args, kwargs)


def _bound(
    func: Function, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        # The function as it is to be called, without types.
        parameters = [parameter.replace(annotation=_EMPTY) for parameter in signature.parameters.values()]
        bare = signature.replace(parameters=parameters, return_annotation=_EMPTY)
        raise InvalidTask(f"func_args: {getattr(func, '__name__', 'function')}{bare}: {error}") from None


class DeclaredFunction:
    """Stands in a module for a function of it, and says how that is to be run. Workers call the function itself."""

    def __init__(self, function: Function, defaults: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function, updated=())  # so that its name leads to this object
        attributes: Mapping[str, Any] = getattr(function, "__dict__", {})
        vars(self).update({name: value for name, value in attributes.items() if not hasattr(type(self), name)})
        self.function = function
        self.defaults = defaults
        """Options of the tasks that run it, as far as they don't say otherwise."""
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError) as error:  # as for some builtins
            raise InvalidTask(f"task: {display_name(function)} can't be declared: {error}") from None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function here and now."""
        return self.function(*args, **kwargs)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments by the function's signature. Raises `InvalidTask` if it doesn't take them."""
        return _bound(self.function, self._signature, args, kwargs)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """By its name: what it belongs to, connections and all, stays where it is."""
        ref = reference(self)
        if ref is None or _imported(ref) is not self:
            name = display_name(self.function)
            raise SerializationError(f"{name}: a declared task goes by its name, and no module can be imported for it")
        return _imported, (ref,)


def function_of(func: Any) -> Any:
    """The function itself, where it is a declared one."""
    return func.function if isinstance(func, DeclaredFunction) else func


def is_lost_class_method(func: Function) -> bool:
    """Whether a declared function is what a class method was made of, so that it no longer knows its class.

    From Python 3.13 on, that is what `Class.method.enqueue` leads to where `@classmethod` is above `@oq.task()`.
    """
    if not isinstance(func, DeclaredFunction) or func.__module__ not in sys.modules:
        return False
    try:
        found = _walk(sys.modules[func.__module__], getattr(func, "__qualname__", ""))
    except FunctionNotFound:
        return False
    return isinstance(found, MethodType) and function_of(found.__func__) is func.function


DECLARED: Final = "@task"
"""Stands in `allowed_modules` for the functions that are declared in this process."""
declared: Final[dict[str, DeclaredFunction]] = {}
"""Those, by their references."""


def enlist(task: DeclaredFunction) -> None:
    """Allow a task that is declared. A partial, say, has no name of its own: that of its class is none to allow."""
    if hasattr(task.function, "__qualname__"):
        declared[display_name(task.function)] = task


def _imported(ref: str) -> Any:
    module, _, qualname = ref.partition(":")
    return _walk(import_module(module), qualname)


class FunctionRegistry:
    """Finds functions by reference.

    A reference is only good for a module's own functions: those for which `reference` gives the same text.
    What gevent has put in the place of such a function in this process stands for it.
    So `os:system` or `myapp.tasks:os.system` is refused everywhere, and `posix:system` wherever
    `allowed_modules` (names that stand for the module and all below it) is given without it.
    """

    def __init__(self, allowed_modules: Sequence[str] | None = None) -> None:
        self._allowed = None if allowed_modules is None else tuple(allowed_modules)
        self._found: dict[str, Function] = {}

    def resolve(self, ref: str) -> Function:
        """The function, importing its module if need be. Raises `FunctionNotFound`."""
        func = self._found.get(ref)
        if func is None:
            func = self._found[ref] = self._find(ref)
        return func

    def _find(self, ref: str) -> Function:
        module, colon, qualname = ref.partition(":")
        if not colon or not all(part.isidentifier() for part in (*module.split("."), *qualname.split("."))):
            raise FunctionNotFound(f"{ref!r} isn't of the form module:function")
        if not self._is_allowed(module, ref):
            raise FunctionNotFound(f"{ref}: {self._refusal(module)}")
        try:
            found = _walk(_import(module), qualname)
        except FunctionNotFound as error:
            raise FunctionNotFound(f"{ref}: {error}") from error.__cause__
        return _check(found, ref)

    def _is_allowed(self, module: str, ref: str) -> bool:
        if self._allowed is None or (DECLARED in self._allowed and ref in declared):
            return True
        return any(allowed in (module, ref) or module.startswith(f"{allowed}.") for allowed in self._allowed)

    def _refusal(self, module: str) -> str:
        if self._allowed is not None and DECLARED in self._allowed:
            return "allowed_modules allows declared tasks, and this process has imported none of that name"
        return f"module {module!r} isn't among allowed_modules"


def _import(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise FunctionNotFound(f"importing it failed: {error}") from error
        raise FunctionNotFound(f"there is no module {error.name!r} here; is it installed, or on sys.path?") from error
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise FunctionNotFound(f"importing it failed: {type(error).__name__}: {error}") from error


def _walk(holder: ModuleType, qualname: str) -> Any:
    """What the path leads to, over nothing but classes that the module itself defines."""
    if "." not in qualname:  # as nearly always
        return _attribute(holder, qualname)
    owner: object = holder
    *classes, name = qualname.split(".")
    for part in classes:
        owner = _attribute(owner, part)
        if not isinstance(owner, type) or owner.__module__ != holder.__name__:
            raise FunctionNotFound(f"{part!r} isn't a class of that module")
    return _attribute(owner, name)


def _attribute(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise FunctionNotFound(f"{getattr(owner, '__name__', owner)!r} has no {name!r}") from error


def _check(found: Any, ref: str) -> Function:
    if not callable(found):
        raise FunctionNotFound(f"{ref}: it isn't callable but of type {type(found).__name__}")
    func: Function = found
    own = reference(func)
    if own != ref and not is_object_patched(*ref.split(":")):
        raise FunctionNotFound(f"{ref}: that module doesn't define it, it only holds {own or 'something else'}")
    return func


def _is_same(found: object, func: Function) -> bool:
    if found is func:
        return True
    # A class method is a new object at each look-up, equal to the last.
    return isinstance(func, MethodType) and isinstance(func.__self__, type) and found == func
