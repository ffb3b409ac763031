"""Tracebacks keep causes, groups and notes, and nothing of what the task held."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskState
from omniq.texts import let_go, remote_traceback

from tests.core import oddities
from tests.core.support import KINDS, SOON, working


@pytest.mark.parametrize("kind", KINDS)
async def test_a_group_is_told_with_its_members_causes_and_notes(oq: AsyncOmniQ, kind: str) -> None:
    task_id = await oq.enqueue(oddities.fail_in_several_ways)
    async with working(oq, kind):
        with pytest.raises(TaskFailed, match="ExceptionGroup: both"):
            await oq.get_result(task_id, timeout=SOON)
    told = (await oq.get_dead(task_id)).traceback
    assert told is not None
    words = ("KeyError: 'first'", "a note", "direct cause", "ValueError: one", "| TypeError: two", "raise ValueError")
    for word in words:
        assert word in told, word


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rejected_task_is_a_dead_letter_at_once(oq: AsyncOmniQ, kind: str, log: Path) -> None:
    task_id = await oq.enqueue(oddities.reject, [str(log)], max_retries=5)
    async with working(oq, kind):
        with pytest.raises(TaskFailed):
            await oq.get_result(task_id, timeout=SOON)
    (letter,) = await oq.list_dead()
    assert (letter.id, letter.state, letter.attempts, letter.error_type) == (
        task_id,
        TaskState.ERROR,
        1,
        "omniq.errors.Reject",
    )


def test_the_members_of_a_group_let_go_of_what_the_task_held() -> None:
    class Held:
        pass

    def fail() -> weakref.ref[Held]:
        held = Held()
        try:
            raise ValueError
        except ValueError as error:
            errors.append(ExceptionGroup("group", [error]))
        return weakref.ref(held)

    errors: list[Exception] = []
    held = fail()
    assert "ValueError" in remote_traceback(errors[0], __file__)
    let_go(errors[0])
    gc.collect()
    assert held() is None
