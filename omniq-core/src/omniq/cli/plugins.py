"""`omniq plugins`: list, show and check plugins, write a store of one's own, and verify one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click
from msgspec.structs import asdict

from omniq.cli.app import FAILED, NOT_FOUND, CommandGroup, Failure
from omniq.cli.options import example, json_option
from omniq.cli.output import Cell, StatusLine, count, print_fields, print_json, print_table
from omniq.errors import PluginError
from omniq.exports import FIRST_PARTY, extras
from omniq.plugins.registry import capabilities, registry
from omniq.plugins.specs import STORES, PluginRecord, Spec, Status, StoreSpec
from omniq.texts import did_you_mean, escaped, escaped_block

if TYPE_CHECKING:
    from omniq.cli.doctor import Defect


# ── new ─────────────────────────────────────────────────────────────────────


MAX_LENGTH: Final = 20
"""So that no line of the template becomes too long."""
SUFFIXES: Final = (".md", ".py", ".toml", ".typed")
"""Of the template's files; Python and others leave caches beside them."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")


@click.command()
@click.argument("name")
@click.option(
    "--path",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="The directory in which it is made; this one by default.",
)
@click.option("--url-scheme", "scheme", metavar="SCHEME", help="Of the store's URLs; NAME by default.")
@example("omniq plugins new drawer")
def new(name: str, parent: Path, scheme: str | None) -> None:
    """Write a store of your own: a distribution omniq-NAME that works, and passes the conformance suite.

    It keeps its data in a file, by Python's own sqlite3. Its module `documents` says which calls are to be replaced
    by those of your driver.
    """
    _check_name(name)
    _check_scheme(scheme := name if scheme is None else scheme)
    target = parent / f"omniq-{name}"
    written = _write(target, _words(name, scheme))
    click.echo(f"wrote {target}:")
    for path in written:
        click.echo(f"  {path}")
    click.echo("\nnext:")
    for command in (
        f"pip install --editable {shlex.quote(f'{target}[test]')}",
        f"pytest {shlex.quote(str(target))}",
        f"omniq plugins doctor {name}",
        f"omniq plugins verify {name} --url {scheme}:///some/directory",
    ):
        click.echo(f"  {command}")


# ── names ────────────────────────────────────────────────────────────────────


def _check_name(name: str) -> None:
    """Raise `BadParameter` for what can't be the name of a store, and `Failure` if something else has it."""
    if _NAME.fullmatch(name) is None or len(name) > MAX_LENGTH or name.startswith("omniq-"):
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix("omniq-")
        guess = f", such as {better!r}" if _NAME.fullmatch(better) and len(better) <= MAX_LENGTH else ""
        rule = (
            f"up to {MAX_LENGTH} lower-case letters and digits, a letter first, single dashes between, no omniq- before"
        )
        raise click.BadParameter(f"{name!r} can't be a store's name: expected {rule}{guess}.")
    if owner := _owner_of(name) or _distribution_of(name):
        raise Failure(f"{name!r} is taken: {owner} has it; choose another name")


def _check_scheme(scheme: str) -> None:
    """Raise `BadParameter` for what can't be the scheme of a URL, and `Failure` if another store understands it."""
    if _SCHEME.fullmatch(scheme) is None:
        rule = "lower-case letters, digits, '+', '-' and '.', a letter first"
        raise click.BadParameter(f"{scheme!r} can't be the scheme of a URL: expected {rule}.")
    if owner := _owner_of(scheme):
        raise Failure(f"{scheme}:// is taken: {owner} has it; choose another one with --url-scheme")


def _owner_of(word: str) -> str | None:
    """Who has that name, alias or scheme of a store, or calls their plugin so."""
    for kind in STORES:
        if extra := extras(kind).get(word):
            return f"omniq-{extra}"
    for record in registry().plugins():
        stores = [spec for spec in record.specs if isinstance(spec, StoreSpec)]
        if word == record.name or any(word in (*spec.names, *spec.schemes) for spec in stores):
            return record.distribution
    return None


def _distribution_of(name: str) -> str | None:
    """What stands where the distribution, or its package, would be."""
    if name in {*FIRST_PARTY, "core"}:
        return f"omniq-{name}"
    package = _package(name)
    return f"the installed package {package}" if find_spec(package) is not None else None


def _package(name: str) -> str:
    return f"omniq_{name.replace('-', '_')}"


def rendered(text: str, name: str, scheme: str) -> str:
    """A text of the template, for a store of that name."""
    return _replaced(text, _words(name, scheme))


def _words(name: str, scheme: str) -> Mapping[str, str]:
    """What stands for the template's words; of two that fit, the first."""
    return {
        "omniq_shelf": _package(name),
        "shelf://": f"{scheme}://",
        'URL_SCHEMES = ("shelf",)': f'URL_SCHEMES = ("{scheme}",)',
        "Shelf": "".join(part.capitalize() for part in name.split("-")),
        "shelf": name,
    }


# ── files ────────────────────────────────────────────────────────────────────


def _write(target: Path, words: Mapping[str, str]) -> list[str]:
    """Write the distribution, whole or not at all; returns its files. Raises `Failure`."""
    if os.path.lexists(target):
        raise Failure(f"{target} is there already; nothing was written")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        written = sorted(
            _write_file(aside, path, text, words) for path, text in _template(files("omniq.cli") / "template")
        )
        aside.rename(target)
    except OSError as error:
        raise Failure(f"{target} can't be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def _template(directory: Traversable, above: str = "") -> Iterator[tuple[str, str]]:
    """The path and text of each file."""
    for found in directory.iterdir():
        path = f"{above}{found.name}"
        if found.is_dir() and not found.name.startswith((".", "_")):
            yield from _template(found, f"{path}/")
        elif found.name.endswith(SUFFIXES):
            yield path, found.read_text("utf-8")


def _write_file(directory: Path, path: str, text: str, words: Mapping[str, str]) -> str:
    path, text = _replaced(path, words), _replaced(text, words)
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return path


def _replaced(text: str, words: Mapping[str, str]) -> str:
    """In one pass: what a word was replaced by may hold another one."""
    return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)


