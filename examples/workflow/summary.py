"""Read a folder of texts, a task per file, and sum up what they say in a last task that takes all their results.

Run it with `uv run python examples/workflow/summary.py [FOLDER]`. With `--no-worker` it waits for workers elsewhere:
`uv run omniq worker --project texts`, in this directory. Kill one with -9 and start another: nothing is lost.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from omniq import OmniQ, call, group, result_of
from omniq.errors import ResultTimeout
from omniq.queue import Workflow
from reading import read, sum_up

TEXTS = Path(__file__).parents[1] / "quickstart" / "texts"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=TEXTS)
@click.option("--pause", default=0.2, show_default=True, help="Seconds that each file takes longer, to watch it.")
@click.option("--worker/--no-worker", default=True, help="Work here, or wait for workers elsewhere.")
def main(folder: Path, pause: float, worker: bool) -> None:
    """Find years and links in every file of FOLDER, by default in some well-known licences."""
    paths = sorted(path for path in folder.resolve().iterdir() if path.is_file())
    files = group(call(read, [str(path), pause]) for path in paths)
    with OmniQ(project_name="texts") as oq:
        flow = oq.enqueue_workflow(files.then(call(sum_up, [result_of(files)])))
        click.echo(flow.graph())
        if worker:
            oq.start_worker("thread", max_workers=2)
        found = watch(flow)
    for name, value in found.items():
        click.echo(f"{name:<14}  {value}")


def watch(flow: Workflow) -> Any:
    """The workflow's result; until it is there, show how far it is."""
    while True:
        try:
            result = flow.result(timeout=0.2)
        except ResultTimeout:
            show(sum(count for state, count in flow.status().items() if state.is_terminal), len(flow.ids))
        else:
            show(len(flow.ids), len(flow.ids))
            return result


def show(ended: int, total: int) -> None:
    """Draw a bar: over the last one on a terminal, on a line of its own elsewhere."""
    bar = f"[{'#' * (40 * ended // total):<40}] {ended}/{total}"
    if sys.stderr.isatty():
        click.echo(f"\r{bar}", nl=ended == total, err=True)
    else:
        click.echo(bar, err=True)


if __name__ == "__main__":
    main()
