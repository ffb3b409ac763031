"""Events: logging them without slowing a task, what is kept of them, and following and handling them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniq.exports import lazy

if TYPE_CHECKING:
    from omniq.config.loader import EventsConfig as EventsConfig
    from omniq.events.logger import AnyTask as AnyTask
    from omniq.events.logger import AsyncEventLogger as AsyncEventLogger
    from omniq.events.logger import EventFields as EventFields
    from omniq.events.logger import EventLogger as EventLogger
    from omniq.events.processing import AsyncEventProcessor as AsyncEventProcessor
    from omniq.events.processing import AsyncEvents as AsyncEvents
    from omniq.events.processing import EventProcessor as EventProcessor
    from omniq.events.processing import Events as Events
    from omniq.events.storage import AsyncEventStorage as AsyncEventStorage
    from omniq.events.storage import EventConditions as EventConditions
    from omniq.events.storage import EventStorage as EventStorage
    from omniq.events.streams import AsyncEventStream as AsyncEventStream
    from omniq.events.streams import EventStream as EventStream
    from omniq.models.event import EventLevel as EventLevel
    from omniq.models.event import EventType as EventType
    from omniq.models.event import TaskEvent as TaskEvent
else:
    __all__, __getattr__, __dir__ = lazy(
        __name__,
        {
            "AnyTask": "omniq.events.logger",
            "AsyncEventLogger": "omniq.events.logger",
            "AsyncEventProcessor": "omniq.events.processing",
            "AsyncEventStorage": "omniq.events.storage",
            "AsyncEventStream": "omniq.events.streams",
            "AsyncEvents": "omniq.events.processing",
            "EventConditions": "omniq.events.storage",
            "EventFields": "omniq.events.logger",
            "EventLevel": "omniq.models.event",
            "EventLogger": "omniq.events.logger",
            "EventProcessor": "omniq.events.processing",
            "EventStorage": "omniq.events.storage",
            "EventStream": "omniq.events.streams",
            "EventType": "omniq.models.event",
            "Events": "omniq.events.processing",
            "EventsConfig": "omniq.config.loader",
            "TaskEvent": "omniq.models.event",
        },
    )
