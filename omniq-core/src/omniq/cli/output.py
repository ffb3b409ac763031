"""What commands print: aligned tables, JSON, and values as text."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

import click

from omniq.texts import escaped, escaped_block, escaped_json

Cell: TypeAlias = str | int | float | dt.datetime | None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under their columns' names, aligned."""
    table = [list(columns), *([cell_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, bold=number == 0)


def print_list(what: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, limit: int | None = None) -> None:
    """Print a table, and say on stderr if there is nothing or more than `limit` let through."""
    if rows:
        print_table(columns, rows)
    else:
        say(f"no {what}")
    if len(rows) == limit:
        say(f"there may be more {what} than these {limit}: see --limit")


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """Print names and values, one a line."""
    shown = [(name, cell_text(value)) for name, value in fields]
    width = max(len(name) for name, _ in shown)
    for name, text in shown:
        click.echo(f"{name.ljust(width)}  {text}")


def print_json(data: object) -> None:
    """Print plain data, structs and times as JSON. What JSON doesn't know is shown as text."""
    import msgspec

    click.echo(escaped_json(json.dumps(msgspec.to_builtins(data, enc_hook=repr), ensure_ascii=False, indent=2)))


def value_text(value: object) -> str:
    """A value as JSON if it is made of what JSON knows, else as Python shows it."""
    try:
        return escaped_json(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return escaped(_shown(value))


def json_value(value: object) -> object:
    """A value for `print_json`: itself if it is made of what JSON knows, else the text that Python shows."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return _shown(value)


def _shown(value: object) -> str:
    """The value as Python shows it, unless that fails too, as for a number of 5,000 digits."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} that can't be shown: {error}>"


def cell_text(cell: Cell) -> str:
    """A cell on one line, without anything that would move a terminal's cursor; "-" where there is nothing."""
    if isinstance(cell, dt.datetime):
        return cell.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if cell is None or cell == "":
        return "-"
    text = f"{cell:g}" if isinstance(cell, float) else str(cell)
    return escaped(text)


def count(number: int, what: str) -> str:
    """So many of them: "1 task", "2 tasks"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def say(line: str) -> None:
    """Tell the user something that isn't the command's output, on one line."""
    _tell(escaped(line))


def say_block(text: str) -> None:
    """The same for text of several lines."""
    _tell(escaped_block(text))


def _tell(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        click.echo(text, err=True)
