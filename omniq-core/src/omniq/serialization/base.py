"""What both serializers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar

from omniq.errors import SerializationError


class Format(StrEnum):
    """How bytes were made. It is stored beside them, so that they can be read again."""

    MSGSPEC = "m"
    DILL = "d"


class NotCarried(SerializationError):
    """Raised when msgspec's format can't carry a value exactly; in mode `auto`, dill does."""


class Serializer(ABC):
    """Turns a value into bytes and back."""

    format: ClassVar[Format]

    @abstractmethod
    def dumps(self, value: object) -> bytes:
        """The value as bytes. Raises `SerializationError` when it has no such form."""

    @abstractmethod
    def loads(self, data: bytes) -> Any:
        """The value that `dumps` was given.

        Raises `CorruptPayload` when the bytes aren't such a value, and `SerializationError` when they
        are and something that they need is missing here.
        """


def type_name(value: object) -> str:
    """The qualified name of the value's type, without `builtins`: safe to show, unlike the value."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
