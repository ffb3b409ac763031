"""The suite for a queue of tasks."""

from __future__ import annotations

import pytest

from omniq.storage.queue import BaseTaskQueue
from omniq.testing.conformance.adding import AddTests, DuplicateTests, ParentTests
from omniq.testing.conformance.base import OVERRIDE
from omniq.testing.conformance.claiming import ClaimOrderTests, ClaimRaceTests, ClaimTests, PauseTests
from omniq.testing.conformance.evidence import EvidenceTests, WorkerTests
from omniq.testing.conformance.leasing import ExtendTests, LeaseRaceTests, ReapTests
from omniq.testing.conformance.purging import PurgeTests
from omniq.testing.conformance.reading import ChildrenTests, FindTests, GetTests, PageTests, StatsTests
from omniq.testing.conformance.rewriting import TaskBodyTests
from omniq.testing.conformance.transition_races import TransitionRaceTests
from omniq.testing.conformance.transition_table import TransitionTableTests
from omniq.testing.conformance.transitions import (
    BatchTests,
    CancelTests,
    FinishTests,
    GiveBackTests,
)
from omniq.testing.conformance.unique import UniqueTests
from omniq.testing.conformance.waiting import CallTests, WaitTests


class TaskQueueConformance(
    AddTests,
    DuplicateTests,
    ParentTests,
    UniqueTests,
    ClaimTests,
    ClaimOrderTests,
    ClaimRaceTests,
    PauseTests,
    ExtendTests,
    ReapTests,
    EvidenceTests,
    WorkerTests,
    LeaseRaceTests,
    FinishTests,
    GiveBackTests,
    CancelTests,
    BatchTests,
    TransitionRaceTests,
    TransitionTableTests,
    GetTests,
    FindTests,
    PageTests,
    StatsTests,
    ChildrenTests,
    PurgeTests,
    TaskBodyTests,
    WaitTests,
    CallTests,
):
    """Everything that `BaseTaskQueue` promises of tasks."""

    @pytest.fixture
    def store(self) -> BaseTaskQueue:
        """A connected, empty store."""
        pytest.fail(OVERRIDE)
