"""Secrets never appear in errors, logs or reprs: these functions take them out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
        fields = ", ".join(f"{name}={value!r}" for name, value in redact(asdict(self)).items())
        return f"{type(self).__name__}({fields})"
