"""The contract in one process, built on its rules: to read, to test with, and to build an in-memory backend on."""

from omniq.testing.reference.events import ReferenceEventStore
from omniq.testing.reference.queue import ReferenceQueueStore
from omniq.testing.reference.results import ReferenceResultStore
from omniq.testing.reference.space import ReferenceSpace

__all__ = ["ReferenceEventStore", "ReferenceQueueStore", "ReferenceResultStore", "ReferenceSpace"]
