"""The program whose tasks a worker runs: its modules, the OmniQ that it makes, and changes of its files."""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn, TypeAlias, cast

from omniq.cli.app import FAILED, MISUSED, Failure
from omniq.core import AsyncOmniQ, OmniQ
from omniq.errors import ConfigError
from omniq.sync import core_of
from omniq.texts import did_you_mean, qualified_name, safe_text

EXPECTED: Final = "an OmniQ, an AsyncOmniQ, or a function without arguments that returns one"


def load_app(reference: str) -> AsyncOmniQ:
    """The OmniQ that `module:attribute` names, or that the function of that name returns.

    Raises `Failure`, with one line that says what is wrong with the reference or where the program fails.
    """
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise Failure(
            f"APP: expected module:attribute, such as shop.app:oq, got {reference!r}{_meant(reference)}", MISUSED
        )
    module = import_program(module_name, "APP")
    try:
        found = getattr(module, attribute)
    except AttributeError:
        meant = did_you_mean(attribute, vars(module)) or _front_doors(module)
        raise Failure(f"APP: {module_name} has no attribute {attribute!r}{meant}", MISUSED) from None
    if callable(found):
        found = _made_by(found, reference)
    try:
        oq: AsyncOmniQ = core_of(found, AsyncOmniQ, "APP")
    except ConfigError:
        of_type = f"APP: {reference} is of type {type(found).__name__}, expected {EXPECTED}"
        raise Failure(of_type + _front_doors(module), MISUSED) from None
    return oq


def import_program(name: str, what: str) -> ModuleType:
    """Import a module of the user's, which `what` names on the command line.

    Raises `Failure` with one line if there is none of that name, or for whatever its own code raises.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(f"{what}: {name} can't be imported", error) from error
        meant = _sibling(error.name) or "; is it installed, or on sys.path?"
        raise Failure(f"{what}: there is no module {error.name!r} here{meant}", MISUSED) from error
    except (Exception, SystemExit) as error:
        raise _broken(f"{what}: {name} can't be imported", error) from error


def is_own_file(path: str) -> bool:
    """Whether a file is the program's: in the working directory, and not in an environment of Python's there."""
    return _is_below(path, os.getcwd())


@lru_cache(maxsize=10_000)
def _is_below(path: str, directory: str) -> bool:
    file, here = Path(path), Path(directory)
    is_installed = "site-packages" in file.parts or (Path(sys.prefix) != here and file.is_relative_to(sys.prefix))
    return file.is_relative_to(here) and not is_installed


# ── what was meant ──────────────────────────────────────────────────────────


def _meant(reference: str) -> str:
    """A guess at the module and its attribute, where a path or a module alone was given."""
    path, _, attribute = reference.partition(":")
    name = os.path.normpath(path).removesuffix(".py").replace("/", ".")
    attribute = attribute or "oq"
    if not all(part.isidentifier() for part in (*name.split("."), attribute)):
        return ""
    return did_you_mean(reference, [f"{name}:{attribute}"])


def _sibling(missing: str) -> str:
    """A module beside the missing one that is called nearly so, or the one whose file was named."""
    package, dot, last = missing.rpartition(".")
    if package and last == "py":
        return f", did you mean {package!r}?"
    places = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
    return did_you_mean(missing, [package + dot + found.name for found in pkgutil.iter_modules(places)])


def _front_doors(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, OmniQ | AsyncOmniQ)]
    return f"; it has {', '.join(names)}" if names else ""


# ── what it does itself ─────────────────────────────────────────────────────


def _made_by(factory: Callable[..., Any], reference: str) -> object:
    """What the function returns. Raises `Failure`."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise Failure(
            f"APP: {reference} can't be called without arguments: {error}; expected {EXPECTED}", MISUSED
        ) from None
    except ValueError:  # it has no signature: calling it will tell
        pass
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise _broken(f"APP: {reference} failed", error) from error
    if inspect.iscoroutine(made):
        made.close()
    return made


