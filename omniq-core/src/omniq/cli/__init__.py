"""The `omniq` command.

    omniq --url sqlite:///jobs.db worker --max-workers 20
    omniq --url sqlite:///jobs.db enqueue myapp.tasks:send to=tom@example.org

Each command is a module of its own, imported when it is called; the engine is imported when it does its work.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process, and exit."""
    from omniq.cli.root import omniq  # so that `import omniq.cli` costs nothing

    omniq(prog_name="omniq")
