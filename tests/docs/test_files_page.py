"""What the page about files shows and promises: its commands, its places, its backups, and what it says of damage."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from omniq import AsyncOmniQ
from omniq.models import TaskState
from omniq.storage.log_files import Files
from omniq_fsspec.filesystems import LocalFiles, PlaceFiles

from tests.core import tasks
from tests.core.support import SOON, working
from tests.docs.test_readme import ROOT, blocks, program
from tests.docs.test_store_pages import rows, section
from tests.servers.objects import ObjectPlace, new_place

PAGE = ROOT / "docs" / "stores" / "files.md"
FIRST = program(PAGE).partition("from omniq.queue import MemoryTaskQueue")[0]
"""The page's first program, to which it comes back."""
PROJECT = "shop"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the first program has been run."""
    subprocess.run([sys.executable, "-c", FIRST], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    return tmp_path


def part(title: str) -> str:
    """What the page says below a smaller heading."""
    return re.split(r"^##+ ", PAGE.read_text("utf-8").partition(f"\n### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


def front_door(folder: Path, **config: object) -> AsyncOmniQ:
    """OmniQ on the files of the project there."""
    return AsyncOmniQ(PROJECT, config={"task_queue": {"type": "file", "config": {"base_dir": str(folder), **config}}})


# ── a look inside ────────────────────────────────────────────────────────────


def commands() -> Iterator[tuple[str, str]]:
    """The commands of the page, and what it says that they print."""
    for block in blocks(PAGE, "console"):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = piece.partition("\n")
            yield command, output


def test_a_look_inside_shows_what_the_page_does(folder: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    shown = list(commands())
    assert len(shown) == len(re.findall(r"^\$ ", part("A look inside"), re.MULTILINE)) > 3
    for command, output in shown:
        ran = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
        assert (command, ran.stdout, ran.stderr) == (command, output, "")


# ── what holds where ─────────────────────────────────────────────────────────

PLACES = {
    "local disk": "",
    "local disk, `fsync=false`": "?fsync=false",
    "memory": "memory://page",
    "S3": "s3",
    "Azure": "azure",
    "Google Cloud Storage": "gcs",
}


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place of that name."""
    said = PLACES[request.param]
    if said in ("s3", "azure", "gcs"):
        for place in new_place(said):
            yield f"{place.url}?{urlencode(place.options)}"
    else:
        yield said if "://" in said else f"file://{tmp_path}{said}"


def test_every_place_has_its_row() -> None:
    assert [place for place, *_ in rows(part("What holds where"))[1:]] == list(PLACES)


