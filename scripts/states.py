"""Draw the states of a task, `docs/pictures/states.svg`: `python scripts/states.py`.

A test compares what is drawn with what tasks really do, and with the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from omniq.models.task import TaskState

FILE: Final = Path(__file__).parent.parent / "docs" / "pictures" / "states.svg"
WIDTH, HEIGHT = 1000, 540
BOX: Final = (150, 48)
PLACES: Final = {
    TaskState.WAITING: (180, 90),
    TaskState.SCHEDULED: (180, 230),
    TaskState.PENDING: (180, 370),
    TaskState.RUNNING: (510, 370),
    TaskState.SUCCESS: (810, 30),
    TaskState.CANCELLED: (810, 140),
    TaskState.EXPIRED: (810, 255),
    TaskState.ERROR: (810, 370),
}
"""The upper left corner of each state."""
GROUPS: Final = {"waits for its turn": (160, 52, 190, 386), "can be requeued": (790, 104, 190, 334)}
"""Where some of them have much in common: left, top, width and height."""


class Arrow(NamedTuple):
    """One way from some states, or from the start, to another."""

    sources: tuple[TaskState | None, ...]
    target: TaskState
    why: str
    path: str
    """As SVG has it."""
    at: tuple[int, int]
    """The middle of its label."""


QUEUED: Final = (TaskState.WAITING, TaskState.SCHEDULED, TaskState.PENDING)
ARROWS: Final = (
    Arrow((None,), TaskState.WAITING, "it has parents", "M62 258 C90 200 100 114 176 114", (92, 160)),
    Arrow((None,), TaskState.SCHEDULED, "due later", "M68 264 C100 262 130 254 176 254", (115, 248)),
    Arrow((None,), TaskState.PENDING, "due now", "M62 270 C90 320 100 394 176 394", (92, 366)),
    Arrow((TaskState.WAITING,), TaskState.SCHEDULED, "parents succeeded, due later", "M225 138 V226", (255, 178)),
    Arrow(
        (TaskState.WAITING,), TaskState.PENDING, "parents succeeded", "M330 122 C362 190 362 320 333 378", (408, 346)
    ),
    Arrow((TaskState.SCHEDULED,), TaskState.PENDING, "its time has come", "M225 278 V366", (240, 326)),
    Arrow((TaskState.PENDING,), TaskState.RUNNING, "claimed", "M330 386 H506", (425, 378)),
    Arrow((TaskState.RUNNING,), TaskState.PENDING, "handed back, or worker gone", "M510 406 H334", (423, 426)),
    Arrow(
        (TaskState.RUNNING,),
        TaskState.SCHEDULED,
        "failed, tried again later",
        "M550 370 C530 290 430 256 334 254",
        (478, 300),
    ),
    Arrow((TaskState.RUNNING,), TaskState.SUCCESS, "it returned", "M590 370 C620 160 700 60 806 54", (650, 150)),
    Arrow((TaskState.RUNNING,), TaskState.CANCELLED, "cancelled", "M610 370 C650 250 720 180 806 172", (676, 258)),
    Arrow((TaskState.RUNNING,), TaskState.EXPIRED, "its TTL is over", "M640 370 C680 310 740 288 806 284", (722, 326)),
    Arrow((TaskState.RUNNING,), TaskState.ERROR, "failed for good", "M660 394 H806", (728, 386)),
    Arrow(QUEUED, TaskState.CANCELLED, "cancelled, or a parent failed", "M350 84 C500 84 650 120 806 156", (500, 84)),
    Arrow(QUEUED, TaskState.EXPIRED, "its TTL is over", "M350 210 C500 200 660 230 806 270", (440, 200)),
    Arrow(
        (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED),
        TaskState.PENDING,
        "requeued",
        "M885 438 V500 H255 V422",
        (560, 494),
    ),
)

STYLE: Final = """
text { font: 14px sans-serif; fill: #222 }
.state rect { fill: #e8eaf6; stroke: #3f51b5; stroke-width: 1.5 }
.state text { font-weight: bold; text-anchor: middle }
.end rect { fill: #e0f2f1; stroke: #00796b }
.group rect { fill: none; stroke: #999; stroke-dasharray: 5 4 }
.group text { fill: #666; font-size: 12px }
.why { text-anchor: middle; font-size: 12.5px; paint-order: stroke; stroke: #fff; stroke-width: 5px }
path { fill: none; stroke: #555; stroke-width: 1.4; marker-end: url(#tip) }
"""


def drawing() -> str:
    """The whole picture."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The states of a task</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<polygon points="0,0 8,4 0,8" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>',
        *_groups(),
        '<circle cx="60" cy="264" r="8" fill="#222"/>',
        *(f'<path d="{arrow.path}"/>' for arrow in ARROWS),
        *(f'<text class="why" x="{arrow.at[0]}" y="{arrow.at[1]}">{escape(arrow.why)}</text>' for arrow in ARROWS),
        *_states(),
        "</svg>\n",
    ]
    return "\n".join(lines)


def transitions() -> set[tuple[TaskState | None, TaskState]]:
    """All that is drawn: from which state to which; None is the start."""
    return {(source, arrow.target) for arrow in ARROWS for source in arrow.sources}


def _groups() -> Iterator[str]:
    for name, (left, top, width, height) in GROUPS.items():
        rect = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="10"/>'
        yield f'<g class="group">{rect}<text x="{left + 12}" y="{top + 18}">{name}</text></g>'


def _states() -> Iterator[str]:
    width, height = BOX
    for state, (left, top) in PLACES.items():
        rect = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="8"/>'
        text = f'<text x="{left + width // 2}" y="{top + height // 2 + 5}">{state.value}</text>'
        yield f'<g class="state{" end" * state.is_terminal}">{rect}{text}</g>'


if __name__ == "__main__":
    FILE.write_text(drawing(), "utf-8")
