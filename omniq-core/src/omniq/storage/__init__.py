"""The contract that stores implement, and, lazily, the result and event stores that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.exports import *  # noqa: F403
    from omniq.storage.base import BaseEventStorage as BaseEventStorage
    from omniq.storage.base import BaseResultStorage as BaseResultStorage
    from omniq.storage.base import BaseTaskQueue as BaseTaskQueue
    from omniq.storage.base import Capability as Capability
    from omniq.storage.records import Added as Added
    from omniq.storage.records import AddStatus as AddStatus
    from omniq.storage.records import Change as Change
    from omniq.storage.records import Changed as Changed
    from omniq.storage.records import ChangeStatus as ChangeStatus
    from omniq.storage.records import EventFilter as EventFilter
    from omniq.storage.records import EventPage as EventPage
    from omniq.storage.records import Firing as Firing
    from omniq.storage.records import LapsedLease as LapsedLease
    from omniq.storage.records import Lease as Lease
    from omniq.storage.records import LeaseStatus as LeaseStatus
    from omniq.storage.records import NewBody as NewBody
    from omniq.storage.records import NewTask as NewTask
    from omniq.storage.records import ResultRecord as ResultRecord
    from omniq.storage.records import ScheduleRecord as ScheduleRecord
    from omniq.storage.records import TaskFilter as TaskFilter
    from omniq.storage.records import TaskPage as TaskPage
    from omniq.storage.records import TaskRecord as TaskRecord
    from omniq.storage.wakeups import Wakeups as Wakeups
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AddStatus": "omniq.storage.records",
            "Added": "omniq.storage.records",
            "BaseEventStorage": "omniq.storage.base",
            "BaseResultStorage": "omniq.storage.base",
            "BaseTaskQueue": "omniq.storage.base",
            "Capability": "omniq.storage.base",
            "Change": "omniq.storage.records",
            "ChangeStatus": "omniq.storage.records",
            "Changed": "omniq.storage.records",
            "EventFilter": "omniq.storage.records",
            "EventPage": "omniq.storage.records",
            "Firing": "omniq.storage.records",
            "LapsedLease": "omniq.storage.records",
            "Lease": "omniq.storage.records",
            "LeaseStatus": "omniq.storage.records",
            "NewBody": "omniq.storage.records",
            "NewTask": "omniq.storage.records",
            "ResultRecord": "omniq.storage.records",
            "ScheduleRecord": "omniq.storage.records",
            "TaskFilter": "omniq.storage.records",
            "TaskPage": "omniq.storage.records",
            "TaskRecord": "omniq.storage.records",
            "Wakeups": "omniq.storage.wakeups",
        },
        fronts=(
            "events",
            "results",
        ),
    )
