"""What tests need: a queue in memory with a clock that moves, and the suite that defines a backend.

`Sandbox` and `AsyncSandbox` are for tests of programs that use OmniQ; as fixtures of pytest they are `omniq_app` and
its likes. `omniq.testing.conformance` and `omniq.testing.builders` are for stores, and need pytest
(`omniq-core[testing]`); the rest doesn't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.testing.draining import Drained as Drained
    from omniq.testing.draining import Run as Run
    from omniq.testing.enqueued import Enqueued as Enqueued
    from omniq.testing.enqueued import EnqueuedConditions as EnqueuedConditions
    from omniq.testing.reference import JOURNAL as JOURNAL
    from omniq.testing.reference import ReferenceEventStore as ReferenceEventStore
    from omniq.testing.reference import ReferenceQueueStore as ReferenceQueueStore
    from omniq.testing.reference import ReferenceResultStore as ReferenceResultStore
    from omniq.testing.reference import ReferenceSpace as ReferenceSpace
    from omniq.testing.reference import VirtualClock as VirtualClock
    from omniq.testing.sandbox import AsyncSandbox as AsyncSandbox
    from omniq.testing.sandbox import Sandbox as Sandbox
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AsyncSandbox": "omniq.testing.sandbox",
            "Drained": "omniq.testing.draining",
            "Enqueued": "omniq.testing.enqueued",
            "EnqueuedConditions": "omniq.testing.enqueued",
            "JOURNAL": "omniq.testing.reference",
            "ReferenceEventStore": "omniq.testing.reference",
            "ReferenceQueueStore": "omniq.testing.reference",
            "ReferenceResultStore": "omniq.testing.reference",
            "ReferenceSpace": "omniq.testing.reference",
            "Run": "omniq.testing.draining",
            "Sandbox": "omniq.testing.sandbox",
            "VirtualClock": "omniq.testing.reference",
        },
    )
