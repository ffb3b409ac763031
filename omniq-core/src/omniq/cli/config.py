"""`omniq config` and `omniq check`: the configuration, its schema, and whether the stores keep what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from omniq.cli.app import FAILED, CommandGroup
from omniq.cli.options import Place, example, json_option, placed
from omniq.cli.output import Cell, print_json, print_table, say, value_text

if TYPE_CHECKING:
    from omniq.config.described import Value
    from omniq.core import AsyncOmniQ
    from omniq.status import Finding

VALUE_COLUMNS: Final = ("SETTING", "VALUE", "FROM")
FINDING_COLUMNS: Final = ("ANSWER", "ABOUT", "REASON")


@click.group(cls=CommandGroup)
def config() -> None:
    """Show the configuration as it holds, and the schema of its file."""


@config.command()
@example("omniq config schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    It has what the installed stores and workers take, those of plugins too. An editor completes and checks a file with
    it that begins with: # yaml-language-server: $schema=omniq.schema.json
    """
    from omniq.config.described import schema as schema_of_file

    print_json(schema_of_file())


@config.command()
@json_option
@example("omniq config show", "OMNIQ_MAX_WORKERS=4 omniq config show --json")
@placed
def show(place: Place, as_json: bool) -> None:
    """Show each value of the configuration, and where it comes from.

    An argument is an option of this command. Secrets are masked.
    """
    from omniq.config.described import values

    found = values(place.provider, **place.arguments)
    places = dict(_locations(place.open(shared=False)))
    if as_json:
        print_json({"values": [_data(value) for value in found], "stores": places})
        return
    print_table(VALUE_COLUMNS, [_row(value) for value in found])
    click.echo()
    print_table(("KEEPS", "STORE"), list(places.items()))


def _row(value: Value) -> tuple[Cell, ...]:
    return value.path, value_text(_plain(value.shown)), value.origin


def _data(value: Value) -> dict[str, Any]:
    return {"path": value.path, "value": _plain(value.shown), "from": value.origin}


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    import msgspec

    return msgspec.to_builtins(value, enc_hook=str)


def _locations(oq: AsyncOmniQ) -> Iterator[tuple[str, str]]:
    yield "tasks", oq.task_queue.store.location
    yield "results", oq.result_store.store.location
    if oq.event_store is not None:
        yield "events", oq.event_store.store.location


# ── check ───────────────────────────────────────────────────────────────────


REQUIREMENTS: Final = {
    "process-kill": "survives_process_kill",
    "power-loss": "survives_power_loss",
    "failover": "survives_failover",
    "push": "push",
    "atomic-results": "atomic_results",
}
"""What may be required of the stores, and the fields of `Guarantees` that tell of it."""


@click.command()
@click.option(
    "--require",
    type=click.Choice(list(REQUIREMENTS)),
    multiple=True,
    help="Ask for this guarantee too; may be repeated.",
)
@json_option
@example("omniq check", "omniq check --require process-kill --json")
@placed
def check(place: Place, require: Sequence[str], as_json: bool) -> None:
    """Tell whether this configuration can be relied on: yes or no, with reasons.

    It connects to all stores, and compares what the configuration asks for with what they guarantee just now.

    Exit codes: 0 yes; 1 no: a store can't be reached, or something that is asked for isn't guaranteed; 2 the
    configuration is wrong.
    """
    findings = _find(place, [REQUIREMENTS[name] for name in require])
    answer = not any(finding.is_problem for finding in findings)
    if as_json:
        print_json({"ok": answer, "findings": findings})
    else:
        print_table(FINDING_COLUMNS, [(finding.answer, finding.about, finding.reason) for finding in findings])
        say("yes: the stores keep what the configuration asks for" if answer else "no: see the reasons above")
    click.get_current_context().exit(0 if answer else FAILED)


def _find(place: Place, required: Sequence[str]) -> list[Finding]:
    from omniq.status import check_of

    async def main() -> list[Finding]:
        oq = place.open(shared=False)
        try:
            return await check_of(oq.config, oq.task_queue, oq.event_store, required)
        finally:
            await oq.close()

    place.set_up_logging()
    return asyncio.run(main())
