"""What commands print: tables, fields, JSON."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias, TypeVar
from unicodedata import east_asian_width

import click
from msgspec import Struct
from msgspec.structs import asdict

from omniq.cli.app import FAILED, Failure, tell
from omniq.clock import as_datetime, utc
from omniq.errors import OmniQError, ResultTimeout, TaskNotFound
from omniq.models.schedule import zone_of
from omniq.models.task import TaskState
from omniq.texts import escaped, escaped_block, escaped_json

if TYPE_CHECKING:
    from omniq.core import AsyncOmniQ
    from omniq.models.event import TaskEvent
    from omniq.models.result import Progress, TaskResult
    from omniq.models.schedule import Schedule, Timing
    from omniq.models.task import Task
    from omniq.storage.records import QueueStats


T = TypeVar("T")
Cell: TypeAlias = str | int | float | dt.datetime | None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under their columns' names, aligned."""
    table = [list(columns), *([cell_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, bold=number == 0)


def print_list(what: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table, and say on stderr if there is nothing."""
    if rows:
        print_table(columns, rows)
    else:
        say(f"no {what}")


def print_page(
    what: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    data: object,
    cursor: str | None,
    *,
    as_json: bool,
) -> None:
    """Print a page of a list, as a table or its data as JSON, and say on stderr how the next one is had."""
    if as_json:
        print_json(data)
    else:
        print_list(what, columns, rows)
    if cursor is not None:
        say(f"there are more {what}: see --cursor {shlex.quote(cursor)}")


def page_of(items: Iterable[T], key: Callable[[T], str], limit: int, cursor: str | None) -> tuple[list[T], str | None]:
    """Up to `limit` of all items that there are, in the order of their keys and from beyond the cursor on; and the next
    page's cursor, if there is one."""
    after = sorted((item for item in items if cursor is None or key(item) > cursor), key=key)
    return after[:limit], key(after[limit - 1]) if len(after) > limit else None


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


def count(number: int, what: str, plural: str = "") -> str:
    """So many of them: "1 task", "2 tasks"."""
    return f"{number} {what}" if number == 1 else f"{number} {plural or what + 's'}"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; one that was closed before Python began is None."""
    return stream is not None and stream.isatty()


def say(line: str) -> None:
    """Tell the user something that isn't the command's output, on one line."""
    _tell(escaped(line))


def say_block(text: str) -> None:
    """The same for text of several lines."""
    _tell(escaped_block(text))


def _tell(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more
        tell(text)


# ── views ───────────────────────────────────────────────────────────────────


TASK_COLUMNS: Final = ("ID", "STATE", "QUEUE", "FUNCTION", "RUN-AT", "PRIORITY", "FAILED")
CALL_FIELDS: Final = (
    *("max_retries", "retry_delay", "timeout", "heartbeat_timeout", "result_ttl", "worker_kind", "metadata", "body"),
)
"""What only a task's call tells."""
STATS_COLUMNS: Final = ("QUEUE", "PAUSED", *(state.upper() for state in TaskState))
SCHEDULE_COLUMNS: Final = ("ID", "STATE", "TIMING", "LAST-RUN", "NEXT-RUN", "QUEUE", "FUNCTION")
EVENT_COLUMNS: Final = ("TIME", "TYPE", "TASK", "FUNCTION", "SCHEDULE", "QUEUE", "ATTEMPT", "WORKER", "DATA")


def task_data(task: Task) -> dict[str, object]:
    """A task for JSON: without its bytes, and in a list without what only those tell."""
    unread = CALL_FIELDS if task.max_retries is None else ("body",)
    return {name: value for name, value in asdict(task).items() if name not in unread}


def task_row(task: Task) -> tuple[Cell, ...]:
    """A task under `TASK_COLUMNS`."""
    state = task.state.value if task.damage is None else f"{task.state} (damaged)"
    return task.id, state, task.queue_name, task.func, task.run_at, task.priority, task.attempts


def task_fields(task: Task, result: TaskResult | None) -> list[tuple[str, Cell]]:
    """A task by the names of its fields, and the error it ended with, if any."""
    return [(name, plain_cell(value)) for name, value in dead_data(task, result).items()]


def dead_data(task: Task, result: TaskResult | None) -> dict[str, object]:
    """A dead letter for JSON."""
    return {**task_data(task), "error": error_text(result)}


def error_text(result: TaskResult | None) -> str | None:
    """What the task ended with, where that is still known."""
    return None if result is None else f"{result.error_type}: {result.error_message}"


def result_data(result: TaskResult) -> dict[str, object]:
    """A result for JSON, its value as far as JSON can say it. Raises `SerializationError` if it can't be rebuilt."""
    data = asdict(result)
    del data["stored"]
    return {**data, "value": json_value(result.value)}


def stats_json(stats: QueueStats) -> object:
    """A queue as plain data, for JSON."""
    return {**asdict(stats), "oldest_due": as_datetime(stats.oldest_due)}


def stats_row(stats: QueueStats) -> tuple[Cell, ...]:
    """A queue under `STATS_COLUMNS`."""
    counts = (stats.counts.get(state, 0) for state in TaskState)
    return stats.name, "yes" if stats.paused else "no", *counts


def schedule_row(schedule: Schedule) -> tuple[Cell, ...]:
    """A schedule under `SCHEDULE_COLUMNS`."""
    times = schedule.last_run, schedule.next_run
    return schedule.id, schedule.state, timing_text(schedule.timing), *times, schedule.queue_name, schedule.func


def timing_text(timing: Timing) -> str:
    """When a schedule fires, in a line."""
    said = {name: value for name, value in asdict(timing).items() if value is not None and name != "anchor"}
    for name in ("run_at", "start", "end"):
        if name in said:
            said[name] = cell_text(utc(said[name]))
    if timing.cron is None and timing.rrule is None:
        del said["timezone"]
    return _pairs(said)


def schedule_fields(schedule: Schedule, upcoming: Sequence[dt.datetime]) -> list[tuple[str, Cell]]:
    """All that is known of a schedule, and its next slots in its own time zone."""
    zone = zone_of(schedule.timing.timezone)
    return [
        ("id", schedule.id),
        ("state", schedule.state),
        ("function", schedule.func),
        ("queue", schedule.queue_name),
        ("timing", timing_text(schedule.timing)),
        ("policy", _given(schedule.policy)),
        ("last run", schedule.last_run),
        ("next run", schedule.next_run),
        *([("damage", schedule.damage)] if schedule.damage is not None else []),
        *(
            (f"slot {number}", f"{slot.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}")
            for number, slot in enumerate(upcoming, 1)
        ),
    ]


def event_row(event: TaskEvent) -> tuple[Cell, ...]:
    """An event under `EVENT_COLUMNS`."""
    return (
        utc(event.time),
        event.type.value,
        event.task_id,
        event.name,
        event.schedule_id,
        event.queue_name,
        event.attempt,
        event.worker,
        _pairs(event.data if event.damage is None else {**event.data, "damage": event.damage}),
    )


def event_line(event: TaskEvent) -> str:
    """An event in a line of its own."""
    ids = {"task": event.task_id, "function": event.name, "schedule": event.schedule_id, "queue": event.queue_name}
    said = {**ids, "attempt": event.attempt, "worker": event.worker, **event.data, "damage": event.damage}
    given = {name: value for name, value in said.items() if value is not None}
    return f"{cell_text(utc(event.time))}  {event.type:<16}  {escaped(_pairs(given))}".rstrip()


def event_data(event: TaskEvent) -> dict[str, object]:
    """An event for JSON."""
    return {**asdict(event), "time": utc(event.time), "level": event.type.level, "cursor": event.cursor}


def event_json(event: TaskEvent) -> str:
    """An event as JSON, in one line."""
    import msgspec

    return escaped_json(json.dumps(msgspec.to_builtins(event_data(event), enc_hook=repr), ensure_ascii=False))


def plain_cell(value: object) -> Cell:
    """A field's value as a cell."""
    if isinstance(value, dict):
        return _pairs(value)
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float | dt.datetime | None) else str(value)


def _given(struct: Struct) -> str:
    return _pairs({name: value for name, value in asdict(struct).items() if value is not None})


def _pairs(mapping: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in mapping.items())


# ── outcomes ────────────────────────────────────────────────────────────────


async def wait_for_outcome(oq: AsyncOmniQ, task_id: str, timeout: float | None, *, as_json: bool) -> TaskResult:
    """The outcome, once the task has ended; until then its progress is shown. Raises as `get_result` does, but returns
    failures."""
    import asyncio  # which takes its time, and most commands don't need

    line = ProgressLine(quiet=as_json)
    showing = asyncio.ensure_future(_show_progress(oq, task_id, line))
    try:
        return await _outcome(oq, task_id, timeout)
    finally:
        showing.cancel()
        await asyncio.wait([showing])
        line.close()


async def known_outcome(oq: AsyncOmniQ, task_id: str) -> TaskResult:
    """The outcome, if the task has ended by now. Raises `ResultTimeout` if it hasn't, else as `get_result` does."""
    with suppress(TaskNotFound):  # its result may be kept for longer
        task = await oq.get_task(task_id)
        if not task.state.is_terminal:
            progress = (await oq.peek_result(task_id)).progress
            so_far = "" if progress is None else f" ({progress_text(progress)})"
            raise ResultTimeout(f"task {task_id} hasn't ended: it is {task.state}{so_far}")
    return await _outcome(oq, task_id, None)


async def _outcome(oq: AsyncOmniQ, task_id: str, timeout: float | None) -> TaskResult:
    from omniq.outcomes import OutcomeWaiter

    return await OutcomeWaiter(oq.task_queue, oq.result_store).result(task_id, timeout)


async def _show_progress(oq: AsyncOmniQ, task_id: str, line: ProgressLine) -> None:
    with suppress(OmniQError):  # whoever waits for the outcome gets it, too
        async for result in oq.watch(task_id):
            line.tell(result)


BAR: Final = 20
"""Characters of a progress bar."""


TELL_EVERY: Final = 10.0
"""Seconds between two lines about work that goes on, where there is no terminal."""


class StatusLine:
    """How work gets on, on stderr: a line that is drawn again and again on a terminal, else one from time to time."""

    def __init__(self) -> None:
        self._is_terminal = is_terminal(sys.stderr)
        self._drawn = False
        self._told_at = time.monotonic()

    def show(self, text: str) -> None:
        """Show how far it is."""
        if self._is_terminal:
            self._draw(text)
        elif text and time.monotonic() - self._told_at >= TELL_EVERY:
            self._told_at = time.monotonic()
            say(text)

    def close(self) -> None:
        """Make room for what is printed next."""
        if self._drawn:
            self._draw("")

    def _draw(self, text: str) -> None:
        self._drawn = True
        width = shutil.get_terminal_size().columns - 1
        with suppress(BrokenPipeError):  # nobody looks any more
            click.echo(f"\r{_in_columns(escaped(text), width)}\x1b[K", err=True, nl=False)


class ProgressLine(StatusLine):
    """How a task gets on: a bar on a terminal, else a line for each change."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self._quiet = quiet and not self._is_terminal

    def tell(self, result: TaskResult) -> None:
        """Show what has changed."""
        if self._is_terminal and not result.is_final:
            self._draw(bar_text(result))
        elif result.progress is not None and not self._quiet:
            say(f"task {result.task_id}: {progress_text(result.progress)}")


def bar_text(result: TaskResult) -> str:
    """How a task gets on, as a bar with words beside it."""
    if result.progress is None:
        return f"[{' ' * BAR}] {result.status}"
    full = int(BAR * result.progress.fraction + 1e-9)
    return f"[{'#' * full}{' ' * (BAR - full)}] {progress_text(result.progress)}"


def progress_text(progress: Progress) -> str:
    """How far a task has come, in words."""
    return f"{int(100 * progress.fraction + 1e-9)} % {progress.message}".strip()


def _in_columns(text: str, width: int) -> str:
    """As much of the text as fits into so many columns of a terminal, where some characters take two."""
    for index, char in enumerate(text):
        width -= 2 if east_asian_width(char) in "WF" else 1
        if width < 0:
            return text[:index]
    return text


def print_outcome(result: TaskResult, *, as_json: bool) -> None:
    """Print what the task returned. Raises `Failure` if it didn't: with the remote traceback on stderr."""
    from omniq.models.result import ResultStatus

    if as_json:
        print_json(result_data(result))
    elif result.status is ResultStatus.SUCCESS:
        click.echo(value_text(result.value))
    if result.status is not ResultStatus.SUCCESS:
        raise _failure(result, with_traceback=not as_json)


def _failure(result: TaskResult, *, with_traceback: bool) -> Failure:
    reason = f": {result.error_type}: {result.error_message}" if result.error_type else ""
    if with_traceback and result.traceback:
        # Its last words are the reason, which follows.
        say_block(result.traceback.rstrip().removesuffix(reason[2:].rstrip()).rstrip())
    verb = {"error": "failed", "cancelled": "was cancelled", "expired": "wasn't started before its TTL ended"}
    return Failure(f"task {result.task_id} {verb[result.status]}{reason}", FAILED)
