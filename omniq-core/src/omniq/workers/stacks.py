"""What a worker is doing: where each task in its hands is, as text without any value."""

from __future__ import annotations

import linecache
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NamedTuple, TypeAlias

from omniq import clock
from omniq.texts import encodable
from omniq.workers.jobs import Job

# ── where tasks are ─────────────────────────────────────────────────────────


class Place(NamedTuple):
    """A line of code at which a call is."""

    file: str
    line: int
    function: str


Stack: TypeAlias = tuple[Place, ...] | str
"""Where a task is: the calls that are under way, the innermost last; or a text where only that can be had."""

RUNNING: Final = frozenset({("omniq.workers.execution", "_run_sync"), ("omniq.workers.execution", "run_async")})
"""The module and name of what runs a task, and calls it `job`."""
LOOP: Final = ("omniq.workers.thread_loop", "run")
"""Of what runs an async task on a thread."""
BELOW: Final = frozenset({"omniq.workers.execution", "omniq.workers.thread_loop", "omniq_gevent.child"})
"""Modules of which a task's own code is called."""


def of_threads() -> dict[str, Stack]:
    """Where those tasks are that run on threads of this process, or just now on an event loop of it, by their ids.

    From any thread, whatever the others do.
    """
    found: dict[str, Stack] = {}
    for frame in list(sys._current_frames().values()):
        found |= of_frames(frame)
    return found


def of_frames(innermost: FrameType | None) -> dict[str, Stack]:
    """The same for the calls of one thread, or one greenlet."""
    frames = _outermost_first(innermost)
    found: dict[str, Stack] = {}
    for index, frame in enumerate(frames):
        if _name(frame) in RUNNING and isinstance(job := frame.f_locals.get("job"), Job):
            found[job.record.id] = _on_loop(frames[index:]) or _own(frames[index:])
    return found


def of_coroutine(coroutine: object) -> tuple[Place, ...]:
    """Where a coroutine waits: along what each one awaits, as far as Python can tell."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < sys.getrecursionlimit():
        frame = next((frame for name in FRAMES if (frame := getattr(coroutine, name, None)) is not None), None)
        if frame is not None:
            frames.append(frame)
        coroutine = next((next_ for name in AWAITS if (next_ := getattr(coroutine, name, None)) is not None), None)
    return _own(frames)


FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
AWAITS: Final = ("cr_await", "gi_yieldfrom", "ag_await")


def _on_loop(frames: Iterable[FrameType]) -> tuple[Place, ...]:
    """Where the async task of a thread's loop waits; nothing if it doesn't wait."""
    loop = next((frame.f_locals.get("self") for frame in frames if _name(frame) == LOOP), None)
    coroutine: Any = None if (task := getattr(loop, "_task", None)) is None else task.get_coro()
    return () if getattr(coroutine, "cr_running", True) else of_coroutine(coroutine)


def _outermost_first(innermost: FrameType | None) -> list[FrameType]:
    frames = []
    while innermost is not None:
        frames.append(innermost)
        innermost = innermost.f_back
    return frames[::-1]


def _own(frames: Sequence[FrameType]) -> tuple[Place, ...]:
    """The calls of the task's own code."""
    below = [index for index, frame in enumerate(frames) if frame.f_globals.get("__name__") in BELOW]
    if below and _name(frames[below[-1]]) == LOOP:
        return ()  # its loop turns, and hasn't begun it yet or has just ended it
    return tuple(map(_place, frames[below[-1] + 1 if below else 0 :]))


def _name(frame: FrameType) -> tuple[object, str]:
    return frame.f_globals.get("__name__"), frame.f_code.co_name


def _place(frame: FrameType) -> Place:
    code = frame.f_code
    line = frame.f_lineno or code.co_firstlineno
    return Place(encodable(code.co_filename), line, encodable(code.co_qualname))


SIGSTACKS: Final = getattr(signal, "SIGUSR2", signal.SIGTERM)
"""The signal by which a child process is asked that doesn't answer otherwise: it has a handler for it."""

# ── as text ─────────────────────────────────────────────────────────────────


MAX_TEXT: Final = 64 * 1024
"""Characters of all that is told of a worker."""
MAX_ALIKE: Final = 20
"""Tasks that are told one by one of those that are at the same place."""
FIRST, LAST = 10, 50
"""Calls of a stack that are told at most: the outermost, and the innermost."""

RUNS, WAITS, ENDED = "running", "waiting for a slot", "ended and not settled yet"


def text_of(worker: str, jobs: Iterable[Job], stacks: Mapping[str, Stack]) -> str:
    """What a worker is doing: its tasks, those that have been running for the longest first, and where they are."""
    held = sorted(jobs, key=lambda job: (job.done, job.started_at is None, job.started_at or job.claimed_at))
    alike: defaultdict[tuple[str, Stack | None], list[Job]] = defaultdict(list)
    for job in held:
        runs = state_of(job) == RUNS
        alike[job.call.func if runs else "", stacks.get(job.record.id, ()) if runs else None].append(job)
    counts = ", ".join(f"{number:,} {state}" for state, number in Counter(map(state_of, held)).items())
    return _joined(f"worker {worker}: {counts or 'no tasks'}", alike)


def state_of(job: Job) -> str:
    """What becomes of a task just now."""
    if job.done:
        return ENDED
    return WAITS if job.started_at is None else RUNS


def _joined(head: str, alike: Mapping[tuple[str, Stack | None], list[Job]]) -> str:
    """All of it, as far as there is room."""
    parts, room, untold = [head], MAX_TEXT - len(head), 0
    for (_, stack), jobs in alike.items():
        part = "\n".join([*_heads(jobs), *([] if stack is None else _lines(stack))])
        if untold or len(part) + 2 > room:
            untold += len(jobs)
        else:
            room -= len(part) + 2
            parts.append(part)
    if untold:
        parts.append(f"({untold:,} more tasks aren't told)")
    return encodable("\n\n".join(parts))


def _heads(jobs: list[Job]) -> Iterator[str]:
    for job in jobs[:MAX_ALIKE]:
        record, state = job.record, state_of(job)
        age = time.monotonic() - job.claimed_at if job.started_at is None else clock.now() - job.started_at
        about = f"task {record.id}: {job.call.func}, queue {record.queue_name}, attempt {job.attempt}"
        yield f"{about}, {state} {'since' if state == ENDED else 'for'} {max(0.0, age):.1f} s"
    if len(jobs) > MAX_ALIKE:
        yield f"and {len(jobs) - MAX_ALIKE:,} more of the same"


def _lines(stack: Stack) -> Iterator[str]:
    if isinstance(stack, str):
        yield from (f"  {line}" for line in stack.splitlines())
    elif not stack:
        yield "  (in no Python code of its own)"
    elif len(stack) > FIRST + LAST:
        yield from map(_line, stack[:FIRST])
        yield f"  ({len(stack) - FIRST - LAST:,} calls are left out)"
        yield from map(_line, stack[-LAST:])
    else:
        yield from map(_line, stack)


def _line(place: Place) -> str:
    source = linecache.getline(place.file, place.line).strip()
    where = f'  File "{place.file}", line {place.line}, in {place.function}'
    return f"{where}\n    {source}" if source else where
