"""Tasks that are declared, and an application that has them."""

from __future__ import annotations

import asyncio
import os
import sys

from omniq import AsyncOmniQ, OmniQ

DIRECTORY = os.environ.get("DECLARED_TASKS", "/nowhere")
"""Where its queue is. Importing this, as a child process does, opens nothing."""
CONFIG = {"task_queue": {"url": f"sqlite:///{DIRECTORY}/omniq.db", "config": {"queues": ["high", "default"]}}}

oq = OmniQ(config=CONFIG)
aoq = AsyncOmniQ(config=CONFIG)


@oq.task(queue="high", retries=0, timeout=30, priority=3)
def area(width: int, height: int = 2) -> int:
    """How large it is."""
    return width * height


class Shop:
    """A class with methods that are tasks."""

    def __init__(self, name: str = "none") -> None:
        self.name = name

    @oq.task(queue="high")
    def sell(self, count: int = 1) -> str:
        return f"{self.name} sells {count}"

    @staticmethod
    @oq.task()
    def add(left: int, right: int) -> int:
        return left + right

    @classmethod
    @oq.task()
    def kind(cls, suffix: str = "") -> str:
        return cls.__name__ + suffix


@oq.task(worker="process")
def where_on_a_process() -> tuple[int, bool]:
    return where()


@oq.task(worker="thread")
def where_on_a_thread() -> tuple[int, bool]:
    return where()


@oq.task(worker="gevent")
def where_on_a_greenlet() -> tuple[int, bool]:
    return where()


@aoq.task(retries=1)
async def doubled(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@oq.task()
def calls_another(number: int) -> str:
    """Enqueues another task, as a task may."""
    return str(area.enqueue(number))


def where() -> tuple[int, bool]:
    """The process, and whether it is one that gevent has patched."""
    monkey = sys.modules.get("gevent.monkey")  # which others may have imported
    return os.getpid(), monkey is not None and bool(monkey.is_module_patched("threading"))
