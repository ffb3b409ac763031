"""The pages say what is true: all their blocks run and print what they show, their configurations load.

The `python` and `sh` blocks of a page, put together from top to bottom, are one program. It runs as a script, in a
process and a directory of its own, with warnings as errors and without any OMNIQ_ variable; what it prints must be what
the page's `output` blocks show, but for an `sh` block that has none right behind it. A block that begins with the
comment `# shop.py` is that file, and no part of the program. An example's page finds the files beside it. Where a block
names a server, it gets one of its own. `sh` blocks find `omniq` on the PATH; what can't be run of them,
`tests/docs/shell.py` lists with its reason. A `yaml` block must be a whole configuration. Blocks in other languages
(`py`, `text`, …) are left alone.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from omniq.config import ConfigProvider, OmniQConfig

from tests.docs import shell
from tests.idle.places import place

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    chain(*map(ROOT.glob, ("*.md", "docs/**/*.md", "omniq-*/*.md", "examples/*/*.md", "benchmarks/*.md", "tests/*.md")))
)
SERVERS = {
    "postgresql://postgres@localhost/postgres": "postgres",
    "redis://localhost:6379": "redis",
    "nats://localhost:4222": "nats",
}
"""How programs name a server, and which one they get."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
FOREIGN = re.compile(r"(pip install|uv add|uv pip install)[^\n`]*?(?<![/\w-])omniq\b(?![-/])")
FILE = re.compile(r"# ([\w/]+\.\w+)\n")
RUN_SHELL = "import subprocess; print(end='', flush=True); subprocess.run(['bash', {0!r}], check=True, stdout={1})"


def blocks(page: Path, language: str) -> list[str]:
    """The texts of the page's blocks in that language."""
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == language]


def each_page(*languages: str) -> pytest.MarkDecorator:
    """Run the test for every page, or for every one with a block in one of these languages."""
    pages = [page for page in PAGES if not languages or any(blocks(page, language) for language in languages)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A block of a page."""

    language: str
    line: int
    """The number of its first line in the page, from 0."""
    text: str
    name: str | None
    """The file that it is, if it is one."""


def fenced(page: Path) -> list[Block]:
    """All blocks of a page."""
    text = page.read_text("utf-8")
    found = FENCE.finditer(text)
    return [Block(at[1], text.count("\n", 0, at.start(2)), at[2], _name(at[2])) for at in found]


def _name(text: str) -> str | None:
    return named[1] if (named := FILE.match(text)) else None


def program(page: Path) -> str:
    """The page's `python` and `sh` blocks, each line where it is in the page: a traceback tells its number there."""
    lines = [""] * (page.read_text("utf-8").count("\n") + 1)
    found = [block for block in fenced(page) if block.language in ("python", "sh", "output")]
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "python" and block.name is None:
            code = block.text.splitlines()
            lines[block.line : block.line + len(code)] = code
        elif block.language == "sh" and any(shell.commands(block.text)):
            shown = after is not None and after.language == "output"
            lines[block.line] = RUN_SHELL.format(_script_of(block), None if shown else subprocess.DEVNULL)
    return "\n".join(lines)


def _script_of(block: Block) -> str:
    return f"line-{block.line}.sh"


def files(page: Path) -> dict[str, str]:
    """The files of a page's program beside it: those that blocks are, and the `sh` blocks as scripts."""
    named = {block.name: block.text for block in fenced(page) if block.name is not None}
    return named | {_script_of(block): shell.script(block.text) for block in fenced(page) if block.language == "sh"}


@contextmanager
def with_servers(text: str) -> Iterator[dict[str, str]]:
    """The URLs of servers that run, by those that a text names."""
    with ExitStack() as running:
        yield {url: running.enter_context(place(name)).url for url, name in SERVERS.items() if url in text}


@pytest.fixture
def script(page: Path, tmp_path: Path) -> Iterator[Path]:
    """The page's program in a file, ready to be run."""
    texts = {f"{page.stem}.md.py": program(page), **files(page)}
    if page.is_relative_to(ROOT / "examples"):
        shutil.copytree(page.parent, tmp_path, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)
    with with_servers("".join(texts.values())) as servers:
        for name, text in texts.items():
            for url, running in servers.items():
                text = text.replace(url, running)
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")
        yield tmp_path / f"{page.stem}.md.py"


def environment() -> dict[str, str]:
    """The environment of a page's program: without any OMNIQ_ variable, and with `omniq` on the PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMNIQ_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}


@each_page("python", "sh", "output")
def test_the_programs_of_a_page_print_what_it_shows(page: Path, script: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", script.name]
    ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(blocks(page, "output"))


@each_page("py")
def test_the_code_of_a_page_that_is_not_run_is_python(page: Path) -> None:
    for text in blocks(page, "py"):
        compile(text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def test_what_is_not_run_is_there() -> None:
    """No reason outlives what it was given for."""
    lines = [line for page in PAGES for text in blocks(page, "sh") for line in shell.all_commands(text)]
    assert [pattern for pattern in shell.NOT_RUN if not any(re.search(pattern, line) for line in lines)] == []


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
    assert FOREIGN.search(page.read_text("utf-8")) is None


def test_the_readme_begins_with_the_quickstart_and_ends_with_the_tests() -> None:
    quickstart, *_, tests = blocks(ROOT / "README.md", "sh")
    assert quickstart.splitlines()[-1].endswith("uv run --no-dev python examples/quickstart/main.py")
    assert tests.splitlines()[-1].endswith("uv run pytest")
