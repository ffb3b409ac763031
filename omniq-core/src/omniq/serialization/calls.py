"""A call on its way in and out: the options it is packed with, and what a worker gets to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from omniq.models.config import NotNegative
from omniq.models.redaction import Abridged
from omniq.models.schedule import Timing
from omniq.models.task import Call, ParentFailure
from omniq.serialization.functions import Function


class CallOptions(Abridged, Struct, frozen=True, kw_only=True):
    """How a call is to be run. Durations are seconds."""

    timeout: float | None = None
    max_retries: int = 0
    retry_delay: float = 0.0
    result_ttl: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Text keys and plain values: None, bools, numbers, text, bytes, lists and dicts of them."""
    on_success: Function | None = None
    """Called with the result; like `on_failure`, something that a worker can import."""
    on_failure: Function | None = None
    on_parent_failure: ParentFailure = "cancel"


class LoadedCall(Abridged, Struct, frozen=True):
    """A call that is ready to run: `func(*args, **kwargs)`."""

    func: Function
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class ScheduledCall(Struct, frozen=True, kw_only=True):
    """What a schedule stores: when it fires, and the call from which each firing's task is made."""

    timing: Timing
    call: Call
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    ttl: NotNegative | None = None
    """Each task expires so many seconds after its slot."""

    def __post_init__(self) -> None:
        if self.timing.interval is None:
            raise ValueError("its timing says nothing")
