"""`--reload`: noticing that the program's files have changed, and running the command again in the same process.

Files are looked at, twice a second, instead of watched: that needs no further distribution, and works in containers
and on network drives, where nothing tells of changes. A look at a thousand modules takes some milliseconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeAlias, cast

from omniq.cli.program import is_own_file

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
