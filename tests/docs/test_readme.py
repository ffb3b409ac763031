"""The pages say what is true: their programs run and print what they show, their configurations load.

The `python` blocks of a page, put together from top to bottom, are one program. It runs as a script, in a process and
a directory of its own, with warnings as errors and without any OMNIQ_ variable; what it prints must be what the
page's `output` blocks show. Where it names a server, it gets one of its own. A `yaml` block must be a whole
configuration. `sh` blocks aren't run, but the commands of `omniq` in them must exist. Blocks in other
languages (`py`, `text`, …) are left alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import pytest
from omniq.config import ConfigProvider, OmniQConfig

from tests.idle.places import place

ROOT = Path(__file__).parents[2]
PAGES = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/**/*.md"), ROOT.glob("omniq-*/*.md")))
SERVERS = {
    "postgresql://postgres@localhost/postgres": "postgres",
    "redis://localhost:6379": "redis",
    "nats://localhost:4222": "nats",
}
"""How programs name a server, and which one they get."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
OUR_COMMAND = re.compile(r"^(?:uv run )?omniq((?: [a-z]+\b(?![.:=]))+)", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The texts of the page's blocks in that language."""
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == language]


def each_page(*languages: str) -> pytest.MarkDecorator:
    """Run the test for every page, or for every one with a block in one of these languages."""
    pages = [page for page in PAGES if not languages or any(blocks(page, language) for language in languages)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def program(page: Path) -> str:
    """The page's `python` blocks, each line where it is in the page, so that a traceback tells its number there."""
    text = page.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for match in FENCE.finditer(text):
        if match[1] == "python":
            first = text.count("\n", 0, match.start(2))
            code = match[2].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


@contextmanager
def with_servers(text: str) -> Iterator[str]:
    """The program, with the URLs of servers that run."""
    with ExitStack() as running:
        for url, name in SERVERS.items():
            if url in text:
                text = text.replace(url, running.enter_context(place(name)).url)
        yield text


@pytest.fixture
def script(page: Path, tmp_path: Path) -> Iterator[Path]:
    """The page's program in a file, ready to be run."""
    with with_servers(program(page)) as text:
        script = tmp_path / f"{page.stem}.md.py"
        script.write_text(text, "utf-8")
        yield script


@each_page("python", "output")
def test_the_programs_of_a_page_print_what_it_shows(page: Path, script: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
    command = [sys.executable, "-W", "error", script.name]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(blocks(page, "output"))


@each_page("yaml")
def test_the_configurations_of_a_page_load(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, "utf-8")
        assert ConfigProvider(file, environ={}).load() != OmniQConfig()


@each_page()
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@each_page()
def test_nobody_is_sent_to_the_foreign_package(page: Path) -> None:
    """A distribution called plainly "omniq" exists, and isn't ours."""
    assert re.search(r"(pip install|uv add|uv pip install)[^\n`]*?\bomniq\b(?!-)", page.read_text("utf-8")) is None


@each_page("sh")
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for command in OUR_COMMAND.findall("\n".join(blocks(page, "sh"))):
        asked = [sys.executable, "-m", "omniq", *command.split(), "--help"]
        answered = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        assert answered.returncode == 0, answered.stderr


def test_the_readme_begins_with_the_quickstart_and_then_the_tests() -> None:
    quickstart, tests = blocks(ROOT / "README.md", "sh")[:2]
    assert quickstart.splitlines()[-1].endswith("uv run --no-dev python examples/quickstart/main.py")
    assert tests.splitlines()[-1].endswith("uv run pytest")
