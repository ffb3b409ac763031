"""Sandboxes that are used otherwise than meant: nothing reaches a store, and nothing stays replaced."""

from __future__ import annotations

from typing import Any

import pytest
from omniq import OmniQ, clock
from omniq.errors import InvalidTask, WorkerError
from omniq.testing import AsyncSandbox, Sandbox

from tests.core.testing.program import aoq, oq, send_mail


def place(door: OmniQ) -> str:
    """Where a program's tasks go."""
    return str(door.aio.task_queue.store.location)


def test_a_sandbox_isnt_entered_within_itself() -> None:
    """The inner end would put back the store, and the rest of the test would reach it."""
    with Sandbox(oq) as app:
        with pytest.raises(WorkerError, match="entered already; make another one"), app:
            pass
        send_mail.enqueue("tom")
        app.assert_enqueued(func=send_mail, count=1)
        app.advance(hours=1)
    with app:  # afterwards it may be
        app.assert_enqueued(func=send_mail, count=1)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_sandboxes_that_overlap_end_in_any_order(order: tuple[int, ...]) -> None:
    before, offset = place(oq), clock.offset()
    sandboxes = [Sandbox(oq) for _ in order]
    open_ = list(sandboxes)
    for sandbox in sandboxes:
        sandbox.install()
    for number in order:
        open_[-1].advance(hours=1)
        send_mail.enqueue("tom")  # the last that was entered and hasn't ended has it
        assert place(oq) == place(open_[-1])
        sandboxes[number].remove()
        open_.remove(sandboxes[number])
    assert (place(oq), clock.offset()) == (before, offset)
    assert not any("cover" in name for name in vars(oq))


def test_time_moves_in_sandboxes_that_are_entered() -> None:
    with pytest.raises(WorkerError, match=r"advance: enter the sandbox first \(with Sandbox\(\) as app\)"):
        Sandbox(oq).advance(hours=1)


async def test_in_async_ones_too() -> None:
    app = AsyncSandbox(aoq)
    with pytest.raises(WorkerError, match="advance: enter the sandbox first"):
        await app.advance(hours=1)
    async with app:
        with pytest.raises(WorkerError, match="entered already"):
            app.install()
        await app.advance(hours=1)


@pytest.mark.parametrize("count", [-1, True, "1", 1.5])
def test_a_count_that_nothing_can_have_is_refused(count: Any) -> None:
    with Sandbox(oq) as app, pytest.raises(InvalidTask, match="count: expected a whole number from 0 on"):
        app.assert_enqueued(count=count)
