"""What `omniq worker` shows while it works: a live view on a terminal, else a line from time to time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from importlib.util import find_spec
from io import StringIO
from operator import itemgetter
from types import FrameType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from omniq import clock
from omniq.cli.health import HealthServer
from omniq.cli.output import count, progress_text, say
from omniq.cli.terminal import Terminal, can_draw, flush
from omniq.errors import StoreError
from omniq.loops import Background, spawn
from omniq.models.task import TaskState
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.storage.records import QueueStats
from omniq.texts import escaped, install_command
from omniq.workers.jobs import Job, RunStatus
from omniq.workers.pool import AsyncWorkerPool
from omniq.workers.settling import FailedRun

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# ── watching a worker ───────────────────────────────────────────────────────


SUMMARY: Final = 60.0
"""Seconds between two lines that sum up."""
COUNT_INTERVAL: Final = 2.0
"""Seconds between two counts of the queues, at least; more where the store takes long for one."""
COUNT_PART: Final = 0.05
"""The part of the time that counting may take."""


class Watch:
    """Shows what a worker does while it is entered, and lets its health be asked for."""

    def __init__(self, store: BaseTaskQueue, *, live: bool, health: HealthServer | None = None) -> None:
        self._store = store
        self._view = LiveView() if live else None
        self._health = health
        self._telling: Background[None] | None = None

    def __enter__(self) -> Self:
        if self._view is not None:
            self._view.open()
        return self

    def begin(self, pool: AsyncWorkerPool) -> None:
        """The worker has started. On its loop."""
        if self._health is not None:
            self._health.pool = pool
        if self._view is not None:
            self._view.pool = pool
            self._telling = spawn(_count_queues(self._store, self._view), name="omniq-view")
        else:
            self._telling = spawn(_sum_up(pool), name="omniq-summaries")

    def __exit__(self, *exc: object) -> None:
        if self._telling is not None:
            self._telling.end()
        if self._view is not None:
            self._view.close()


def can_view() -> bool:
    """Whether a live view can be shown; if only rich is missing for it, that is said."""
    if not can_draw():
        return False
    if find_spec("rich") is None:
        say(f"for a live view of what it does: {install_command('rich')} (--plain doesn't ask for it)")
        return False
    return True


async def _count_queues(store: BaseTaskQueue, view: LiveView) -> None:
    if store.networked and Capability.PUSH not in store.capabilities:
        return  # an object store, where each look is paid for
    while True:
        began = time.monotonic()
        with suppress(StoreError):  # the worker's own calls tell of it
            view.queues = {stats.name: stats for stats in await store.stats()}
            view.counted_at = began
        await asyncio.sleep(max(COUNT_INTERVAL, (time.monotonic() - began) / COUNT_PART))


async def _sum_up(pool: AsyncWorkerPool) -> None:
    before = Counter(pool.ended)
    while True:
        await asyncio.sleep(SUMMARY)
        now = Counter(pool.ended)
        if line := summary(now - before, SUMMARY, held=len(pool.in_flight.held)):
            say(line)
        before = now


def summary(ended: Counter[RunStatus], seconds: float, *, held: int) -> str:
    """What came of the tasks in that time, in a line; empty if there were none."""
    if not ended and not held:
        return ""
    total = ended.total()
    line = f"{count(total, 'task')} in {seconds:.0f} s ({total / seconds:.1f}/s)"
    return f"{line}{': ' * bool(ended)}{ends_text(ended)}; {held} in hand"


def ends_text(ended: Mapping[RunStatus, int]) -> str:
    """How many runs ended in which way, such as "12 success, 1 error"."""
    return ", ".join(f"{number:,} {end}" for end, number in ended.items())


# ── the view ────────────────────────────────────────────────────────────────


FRAME: Final = 0.25
"""Seconds between two drawings, unless something is written."""
RATE_OVER: Final = 5.0
"""Seconds over which the rate is taken."""
OLD: Final = 10.0
"""Seconds after which a count of the queues is said to be old."""
LATE: Final = 1.0
"""Seconds by which a worker is late before the view tells."""

_views: set[LiveView] = set()


class LiveView:
    """A live view of a worker on the terminal, drawn by a thread of its own, whatever the worker's loop does."""

    def __init__(self) -> None:
        self.pool: AsyncWorkerPool | None = None
        """The worker, once it has started."""
        self.queues: Mapping[str, QueueStats] = {}
        """What was counted last in each queue."""
        self.counted_at: float | None = None
        """When, on `time.monotonic()`'s clock."""
        self._terminal = Terminal()
        self._totals: deque[tuple[float, int]] = deque()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="omniq-view", daemon=True)

    def open(self) -> None:
        """Begin to draw. In the main thread."""
        self._terminal.open()
        self._before = signal.signal(signal.SIGCONT, self._continued)
        _views.add(self)
        self._thread.start()

    def close(self, patience: float = 1.0) -> None:
        """Take the view away, with everything written that was to be. From any thread, and safe to repeat."""
        if self not in _views:
            return
        _views.discard(self)
        flush()  # as long as somebody reads it
        self._open = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCONT, self._before)
        self._terminal.give_back()
        self._thread.join(patience)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        self._terminal.forget()

    def _run(self) -> None:
        try:
            painter = Painter()
            while self._open:
                with suppress(RuntimeError):  # something was changed while it was read: there is a next time
                    self._draw(painter)
                self._terminal.wait(FRAME)
        finally:  # whatever has happened: nobody else reads what is written
            self._terminal.give_back()
            for _ in range(2):  # at the second time, what came without an end of its line
                self._terminal.draw("", ())

    def _draw(self, painter: Painter) -> None:
        columns, lines = self._terminal.size
        self._terminal.draw(*painter.paint(self._facts(columns), columns, lines))

    def _facts(self, columns: int) -> Facts:
        pool = self.pool
        if pool is None:
            return Facts("starting", "", [], [])
        now = time.monotonic()
        ended = dict(pool.ended)
        held = list(pool.in_flight.held.values())
        running = [job for job in held if job.started_at is not None and not job.done]
        sections = [_running(running, columns), self._counts(pool, now), _failures(pool.failures, columns)]
        busy = f"{len(running)} of {pool.max_workers} running, {len(held)} in hand"
        title = f"{busy}, {_process()}; {pool.kind} worker {pool.name}"
        return Facts(title, self._rates(ended, now), list(_problems(pool)), sections)

    def _rates(self, ended: Mapping[RunStatus, int], now: float) -> str:
        total, totals = sum(ended.values()), self._totals
        totals.append((now, total))
        while now - totals[0][0] > RATE_OVER:
            totals.popleft()
        began, before = totals[0]
        rate = (total - before) / (now - began) if now > began else 0.0
        return f"{rate:,.1f} tasks/s, in all: {ends_text(ended) or 'none yet'}"

    def _counts(self, pool: AsyncWorkerPool, now: float) -> Section:
        if self.counted_at is None:
            return Section("queues", [], 0)
        age = now - self.counted_at
        rows = [_queue_row(name, self.queues.get(name)) for name in pool.report().queues]
        heading = "queues" if age < OLD else f"queues, {age:.0f} s ago"
        return Section(heading, aligned(rows), len(rows))


