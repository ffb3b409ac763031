"""Tasks, results and schedules as bytes: msgspec first, dill for the rest, sealed and, with a key, signed."""

from __future__ import annotations

from omniq.serialization.base import Format, FunctionRegistry, NotCarried, Serializer, reference
from omniq.serialization.codec import CallOptions, DillSerializer, LoadedCall, Role, ScheduledCall, Signer
from omniq.serialization.manager import SerializationManager
from omniq.serialization.msgspec_ import MsgspecSerializer, SerializationDetector
from omniq.serialization.parents import ParentResult

__all__ = [
    "CallOptions",
    "DillSerializer",
    "Format",
    "FunctionRegistry",
    "LoadedCall",
    "MsgspecSerializer",
    "NotCarried",
    "ParentResult",
    "Role",
    "ScheduledCall",
    "SerializationDetector",
    "SerializationManager",
    "Serializer",
    "Signer",
    "reference",
]
