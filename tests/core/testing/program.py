"""A program whose queues are at places that must never be touched, as a user's tests would find it."""

from __future__ import annotations

import asyncio
import threading

from omniq import AsyncOmniQ, OmniQ, Reject, current_task
from omniq.errors import ResultTimeout

oq = OmniQ(
    project_name="shop",
    task_queue={"type": "sqlite", "config": {"base_dir": "/nowhere", "queues": ["mail", "reports"]}},
)
aoq = AsyncOmniQ(project_name="shop", task_queue="sqlite:////nowhere/async.db")

SENT: list[tuple[str, str]] = []
THREADS: list[int] = []


@oq.task(queue="mail", retries=2, retry_delay=3600)
def send_mail(to: str, subject: str = "Welcome") -> int:
    THREADS.append(threading.get_ident())
    if to == "nobody":
        raise ConnectionError("no such mailbox")
    SENT.append((to, subject))
    return len(SENT)


@oq.task(worker="process", timeout=5)
async def look_up(name: str) -> str:
    THREADS.append(threading.get_ident())
    await asyncio.sleep(0)
    return name.title()


def sign_up(name: str) -> str:
    """What a web service would do."""
    return send_mail.enqueue(name)


def count_down(number: int) -> int:
    if number:
        oq.enqueue(count_down, [number - 1])
    return number


def go_on() -> None:
    oq.enqueue(go_on)


def wait_for_another() -> int:
    task_id = oq.enqueue(count_down, [0])
    try:
        value: int = oq.get_result(task_id, timeout=60)
    except ResultTimeout:  # pragma: no cover - it is stopped long before
        return -1
    return value


def refuse(reason: str) -> None:
    raise Reject(reason)


def attempt() -> int:
    return current_task().attempt


def add(x: int, y: int = 0) -> int:
    return x + y


def interrupt() -> None:
    raise KeyboardInterrupt


def too_slow() -> None:
    threading.Event().wait(0.05)
