"""Values to bytes and back: msgspec where it carries the value exactly, else dill where it is permitted."""

from __future__ import annotations

import logging
from threading import Event
from typing import Any, Final, Literal, TypeAlias

from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization.base import Format, NotCarried
from omniq.serialization.dill_ import DillSerializer
from omniq.serialization.msgspec_ import MsgspecSerializer
from omniq.serialization.signing import VARIABLE

Mode: TypeAlias = Literal["auto", "msgspec"]

_log: Final = logging.getLogger("omniq.serialization")
_warned = Event()


class ValueCodec:
    """Chooses the serializer for each value, and keeps dill within its bounds.

    `refusal` says why dill is neither written nor read, and is None where it may be; `unsigned_at` names a
    store on a network that is used without a signing key, to warn of it when dill is first used.
    """

    def __init__(self, refusal: str | None = None, unsigned_at: str | None = None) -> None:
        self._msgspec = MsgspecSerializer()
        self._dill = DillSerializer()
        self._refusal = refusal
        self._unsigned_at = unsigned_at
        self.uses_dill = False
        """Whether dill has been written or read yet."""

    def dump(self, value: object) -> tuple[Format, bytes]:
        """The value's format and bytes. Raises `SerializationError`, which names the value's type."""
        try:
            return Format.MSGSPEC, self._msgspec.dumps(value)
        except NotCarried as error:
            if self._refusal is not None:
                raise SerializationError(f"{error}, and {self._refusal}") from error
        return Format.DILL, self.dump_by_dill(value)

    def dump_by_dill(self, value: object) -> bytes:
        """The value in dill's format. Raises `SerializationError` where dill is refused, too."""
        if self._refusal is not None:
            raise SerializationError(f"it needs dill, and {self._refusal}")
        self._note_dill()
        return self._dill.dumps(value)

    def load(self, format: str, data: bytes) -> Any:
        """The value again.

        Raises `CorruptPayload` when the bytes aren't in that format, and `SerializationError` when they
        can't be rebuilt here, or are dill's where dill is refused; then they were not decoded.
        """
        if format == Format.MSGSPEC:
            return self._msgspec.loads(data)
        if format != Format.DILL:
            raise CorruptPayload(f"unknown format {format!r}")
        if self._refusal is not None:
            raise SerializationError(f"it was packed by dill, and {self._refusal}; it was not decoded")
        self._note_dill()
        return self._dill.loads(data)

    def _note_dill(self) -> None:
        self.uses_dill = True
        if self._unsigned_at is None or _warned.is_set():
            return
        _warned.set()
        _log.warning(
            "dill is used on %s without a signing key: whoever can write to that store can run code in every process "
            "that reads it. Set %s in all of them, or use serializer='msgspec'.",
            self._unsigned_at,
            VARIABLE,
        )
