"""The examples do what their pages say: their own tests pass, their commands work, and the service serves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_readme import ROOT, blocks

EXAMPLES = ROOT / "examples"
NEEDED = {"web": ("fastapi", "httpx", "uvicorn")}
"""What an example needs besides OmniQ."""
PATIENCE = 60.0
"""Seconds after which something that should have happened won't happen any more."""


def needs(example: str) -> None:
    """Skip what can't be run here, and say why."""
    missing = [name for name in NEEDED.get(example, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"examples/{example} needs {', '.join(missing)}, which isn't installed")


@pytest.fixture
def place(tmp_path: Path, example: str) -> Path:
    """The example in a directory of the test's own."""
    needs(example)
    return shutil.copytree(EXAMPLES / example, tmp_path / example, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def environment() -> dict[str, str]:
    """That of this process without any OMNIQ_ variable, where programs of this environment are found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMNIQ_", "PYTEST_"))}
    programs = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PATH": programs, "PYTHONUNBUFFERED": "1"}


def run(place: Path, *command: str) -> str:
    """What a command prints that has to succeed."""
    ran = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@contextmanager
def running(place: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A program that goes on until the test has seen enough; it is told to stop then, and must."""
    program = subprocess.Popen(
        command, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield program
    finally:
        program.terminate()
        program.communicate(timeout=PATIENCE)


def test_each_example_is_listed_and_has_a_page_with_its_commands() -> None:
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    listed = re.findall(r"^\| \[([\w-]+)\]\(\1\)", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == folders
    without = [name for name in folders if name != "omniq-inline" and not blocks(EXAMPLES / name / "README.md", "sh")]
    assert without == []


@pytest.mark.parametrize("page", sorted(EXAMPLES.glob("**/README.md")), ids=lambda page: page.parent.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("example", ["web", "report"])
def test_its_own_tests_pass(example: str, place: Path) -> None:
    options = ["-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_mode=auto"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    assert " passed" in run(place, sys.executable, "-m", "pytest", "-q", *options)


# ── report ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("example", ["report"])
def test_the_report_is_written_as_its_page_says(place: Path) -> None:
    first, second, _ = blocks(place / "README.md", "sh")
    plan, worker = first.splitlines()
    assert re.fullmatch(r"sales-report: next at .* 0[45]:30:00\+00:00\n", run(place, *plan.split()))
    *commands, cat = second.splitlines()
    told = [run(place, *command.split()) for command in commands]
    assert "sales-report" in told[0]
    run(place, *worker.split(), "--burst")
    assert run(place, *cat.split()).splitlines()[-1].split() == ["total", "34.40"]


# ── web ──────────────────────────────────────────────────────────────────────


def address_of(server: subprocess.Popen[str]) -> str:
    """Where uvicorn says that it is."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    raise AssertionError("uvicorn has ended")


@pytest.mark.slow
@pytest.mark.parametrize("example", ["web"])
def test_the_service_serves_as_its_page_says(place: Path) -> None:
    import httpx

    serve, work = (block.strip().split() for block in blocks(place / "README.md", "sh")[:2])
    with running(place, *serve[:-1], "0") as server, httpx.Client(base_url=address_of(server), timeout=PATIENCE) as web:
        assert "<progress" in web.get("/").text
        answer = web.post("/counts", json={"limit": 200_000}).json()
        assert web.get(answer["result"]).json() == {"status": "pending"}
        other = web.post("/counts", json={"limit": 10_000_000}).json()["result"]
        with running(place, *work, "--lease", "2"):  # it hears sooner of what is cancelled
            told = events(web, answer["events"])
            assert told[-1] == {"status": "success", "primes": 17984}
            assert any(event["status"] == "running" for event in told[:-1])
            assert web.delete(other).json() == {"cancelled": True}
            assert events(web, f"{other}/events")[-1] == {"status": "cancelled"}


def events(web: Any, path: str) -> list[dict[str, Any]]:
    """All server-sent events up to the end."""
    from msgspec import json

    with web.stream("GET", path) as stream:
        return [json.decode(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
