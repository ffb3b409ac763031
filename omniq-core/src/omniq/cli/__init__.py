"""The `omniq` command.

    omniq --url sqlite:///jobs.db worker --concurrency 20
    omniq --url sqlite:///jobs.db enqueue myapp.tasks:send to=tom@example.org

Each command is a module of its own, imported when it is called; the engine is imported when it does its work.
"""

from __future__ import annotations

import errno
import io
import os
import sys


def main() -> None:
    """Run the command line of this process, and exit."""
    from omniq.cli.app import omniq  # so that `import omniq.cli` costs nothing

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character
    try:
        omniq(prog_name="omniq")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the rest would fail again at the interpreter's end
        sys.exit(f"error: what it prints can't be written: {error.strerror}")
