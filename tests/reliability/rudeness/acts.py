"""What counts as rude, and how a task may end that is."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SUCCESS = "success"
EXIT = "SystemExit"
LEFT = 1.0
"""Seconds that what a task leaves behind goes on."""

variable: contextvars.ContextVar[str] = contextvars.ContextVar("rudeness", default="clean")


@dataclass(frozen=True)
class Act:
    """Something rude, and how a task may end that does it: by success, or by which error."""

    run: Callable[..., Any]
    ends: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


ACTS: dict[str, Act] = {}


def rude(*ends: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Count the function among the rude ones; `options` are those of `enqueue`."""

    def count(run: Callable[..., Any]) -> Callable[..., Any]:
        ACTS[run.__name__] = Act(run, frozenset(ends), options)
        return run

    return count