# ── verify ──────────────────────────────────────────────────────────────────


@click.command()
@click.argument("name")
@click.option("--url", help="A place of its stores, where projects of random names are made and dropped.")
@click.option("--seconds", type=click.IntRange(1, 3600), default=15, show_default=True, help="Kill for so long.")
@click.option("--no-kill", is_flag=True, help="Leave the kill test out.")
@json_option
@example("omniq plugins verify sqlite --url sqlite:///tmp --seconds 5")
def verify(name: str, url: str | None, seconds: int, no_kill: bool, as_json: bool) -> None:
    """Run the conformance suite on a plugin's stores and workers; exit with 1 if anything fails.

    With stores, workers are killed, too. A plugin that has workers only needs no URL.
    """
    from omniq.testing.verify import UnknownPlugin, Wish, verify

    line = StatusLine()
    try:
        report = verify(Wish(name=name, url=url, seconds=seconds, kill=not no_kill), line.show)
    except UnknownPlugin as error:
        raise Failure(str(error), NOT_FOUND) from error
    finally:
        line.close()
    if as_json:
        print_json(report.data())
    else:
        click.echo(escaped_block(str(report)))
    if not report.ok:
        click.get_current_context().exit(FAILED)


# ── the commands ────────────────────────────────────────────────────────────


STATUSES: Final = get_args(Status)
COLUMNS: Final = ("NAME", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES", "ERROR")


@click.group(cls=CommandGroup)
def plugins() -> None:
    """List and check the installed plugins, or write a new one."""


plugins.add_command(new)


@plugins.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@json_option
@example("omniq plugins list --status active")
def list_(status: str | None, as_json: bool) -> None:
    """List the installed plugins, and what they provide."""
    records = [record for record in registry().plugins() if status in (None, record.status)]
    if as_json:
        print_json([_data(record) for record in records])
    else:
        print_table(COLUMNS, [_row(record) for record in records])


plugins.add_command(verify)


@plugins.command()
@click.argument("name")
@json_option
@example("omniq plugins show sqlite")
def show(name: str, as_json: bool) -> None:
    """Show all that is known of a plugin."""
    for record in _records(name):
        if as_json:
            print_json(_data(record))
        else:
            print_fields(_fields(record))


@plugins.command()
@click.argument("name", required=False)
@json_option
@example("omniq plugins doctor", "omniq plugins doctor sqlite --json")
def doctor(name: str | None, as_json: bool) -> None:
    """Look for defects in a plugin, or in all: what doesn't load, or isn't what it should be.

    Nothing is connected. Exits with 1 if there are any.
    """
    from omniq.cli.doctor import defects  # it imports the engine, which listing plugins doesn't pay for

    with redirect_stdout(sys.stderr):  # a plugin may print what would spoil the report
        found = [(record, list(defects(record))) for record in _records(name)]
    if as_json:
        print_json([{**_head(record, of_one), "defects": list(map(asdict, of_one))} for record, of_one in found])
    else:
        for record, of_one in found:
            verdict = _head(record, of_one)["verdict"]
            click.echo(escaped(f"{verdict:<8}  {record.name} ({record.distribution} {record.version})"))
            for defect in of_one:
                click.echo(escaped(f"          {defect}"))
    if number := sum(len(of_one) for _, of_one in found):
        raise Failure(f"{count(number, 'defect')} found")


def _head(record: PluginRecord, found: Sequence[Defect]) -> dict[str, str]:
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "verdict": "broken" if found else "ok" if record.status == "active" else record.status,
    }


def _records(name: str | None) -> list[PluginRecord]:
    """The plugins of that name, or all of them. Raises `Failure`."""
    known = registry().plugins()
    found = [record for record in known if name is None or record.name == name]
    if found:
        return found
    raise Failure(f"there is no plugin {name!r}{did_you_mean(str(name), (r.name for r in known))}", NOT_FOUND)


def _row(record: PluginRecord) -> tuple[Cell, ...]:
    return record.name, record.distribution, record.version, record.status, _provides(record), record.error


def _provides(record: PluginRecord) -> str:
    return ", ".join(f"{spec.title()} {spec.name}" for spec in record.specs)


def _fields(record: PluginRecord) -> Iterator[tuple[str, Cell]]:
    yield "name", record.name
    yield "distribution", f"{record.distribution} {record.version}"
    yield "module", record.value
    yield "status", record.status
    if record.error:
        yield "error", record.error
    for spec in record.specs:
        yield spec.title(), _describe(spec)
        for field in spec.imports:
            yield f"  {field}", getattr(spec, field)


def _describe(spec: Spec) -> str:
    parts = [", ".join(spec.names)]
    if spec.schemes:
        parts.append(" ".join(f"{scheme}://" for scheme in spec.schemes))
    if isinstance(spec, StoreSpec):
        parts.append(_capabilities(spec))
    return "; ".join(part for part in parts if part)


def _capabilities(spec: StoreSpec) -> str:
    """What its class declares, or why it can't be asked: it may want a driver that isn't there."""
    try:
        return ", ".join(sorted(capabilities(spec)))
    except PluginError as error:
        return str(error)


def _data(record: PluginRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "module": record.value,
        "status": record.status,
        "error": record.error,
        "provides": [{"kind": spec.kind, **asdict(spec)} for spec in record.specs],
    }
