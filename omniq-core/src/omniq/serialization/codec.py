"""Values to bytes and back: msgspec where it carries the value exactly, else dill where it is permitted."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from omniq.errors import CorruptPayload, SerializationError
from omniq.serialization.base import Format, NotCarried
from omniq.serialization.dill_ import DillSerializer
from omniq.serialization.msgspec_ import MsgspecSerializer

Mode: TypeAlias = Literal["auto", "msgspec"]


class ValueCodec:
    """Chooses the serializer for each value, and keeps dill within its bounds.

    `refusal` says why dill is neither written nor read, and is None where it may be.
    """

    def __init__(self, refusal: str | None = None) -> None:
        self._msgspec = MsgspecSerializer()
        self._dill = DillSerializer()
        self._refusal = refusal
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
        self.uses_dill = True
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
        self.uses_dill = True
        return self._dill.loads(data)
