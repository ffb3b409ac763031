"""The page about stores says what is true: its code is the example's, which passes; its tables leave nothing out."""

from __future__ import annotations

import inspect
import re
from importlib.resources import files
from pathlib import Path

import pytest
from msgspec.structs import fields
from omniq.cli.plugins import rendered
from omniq.plugins import CommandSpec, EventStoreSpec, ResultStoreSpec, TaskQueueSpec, WorkerSpec, hookspecs
from omniq.plugins.specs import Spec
from omniq.storage import rules
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue, Capability, Guarantees, Store
from omniq.storage.documents import Documents
from omniq.testing.conformance import BackendConformance

from tests.core.plugin_sites import install, omniq
from tests.docs.test_readme import ROOT, blocks

PAGE = ROOT / "docs" / "plugins.md"
EXAMPLE = ROOT / "examples" / "omniq-lmdb"
WORKER = ROOT / "examples" / "omniq-inline"
TEXT = PAGE.read_text("utf-8")
NAMED = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block of code below the name of its file."""
SPECS = {
    TaskQueueSpec: "`TaskQueueSpec`, `ResultStoreSpec`, `EventStoreSpec`:",
    ResultStoreSpec: "`TaskQueueSpec`, `ResultStoreSpec`, `EventStoreSpec`:",
    EventStoreSpec: "`TaskQueueSpec`, `ResultStoreSpec`, `EventStoreSpec`:",
    WorkerSpec: "`WorkerSpec`:",
    CommandSpec: "`CommandSpec`:",
}
"""Below which line each has its table."""


def code(file: str) -> str:
    """What the page shows of a file, its blocks one after the other, without empty lines."""
    shown = [text for name, text in NAMED.findall(TEXT) if name == file]
    assert shown, f"the page shows nothing of {file}"
    return without_empty_lines("".join(shown))


def without_empty_lines(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if line.strip())


def table(title: str) -> list[str]:
    """The words of the first column of the first table that comes after a title."""
    lines = TEXT[TEXT.index(title) :].splitlines()[1:]
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = lines[start + 2 : lines.index("", start)]
    return [word for row in rows for word in re.findall(r"`(\w+)", row.split("|")[1])]


# ── the code ─────────────────────────────────────────────────────────────────

SHOWN = sorted(path.name for path in (EXAMPLE / "src" / "omniq_lmdb").glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("module", SHOWN)
def test_the_example_stands_on_the_page_in_full(module: str) -> None:
    file = EXAMPLE / "src" / "omniq_lmdb" / module
    assert code(f"omniq_lmdb/{module}") == without_empty_lines(file.read_text("utf-8"))


@pytest.mark.parametrize("module", ["worker", "plugin"])
def test_the_worker_of_the_page_is_the_examples_in_full(module: str) -> None:
    """Which passes the suite (`tests/conformance/test_verify_workers.py`)."""
    file = WORKER / "src" / "omniq_inline" / f"{module}.py"
    assert code(f"omniq_inline/{module}.py") == without_empty_lines(file.read_text("utf-8"))
    test = (WORKER / "tests" / "test_worker.py").read_text("utf-8")
    assert code("omniq-inline/tests/test_worker.py") == without_empty_lines(test)


def test_so_does_what_makes_a_distribution_of_it() -> None:
    assert code("pyproject.toml") == without_empty_lines((EXAMPLE / "pyproject.toml").read_text("utf-8"))


def test_the_test_is_the_one_that_is_written_for_every_store() -> None:
    written = (files("omniq.cli") / "template" / "tests" / "test_conformance.py").read_text("utf-8")
    test = (EXAMPLE / "tests" / "test_conformance.py").read_text("utf-8")
    assert test == rendered(written, "lmdb", "lmdb")
    assert code("tests/test_conformance.py") == without_empty_lines(test)


def test_no_block_of_code_is_without_its_file() -> None:
    named = [text for _, text in NAMED.findall(TEXT)]
    assert [text for language in ("py", "toml") for text in blocks(PAGE, language) if text not in named] == []


def test_the_worker_and_the_command_of_the_page_work(tmp_path: Path) -> None:
    modules = {name: code(f"acme_night/{name}.py") for name in ("workers", "commands")}
    install(tmp_path, "night", code("acme_night/plugin.py"), **modules)
    assert omniq(tmp_path, "plugins", "doctor", "night").stdout == "ok        night (acme-night 1.2)\n"
    added = omniq(tmp_path, "enqueue", "math:sqrt", "--args", "[16]")
    assert added.returncode == 0, added.stderr
    assert omniq(tmp_path, "depth").stdout == "default: 1\n"
    assert omniq(tmp_path, "worker", "--type", "nightly", "--burst").returncode == 0
    assert omniq(tmp_path, "result", added.stdout.strip()).stdout == "4.0\n"


# ── the tables ───────────────────────────────────────────────────────────────


def test_every_hook_has_its_row() -> None:
    hooks = [name for name, value in vars(hookspecs).items() if hasattr(value, "omniq_spec")]
    assert table("Hooks are plain functions") == hooks


@pytest.mark.parametrize("spec", SPECS)
def test_every_field_of_a_spec_has_its_row(spec: type[Spec]) -> None:
    assert sorted(table(SPECS[spec])) == sorted(field.name for field in fields(spec))


def test_every_capability_and_every_guarantee_has_its_row() -> None:
    assert table("### Capabilities") == [capability.name for capability in Capability]
    assert table("### Guarantees") == list(Guarantees.__struct_fields__)


CONTRACTS = (BaseTaskQueue, BaseResultStorage, BaseEventStorage)


def verbs(contract: type) -> set[str]:
    return {name for name, value in vars(contract).items() if inspect.isfunction(value) and name[0] != "_"}


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_verb_has_its_row_which_says_whether_it_may_be_left_out(contract: type[Store]) -> None:
    title = f"`{contract.__name__}`:"
    assert set(table(title)) == verbs(contract)
    rows = TEXT[TEXT.index(title) :].split("\n\n")[1]
    optional = set(re.findall(r"^\| `(\w+)` \(optional\)", rows, re.MULTILINE))
    assert optional == verbs(contract) - contract.__abstractmethods__


def test_the_rules_that_the_page_names_are_there() -> None:
    paragraph = TEXT[TEXT.index("The rules decide") :].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", paragraph))
    contract = set().union(*map(verbs, CONTRACTS))
    assert named == {name for name in named if name in contract or callable(getattr(rules, name, None))}
    assert named - contract


def test_every_primitive_has_its_row() -> None:
    assert set(table("## The document kit")) == verbs(Documents)


def test_what_can_be_overridden_of_the_suite_has_its_row() -> None:
    own = {name for name in vars(BackendConformance) if name[0] != "_" and not name.lower().startswith("test")}
    assert set(table("These parts of")) == own - {"opener"} | {"deviations"}
