"""Hooks of mkdocs: the API's pages, one for each public module, with all names that it exports.

A name is described where it is exported first; where it is exported again, a link leads there. What the stores' own
distributions bring is on a page of its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parent.parent
MODULES: Final = (
    "models",
    "queue",
    "storage",
    "backend",
    "workers",
    "events",
    "config",
    "errors",
    "testing",
    "plugins",
)
"""Of `omniq`, in the order of their pages."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and note which names they must have."""
    config.extra["api"] = names()
    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def pages() -> dict[str, str]:
    """The text of each page, by its place."""
    told: dict[str, str] = {}
    texts = {"api/omniq.md": _page("omniq", told)}
    texts |= {f"api/{name}.md": _page(f"omniq.{name}", told) for name in MODULES}
    return texts | {"api/stores.md": _stores()}


def _page(module: str, told: dict[str, str]) -> str:
    """The page of a module; `told` are the names that others have described, and where, and grows."""
    here = exported(module)
    first = [path for path in here if path not in told]
    again = [path for path in here if path in told]
    told.update(dict.fromkeys(first, module))
    found = loaded()[module]
    docstring = found.docstring.value.split("\n\n")[0] if found.docstring else ""
    lines = [f"# {module}", "", docstring, ""]
    if again:
        lines += [f"Also here: {', '.join(f'[`{_last(path)}`][{path}] of `{told[path]}`' for path in again)}.", ""]
    return "\n".join([*lines, *_directives(first)])


def _stores() -> str:
    """The page of all that OmniQ's own stores bring."""
    lines = [
        "# Stores",
        "",
        "What is imported from `omniq.queue`, `omniq.storage`, `omniq.backend` and `omniq.models`, by its store.",
        "",
    ]
    for name in distributions():
        of_it = [path for path in store_names() if path.startswith(f"{name}.")]
        lines += [f"## {name.replace('_', '-')}", "", *_directives(of_it, 3, "inherited_members: false")]
    return "\n".join(lines)


def _directives(paths: list[str], level: int = 2, *options: str) -> list[str]:
    said = [f"      {option}" for option in (f"heading_level: {level}", *options)]
    return [line for path in paths for line in (f"::: {path}", "    options:", *said, "")]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


# ── what is exported ─────────────────────────────────────────────────────────


def distributions() -> list[str]:
    """The packages of OmniQ's own distributions beside the core."""
    return sorted({path.partition(".")[0] for path in store_names()})


def store_names() -> list[str]:
    """The paths of all names that the stores' distributions bring, as `omniq.exports` has them."""
    return sorted(path for path in _exports("omniq.exports") if not path.startswith("omniq."))


def exported(module: str) -> list[str]:
    """The paths of all that a module of the core exports, where it is defined: what its `__all__` names; or what it
    imports under a public name (`from x import A as A`); or if there is neither, its own classes and functions.
    """
    return [path for path in _exports(module) if path.startswith("omniq.")]


@cache
def _exports(module: str) -> tuple[str, ...]:
    found = loaded()[module]
    members = {name: member for name, member in found.members.items() if not name.startswith("_")}
    if found.exports:
        chosen = [members[str(name)] for name in found.exports if str(name) in members]
    else:
        chosen = [each for each in members.values() if isinstance(each, griffe.Alias) and _is_exported(found, each)]
    own = [each for each in members.values() if not each.is_alias and (each.is_class or each.is_function)]
    return tuple(dict.fromkeys(_home(each) for each in chosen or own))


def _home(member: griffe.Object | griffe.Alias) -> str:
    """Where it is defined. A function that is called as its module is hidden behind that."""
    target = member.final_target if isinstance(member, griffe.Alias) else member
    return f"{target.path}.{member.name}" if target.is_module else target.path


def _is_exported(module: griffe.Object | griffe.Alias, alias: griffe.Alias) -> bool:
    said = f"import {_last(alias.target_path)} as {alias.name}"
    return alias.target_path.startswith("omniq") and any(said in line for line in module.lines)


@cache
def loaded() -> griffe.ModulesCollection:
    """All packages, read and not imported, with what facades wrap as methods."""
    folders = sorted(ROOT.glob("omniq-*/src"))
    facades = griffe.load_extensions(str(ROOT / "scripts" / "facades.py"))
    loader = griffe.GriffeLoader(search_paths=[str(folder) for folder in folders], extensions=facades)
    for folder in folders:
        for package in folder.glob("omniq*/__init__.py"):
            loader.load(package.parent.name)
    return loader.modules_collection


def names() -> list[str]:
    """The paths of all names that the pages have."""
    modules = ("omniq", *(f"omniq.{name}" for name in MODULES))
    return [*(path for module in modules for path in exported(module)), *store_names()]
