"""Every error OmniQ raises, in one tree."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from omniq.texts import cut, escaped, escaped_block


class OmniQError(Exception):
    """Base of all errors that OmniQ raises on purpose."""


MAX_USAGE = 2000
"""Characters of what is said about a call or a configuration."""


class UsageError(OmniQError):
    """Base of the errors about what somebody has given: told in one line, however long what it quotes is."""

    def __init__(self, message: str = "") -> None:
        super().__init__(escaped(cut(message, MAX_USAGE)))


# ── configuration and plugins ────────────────────────────────────────────────


class ConfigError(UsageError, ValueError):
    """Raised when a setting, file, URL or argument is malformed; the message begins with its path."""


class PluginError(UsageError):
    """Raised when a plugin that was asked for is missing, broken, incompatible, in conflict or disabled."""


class UnknownBackend(PluginError, LookupError):
    """Raised when no installed plugin provides the name, type or URL scheme that was asked for."""


class UnsupportedCapability(OmniQError):
    """Raised when a store is asked for something that it doesn't declare among its capabilities."""


class BlockingCallInLoop(OmniQError, RuntimeError):
    """Raised when a blocking facade is called from a running event loop, which it would freeze."""


class Closed(OmniQError):
    """Raised when an object is closed while a call waits on it."""


# ── enqueueing ───────────────────────────────────────────────────────────────


class InvalidTask(UsageError, ValueError):
    """Raised when an argument is out of range or can't be an id; the message begins with its name."""


class UnknownParent(InvalidTask):
    """Raised when `depends_on` names a task that the queue doesn't hold."""


class DependencyCycle(InvalidTask):
    """Raised when tasks that are enqueued together depend on each other in a circle."""


class ScheduleNotFound(OmniQError, LookupError):
    """Raised when no schedule has the given id."""


# ── serialization ────────────────────────────────────────────────────────────


class SerializationError(OmniQError):
    """Raised when a value can't be turned into bytes, or bytes into a value."""


class SignatureError(SerializationError):
    """Raised when a payload is unsigned or its signature is wrong; it was not decoded."""


class KeyMissing(SignatureError):
    """Raised when a payload is signed with a key that this process doesn't have; it was not decoded.

    That says nothing against the payload: a process that has the key (`key_id` names it) can read it.
    """

    def __init__(self, message: str, key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id


class CorruptPayload(SerializationError):
    """Raised when stored bytes aren't a payload that OmniQ wrote."""


class FunctionNotFound(OmniQError, LookupError):
    """Raised on a worker when a task's function can't be imported there, or may not be."""


# ── stores ───────────────────────────────────────────────────────────────────


class StoreError(OmniQError):
    """Raised when a store refuses or fails an operation; `__cause__` is the driver's error.

    From `enqueue`, `enqueue_many` and `schedule` it carries the ids of what was to be stored, so that the call can be
    repeated with them (`task_id`, `schedule_id`) and nothing is stored twice.
    """

    task_ids: tuple[str, ...] = ()
    """The tasks of the call, in its order, whether their ids were given by the caller or not."""
    added: tuple[str, ...] = ()
    """Those among them that are known to be stored. Of the others it isn't known."""
    schedule_id: str | None = None
    """The schedule of the call."""

    def about(self, task_ids: Sequence[str] = (), *, added: Sequence[str] = (), schedule_id: str | None = None) -> Self:
        """A copy that carries these ids: one error may be told to many callers."""
        error = copy.copy(self)
        error.task_ids, error.added, error.schedule_id = tuple(task_ids), tuple(added), schedule_id
        return error


class ValueRefused(StoreError):
    """Raised when a store refuses something for its size or content, which no repeat will change."""


class PayloadTooLarge(ValueRefused, InvalidTask):
    """Raised when a call has more bytes than `max_body` allows, or than the store takes; the message has both numbers.

    A result that is too large is its task's error: this one.
    """


class StoreUnavailable(StoreError):
    """Raised when a store can't be reached or is too busy; the same call may succeed later."""

    logged = False
    """Whether the log was told of it already, when the store's circuit breaker opened."""


class StoreFull(StoreUnavailable):
    """Raised when a store has no room for more; nothing was stored, and what it holds is safe."""


class BreakerOpen(StoreUnavailable):
    """Raised at once, without asking, when a store has failed so often that its circuit breaker is open.

    `location` is the store's, `since` when it began to fail (seconds since the epoch), and `last_error` what it has
    said last.
    """

    logged = True

    def __init__(self, message: str, location: str = "", since: float = 0.0, last_error: str = "") -> None:
        super().__init__(message)
        self.location = location
        self.since = since
        self.last_error = last_error


class LeaseLost(OmniQError):
    """Raised, and logged, when a worker settles a task whose lease has passed on; its result is dropped."""


# ── waiting for results ──────────────────────────────────────────────────────


class ResultError(OmniQError):
    """Base of what `get_result` raises instead of returning a value."""


class TaskFailed(ResultError):
    """Raised by `get_result` when the task ended in an error.

    `error_type` is the remote exception's qualified name, `error_message` its text and
    `remote_traceback` the traceback as the worker saw it.
    """

    def __init__(self, task_id: str, error_type: str, error_message: str, remote_traceback: str = "") -> None:
        super().__init__(task_id, error_type, error_message, remote_traceback)
        self.task_id = task_id
        self.error_type = error_type
        self.error_message = error_message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        # Whoever prints or logs it shall show nothing that a task, or whoever wrote its row, made up to look otherwise.
        head = escaped(f"task {self.task_id} failed: {self.error_type}: {self.error_message}")
        if not self.remote_traceback:
            return head
        return f"{head}\n\nOn the worker:\n{escaped_block(self.remote_traceback)}"


class TaskCancelled(ResultError):
    """Raised by `get_result` when the task was cancelled."""


class TaskExpired(ResultError):
    """Raised by `get_result` when the task wasn't started, or tried again, before its TTL ended."""


class TaskNotFound(ResultError, LookupError):
    """Raised when the queue holds no task of that id, or holds it no longer."""


class ResultExpired(ResultError):
    """Raised by `get_result` when the task has ended and its result is no longer kept."""


class ResultTimeout(ResultError, TimeoutError):
    """Raised when a task hasn't ended within `timeout` seconds, or the store hasn't told by then that it has."""


# ── inside a task ────────────────────────────────────────────────────────────


class Retry(OmniQError):
    """Raised by a task to be run again; `delay` (seconds) overrides its own backoff."""

    def __init__(self, message: str = "retry requested", *, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay


class Reject(OmniQError):
    """Raised by a task to fail for good: it isn't tried again, whatever retries it has left."""

    def __init__(self, message: str = "rejected") -> None:
        super().__init__(message)


class TaskTimeout(OmniQError, TimeoutError):
    """Raised when a task ran for longer than its `timeout`."""


class HeartbeatTimeout(TaskTimeout):
    """Raised when a running task gave no sign of life for longer than its `heartbeat_timeout`."""


class WorkerCrashed(OmniQError):
    """Recorded as a task's error when the process that ran it died too often."""


class NoCurrentTask(OmniQError, LookupError):
    """Raised when the current task is asked for outside a running task."""


class WorkerNotFound(OmniQError, LookupError):
    """Raised when the queue knows no worker of that name, or knows it no longer."""


class WorkerError(OmniQError, RuntimeError):
    """Raised when a worker can't start, or a call needs a worker that isn't there."""
