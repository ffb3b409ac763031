"""Take pictures of what the command shows, from the real program: `python scripts/pictures.py [FOLDER]`.

Each is made on a terminal of its own, in a folder of its own, and written as SVG to `docs/pictures`. They need POSIX
and the packages `pyte` and `rich`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyte

PICTURES: Final = Path(__file__).parent.parent / "docs" / "pictures"
PROGRAM: Final = """
import time

from omniq import OmniQ, call, current_task, group, result_of

oq = OmniQ(project_name="shop", event_store="sqlite", worker_type="thread", worker_config={"max_workers": 4})


def charge(card: str) -> str:
    if not card.isdigit():
        raise ValueError("not a card's number")
    return f"charged {card}"


def resize(images: int) -> int:
    for number in range(images):
        current_task().progress(number / images, f"image {number + 1} of {images}")
        time.sleep(0.1)
    return images


def report(sizes: list[int]) -> int:
    return sum(sizes)


def fill() -> None:
    oq.enqueue(charge, ["12x4"], task_id="order-17", max_retries=2, retry_delay=0.1, retry_jitter=0)
    oq.enqueue_many([call(charge, [str(number)]) for number in range(40)])
    sizes = group(call(resize, [images], task_id=f"resize-{images}") for images in (60, 90, 120))
    oq.enqueue_workflow(sizes.then(call(report, [result_of(sizes)], task_id="report")))
    oq.schedule(report, [[]], schedule_id="morning", cron="0 9 * * *")
    oq.close()
"""
PATIENCE: Final = 30.0
COLOURS: Final = {
    "default": "#d8d8d8",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#ffffff",
    "black": "#8b949e",
}
CELL: Final = (8.4, 19)
"""Width and height of a character."""


class Terminal:
    """A terminal with a program in its foreground."""

    def __init__(self, folder: Path, *command: str, columns: int = 112, rows: int = 30) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
        environment = {
            **kept,
            "TERM": "xterm-256color",
            "OMNIQ_PROJECT_NAME": "shop",
            "OMNIQ_EVENT_STORAGE_TYPE": "sqlite",
        }
        foreground = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from omniq.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", foreground, *command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def until(self, condition: Callable[[str], object]) -> None:
        """Read until what it shows is so, or the program has ended."""
        deadline = time.monotonic() + PATIENCE
        while self._read() and not condition("\n".join(self.screen.display)):
            if time.monotonic() > deadline:
                raise SystemExit("it never showed what was waited for:\n" + "\n".join(self.screen.display))

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other end is closed, as Linux says it
            return False
        self._stream.feed(data)
        return bool(data)

    def close(self, *, kill: bool = False) -> None:
        """Wait for the program's end; kill it, if it doesn't end by itself."""
        if kill:
            self.process.kill()
        self.until(lambda _: False)
        self.process.wait(PATIENCE)
        os.close(self._ours)


# ── the pictures ─────────────────────────────────────────────────────────────


def take(target: Path) -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "shop.py").write_text(PROGRAM, "utf-8")
        subprocess.run([sys.executable, "-c", "import shop; shop.fill()"], cwd=folder, check=True)
        save = _saver(folder, target)
        worker = Terminal(folder, "worker", "shop:oq", rows=24)
        worker.until(lambda text: re.search(r"image 2\d of.* 0 pending.* 1 waiting.*error", text, re.DOTALL))
        save("worker", "omniq worker shop:oq", worker)
        for picture, command, columns in (
            ("status", "omniq status", 156),
            ("workflow", "omniq workflows show report", 72),
            ("explain", "omniq explain order-17", 112),
        ):
            shown = Terminal(folder, *command.split()[1:], columns=columns)
            shown.close()
            save(picture, command, shown)
        worker.close(kill=True)


def _saver(folder: Path, target: Path) -> Callable[[str, str, Terminal], None]:
    """What writes the picture of a terminal. A folder of this machine is shown as another, as long."""
    shown = "/srv/shop"

    def save(name: str, command: str, terminal: Terminal) -> None:
        rows = list(_cells(terminal.screen))
        while rows and not "".join(char for char, _ in rows[-1]).strip():
            rows.pop()
        rows = [_renamed(row, str(folder), shown) for row in rows]
        (target / f"{name}.svg").write_text(svg(command, rows), "utf-8")

    return save


Row = list[tuple[str, tuple[str, bool]]]
"""Characters, each with its colour, and whether it is bold."""


def _cells(screen: Any) -> Iterator[Row]:
    for number in range(screen.lines):
        line = screen.buffer[number]
        yield [(line[column].data, (line[column].fg, line[column].bold)) for column in range(screen.columns)]


def _renamed(row: Row, folder: str, shown: str) -> Row:
    text = "".join(char for char, _ in row)
    if (at := text.find(folder)) < 0:
        return row
    end = text.find("  ", at) if "  " in text[at:] else len(text)
    path = text[at:end].replace(folder, shown).ljust(end - at)
    return [
        (path[index - at], style) if at <= index < end else (char, style) for index, (char, style) in enumerate(row)
    ]


# ── SVG ──────────────────────────────────────────────────────────────────────


def svg(command: str, rows: list[Row]) -> str:
    """A terminal in which a command was given, and what it shows."""
    width, height = int(len(rows[0]) * CELL[0]) + 32, len(rows) * CELL[1] + 70
    prompt = f'<text x="16" y="52"><tspan fill="{COLOURS["green"]}">$</tspan> {escape(command)}</text>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(command)}</title>",
        "<style>text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #d8d8d8; white-space: pre }</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>',
        *(f'<circle cx="{20 + 18 * number}" cy="18" r="5.5" fill="#484f58"/>' for number in range(3)),
        prompt,
        *(text for number, row in enumerate(rows) for text in _texts(row, 52 + CELL[1] * (number + 1))),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _texts(row: Row, y: int) -> Iterator[str]:
    """The words of a row, each at its column, whatever the width of the reader's font."""
    column = 0
    for (blank, style), cells in groupby(row, lambda cell: (cell[0] == " ", cell[1])):
        text = "".join(char for char, _ in cells)
        if not blank:
            length = f'textLength="{len(text) * CELL[0]:.1f}" lengthAdjust="spacingAndGlyphs"'
            yield f'<text x="{16 + column * CELL[0]:.1f}" y="{y}" {length}{_style(*style)}>{escape(text)}</text>'
        column += len(text)


def _style(colour: str, bold: bool) -> str:
    fill = COLOURS.get(colour.removeprefix("bright"), f"#{colour}" if len(colour) == 6 else COLOURS["default"])
    return f"{f' fill={fill!r}' if colour != 'default' else ''}{' font-weight=' + repr('bold') if bold else ''}"


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