@pytest.mark.parametrize("url", PLACES, indirect=True)
async def test_a_place_guarantees_what_its_row_says(url: str, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["url"]
    row = next(cells for place, *cells in rows(part("What holds where")) if place == name)
    async with AsyncOmniQ(config={"task_queue": {"url": url}}) as oq:
        live = await oq.task_queue.guarantees()
    said = {True: "yes", False: "no"}
    survives = (live.survives_process_kill, live.survives_power_loss, live.survives_failover)
    assert row[:4] == [*(said[fact] for fact in survives), live.clock]


@pytest.mark.parametrize(("name", "kind"), [("local disk", LocalFiles), ("S3", PlaceFiles)])
def test_others_look_as_often_as_the_row_says(name: str, kind: type[Files]) -> None:
    row = next(cells for place, *cells in rows(part("What holds where")) if place == name)
    found = re.findall(r"([\d.]+) (ms|s) (?=in|for|$)|then ([\d.]+) (ms|s)", row[-1])
    seconds = [float(n or m) / (1000 if "ms" in (unit, other) else 1) for n, unit, m, other in found]
    pauses = [pause for _, pause in kind.pauses]
    assert set(pauses) <= set(seconds)


# ── backups, damage ──────────────────────────────────────────────────────────


async def test_a_copy_made_under_load_has_all_tasks(tmp_path: Path) -> None:
    """By the page's own commands, while a worker runs tasks and others are enqueued."""
    (commands,) = [block for block in blocks(PAGE, "sh") if "cp -a" in block]
    async with front_door(tmp_path / "data", fsync=False) as oq, working(oq, "async"):
        before = [await oq.enqueue(tasks.add, [n, 1], task_id=f"t{n:03}") for n in range(100)]
        copying = await asyncio.create_subprocess_exec("sh", "-e", "-c", commands, cwd=tmp_path)
        copied = asyncio.create_task(copying.wait())
        during = 100
        while not copied.done():
            await oq.enqueue(tasks.add, [during, 1], task_id=f"t{during:03}")
            during += 1
        assert await copied == 0
    async with front_door(tmp_path / "backup") as oq:
        ids = [task.id for task in await oq.list_tasks(limit=during)]
        assert set(before) <= set(ids) <= {f"t{n:03}" for n in range(during)}


def test_what_ended_after_the_copy_runs_again(folder: Path) -> None:
    """The first program's log without its last segment is a copy of a moment before."""
    (folder / "data/shop/log/0000000000000003.jsonl").unlink()
    read = "from omniq.queue import FileTaskQueue; "
    state = "print(FileTaskQueue(project_name='shop', base_dir='data').get_task('order-7').state)"
    ran = subprocess.run([sys.executable, "-c", read + state], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "running\n"


async def test_tasks_whose_rows_are_lost_become_dead_letters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with front_door(tmp_path) as oq:
        lost = await oq.enqueue(tasks.add, [1, 2])
    segment = tmp_path / PROJECT / "log" / "0000000000000001.jsonl"
    segment.write_bytes(b"spoilt")
    async with front_door(tmp_path) as oq:
        await oq.list_tasks()
    async with front_door(tmp_path) as oq:
        (task,) = await oq.list_dead()
        assert (task.id, task.state) == (lost, TaskState.ERROR)
        async with working(oq, "async"):
            await oq.requeue(lost)
            assert await oq.get_result(lost, timeout=SOON) == 3
    assert "can't be read" in caplog.text
    assert "1 tasks were lost, and are dead letters now" in caplog.text


async def test_a_task_whose_body_is_lost_is_a_dead_letter(tmp_path: Path) -> None:
    async with front_door(tmp_path) as oq:
        lost = await oq.enqueue(tasks.add, [1, 2])
        (body,) = (tmp_path / PROJECT / "queues" / "default").iterdir()
        body.unlink()
        async with working(oq, "async"):
            with pytest.raises(Exception, match="there is no file"):
                await oq.get_result(lost, timeout=SOON)
        assert [task.id for task in await oq.list_dead()] == [lost]


async def test_a_damaged_row_is_a_dead_letter_and_others_are_as_they_were(tmp_path: Path) -> None:
    async with front_door(tmp_path) as oq:
        await oq.enqueue(tasks.add, [1, 2], task_id="spoilt")
        await oq.enqueue(tasks.add, [1, 2], task_id="sound")
    segment = tmp_path / PROJECT / "log" / "0000000000000001.jsonl"
    header, row = map(json.loads, segment.read_text().splitlines())
    row["task"]["epoch"] = "many"
    segment.write_text("\n".join(map(json.dumps, (header, row))))
    async with front_door(tmp_path) as oq, working(oq, "async"):
        assert await oq.get_result("sound", timeout=SOON) == 3
        with pytest.raises(Exception, match="epoch"):
            await oq.get_result("spoilt", timeout=SOON)


def test_the_page_says_what_a_million_tasks_cost_by_its_own_prices() -> None:
    """At 5 $ for a million writes."""
    for what, writes, price in rows(section("files", "Limits, and what to know"))[1:]:
        assert float(price.removesuffix(" $")) == pytest.approx(5 * float(writes), abs=0.01), what


# ── errors ───────────────────────────────────────────────────────────────────

TROUBLES = {
    "s3://b?key=a&secret=b&endpoint_url=http://127.0.0.1:1": "Could not connect to the endpoint",
    "file://relative/path": "expected file:///absolute/path",
    "file:///proc/nowhere": "the directory can't be made",
    "memory://x": "lives in one process, which no other can look into",
}
"""What is said of places that can't be used."""


def complaint(url: str, folder: Path) -> str:
    """What a command says that can't use a place."""
    command = [sys.executable, "-m", "omniq", "enqueue", "math:sqrt", "--url", url]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode in (1, 2)
    return ran.stderr


@pytest.mark.parametrize("url", TROUBLES)
def test_the_page_knows_what_is_said_of_a_place(url: str, tmp_path: Path) -> None:
    assert TROUBLES[url] in complaint(url, tmp_path)
    assert f"`{TROUBLES[url]}" in section("files", "Troubleshooting")


CREDENTIALS = {"key": "The access key ID you provided does not exist", "secret": "The request signature we calculated"}
"""What S3 says of wrong ones."""


@pytest.mark.parametrize("option", CREDENTIALS)
def test_the_page_knows_what_is_said_of_credentials(s3_place: ObjectPlace, option: str, tmp_path: Path) -> None:
    url = f"{s3_place.url}?{urlencode({**s3_place.options, option: 'wrong'})}"
    assert CREDENTIALS[option] in complaint(url, tmp_path)
    assert f"`{CREDENTIALS[option]}" in section("files", "Troubleshooting")
