"""Tracebacks keep causes, groups and notes, and nothing of what the task held."""

from __future__ import annotations

import gc
import weakref

from omniq.texts import let_go, remote_traceback


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
