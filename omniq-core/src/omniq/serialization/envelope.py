"""The envelope around everything that OmniQ stores: its format, and proof of who wrote it.

    unsigned   "OQ1"  format  0x00                                  body
    signed     "OQ1"  format  length of key id  key id  MAC (32)    body

The MAC covers the header, the role (call, result, schedule), what the payload is bound to (such as the
task's id and queue) and the body. So a payload that is moved to another task, queue, claim or role fails like
one that was changed. It is verified before anything in the body is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Encoder

from omniq.errors import CorruptPayload, SignatureError
from omniq.serialization.base import Format
from omniq.serialization.signing import MAC_LENGTH, VARIABLE, Role, Signer

_MAGIC: Final = b"OQ1"
_HEADER_LENGTH: Final = 5
_PLAIN: Final = {format: _MAGIC + format.encode() + b"\0" for format in Format}
_PLAIN_MSGSPEC: Final = _PLAIN[Format.MSGSPEC]

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

    A signer accepts nothing unsigned. Without one, nothing signed is accepted, in either format: whoever
    signs payloads expects them to be verified, so a reader without the key is a mistake to be heard of.
    """

    def __init__(self, signer: Signer | None = None) -> None:
        self._signer = signer

    def seal(self, format: Format, body: bytes, *, role: Role, binding: Sequence[str]) -> bytes:
        """The body in its envelope."""
        signer = self._signer
        if signer is None:
            return _PLAIN[format] + body
        key_id = signer.key_id.encode()
        header = b"%b%b%c%b" % (_MAGIC, format.encode(), len(key_id), key_id)
        return header + signer.mac(role, _message(header, role, binding, body)) + body

    def unseal(self, data: bytes, *, role: Role, binding: Sequence[str]) -> tuple[Format, bytes]:
        """Format and body of a payload that `seal` made with the same role and binding.

        Raises `SignatureError` when it isn't signed as it must be, and `CorruptPayload` when it is no
        envelope at all. Either way the body was not decoded.
        """
        if self._signer is None and data.startswith(_PLAIN_MSGSPEC):
            return Format.MSGSPEC, data[_HEADER_LENGTH:]
        parts = _split(data)
        try:
            self._verify(parts, role, binding)
        except SignatureError as error:
            raise SignatureError(f"{role} of {binding[0]}: {error}; it was not decoded") from None
        return parts.format, parts.body

    def _verify(self, parts: _Parts, role: Role, binding: Sequence[str]) -> None:
        if self._signer is None:
            if parts.key_id:
                raise SignatureError(f"it is signed with key id {parts.key_id!r}, and {VARIABLE} isn't set")
        elif not parts.key_id:
            raise SignatureError(f"it is unsigned, and {VARIABLE} is set")
        else:
            message = _message(parts.header, role, binding, parts.body)
            self._signer.verify(parts.mac, role, message, key_id=parts.key_id)


def _message(header: bytes, role: Role, binding: Sequence[str], body: bytes) -> bytes:
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
