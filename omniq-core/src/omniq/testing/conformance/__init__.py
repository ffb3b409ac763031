"""The contract as tests: a backend is what passes them.

Subclass what fits the store, and override the one fixture that makes it:

    class TestMyQueue(TaskQueueConformance):
        @pytest.fixture
        async def store(self) -> AsyncIterator[BaseTaskQueue]:
            store = MyQueueStore(...)
            await store.connect()
            yield store
            await store.close()

Classes: `TaskQueueConformance`, `ScheduleConformance`, `StatefulConformance` (fixture `store`: the queue),
`ResultStorageConformance`, `EventStorageConformance` (`store`), `AtomicResultsConformance` (`stores`: queue and
results), `ProcessConformance` (`recipe`: a picklable callable that makes a queue). What a store doesn't declare
among its capabilities is refused where it can be asked for, and skipped with the reason otherwise.

The clock is moved with `omniq.clock`: a store with a clock of its own adds `omniq.clock.offset()` to it. Such a
clock may differ from this process's by two seconds. `wait` must hear `omniq.storage.wakeups` of this process.
"""

import pytest

_MODULES = (
    "adding atomic base builders claiming commands events leasing model processes purging queue reading results "
    "rewriting schedules stateful transition_races transition_table transitions waiting"
)
# Before their first import: pytest explains a failed assert only in modules that it has rewritten.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES.split()))

from omniq.testing.conformance.atomic import AtomicResultsConformance  # noqa: E402
from omniq.testing.conformance.events import EventStorageConformance  # noqa: E402
from omniq.testing.conformance.processes import ProcessConformance  # noqa: E402
from omniq.testing.conformance.queue import TaskQueueConformance  # noqa: E402
from omniq.testing.conformance.results import ResultStorageConformance  # noqa: E402
from omniq.testing.conformance.schedules import ScheduleConformance  # noqa: E402
from omniq.testing.conformance.stateful import StatefulConformance  # noqa: E402

__all__ = [
    "AtomicResultsConformance",
    "EventStorageConformance",
    "ProcessConformance",
    "ResultStorageConformance",
    "ScheduleConformance",
    "StatefulConformance",
    "TaskQueueConformance",
]
