"""The pictures show what is so: the states of a task, and what the command prints."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, Retry
from omniq.models import TaskState
from omniq.testing import VirtualClock

from scripts import states
from tests.docs.test_readme import ROOT

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
VIEWS = [path.stem for path in PICTURES if path != states.FILE]
MOST = 40_000
"""Bytes of a picture."""


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_loads_nothing(picture: Path) -> None:
    text = picture.read_text("utf-8")
    assert len(text) < MOST
    assert re.findall(r"(?:https?:|//)[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]
    pages = [page for page in (ROOT / "docs").rglob("*.md") if f"pictures/{picture.name})" in page.read_text("utf-8")]
    assert pages, "no page shows it"


# ── what the command shows ───────────────────────────────────────────────────


def words(picture: Path) -> set[str]:
    """The words of a picture that are the same each time: without names, times and numbers of a moment."""
    told = re.findall(r"<text[^>]*>(.*?)</text>", re.sub(r"</?tspan[^>]*>", "", picture.read_text("utf-8")))
    return {word.strip(",") for text in told for word in unescape(text).split() if not re.search(r"\d", word)}


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is POSIX")
def test_the_command_shows_what_the_pictures_show(tmp_path: Path) -> None:
    pytest.importorskip("pyte", reason="there is no terminal to draw on")
    pytest.importorskip("rich", reason="there is no live view without it")
    from scripts import pictures

    pictures.take(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == VIEWS
    for name in VIEWS:
        shown, drawn = words(tmp_path / f"{name}.svg"), words(ROOT / "docs" / "pictures" / f"{name}.svg")
        assert shown == drawn, name


# ── the states ───────────────────────────────────────────────────────────────


def test_the_states_are_drawn() -> None:
    assert states.FILE.read_text("utf-8") == states.drawing(), "python scripts/states.py draws it anew"
    assert set(states.PLACES) == set(TaskState)


def give_back() -> None:
    raise Retry(delay=0)


def try_later() -> None:
    raise Retry(delay=3600)


def fail() -> None:
    raise ValueError("for good")


async def hang() -> None:
    await asyncio.Event().wait()


class Noted:
    """A SQLite queue that notes each change of a task's state by triggers of its own."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, timeout=30)
        with self._database as database:
            database.execute("create table noted (before text, after text)")
            for when, before in (("insert on task", "null"), ("update of state on task", "old.state")):
                name = when.split()[0]
                database.execute(
                    f"create trigger note_{name} after {when} begin insert into noted values ({before}, new.state); end"
                )

    def close(self) -> None:
        self._database.close()

    def changes(self) -> Iterator[tuple[TaskState | None, TaskState]]:
        """From which state to which; a claim takes what has come due by way of PENDING."""
        for before, after in set(self._database.execute("select before, after from noted where before is not after")):
            if (before, after) == ("scheduled", "running"):
                yield TaskState.SCHEDULED, TaskState.PENDING
            else:
                yield before and TaskState(before), TaskState(after)


async def live_through(oq: AsyncOmniQ) -> None:
    """All that may become of tasks."""
    await without_a_worker(oq)
    async with oq.worker_pool("async") as pool:
        hanging = await oq.enqueue(hang)
        while (await oq.get_task(hanging)).state is not TaskState.RUNNING:
            await asyncio.sleep(0.01)
        await oq.cancel(hanging)
        await pool.drain()
    for ended in await oq.list_tasks(state=["error", "cancelled", "expired"]):
        await oq.requeue(ended.id)


async def without_a_worker(oq: AsyncOmniQ) -> None:
    """What becomes of tasks before they run, and those that are to run."""
    with VirtualClock() as clock:
        await oq.enqueue(print, run_in=5, ttl=1)
        await oq.enqueue(print, ttl=1)
        await oq.enqueue(print, depends_on=await oq.enqueue(print, run_in=9000), ttl=1)
        clock.advance(10)
        await oq.task_queue.ttl.expire()
    await oq.cancel(await oq.enqueue(print))
    await oq.cancel(await oq.enqueue(print, run_in=3600))
    parent = await oq.enqueue(print, run_in=0.01)
    await oq.enqueue(print, depends_on=parent)
    await oq.enqueue(print, depends_on=parent, run_in=3600)
    await oq.enqueue(give_back, max_retries=1)
    await oq.enqueue(try_later)
    await oq.enqueue(try_later, ttl=60)
    await oq.enqueue(print, depends_on=await oq.enqueue(fail, max_retries=0))


async def test_the_ways_between_states_are_those_that_tasks_go(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/states.db"
    async with AsyncOmniQ(task_queue=url, worker_config={"lease": 1}) as oq:
        noted = Noted(tmp_path / "states.db")
        await live_through(oq)
    seen = set(noted.changes())
    noted.close()
    assert seen == states.transitions()
