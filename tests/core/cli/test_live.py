"""The live view of `omniq worker`: what a terminal shows while it works, and how it leaves it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.cli import live, terminal
from omniq.cli.live import Facts, Painter, Section, layout, shares, summary
from omniq.cli.terminal import can_draw, shown
from omniq.errors import StoreUnavailable
from omniq.models import TaskState
from omniq.storage.records import QueueStats
from omniq.testing import ReferenceQueueStore, ReferenceSpace
from omniq.workers.jobs import RunStatus

from tests.core import tasks
from tests.core.cli import tasks as cli_tasks
from tests.core.cli.process import ROOT
from tests.core.support import front_door, sqlite_place, until_states

pyte = pytest.importorskip("pyte", reason="there is no terminal to draw on")
pytest.importorskip("rich", reason="there is no live view without it")

PATIENCE = 20.0
OWN_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from omniq.cli import main; main()"
"""A program that is in the foreground of the terminal at its standard input."""


class Window:
    """A terminal with `omniq worker` in its foreground."""

    def __init__(self, directory: Path, *arguments: str, columns: int = 100, rows: int = 30, **environ: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.read = b""
        """All that was written to it."""
        self._set_size(columns, rows)
        self.modes = termios.tcgetattr(self._theirs)
        url = f"sqlite:///{directory}/omniq.db?synchronous=NORMAL"
        left_out = ("CI", "NO_COLOR", "COLUMNS", "LINES")
        inherited = {name: value for name, value in os.environ.items() if name not in left_out}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", OWN_TERMINAL, "--url", url, "worker", *arguments],
            env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environ},
            cwd=directory,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
        )

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Let it have another size. What is on it is wiped: terminals differ in what they make of it."""
        self.screen.resize(rows, columns)
        self.screen.reset()
        self._set_size(columns, rows)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def look(self) -> list[str]:
        """The lines that it shows, once what has been written is on it."""
        while select.select([self._ours], [], [], 0.01)[0]:
            data = os.read(self._ours, 65536)
            self.read += data
            self._stream.feed(data)
        return [line.rstrip() for line in self.screen.display]

    def shows(self, condition: Callable[[str], object]) -> str:
        """Wait until what it shows is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition(text := "\n".join(self.look())):
            assert time.monotonic() < deadline, text
        return text

    def ends(self) -> int:
        """Wait for the program's end; what it shows then is on the screen."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < deadline
        self.look()
        return self.process.returncode

    def assert_in_order(self) -> None:
        """It is as it was before: its modes, and a cursor that is seen, at the beginning of an empty line."""
        assert termios.tcgetattr(self._theirs) == self.modes
        assert not self.screen.cursor.hidden
        assert self.screen.cursor.x == 0
        assert self.look()[self.screen.cursor.y] == ""

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Callable[..., Window]]:
    """Open a terminal with a worker at the test's place."""
    with contextlib.ExitStack() as opened:

        def window(*arguments: str, **options: Any) -> Window:
            return opened.enter_context(contextlib.closing(Window(tmp_path, *arguments, **options)))

        yield window


@pytest.fixture
async def oq(tmp_path: Path) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ in the test's own process, on the file that the worker works on."""
    async with front_door(sqlite_place(tmp_path)) as oq:
        yield oq


# ── on a terminal ────────────────────────────────────────────────────────────


