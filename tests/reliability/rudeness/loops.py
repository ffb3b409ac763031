"""Tasks that misuse their event loop, and leave things behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import NoReturn

from tests.reliability.rudeness.acts import EXIT, LEFT, SUCCESS, rude
from tests.reliability.rudeness.left import leave, stay


async def exits() -> NoReturn:
    sys.exit("a child exits")


async def interrupts() -> NoReturn:
    raise KeyboardInterrupt


@rude(EXIT)
async def exit_in_a_child() -> None:
    await asyncio.gather(asyncio.sleep(0.05), exits())


@rude("KeyboardInterrupt")
async def interrupt_in_a_child() -> None:
    await asyncio.gather(asyncio.sleep(0.05), interrupts())


@rude(EXIT, "BaseExceptionGroup", SUCCESS)  # others may cancel the child before it exits
async def exit_in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())
        await asyncio.sleep(0.05)


@rude(SUCCESS)
async def leave_a_child_that_exits() -> None:
    leave(exits())


@rude(SUCCESS)
async def leave_a_child_that_exits_later() -> None:
    async def later() -> None:
        await asyncio.sleep(0.02)
        sys.exit(1)

    leave(later())


@rude(SUCCESS)
async def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(0.01)


@rude(SUCCESS)
async def exit_in_a_timer() -> None:
    asyncio.get_running_loop().call_later(0.02, sys.exit)


@rude(SUCCESS)
async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)


@rude("RuntimeError")
async def close_the_loop() -> None:
    asyncio.get_running_loop().close()


@rude("RuntimeError", SUCCESS)
def close_the_current_loop() -> None:
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.close()


@rude(SUCCESS)
def leave_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


@rude(SUCCESS)
async def take_the_loop_away() -> None:
    asyncio.set_event_loop(None)
    await asyncio.sleep(0)


@rude("asyncio.exceptions.CancelledError")
async def cancel_everything() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0.01)


@rude("RuntimeError")
async def run_a_loop_inside() -> None:
    coroutine = asyncio.sleep(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


@rude(SUCCESS)
async def set_handlers_of_the_loop() -> None:
    def broken(*_: object) -> NoReturn:
        raise ValueError("no")

    asyncio.get_running_loop().set_exception_handler(broken)
    asyncio.get_running_loop().call_soon(broken)
    await asyncio.sleep(0.01)


# ── leaving things behind ────────────────────────────────────────────────────


@rude(SUCCESS)
async def leave_coroutines() -> None:
    for _ in range(10):
        leave(asyncio.sleep(3600))
    await asyncio.sleep(0)


@rude(SUCCESS)
async def leave_a_stubborn_coroutine() -> None:
    leave(stay(LEFT))
    await asyncio.sleep(0.01)


@rude(SUCCESS)
async def leave_a_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            sys.exit("a generator exits")

    async for _ in numbers():
        break


@rude(SUCCESS)
async def leave_an_executor_job() -> None:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.2)


@rude(SUCCESS)
def leave_threads() -> None:
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(LEFT,), daemon=True).start()


@rude(SUCCESS)
def leave_a_thread_that_exits() -> None:
    threading.Thread(target=sys.exit).start()


@rude(SUCCESS)
def leave_a_process() -> None:
    subprocess.Popen(["sleep", str(LEFT)])
