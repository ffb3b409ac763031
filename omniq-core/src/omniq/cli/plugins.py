"""`omniq plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click
from msgspec.structs import asdict

from omniq.cli.app import COMMANDS, NOT_FOUND, CommandGroup, Failure, load_command
from omniq.cli.options import json_option
from omniq.cli.output import Cell, count, print_fields, print_json, print_table
from omniq.cli.verify import verify
from omniq.errors import PluginError
from omniq.plugins.registry import capabilities, load_object, registry
from omniq.plugins.specs import CommandSpec, PluginRecord, Spec, StoreSpec
from omniq.texts import did_you_mean, escaped

COLUMNS: Final = ("NAME", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES", "ERROR")
IMPORTS: Final = ("store", "config", "worker_class")
"""The fields of specs that hold import strings."""


@click.group(cls=CommandGroup)
def plugins() -> None:
    """List and check the installed plugins."""


@plugins.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the installed plugins, and what they provide."""
    records = registry().plugins()
    if as_json:
        print_json([_data(record) for record in records])
    else:
        print_table(COLUMNS, [_row(record) for record in records])


plugins.add_command(verify)


@plugins.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show all that is known of a plugin."""
    records = [record for record in registry().plugins() if record.name == name]
    if not records:
        known = (record.name for record in registry().plugins())
        raise Failure(f"there is no plugin {name!r}{did_you_mean(name, known)}", NOT_FOUND)
    for record in records:
        if as_json:
            print_json(_data(record))
        else:
            print_fields(_fields(record))


@plugins.command()
def doctor() -> None:
    """Check that every plugin loads, with everything that it provides; exit with 1 if one doesn't."""
    broken = 0
    for record in registry().plugins():
        problems = list(_problems(record))
        broken += bool(problems)
        verdict = "broken" if problems else "ok" if record.status == "active" else record.status
        click.echo(escaped(f"{verdict:<8}  {record.name} ({record.distribution} {record.version})"))
        for problem in problems:
            click.echo(escaped(f"          {problem}"))
    if broken:
        raise Failure(f"{count(broken, 'plugin')} can't be used, or not in full")


def _problems(record: PluginRecord) -> Iterator[str]:
    if record.status in ("broken", "incompatible", "conflict"):
        yield f"{record.status}: {record.error}"
    elif record.status == "active":
        for spec in record.specs:
            yield from _command_defects(spec) if isinstance(spec, CommandSpec) else _defects(spec)


def _defects(spec: Spec) -> Iterator[str]:
    """What can't be imported of all that a spec promises, often for want of a driver."""
    for path in _imports(spec):
        try:
            load_object(path)
        except PluginError as error:
            yield str(error)


def _command_defects(spec: CommandSpec) -> Iterator[str]:
    if spec.name in {own.name for own in COMMANDS}:
        yield f"its command {spec.name!r} is hidden by OmniQ's own"
    try:
        load_command(spec)
    except PluginError as error:
        yield str(error)


def _imports(spec: Spec) -> Iterator[str]:
    for field in IMPORTS:
        if path := getattr(spec, field, None):
            yield path


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