async def test_it_shows_what_runs_waits_and_fails_below_what_is_logged_and_is_gone_in_the_end(
    oq: AsyncOmniQ, window: Callable[..., Window], log: Path, gate: Path
) -> None:
    running = await oq.enqueue(cli_tasks.progress, [str(log), str(gate)], priority=1)
    await oq.enqueue(tasks.fail, ["a secret"], priority=2)
    await oq.enqueue(tasks.nothing, run_in=3600)
    shop = window("--type", "process", columns=130, OMNIQ_MAX_WORKERS="1")
    queue = "default  0 pending  1 scheduled  0 waiting  1 running"
    text = shop.shows(lambda text: "45 %" in text and "failed lately" in text and queue in text)
    rows = text.splitlines()
    began = next(index for index, row in enumerate(rows) if row.startswith("1 of 1 running, 1 in hand, up "))
    assert "process worker " in rows[began]
    assert any("WARNING omniq.worker: task" in row for row in rows[:began])
    assert re.search(rf"\d\.\d s  try 1  tests.core.cli.tasks:progress  {running}  45 % reading\\x1b\[2J 漢\s*字", text)
    assert re.search(r"\d\d:\d\d:\d\d  try 1  tests.core.tasks:fail  \w{32}  ValueError  error", text)
    assert "a secret" not in text
    assert "1 error" in rows[began + 1]
    for columns, lines_ in ((40, 10), (120, 40)):
        shop.resize(columns, lines_)
        shop.shows(lambda text: "1 of 1 running" in text and ":progress" in text and "error" in text)
    gate.touch()
    await until_states(oq, [running], TaskState.SUCCESS)
    shop.type(b"\x03")
    assert shop.ends() == 0
    assert re.search(r"has stopped after .* s: ", "\n".join(shop.look()))
    assert "── " not in "\n".join(shop.look())
    shop.assert_in_order()


async def test_what_tasks_and_their_children_write_goes_above_it_whole(
    oq: AsyncOmniQ, window: Callable[..., Window]
) -> None:
    await oq.enqueue(cli_tasks.write_everywhere)
    shop = window("--type", "process", "--burst", NO_COLOR="1", OMNIQ_MAX_WORKERS="1")
    assert shop.ends() == 0
    rows = shop.look()
    assert " serves " in rows[0]
    assert {"to stdout", "to stderr", "from a program", "100 %"} <= set(rows)
    assert any(row.startswith("without an end") for row in rows)
    assert re.search(rb"\x1b\[(?:\d+;)*(?:3|4|9|10)\d", shop.read) is None
    shop.assert_in_order()


async def test_a_loop_that_stands_still_is_told_and_the_terminal_left_in_order_at_the_deadline(
    oq: AsyncOmniQ, window: Callable[..., Window], log: Path
) -> None:
    await oq.enqueue(cli_tasks.block_the_loop, [str(log)])
    shop = window("--grace-period", "0.1")
    shop.shows(lambda text: "event loop stands still" in text and "block_the_loop" in text)
    shop.type(b"\x03")
    shop.shows(lambda _: b"^C" in shop.read)
    shop.type(b"\x03")
    assert shop.ends() == 130
    assert "error: the worker didn't stop in time" in "\n".join(shop.look())
    assert "── running" not in "\n".join(shop.look())
    shop.assert_in_order()


async def test_a_worker_that_is_killed_leaves_the_terminal_in_order(window: Callable[..., Window]) -> None:
    shop = window(columns=60, rows=8)
    shop.shows(lambda text: "tasks/s" in text and "queues" in text)
    shop.process.kill()
    assert shop.ends() == -signal.SIGKILL
    shop.assert_in_order()


async def test_plain_lines_are_no_more_than_lines(window: Callable[..., Window]) -> None:
    shop = window("--plain", "--burst")
    assert shop.ends() == 0
    assert b"\x1b" not in shop.read
    assert b"tasks/s" not in shop.read


# ── where there is none ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("environ", "draws"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
        ({}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
    ],
)
def test_where_nothing_can_be_drawn(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], draws: bool) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.setattr(terminal, "_in_foreground", lambda descriptor: True)
    for name in ("TERM", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert can_draw() is draws


def test_without_rich_there_is_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(live, "can_draw", lambda: True)
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    assert not live.can_view()
    assert 'pip install "omniq-core[rich]"' in capsys.readouterr().err


# ── what it costs its store ──────────────────────────────────────────────────


class Counting(ReferenceQueueStore):
    """A store that counts how often its queues are counted, and is away at first."""

    networked = False
    asked = 0

    async def stats(self) -> list[QueueStats]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("it is away")
        return await super().stats()


async def count_with(store: Counting) -> asyncio.Task[None]:
    view: Any = SimpleNamespace(queues={}, counted_at=None)
    counting = asyncio.ensure_future(live._count_queues(store, view))
    await asyncio.wait([counting], timeout=0.1)
    return counting


async def test_queues_are_counted_now_and_then_whatever_the_store_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "COUNT_INTERVAL", 0.01)
    store = Counting(ReferenceSpace())
    counting = await count_with(store)
    assert not counting.done()
    assert 2 <= store.asked <= 11
    counting.cancel()


