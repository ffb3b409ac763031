"""How the code is laid out: no circles, few and full modules, and one place for what OmniQ's own stores are called."""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import omniq
import pytest

grimp = pytest.importorskip("grimp", reason="it comes with import-linter")

CORE = Path(omniq.__file__).parent
PACKAGES = ("omniq", "omniq_gevent", "omniq_postgres", "omniq_redis", "omniq_sqlite")
STORES = ("nats", "postgres", "redis")
"""First-party stores, none of which is core's default."""


def folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def sources(package: str) -> list[Path]:
    """Its modules; the files of `omniq plugins new` aren't modules of core."""
    return sorted(path for path in folder(package).rglob("*.py") if "template" not in path.parts)


@cache
def graph() -> Any:
    """Who imports whom, for type checkers as well."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    own = {module for module in graph().modules if module.partition(".")[0] == package}
    imports = {module: graph().find_modules_directly_imported_by(module) & own for module in own}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_core_has_few_modules() -> None:
    assert len(sources("omniq")) <= 170


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_and_no_function_is_long(package: str) -> None:
    long = [
        f"{path}: {lines}" for path in sources(package) if (lines := len(path.read_text().splitlines())) > most(path)
    ]
    long += [f"{path}: {name}: {lines}" for path in sources(package) for name, lines in functions(path) if lines > 40]
    assert long == []


def most(path: Path) -> int:
    """Lines of a module: what is a list, as the requirements of the suite and its tasks are, may be longer."""
    return 660 if {"conformance", "reference"} & {*path.parts} or path.stem.endswith("_tasks") else 500


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a module, and how many lines each has without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            yield node.name, (node.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("store", STORES)
def test_a_new_first_party_store_edits_two_files_of_core(store: str) -> None:
    """Core names a store of its own in the table of `omniq.exports` and in the extras of its distribution."""
    named = {path.relative_to(CORE).as_posix() for path in sources("omniq") if names(path, store)}
    assert named == {"exports.py"}
    assert f"omniq-{store}" in (CORE.parents[1] / "pyproject.toml").read_text()


def names(path: Path, store: str) -> list[str]:
    """Where a module's code, and not its prose, names the store."""
    found = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    code = (token.string for token in found if token.type in (tokenize.NAME, tokenize.STRING))
    word = re.compile(rf"(?i)(?<![a-z]){store}(?![a-z])|{store.capitalize()}|{store.upper()}")
    return [text for text in code if not text.startswith('"""') and word.search(text)]
