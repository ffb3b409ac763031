"""What tests need: a clock that moves, a store without a server, and the suite that defines a backend.

`omniq.testing.conformance` and `omniq.testing.fixtures` need pytest (`omniq-core[testing]`); the rest doesn't.
"""

from omniq.testing.clock import VirtualClock
from omniq.testing.reference import (
    ReferenceEventStore,
    ReferenceQueueStore,
    ReferenceResultStore,
    ReferenceSpace,
)

JOURNAL = "OMNIQ_TEST_PROJECTS"
"""The variable that names the file in which the suite notes its projects, so that none is left behind."""

__all__ = ["ReferenceEventStore", "ReferenceQueueStore", "ReferenceResultStore", "ReferenceSpace", "VirtualClock"]