async def test_where_each_look_is_paid_for_nothing_is_counted() -> None:
    store = Counting(ReferenceSpace())
    store.networked, store.capabilities = True, frozenset()  # type: ignore[misc]
    assert (await count_with(store)).done()
    assert store.asked == 0


# ── in so many columns and lines ─────────────────────────────────────────────


FACTS = Facts(
    "worker 漢字漢字漢字: " + "x" * 200,
    "12 tasks/s",
    ["redis fails"],
    [Section("running", [f"  {n}.0 s  try 1  shop:send" for n in range(30)], 400), Section("queues", ["a", "b"], 2)],
)


@pytest.mark.parametrize(("columns", "lines_"), [(1, 1), (2, 3), (20, 5), (40, 10), (80, 24), (300, 100)])
def test_it_fits(columns: int, lines_: int) -> None:
    text, widths = Painter().paint(FACTS, columns, lines_)
    assert max(widths) <= max(1, columns - 1)
    assert len(widths) == text.count("\n") <= max(2, lines_ - lines_ // 3)


def test_lines_are_shared_in_turn_and_the_rest_is_counted() -> None:
    sections = [Section("a", ["x"] * 9, 400), Section("b", [], 0), Section("c", ["y"] * 2, 2)]
    assert shares(sections, 9) == [5, 0, 2]
    assert shares(sections, 1) == [0, 0, 0]
    told = [text.plain for text in layout(Facts("title", "", [], sections), 10)]
    assert told[:2] == ["title", "── a, 5 of 400"]
    assert told[-3:] == ["── c", "  y", "  y"]


def test_names_of_any_kind_stay_on_their_line_and_in_their_column() -> None:
    rows = live.aligned([("a\x1b[2J", "1", ""), ("漢字\n", "22", "")], right=1)
    assert rows == ["a\\x1b[2J  1", "   漢字   22"]
    long = live._task("shop." * 30 + "send", "0" * 32, 80)
    assert long[0].endswith("shop.send")
    assert len(long[0]) == 26
    assert live._task("shop:send", "0" * 32, 60) == ("shop:send",)


@pytest.mark.parametrize(
    ("written", "drawn"),
    [
        ("plain\n", "plain\n"),
        ("\x1b[31mred\n", "\x1b[31mred\n\x1b[0m"),
        ("up\x1b[2A\x1b[J\x07 \x1b]0;title\x07there\n", "up there\n"),
        ("1 %\r50 %\r100 %\r\nnext\n", "100 %\nnext\n"),
        ("\x1b", ""),
        ("", ""),
    ],
)
def test_what_would_move_the_cursor_is_left_out(written: str, drawn: str) -> None:
    assert shown(written) == drawn


# ── lines ────────────────────────────────────────────────────────────────────


def test_a_minute_is_summed_up_in_a_line() -> None:
    ended = Counter({RunStatus.SUCCESS: 1234, RunStatus.ERROR: 6})
    assert summary(ended, 60.0, held=3) == "1240 tasks in 60 s (20.7/s): 1,234 success, 6 error; 3 in hand"
    assert summary(Counter(), 60.0, held=1) == "0 tasks in 60 s (0.0/s); 1 in hand"
    assert summary(Counter(), 60.0, held=0) == ""


async def test_summaries_tell_of_what_has_ended_since_the_last_one(
    oq: AsyncOmniQ, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "SUMMARY", 0.05)
    said = ""
    async with oq.worker_pool("async") as pool:
        summing = asyncio.ensure_future(live._sum_up(pool))
        for number in range(2):
            await oq.get_result(await oq.enqueue(tasks.add, [number, 1]))
            deadline = time.monotonic() + PATIENCE
            while said.count("1 task in") <= number and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
                said += capsys.readouterr().err
        summing.cancel()
    assert said.count("1 task in") == 2
