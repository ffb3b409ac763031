"""The bytes around a payload: what it is bound to, and its signature."""

from __future__ import annotations

import datetime as dt
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NoReturn, TypeAlias

from msgspec import Struct
from msgspec.msgpack import Encoder

from omniq import clock
from omniq.errors import ConfigError, CorruptPayload, KeyMissing, SignatureError
from omniq.serialization.base import Format
from omniq.texts import get_logger

# ── signatures ──────────────────────────────────────────────────────────────


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


# ── envelopes ───────────────────────────────────────────────────────────────


_MAGIC: Final = b"OQ1"
_HEADER_LENGTH: Final = 5
Binding: TypeAlias = tuple[str | int | None, ...]
"""What a payload belongs to; the id of its task or schedule comes first."""
FOREVER: Final = float("inf")
"""As `unsigned_until`: without end."""
_PLAIN: Final = {format: _MAGIC + format.encode() + b"\0" for format in Format}
_PLAIN_MSGSPEC: Final = _PLAIN[Format.MSGSPEC]

_log: Final = get_logger("omniq.serialization")

# MessagePack prefixes every part with its length, so no two lists of parts have the same bytes.
_frame = Encoder().encode


class _Parts(Struct, frozen=True):
    """A sealed payload, taken apart."""

    format: Format
    key_id: str
    """Empty when it is unsigned."""
    header: bytes
    mac: bytes
    body: bytes


class Envelope:
    """Seals with a signer, or without one.

    A signer accepts nothing unsigned, unless it is told to until a time (seconds since the epoch), and then dill
    only if it is told that too. Without a signer, nothing signed is accepted, in either format: whoever signs payloads
    expects them to be verified, so a reader without the key is a mistake to be heard of.
    """

    def __init__(
        self, signer: Signer | None = None, *, unsigned_until: float | None = None, unsigned_dill: bool = True
    ) -> None:
        self._signer = signer
        self._unsigned_until = unsigned_until
        self._unsigned_dill = unsigned_dill
        self._warned = False

    def seal(self, format: Format, body: bytes, *, role: Role, binding: Binding) -> bytes:
        """The body in its envelope."""
        signer = self._signer
        if signer is None:
            return _PLAIN[format] + body
        key_id = signer.key_id.encode()
        header = b"%b%b%c%b" % (_MAGIC, format.encode(), len(key_id), key_id)
        return header + signer.mac(role, _message(header, role, binding, body)) + body

    def unseal(self, data: bytes, *, role: Role, binding: Binding) -> tuple[Format, bytes]:
        """Format and body of a payload that `seal` made with the same role and binding.

        Raises `SignatureError` when it isn't signed as it must be, `KeyMissing` when that can't be told for want of
        the key, and `CorruptPayload` when it is no envelope at all. In no case the body was decoded.
        """
        if self._signer is None and data.startswith(_PLAIN_MSGSPEC):
            return Format.MSGSPEC, data[_HEADER_LENGTH:]
        parts = _split(data)
        try:
            self._verify(parts, role, binding)
        except KeyMissing as error:
            raise KeyMissing(_told(error, role, binding), error.key_id) from None
        except SignatureError as error:
            raise SignatureError(_told(error, role, binding)) from None
        return parts.format, parts.body

    def resign(self, data: bytes, *, role: Role, binding: Binding) -> bytes:
        """The same payload, signed with the first key. Raises as `unseal` does."""
        format, body = self.unseal(data, role=role, binding=binding)
        return self.seal(format, body, role=role, binding=binding)

    def _verify(self, parts: _Parts, role: Role, binding: Binding) -> None:
        if self._signer is None:
            if parts.key_id:
                raise KeyMissing(f"it is signed with key id {parts.key_id!r}, and {VARIABLE} isn't set", parts.key_id)
        elif not parts.key_id:
            self._check_unsigned(parts.format)
        else:
            message = _message(parts.header, role, binding, parts.body)
            self._signer.verify(parts.mac, role, message, key_id=parts.key_id)

    def _check_unsigned(self, format: Format) -> None:
        """Return if it is accepted without a signature. Raises `SignatureError`."""
        if self._unsigned_until is None or clock.now() >= self._unsigned_until:
            raise SignatureError(f"it is unsigned, and {VARIABLE} is set")
        if format is Format.DILL and not self._unsigned_dill:
            raise SignatureError("it is unsigned dill, which could run more than allowed_modules allows")
        if not self._warned:
            self._warned = True
            _log.warning("unsigned payloads are accepted %s: until then, signatures protect nothing", self._until())

    def _until(self) -> str:
        assert self._unsigned_until is not None
        if self._unsigned_until == FOREVER:
            return "by this call"
        return f"until {dt.datetime.fromtimestamp(self._unsigned_until, dt.UTC).isoformat()}"


def _told(error: SignatureError, role: Role, binding: Binding) -> str:
    return f"{role} of {binding[0]}: {error}; it was not decoded"


def _message(header: bytes, role: Role, binding: Binding, body: bytes) -> bytes:
    return b"".join((header, _frame((role, *binding)), body))


def _split(data: bytes) -> _Parts:
    if not data.startswith(_MAGIC) or len(data) < _HEADER_LENGTH:
        raise CorruptPayload("these bytes aren't a payload that OmniQ wrote")
    header_end = _HEADER_LENGTH + data[4]
    body_start = header_end + (MAC_LENGTH if data[4] else 0)
    if len(data) < body_start:
        raise CorruptPayload("the payload is cut off")
    try:
        format, key_id = Format(chr(data[3])), data[_HEADER_LENGTH:header_end].decode("ascii")
    except ValueError:
        raise CorruptPayload("the payload's header is damaged, or of a later version of OmniQ") from None
    return _Parts(format, key_id, data[:header_end], data[header_end:body_start], data[body_start:])
