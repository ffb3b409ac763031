"""Tasks, results and schedules as bytes: msgspec first, dill for the rest, sealed and, with a key, signed."""

from __future__ import annotations

from omniq.serialization.base import Format, NotCarried, Serializer
from omniq.serialization.calls import CallOptions, LoadedCall, ScheduledCall
from omniq.serialization.detect import SerializationDetector
from omniq.serialization.dill_ import DillSerializer
from omniq.serialization.functions import FunctionRegistry, reference
from omniq.serialization.manager import SerializationManager
from omniq.serialization.msgspec_ import MsgspecSerializer
from omniq.serialization.signing import Signer

__all__ = [
    "CallOptions",
    "DillSerializer",
    "Format",
    "FunctionRegistry",
    "LoadedCall",
    "MsgspecSerializer",
    "NotCarried",
    "ScheduledCall",
    "SerializationDetector",
    "SerializationManager",
    "Serializer",
    "Signer",
    "reference",
]
