"""`omniq plugins verify`."""

from __future__ import annotations

import sys

import click

from omniq.cli.app import FAILED, NOT_FOUND, Failure
from omniq.cli.options import json_option
from omniq.cli.output import print_json
from omniq.texts import escaped_block

WIDTH = 60


@click.command()
@click.argument("name")
@click.option("--url", required=True, help="A place, where projects of random names are made and dropped.")
@click.option("--seconds", type=click.FloatRange(1), default=15, show_default=True, help="Kill for so long.")
@click.option("--no-kill", is_flag=True, help="Leave the kill test out.")
@json_option
def verify(name: str, url: str, seconds: float, no_kill: bool, as_json: bool) -> None:
    """Run the conformance suite on a plugin's stores, and kill workers; exit with 1 if anything fails."""
    from omniq.testing.verify import UnknownPlugin, Wish, verify

    try:
        report = verify(Wish(name=name, url=url, seconds=seconds, kill=not no_kill), show_progress)
    except UnknownPlugin as error:
        raise Failure(str(error), NOT_FOUND) from error
    if as_json:
        print_json(report.data())
    else:
        click.echo(escaped_block(str(report)))
    if not report.ok:
        click.get_current_context().exit(FAILED)


def show_progress(text: str) -> None:
    """Show how far it is, on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{text[:WIDTH].ljust(WIDTH)}" + ("" if text else "\r"), nl=False, err=True)
