"""The one place where untyped data becomes typed: `msgspec.convert`, with errors that name the path."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from omniq.config.bounds import check_bounds
from omniq.errors import ConfigError
from omniq.models.config import NAME, NOT_BLANK
from omniq.models.redaction import mask_url
from omniq.suggest import did_you_mean

T = TypeVar("T")

_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_OWN_PATH = re.compile(r"\w+: ")


def convert(data: object, type_: type[T], where: str = "", *, strict: bool = True) -> T:
    """The data as that type. Raises `ConfigError`, such as `where.port: expected int, got str`.

    `where` is the path of the data itself. Values aren't shown, unless one of a few words is expected. What contains
    itself, or stands for more than it should, is refused too.
    """
    check_bounds(data, where)
    try:
        return msgspec.convert(_plain(data), type_, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(mask_url(describe(str(error), type_, where))) from None


def _plain(data: object) -> object:
    """Paths as text and durations as seconds, also as the values of a mapping: what arguments may be."""
    if isinstance(data, Mapping):
        return {key: _plain(value) if not isinstance(value, Mapping) else value for key, value in data.items()}
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    return data.total_seconds() if isinstance(data, dt.timedelta) else data


def describe(message: str, type_: Any, where: str = "") -> str:
    """msgspec's message about data of that type, in our words: the path comes first."""
    match = _MESSAGE.fullmatch(message)
    assert match is not None  # it matches any text
    inside, what = match["path"] or "", match["what"]
    if unknown := _UNKNOWN.fullmatch(what) or (match["key"] and _ENUM.fullmatch(what)):
        name, colon, _ = unknown[1].strip("'").partition(":")
        if colon:  # what follows was meant as a value, and may be a secret
            return _join(where, inside, name) + ": a space is missing after the colon"
        return _join(where, inside, name) + ": unknown name" + _known(name, type_, inside)
    if missing := _MISSING.fullmatch(what):
        return _join(where, inside, missing[1]) + ": missing"
    if _OWN_PATH.match(what):  # from a struct's own `__post_init__`
        return _join(where, inside, what)
    words = "keys must be text" if match["key"] else _words(what, type_, inside)
    return ": ".join(part for part in (_join(where, inside), words) if part)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part).replace(".[", "[")


def _known(name: str, type_: Any, inside: str) -> str:
    from omniq.config.shape import keys_at  # it inspects types, on the way to an error only

    keys = keys_at(type_, inside)
    return did_you_mean(name, keys) or f"; known: {', '.join(keys)}"


def _words(what: str, type_: Any, inside: str) -> str:
    if invalid := _ENUM.fullmatch(what):
        from omniq.config.shape import choices_at

        return f"expected one of {', '.join(map(repr, choices_at(type_, inside)))}, got {invalid[1]}"
    if NAME.pattern in what:
        return "expected a name: up to 64 letters, digits, '_', '-' and '.', which doesn't come first"
    if what.endswith(repr(NOT_BLANK)):
        return "it is empty; leave it out where nothing is meant"
    if what.startswith("Expected `"):
        words = what.replace("`", "").replace(" | null", "").replace("E", "e", 1)
        return words.replace("object", "mapping").replace("array", "list")
    return what
