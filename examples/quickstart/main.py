"""Count the words of a folder of texts: one task per file, a worker, and a table of the stored results.

Run it with `uv run python examples/quickstart/main.py [FOLDER]`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from omniq import OmniQ
from omniq.errors import TaskFailed
from words import count_words

TEXTS = Path(__file__).with_name("texts")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=TEXTS)
def main(folder: Path) -> None:
    """Count the words of every file in FOLDER, by default some well-known licences."""
    paths = files_in(folder)
    # Nothing is configured, so tasks and results are kept by SQLite, in ./.omniq/quickstart.db.
    with OmniQ(project_name="quickstart") as oq:
        oq.start_worker("thread", max_workers=4)
        # A file that can't be read now can't be read in a second either: no retries.
        tasks = {path.name: oq.enqueue(count_words, [str(path)], max_retries=0) for path in paths}
        counts = {name: result_of(oq, tasks[name]) for name in progress(list(tasks))}
    show(counts)


def files_in(folder: Path) -> list[Path]:
    """The folder's files by name, hidden ones left out. Raises `ClickException` when there are none."""
    paths = [path for path in sorted(folder.resolve().iterdir()) if path.is_file() and path.name[0] != "."]
    if not paths:
        raise click.ClickException(f"there are no files in {folder}")
    return paths


def result_of(oq: OmniQ, task_id: str) -> Counter[str] | str:
    """The words that the task counted, or what went wrong: one bad file doesn't stop the others."""
    try:
        return Counter(oq.get_result(task_id, timeout=60))
    except TaskFailed as error:
        return f"{error.error_type}: {error.error_message}"


def progress(names: list[str]) -> Iterator[str]:
    """The names, showing how far we are: a bar on a terminal, a line per file elsewhere."""
    if sys.stderr.isatty():
        with click.progressbar(names, label="Counting words", file=sys.stderr) as bar:
            yield from bar
    else:
        for number, name in enumerate(names, 1):
            yield name
            click.echo(f"{number}/{len(names)} {name}", err=True)


def show(counts: dict[str, Counter[str] | str]) -> None:
    """Print the table: a row per file, a row for all of them, and the ten most frequent words."""
    good = {name: words for name, words in counts.items() if isinstance(words, Counter)}
    everything = sum(good.values(), Counter[str]())
    total = f"{len(good)} file{'s' * (len(good) != 1)}"
    width = max(len(name) for name in (*counts, total))
    header = f"{'file':<{width}}  {'words':>7}  {'distinct':>8}  longest word"
    rule = "-" * (len(header) + 8)

    click.echo(f"\n{header}\n{rule}")
    for name, words in counts.items():
        click.echo(row(name, words, width))
    click.echo(f"{rule}\n{row(total, everything, width)}")
    click.echo("\nmost frequent words")
    for word, count in everything.most_common(10):
        click.echo(f"{word:<{width}}  {count:>7,}")


def row(name: str, words: Counter[str] | str, width: int) -> str:
    """One line of the table."""
    if isinstance(words, str):
        return f"{name:<{width}}  {'failed':>7}  {words}"
    longest = max(words, key=len, default="")
    return f"{name:<{width}}  {words.total():>7,}  {len(words):>8,}  {longest}".rstrip()


if __name__ == "__main__":
    main()
