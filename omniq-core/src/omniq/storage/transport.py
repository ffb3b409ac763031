"""What drivers and event loops raise when a connection is gone or can't be made, and what stores make of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from omniq.errors import StoreError, StoreUnavailable
from omniq.storage.connected import Settings

_WORDS = re.compile(
    r"handler is closed|transport closed|transport is clos|used by transport|can't start new thread", re.IGNORECASE
)
"""Of uvloop, asyncio and TLS: the connection is closed, its descriptor was closed by others, threads have run out."""


Rule: TypeAlias = tuple[type[BaseException] | tuple[type[BaseException], ...], str, type[StoreError]]
"""Errors of these classes in whose text, `module.Class: message`, that pattern is found amount to this `StoreError`."""


def store_errors(
    settings: Settings, rules: Sequence[Rule], advice: Callable[[BaseException], str | None]
) -> AbstractContextManager[None]:
    """Turn what a driver and the event loop raise inside into the `StoreError` that it amounts to.

    What tells of the connection is a `StoreUnavailable`; of a driver's other errors, the first rule that fits counts.
    What fits none is raised as it is. `advice` may know better words than the error's own.
    """

    def kind_of(error: BaseException) -> type[StoreError] | None:
        return StoreUnavailable if is_transport_error(error) else _kind_of(error, rules)

    def words_of(error: BaseException) -> str:
        return f"{settings.location}: {advice(error) or str(error) or type(error).__name__}"

    return raised_as(kind_of, words_of)


@contextmanager
def raised_as(
    kind_of: Callable[[BaseException], type[StoreError] | None], words_of: Callable[[BaseException], str]
) -> Iterator[None]:
    """Turn an error inside into the `StoreError` that it amounts to, if any, with words that tell the place, too."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        kind = kind_of(error)
        if kind is None:
            raise
        raise kind(words_of(error)) from error


def _kind_of(error: BaseException, rules: Sequence[Rule]) -> type[StoreError] | None:
    text = f"{type(error).__module__}.{type(error).__name__}: {error}"
    fitting = (kind for classes, pattern, kind in rules if isinstance(error, classes) and re.search(pattern, text))
    return next(fitting, None)


def is_transport_error(error: BaseException) -> bool:
    """Whether it tells of the connection, not of the program: the same call may succeed on another one."""
    if isinstance(error, asyncio.CancelledError):
        return _is_stray(asyncio.current_task())
    if isinstance(error, RuntimeError):
        return _WORDS.search(str(error)) is not None
    return isinstance(error, OSError | EOFError)


def _is_stray(task: asyncio.Task[object] | None) -> bool:
    """Whether nobody has cancelled the task: a driver has let the end of a task of its own slip out."""
    return task is not None and task.cancelling() == 0
