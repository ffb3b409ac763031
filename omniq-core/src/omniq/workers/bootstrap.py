"""The first lines of a child process: `python bootstrap.py MODULE TASKS ORDERS RESULTS LEASH`.

MODULE has the `main` to call; the rest are numbers of inherited descriptors.

The worker's import path isn't this process's yet. Until it has been read, nothing is imported but what is built into
the interpreter or loaded by it anyhow. Then come the worker's own `omniq` and what that needs: from where Python is
installed, and only what isn't there from the worker's other places. So a module which an application, the working
directory or PYTHONPATH has under the name of one of those isn't executed in its stead.
"""

import marshal
import os
import posix
import sys


def start(module: str, tasks: int, *others: int) -> None:
    """Become a child of the worker at the other end."""
    path: list[str] = marshal.loads(_read(tasks, int.from_bytes(_read(tasks, 4), "big")))
    given = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [entry for entry in sys.path if entry not in given] + path
    _load_omniq()
    from importlib import import_module

    main = import_module(module).main
    sys.path[:] = path
    main(tasks, *others)


def _read(descriptor: int, size: int) -> bytes:
    """So many bytes; ends the process when the worker is gone."""
    data = b""
    while len(data) < size:
        piece = posix.read(descriptor, size - len(data))
        if not piece:
            raise SystemExit(1)
        data += piece
    return data


def _load_omniq() -> None:
    """Load the package that this file is a part of, wherever there may be others."""
    from importlib.util import module_from_spec, spec_from_file_location

    directory = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location("omniq", os.path.join(directory, "__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules["omniq"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


if __name__ == "__main__":
    start(sys.argv[1], *map(int, sys.argv[2:]))
