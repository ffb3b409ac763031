"""What a user sees of a task."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from omniq.ids import check_id
from omniq.models.config import NotNegative, Positive
from omniq.models.redaction import Abridged
from omniq.models.state import TaskState

ParentFailure = Literal["cancel", "run", "hold"]
"""What becomes of a task when one that it depends on fails."""


class Task(Abridged, Struct, frozen=True, kw_only=True, eq=False):
    """A task as the queue holds it. Two tasks are equal when their ids are.

    Lists don't read the tasks' calls, which may be large: what only a call tells is None there, and `body` empty.
    `get_task` fills in all.
    """

    id: str
    func: str
    """`module:qualname`, or the name of a function that travels by value. A name to show: in a list it is what is kept
    beside the call, cut to 255 characters and not signed. What runs is what the call says."""
    queue_name: str
    state: TaskState
    priority: int
    created_at: dt.datetime
    run_at: dt.datetime
    """When it is, or was, due."""
    expires_at: dt.datetime | None = None
    """It is never started after this time."""
    finished_at: dt.datetime | None = None
    attempts: int = 0
    """How many attempts have failed; the current one isn't counted."""
    crashes: int = 0
    """How many times the process that held it died."""
    epoch: int = 0
    """Rises at every claim and never falls: the fence against late workers."""
    worker: str | None = None
    cancel_requested: bool = False
    depends_on: tuple[str, ...] = ()
    schedule_id: str | None = None
    max_retries: int | None = None
    """None in lists, as `retry_delay` and `metadata` are."""
    retry_delay: float | None = None
    """Seconds before the first retry; it doubles from one to the next."""
    timeout: float | None = None
    """Seconds that one run may take; None in lists, and where there is no limit."""
    result_ttl: float | None = None
    """Seconds for which the result is kept; None in lists, and where that is without end."""
    metadata: dict[str, Any] | None = None
    body: bytes = b""
    """The stored bytes of the call, as they are: for a look at what can't be read. Empty in lists."""
    damage: str | None = None
    """What is wrong with the stored task; what can't be read is a stand-in. None for a task that is sound."""

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:  # ids, never arguments
        return f"Task(id={self.id!r}, func={self.func!r}, queue_name={self.queue_name!r}, state={self.state.value!r})"


TaskRef: TypeAlias = str | Task
"""A task's id, or the task."""


def id_of(task: object, name: str = "task_id") -> str:
    """The id of a task that is given by its id or as a `Task`. `name` is that of the argument. Raises `InvalidTask`."""
    return check_id(task.id if isinstance(task, Task) else task, name)


class Call(Abridged, Struct, array_like=True, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a task runs and how: the part of a task that stores carry as opaque bytes."""

    func: str
    """`module:qualname`; a display name only, where `by_value` is set."""
    args: bytes
    """Arguments, packed; with `by_value`, function and arguments together."""
    args_format: str
    """Format of `args`: a name of `omniq.serialization.Format`."""
    by_value: bool = False
    timeout: Positive | None = None
    max_retries: Annotated[int, Meta(ge=0)] = 0
    retry_delay: NotNegative = 0.0
    result_ttl: NotNegative | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    on_success: str | None = None
    on_failure: str | None = None
    on_parent_failure: ParentFailure = "cancel"
