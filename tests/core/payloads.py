"""Functions that the tests run as tasks with large arguments, large results and long texts."""

from __future__ import annotations

from typing import NoReturn

from omniq import current_task
from omniq.errors import Retry

from tests.core.tasks import note, wait_for


def size_of(data: bytes) -> int:
    return len(data)


def bytes_of(size: int) -> bytes:
    return b"x" * size


async def bytes_of_async(size: int) -> bytes:
    return b"x" * size


async def echo_bytes(data: bytes) -> bytes:
    return data


def bytes_noted(log: str, size: int) -> bytes:
    note(log, "ran")
    return b"x" * size


def fail_at_length(characters: int) -> NoReturn:
    raise ValueError("head" + "x" * characters + "tail")


def fail_with_a_long_name(characters: int) -> NoReturn:
    raise type("x" * characters, (Exception,), {})("text")


def first_size_when(gate: str, data: bytes, log: str) -> int:
    """The size of the data, once the gate is open."""
    wait_for(gate, log)
    return len(data)


async def fail_once_soon() -> int:
    """Fail the first time, to be tried again after three milliseconds; returns which attempt succeeds."""
    attempt = current_task().attempt
    if attempt == 1:
        raise Retry(delay=0.003)
    return attempt
