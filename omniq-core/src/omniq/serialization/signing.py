"""Keys that prove who wrote a payload: HMAC-SHA256, with one derived key per role."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NoReturn

from omniq.errors import ConfigError, KeyMissing, SignatureError

VARIABLE: Final = "OMNIQ_SIGNING_KEY"
MIN_KEY_LENGTH: Final = 16
"""Bytes."""
MAC_LENGTH: Final = 32
"""Bytes."""
DEFAULT_KEY_ID: Final = "default"
"""The id of a key that is given alone, without one."""

_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class Role(StrEnum):
    """What a payload is. A signature for one role is none for another."""

    CALL = "call"
    RESULT = "result"
    """How a task succeeded, with its value."""
    ENDING = "ending"
    """How it ended otherwise, whether it was run or not: there is no value, and it can't be passed off as one."""
    SCHEDULE = "schedule"


class Signer:
    """Signs with its first key and verifies with all of them, so that keys can be replaced one by one.

    Keys come as a mapping from key id to secret, or as text: `secret`, or `new:secret,old:secret`. A
    secret without an id has the id `default`. Raises `ConfigError` when a secret is blank or shorter than 16 bytes.
    """

    def __init__(self, keys: Mapping[str, bytes] | str) -> None:
        secrets = _parse(keys) if isinstance(keys, str) else dict(keys)
        if not secrets:
            raise ConfigError(f"{VARIABLE}: no key given")
        for key_id, secret in secrets.items():
            _check(key_id, secret)
        self.key_id = next(iter(secrets))
        self._key_ids = tuple(secrets)
        self._derived = {(key_id, role): _derive(secret, role) for key_id, secret in secrets.items() for role in Role}

    def __repr__(self) -> str:
        return f"Signer(key_ids={list(self._key_ids)!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("signing keys aren't serialized")

    def mac(self, role: Role, message: bytes) -> bytes:
        """The first key's signature of the message."""
        return hmac.digest(self._derived[self.key_id, role], message, "sha256")

    def verify(self, mac: bytes, role: Role, message: bytes, *, key_id: str) -> None:
        """Return if the signature is right. Raises `SignatureError`, and `KeyMissing` for a key that isn't here."""
        key = self._derived.get((key_id, role))
        if key is None:
            raise KeyMissing(f"it is signed with key id {key_id!r}, which {VARIABLE} doesn't have", key_id)
        if not hmac.compare_digest(hmac.digest(key, message, "sha256"), mac):
            raise SignatureError("its signature is wrong: it was changed, moved, or signed with another key")


def _parse(text: str) -> dict[str, bytes]:
    if any("\ud800" <= char <= "\udfff" for char in text):  # bytes of the environment that aren't UTF-8
        raise ConfigError(f"{VARIABLE}: it isn't UTF-8")
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) == 1 and ":" not in text:
        return {DEFAULT_KEY_ID: entries[0].encode()} if entries[0] else {}
    secrets: dict[str, bytes] = {}
    for entry in entries:
        key_id, colon, secret = entry.partition(":")
        # The text may hold a secret anywhere, so the messages show none of it.
        if not colon or not _KEY_ID.fullmatch(key_id):
            raise ConfigError(f"{VARIABLE}: expected one secret, or id:secret pairs separated by commas")
        if key_id in secrets:
            raise ConfigError(f"{VARIABLE}: two keys have the same id")
        secrets[key_id] = secret.encode()
    return secrets


def _check(key_id: str, secret: bytes) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise ConfigError(f"{VARIABLE}: a key id has 1 to 32 letters, digits, '_', '.' or '-'")
    if not secret.strip():
        raise ConfigError(f"{VARIABLE}: key {key_id!r} is empty")
    if len(secret) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"{VARIABLE}: key {key_id!r} has {len(secret)} bytes, and at least {MIN_KEY_LENGTH} are needed"
        )


def _derive(secret: bytes, role: Role) -> bytes:
    return hmac.digest(secret, f"omniq/1/{role}".encode(), "sha256")