def leave_terminals() -> None:
    """Take away what is drawn, at once: the process is about to end."""
    for view in list(_views):
        view.close(0.08)


# ── what is shown ───────────────────────────────────────────────────────────


MAX_ROWS: Final = 30
"""Of one section."""
WIDE: Final = 76
"""Columns from which on tasks' ids are shown."""


class Section(NamedTuple):
    """A list with a heading."""

    heading: str
    rows: list[str]
    number: int
    """How many there are, with those that aren't among the rows."""


class Facts(NamedTuple):
    """What the view tells."""

    title: str
    rates: str
    problems: list[str]
    sections: list[Section]


def _queue_row(name: str, stats: QueueStats | None) -> tuple[str, ...]:
    """A queue; one that isn't among those counted is empty."""
    counts = {} if stats is None else stats.counts
    states = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.WAITING, TaskState.RUNNING)
    paused = "paused" if stats is not None and stats.paused else ""
    return (name, *(f"{counts.get(state, 0):,} {state}" for state in states), paused)


def _running(jobs: Sequence[Job], columns: int) -> Section:
    """The tasks that have been running for longest."""
    now = clock.now()
    began = [(job.started_at or now, job) for job in jobs]
    rows = [
        (_age(now - at), f"try {job.attempt}", *_task(job.record.name, job.record.id, columns), _progress(job))
        for at, job in nsmallest(MAX_ROWS, began, key=itemgetter(0))
    ]
    return Section("running", aligned(rows, right=1), len(jobs))


