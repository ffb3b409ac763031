"""Hooks of mkdocs: what a page links to in the repository becomes part of the site, so that no link leads out of it.

Pages of `docs/` link to others beside it, as `../README.md` or a program among the examples: those become pages
of the site under `repository/`, and so does what they link to in turn. At the end the site is looked through: it must
have each name of the API, and ask no other host for anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
FENCED: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
LOADED: Final = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)|url\((https?:[^)]+)\)"
)

# ── the pages from beside docs/ ──────────────────────────────────────────────


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of `docs/`."""
    seen = {DOCS / file.src_uri for file in files.documentation_pages()}
    todo = sorted(seen)
    while todo:
        for target in set(_targets(todo.pop())) - seen:
            seen.add(target)
            files.append(File.generated(config, _place(target), content=_page(target)))
            if target.suffix == ".md":
                todo.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to where the files are in the site."""
    uri = page.file.src_uri
    source = ROOT / uri.removeprefix("repository/") if uri.startswith("repository/") else DOCS / uri
    if source.suffix != ".md" or not source.exists():  # a page that shows a program
        return markdown

    def moved(link: re.Match[str]) -> str:
        target = _target(source, link[1])
        return link[1] if target is None else os.path.relpath(_place(target), os.path.dirname(uri))

    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in FENCED.split(markdown))


def _targets(page: Path) -> Iterator[Path]:
    """The files outside of `docs/` to which a page links."""
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        target = _target(page, link)
        if target is not None and not target.is_relative_to(DOCS):
            yield target


def _target(page: Path, link: str) -> Path | None:
    """The file to which a link leads, a folder's own page if it is one; None if there is none."""
    target = Path(os.path.normpath(page.parent / link))
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(ROOT) else None


def _place(target: Path) -> str:
    """Where a file is in the site's tree of pages."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    place = f"repository/{target.relative_to(ROOT).as_posix()}"
    return place if target.suffix == ".md" else f"{place}.md"


def _page(target: Path) -> str:
    """A page as it is; of a program, a page that shows it."""
    text = target.read_text("utf-8")
    if target.suffix == ".md":
        return text
    return f"# {target.relative_to(ROOT).as_posix()}\n\n````{target.suffix[1:]}\n{text}````\n"


# ── whether the site is whole ────────────────────────────────────────────────


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that lacks a public name, or loads something from elsewhere."""
    site = Path(config.site_dir)
    missing = sorted(set(config.extra["api"]) - _anchors(site / "api"))
    loads = sorted({f"{path.name}: {url}" for path in site.rglob("*.html") for url in loaded(path)})
    if missing or loads:
        raise PluginError(f"not on the API's pages: {missing}; loaded from elsewhere: {loads}")


def _anchors(folder: Path) -> set[str]:
    texts = (path.read_text("utf-8") for path in folder.glob("*.html"))
    return {anchor for text in texts for anchor in re.findall(r'id="(omniq[\w.]*)"', text)}


def loaded(page: Path) -> list[str]:
    """The URLs on other hosts from which a page loads something."""
    return [first or second for first, second in LOADED.findall(page.read_text("utf-8"))]
