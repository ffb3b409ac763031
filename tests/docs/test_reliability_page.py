"""The page on reliability: its commands exist and select tests, and its tables say what the stores' pages say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from omniq.testing.conformance import requirements

from tests.docs.test_readme import ROOT
from tests.docs.test_store_pages import CONFIGS, rows, section

TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
COMMANDS = re.findall(r"`((?:pytest|python -m) [^`]+)`", TEXT)
PROGRAMS = [command for command in COMMANDS if command.startswith("python -m")]
PARTS = re.findall(r"`-k (\w+)`", TEXT)
NO_OPTION = "--no-such-option"


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_program_takes_its_options(command: str) -> None:
    """All of them, but for one that doesn't exist, of which it complains before it does anything."""
    ran = subprocess.run(
        [sys.executable, *command.split()[1:], NO_OPTION], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.endswith(f"error: unrecognized arguments: {NO_OPTION}\n")


def selections() -> list[tuple[list[str], str]]:
    """The paths of each command of pytest, and the words of its -k."""
    found = []
    for command in COMMANDS:
        if command.startswith("pytest"):
            words = shlex.split(command)[1:]
            at = words.index("-k") if "-k" in words else len(words)
            found.append((words[:at], " ".join(words[at + 1 :])))
    return found


def test_each_command_of_pytest_selects_tests() -> None:
    paths = sorted({path for paths, _ in selections() for path in paths})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", *paths]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    tests = [line for line in ran.stdout.splitlines() if "::" in line]
    for paths, words in selections():
        for path in paths:
            assert any(test.startswith(path) for test in tests), path
        chosen = [test for test in tests if test.startswith(tuple(paths))]
        for word in words.split(" or "):
            assert any(word in test for test in chosen), (paths, word)
    suites = [test for test in tests if "test_conformance.py" in test]
    assert PARTS
    assert [part for part in PARTS if not any(f"::{part}::" in test for test in suites)] == []


def test_the_suite_has_as_many_requirements() -> None:
    assert f"has {len(requirements())} requirements" in TEXT


def test_what_a_store_keeps_is_what_its_page_says() -> None:
    heading, *table = [row for row in rows(TEXT) if len(row) == len(CONFIGS) + 1]
    names = [cell.split()[0].lower().replace("postgresql", "postgres") for cell in heading[1:]]
    assert sorted(names) == sorted(CONFIGS)
    told = {row[0].split("`")[1]: dict(zip(names, row[1:], strict=True)) for row in table}
    for name in names:
        promises, *_ = section(name, "What it guarantees").split("\n### ")
        page = {verb.strip("`"): holds for _, verb, holds, _ in rows(promises)[1:]}
        assert {verb: cells[name] for verb, cells in told.items()} == page
