"""`omniq plugins`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click
from msgspec.structs import asdict

from omniq.cli.app import NOT_FOUND, CommandGroup, Failure
from omniq.cli.options import json_option
from omniq.cli.output import Cell, count, print_fields, print_json, print_table
from omniq.cli.scaffold import new
from omniq.cli.verify import verify
from omniq.errors import PluginError
from omniq.plugins.registry import capabilities, registry
from omniq.plugins.specs import PluginRecord, Spec, StoreSpec
from omniq.texts import did_you_mean, escaped

if TYPE_CHECKING:
    from omniq.cli.defects import Defect

COLUMNS: Final = ("NAME", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES", "ERROR")


@click.group(cls=CommandGroup)
def plugins() -> None:
    """List and check the installed plugins, or write a new one."""


plugins.add_command(new)


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
    for record in _records(name):
        if as_json:
            print_json(_data(record))
        else:
            print_fields(_fields(record))


@plugins.command()
@click.argument("name", required=False)
@json_option
def doctor(name: str | None, as_json: bool) -> None:
    """Look for defects in a plugin, or in all: what doesn't load, or isn't what it should be.

    Nothing is connected. Exits with 1 if there are any.
    """
    from omniq.cli.defects import defects  # it imports the engine, which listing plugins doesn't pay for

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
