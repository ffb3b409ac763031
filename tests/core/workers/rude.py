"""Tasks that misuse what they share with their worker and with the tasks beside them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from typing import Any, ClassVar, NoReturn

from tests.core.tasks import PATIENCE, note


async def exits() -> NoReturn:
    sys.exit("a child exits")


async def exit_in_a_child(log: str) -> None:
    note(log)
    await asyncio.gather(asyncio.sleep(0.05), exits())


_left: set[asyncio.Task[Any]] = set()


async def leave_a_child_that_exits() -> None:
    _left.add(asyncio.create_task(exits()))


async def leave_a_child_that_stays(log: str) -> None:
    async def stay() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            note(log, "ended")

    _left.add(asyncio.create_task(stay()))
    await asyncio.sleep(0)


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


def close_the_current_loop() -> None:
    asyncio.get_event_loop_policy().get_event_loop().close()


def leave_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


def run_on_the_current_loop() -> str:
    """What many programs do that want a loop of their own."""
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.sleep(0, "done"))
    finally:
        loop.close()


async def cancel_everything() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(PATIENCE)


def cancel_from_a_thread() -> None:
    """Cancel all tasks of the loop in nobody's context."""
    loop = _loops[0]
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


_loops: list[asyncio.AbstractEventLoop] = []


async def cancel_everything_from_a_thread() -> None:
    _loops[:] = [asyncio.get_running_loop()]
    threading.Thread(target=cancel_from_a_thread).start()
    await asyncio.sleep(PATIENCE)


async def cancel_everything_as_callback(result: object) -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def wait_then_cancel_itself(log: str, gate: str) -> str:
    """Cancel itself last, when nothing is left that it would wait for."""
    note(log)
    while not os.path.exists(gate):
        await asyncio.sleep(0.005)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "done"


async def wait_in_a_child(log: str, gate: str) -> str:
    """Wait where only a child waits."""
    note(log)

    async def wait() -> str:
        while not os.path.exists(gate):
            await asyncio.sleep(0.005)
        return "done"

    return (await asyncio.gather(wait()))[0]


async def swallow_cancellations(log: str, gate: str) -> None:
    note(log)
    while not os.path.exists(gate):
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            note(log, "swallowed")


def fork_and(how: str, log: str) -> int:
    """Fork, and tell how the child ended."""
    child = os.fork()
    if child:
        return exit_code(child)
    note(log)
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ValueError("in the child")
    return 0


def exit_code(child: int) -> int:
    """How the child has ended, once it has."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def fork_on_a_loop_and(how: str, log: str) -> int:
    child = os.fork()
    if child:
        return exit_code(child)
    note(log)
    if how == "exit":
        sys.exit(3)
    if how == "wait":
        await asyncio.get_running_loop().create_future()
    return 0


class Heavy:
    """Something whose end can be seen."""

    alive: ClassVar[weakref.WeakSet[Heavy]] = weakref.WeakSet()

    def __init__(self, size: int = 1) -> None:
        self.bytes = bytes(size)
        Heavy.alive.add(self)

    def __reduce__(self) -> tuple[type[Heavy], tuple[int]]:
        return Heavy, (len(self.bytes),)


def weigh(heavy: Heavy) -> int:
    return len(heavy.bytes)


async def weigh_on_a_loop(heavy: Heavy) -> int:
    await asyncio.sleep(0)
    return len(heavy.bytes)


def fail_holding(heavy: Heavy) -> NoReturn:
    """Fail with an error that its own frame holds."""
    try:
        raise ValueError(len(heavy.bytes))
    except ValueError as error:
        kept = error
        raise RuntimeError from kept


async def fail_holding_on_a_loop(heavy: Heavy) -> NoReturn:
    fail_holding(heavy)