def _failures(failures: Sequence[FailedRun], columns: int) -> Section:
    """The latest first."""
    rows = [
        (
            _clock_time(run.at),
            f"try {run.attempt}",
            *_task(run.name, run.task_id, columns - 32),
            run.error_type,
            run.now,
        )
        for run in list(failures)[: -MAX_ROWS - 1 : -1]
    ]
    return Section("failed lately", aligned(rows), len(failures))


def _task(name: str, task_id: str, columns: int) -> tuple[str, ...]:
    """The end of the function's name, and the task's id if there is room for a whole one."""
    wide = columns >= WIDE
    most = max(12, columns - 54 if wide else columns - 24)
    shown = name if len(name) <= most else f"…{name[1 - most :]}"
    return (shown, task_id) if wide else (shown,)


def _problems(pool: AsyncWorkerPool) -> Iterable[str]:
    if pool.failure is not None:
        yield "it can't go on"
    elif pool.stopping:
        yield "stopping"
    elif (late := pool.overdue) > LATE:
        yield f"its event loop stands still, or its store is silent, for {late:.0f} s"
    for breaker in pool.report().breakers:
        if breaker.state != "closed":
            yield f"{breaker.location} fails since {_clock_time(breaker.since)}: {breaker.error}"


def _progress(job: Job) -> str:
    return "" if job.progress is None else progress_text(job.progress)


def _clock_time(at: float) -> str:
    return f"{clock.utc(at).astimezone():%H:%M:%S}"


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


_began: Final = time.monotonic()


def _process() -> str:
    """For how long this process has been running, and its memory."""
    up = f"up {_age(time.monotonic() - _began)}"
    try:
        with open("/proc/self/statm") as file:
            return f"{up}, {int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB"
    except (OSError, ValueError, IndexError):  # it isn't Linux
        return up


def aligned(rows: Sequence[Sequence[str]], right: int = 0) -> list[str]:
    """The rows, each on a line and with its cells in columns; the first `right` columns end where they end."""
    from rich.cells import cell_len

    table = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        padded = [
            (" " * (width - cell_len(cell)) + cell) if index < right else (cell + " " * (width - cell_len(cell)))
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            if width
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


# ── painting ────────────────────────────────────────────────────────────────


LEFT: Final = 3
"""Lines of the terminal that are left to what is written, if it has so many."""


class Painter:
    """Makes text of facts, in so many columns and lines."""

    def __init__(self) -> None:
        from rich.console import Console

        self._output = StringIO()
        self._console: Console = Console(file=self._output, force_terminal=True, highlight=False, soft_wrap=True)

    def paint(self, facts: Facts, columns: int, lines: int) -> tuple[str, list[int]]:
        """The text, and how many columns each of its lines takes: one fewer than there are at most."""
        from rich.text import Text

        texts = list(layout(facts, max(2, lines - max(LEFT, lines // 3))))
        for text in texts:
            text.truncate(max(1, columns - 1), overflow="ellipsis")
        self._console.print(Text("\n").join(texts))
        painted = self._output.getvalue()
        self._output.seek(0)
        self._output.truncate()
        return painted, [text.cell_len for text in texts]


def layout(facts: Facts, lines: int) -> Iterable[Text]:
    """The lines of the view, at most so many."""
    from rich.text import Text

    fixed = [(facts.title, "bold"), (facts.rates, ""), *((problem, "bold red") for problem in facts.problems)]
    fixed = [(text, style) for text, style in fixed if text][:lines]
    for text, style in fixed:
        yield Text(escaped(text), style)
    for section, rows in zip(facts.sections, shares(facts.sections, lines - len(fixed)), strict=True):
        if rows:
            more = "" if rows == section.number else f", {rows} of {section.number:,}"
            yield Text(f"── {section.heading}{more}", "dim")
            for row in section.rows[:rows]:
                yield Text(f"  {row}")


def shares(sections: Sequence[Section], lines: int) -> list[int]:
    """How many rows of each section fit into so many lines, in turn; the first one of each costs its heading, too."""
    given = [0] * len(sections)
    while True:
        before = lines
        for index, section in enumerate(sections):
            cost = 1 if given[index] else 2
            if given[index] < len(section.rows) and cost <= lines:
                given[index] += 1
                lines -= cost
        if lines == before:
            return given
