"""Secrets never appear in errors, logs or reprs: these functions take them out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import asdict

MASK = "***"

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)|pwd|secret|token|key|credential|connection_string", re.IGNORECASE)
# A password may hold "/", "#" or "@" where somebody forgot to quote it, so the last "@" counts.
_USER_INFO = re.compile(
    r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:/?#@]*)(?P<secret>[^\s'\"]*)@"
)
# Whoever forgets the scheme may still have written a password.
_NO_SCHEME = re.compile(r"(?<![^\s'\"])(?![A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s'\":@]*:)?[^\s'\"]+@")
_QUERY = re.compile(r"(?P<name>[?&;](?P<key>[^\s=?&;#]+)=)[^\s&;#'\"]*")


def is_secret(name: str) -> bool:
    """Whether a key or argument of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def mask_url(text: str) -> str:
    """The URL, or a text with URLs in it, without passwords, tokens and secret parameters.

    A lone user name goes too, since some servers take a token in its place. Where a malformed URL leaves
    doubt, too much is masked rather than too little.
    """
    with_users = _NO_SCHEME.sub(rf"\g<user>{MASK}@", _USER_INFO.sub(_mask_user_info, text))
    return _QUERY.sub(_mask_parameter, with_users)


def _mask_user_info(match: re.Match[str]) -> str:
    user = match["user"] + ":" if match["secret"].startswith(":") else ""
    return f"{match['scheme']}{user}{MASK}@"


def _mask_parameter(match: re.Match[str]) -> str:
    return match["name"] + MASK if is_secret(match["key"]) else match[0]


def redact(value: Any) -> Any:
    """A copy of plain data, mappings and sequences in which secrets are masked, also those inside URLs."""
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {key: MASK if _hides(key, item) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _hides(key: object, value: object) -> bool:
    return isinstance(key, str) and value is not None and is_secret(key)


class Redacted(Struct, frozen=True):
    """A struct whose repr shows no secrets."""

    def __repr__(self) -> str:
        return _shown(self, self.__rich_repr__())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(redact(asdict(self)).items())


class Abridged:
    """A mixin for structs: the repr shows ids, states and times, and only how much there is of what users pass."""

    __slots__ = ()
    __struct_fields__: ClassVar[tuple[str, ...]]

    def __repr__(self) -> str:
        return _shown(self, self.__rich_repr__())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _abridged(name, getattr(self, name))) for name in self.__struct_fields__]


class Omitted:
    """Stands for a payload in a repr."""

    def __init__(self, payload: object) -> None:
        self._text = f"<{len(payload)}>" if isinstance(payload, Sized) else "<...>"

    def __repr__(self) -> str:
        return self._text


PAYLOADS = frozenset(
    {
        "args",
        "body",
        "connection",
        "error_message",
        "func_args",
        "kwargs",
        "metadata",
        "old",
        "options",
        "stored",
        "traceback",
        "value",
    }
)
"""Fields whose content comes from users' calls: it may hold anything."""


def _abridged(name: str, value: object) -> object:
    return Omitted(value) if name in PAYLOADS and value is not None else value


def _shown(struct: object, fields: Iterable[tuple[str, Any]]) -> str:
    return f"{type(struct).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"
