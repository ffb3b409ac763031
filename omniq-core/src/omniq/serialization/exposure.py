"""What a process risks that trusts whoever can write to a store on a network."""

from __future__ import annotations

from typing import Final

from omniq.logs import get_logger
from omniq.serialization.manager import SerializationManager
from omniq.serialization.signing import VARIABLE

_log: Final = get_logger("omniq.serialization")
_warned: set[str] = set()
"""The locations that were warned of."""

_DILL: Final = (
    "%s is on a network, and what dill wrote there is read without a signature: whoever can write to it can run any "
    "code in every process that reads it. Set " + VARIABLE + " in all of them, or OMNIQ_SERIALIZER=msgspec."
)
_NAMES: Final = (
    "%s is on a network, and functions named there are called without a signature: whoever can write to it can call "
    "any function of any module (posix:system, say) in every worker. Set " + VARIABLE + " in all processes, or "
    "OMNIQ_ALLOWED_MODULES."
)


def warn_if_exposed(location: str, serialization: SerializationManager, *, holds_calls: bool) -> None:
    """Warn, once for each location, of a store on a network that is trusted without a key.

    `holds_calls`: whether functions are called that are named there, as in a task queue.
    """
    if location in _warned:
        return
    if serialization.runs_dill_of_anybody:
        _warned.add(location)
        _log.warning(_DILL, location)
    elif holds_calls and serialization.calls_anything:
        _warned.add(location)
        _log.warning(_NAMES, location)