def _broken(what: str, error: BaseException) -> Failure:
    """The end of a command for which the program's own code has failed."""
    text = error.msg if isinstance(error, SyntaxError) else safe_text(error)
    told = ": ".join(filter(None, (what, qualified_name(type(error)), text)))
    notes = [*_place_of(error), "--debug shows the traceback"]
    return Failure(f"{told} ({'; '.join(notes)})", FAILED)


def _place_of(error: BaseException) -> Sequence[str]:
    """The line at which the program failed: the last one in a file of its own, else the last one of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return [f"{_shown(error.filename)}, line {error.lineno}"]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    frame = next((frame for frame in reversed(frames) if is_own_file(frame.filename)), frames[-1] if frames else None)
    return [] if frame is None else [f"{_shown(frame.filename)}, line {frame.lineno}"]


def _is_theirs(path: str) -> bool:
    return path != __file__ and not path.startswith("<frozen ") and Path(path).parent.name != "importlib"


def _shown(path: str) -> str:
    return os.path.relpath(path) if is_own_file(path) else path


# ── its changes ─────────────────────────────────────────────────────────────


# Files are looked at, twice a second, instead of watched: that needs no further distribution, and works in containers
# and on network drives, where nothing tells of changes. A look at a thousand modules takes some milliseconds.
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the files."""
RELOADED: Final = "_OMNIQ_RELOADED"
"""In the environment of a command that is run again."""

Files: TypeAlias = dict[str, tuple[int, int]]
"""Of one directory: by path, when each was changed and its size."""


class Reloader:
    """Looks at the .py files beside those that the program has imported, and in the working directory."""

    def __init__(self, modules: Iterable[str]) -> None:
        """`modules` are those that the command line names: their packages count, wherever they are."""
        self._environ, self._directory = dict(os.environ), os.getcwd()
        self._packages = {module.partition(".")[0] for module in modules}
        self._known: dict[str, Files] = {}
        self.again = os.environ.pop(RELOADED, None) is not None
        """Whether this is no first start: what doesn't work now has worked before."""
        self._changed()

    def run_again(self, environ: Mapping[str, str]) -> NoReturn:
        """Run this process's command again in its place, as it was before the program was imported.

        `environ` are variables that it gets besides. What isn't inheritable is closed, and all other threads end.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                cast("Any", stream).flush()
        with suppress(OSError):  # it is gone, which its next start will tell
            os.chdir(self._directory)
        os.execve(sys.executable, this_command(), {**self._environ, RELOADED: "1", **environ})

    def start(self, on_change: Callable[[str], None]) -> None:
        """Call `on_change` with the path of the first file that changes, on another thread."""
        threading.Thread(target=lambda: on_change(self.until_change()), name="omniq-reload", daemon=True).start()

    def until_change(self) -> str:
        """Wait until a file has changed; returns its path."""
        while True:
            if (path := self._changed()) is not None:
                return os.path.relpath(path)
            time.sleep(LOOK_EVERY)

    def _changed(self) -> str | None:
        """A file that isn't as it was at the last look. Those of a directory that is new are as they should be."""
        for directory in {self._directory, *self._directories()}:
            files = _files(directory)
            before = self._known.get(directory, files)
            self._known[directory] = files
            if changed := files.items() ^ before.items():
                return min(changed)[0]
        return None

    def _directories(self) -> Iterator[str]:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__dict__", {}).get("__file__")  # looking further may import something
            if isinstance(file, str) and (name.partition(".")[0] in self._packages or is_own_file(file)):
                yield os.path.dirname(file)


def _files(directory: str) -> Files:
    found: Files = {}
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                with suppress(OSError):  # it is being replaced
                    stat = entry.stat()
                    found[entry.path] = (stat.st_mtime_ns, stat.st_size)
    return found


def this_command() -> list[str]:
    """The command line with which Python runs this process."""
    return [sys.executable, *sys.orig_argv[1:]]
