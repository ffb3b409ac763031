"""A function and its arguments, as they are written on a command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from omniq.errors import FunctionNotFound
from omniq.suggest import did_you_mean

if TYPE_CHECKING:
    from omniq.serialization.functions import Function
    from omniq.serialization.manager import SerializationManager

Arguments: TypeAlias = dict[str, Any] | list[Any]
"""Keyword arguments, or positional ones."""


def parse_value(text: str) -> object:
    """JSON, or else the text itself: `3` is a number, `true` a truth value, `Tom` a text."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def parse_pairs(ctx: click.Context, param: click.Parameter, pairs: Sequence[str]) -> dict[str, Any] | None:
    """`key=value …` as a dict; None where there are none."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} isn't of the form key=value.", ctx, param)
        if key in parsed:
            raise click.BadParameter(f"{key!r} is given twice.", ctx, param)
        parsed[key] = parse_value(value)
    return parsed or None


def parse_arguments(ctx: click.Context, param: click.Parameter, text: str | None) -> Arguments | None:
    """A JSON list or object."""
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it isn't JSON: {error}.", ctx, param) from None
    if not isinstance(parsed, dict | list):
        raise click.BadParameter('expected a JSON list or object, such as [1, 2] or {"name": "Tom"}.', ctx, param)
    return parsed


def parse_reference(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """A reference to a function, if it has the form of one."""
    if ":" in text:
        return text
    module, _, name = text.rpartition(".")
    hint = f", did you mean {module}:{name}?" if module else ", such as myapp.tasks:send."
    raise click.BadParameter(f"{text!r} isn't of the form module:function{hint}", ctx, param)


def find_function(serialization: SerializationManager, reference: str) -> Function:
    """The function, imported as a worker would. Raises `FunctionNotFound`, with a guess at what was meant."""
    try:
        return serialization.resolve(reference)
    except FunctionNotFound as error:
        raise FunctionNotFound(f"{error}{_guess(reference)}") from error.__cause__


def _guess(reference: str) -> str:
    name, _, attribute = reference.partition(":")
    module = sys.modules.get(name)
    if module is None or hasattr(module, attribute):
        return ""
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
    return did_you_mean(attribute, own)
