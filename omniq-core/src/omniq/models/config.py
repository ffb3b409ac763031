"""Configuration structs: the bases that a backend's own structs extend, and the worker's.

Every component can be built from keyword arguments, from one of these structs, from `type` + `config` in
YAML or a dict, or from a URL; all four meet in one `msgspec.convert` into a struct.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal, Self, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from omniq.errors import ConfigError
from omniq.models.redaction import Redacted

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
"""What projects and queues may be called: file stores make directories of them, so no dot comes first."""
NOT_BLANK = r"\S"
DEFAULT_PROJECT = "default"
DEFAULT_QUEUE = "default"

TEN_YEARS = 315_576_000.0
DEFAULT_MAX_BODY = 128 * 1024 * 1024
"""Bytes that the call of a task, or its result, may have by default."""

Name = Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")]
Positive = Annotated[float, Meta(gt=0, le=TEN_YEARS)]
NotNegative = Annotated[float, Meta(ge=0, le=TEN_YEARS)]
NotBlank = Annotated[str, Meta(pattern=NOT_BLANK)]
Moment = Annotated[dt.datetime, Meta(tz=True)]
Serializer = Literal["auto", "msgspec"]
Bytes = Annotated[int, Meta(ge=1, le=1 << 40)]

C = TypeVar("C", bound="ComponentConfig")


class ComponentConfig(Redacted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every component's configuration has. A store has one struct of its own, which extends this:

    class ShelfConfig(ComponentConfig, frozen=True, kw_only=True):
        '''Which shelf, and how it is reached.'''

        base_dir: str = ".omniq"

    class ShelfTaskQueueConfig(ShelfConfig, TaskQueueConfig, frozen=True, kw_only=True):
        '''Where a task queue on a shelf keeps its tasks.'''

        queues: list[Name] = field(default_factory=default_queues)
        serializer: Serializer = "auto"
        max_body: Bytes = DEFAULT_MAX_BODY

    class ShelfResultStorageConfig(ShelfConfig, ResultStorageConfig, frozen=True, kw_only=True):
        '''Where a result storage on a shelf keeps its results.'''
    """

    project_name: Name | None = None
    """Keeps projects apart in one store; what isn't given is taken from OmniQ, else "default"."""

    @property
    def project(self) -> str:
        """`project_name`, else "default"."""
        return self.project_name or DEFAULT_PROJECT

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The configuration that a URL stands for. Raises `ConfigError` when it can't be one."""
        raise ConfigError(f"url: {cls.__name__} can't be built from a URL")

    def for_project(self, name: str) -> Self:
        """The same for another project, in a place of its own. Where the configuration names the place of one project,
        such as a file, it is one beside that."""
        return replace(self, project_name=name)

    def shared(self, type_: type[C], **resolved: Any) -> C:
        """What the components of a store have in common: the key of what they share, such as a connection.

        `resolved` are the fields that two configurations of the same place may say in different ways.
        """
        values = {name: getattr(self, name) for name in type_.__struct_fields__}
        return type_(**{**values, "project_name": self.project, **resolved})


class TaskQueueConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the task queues' configurations.

    A struct inherits fields from one base only, which is the store's. So a store's own struct declares these three
    again, as `ComponentConfig` shows; one that leaves a field out can't be told another value for it.
    """

    @property
    def queues(self) -> list[str]:
        """The named queues in strict order of priority; "default" is always there, last."""
        return default_queues()

    @property
    def serializer(self) -> Serializer:
        """`auto`: msgspec, and dill for what it can't carry exactly; `msgspec`: never dill."""
        return "auto"

    @property
    def max_body(self) -> int:
        """Bytes that the call of a task, or its result, may have; a store may take less."""
        return DEFAULT_MAX_BODY

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues without repeats, "default" among them."""
        return tuple(dict.fromkeys([*self.queues, DEFAULT_QUEUE]))


class ResultStorageConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the result stores' configurations."""


class EventStorageConfig(ComponentConfig, frozen=True, kw_only=True):
    """Base of the event stores' configurations."""


def default_queues() -> list[str]:
    """The queues of a task queue that was given none."""
    return [DEFAULT_QUEUE]


class WorkerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a worker runs. Durations are seconds."""

    max_workers: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Tasks that run at once; by default 100 async, 16 threads, or one process per core."""
    queues: list[Name] | None = None
    """The queues to serve, in order; by default all that the task queue declares."""
    prefetch: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    """Tasks claimed ahead of free slots; by default as many as keeps the slots busy."""
    lease: Positive = 30.0
    """For how long a claim holds without being renewed; renewed every third of it."""
    reap_interval: Positive = 5.0
    """How often lapsed leases, expired tasks and due schedules are looked for."""
    grace_period: NotNegative = 10.0
    """How long a stopping worker waits for its running tasks before it hands them back."""
    poll_interval: Positive = 1.0
    """How often an idle worker looks for tasks when nothing wakes it."""
    policy: Literal["strict", "weighted"] = "strict"
    """`strict`: an earlier queue is emptied first; `weighted`: later queues get a share too."""
    max_crashes: Annotated[int, Meta(ge=1)] = 3
    """Deaths of its process after which a task is dead-lettered; before the last one it runs alone."""
    retention: Positive = 86_400.0
    """How long finished tasks are kept; never less than ten leases."""
