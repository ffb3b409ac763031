"""The hooks that build the site: it has every public name, methods where facades have them, and loads nothing.

The site itself is built by CI, with warnings as errors; that takes as long as all of these tests.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe", reason="what builds the site isn't installed")
pytest.importorskip("mkdocs", reason="what builds the site isn't installed")

from scripts import api_pages, site_pages  # noqa: E402
from scripts.facades import Facades  # noqa: E402
from tests.docs.test_readme import ROOT  # noqa: E402

PACKAGES = ("omniq", *(f"omniq.{name}" for name in ("models", "queue", "storage", "workers", "events", "config")))
"""Modules that export names and define none."""
OF_THE_MODULE = {"TYPE_CHECKING", "annotations", "lazy", "exports"}


@pytest.mark.parametrize("module", PACKAGES)
def test_all_that_a_module_offers_is_on_the_pages(module: str) -> None:
    offered = import_module(module)
    names = {name for name in dir(offered) if name[0] not in "_@"} - OF_THE_MODULE
    own = {name for name in names if hasattr(offered, name) and not hasattr(getattr(offered, name), "__path__")}
    modules = {path.stem for path in Path(str(offered.__file__)).parent.iterdir()}
    told = {path.rpartition(".")[2] for path in api_pages.names()}
    renamed = {"EventStore", "ResultStore"}
    assert own - modules - renamed - told == set()


def test_each_public_name_is_described_once() -> None:
    texts = "\n".join(api_pages.pages().values())
    for path in api_pages.names():
        assert texts.count(f"::: {path}\n") == 1, path


def test_a_facade_has_methods_that_block() -> None:
    loader = griffe.GriffeLoader(
        search_paths=[str(ROOT / "omniq-core" / "src")], extensions=griffe.load_extensions(Facades)
    )
    core = loader.load("omniq")["core"]
    for name in ("enqueue", "get_result", "list_tasks"):
        blocking, awaited = core["OmniQ"][name], core["AsyncOmniQ"][name]
        assert (blocking.is_function, "async" in blocking.labels, "async" in awaited.labels) == (True, False, True)
        assert blocking.docstring.value == awaited.docstring.value
        assert blocking.parameters == awaited.parameters


@pytest.mark.parametrize(
    ("html", "loads"),
    [
        ('<script src="https://example.org/a.js"></script>', ["https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', ["//fonts.example.org/css"]),
        ("<style>a { background: url(https://example.org/a.png) }</style>", ["https://example.org/a.png"]),
        ('<img src="pictures/a.svg"><a href="https://example.org">there</a>', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(html: str, loads: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html, "utf-8")
    assert site_pages.loaded(page) == loads
