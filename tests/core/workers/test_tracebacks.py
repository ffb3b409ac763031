"""Tracebacks keep causes, groups and notes, and nothing of what the task held."""

from __future__ import annotations

import gc
import weakref

from omniq.texts import let_go, qualified_name, remote_traceback, safe_text


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


class Unspeakable(Exception):
    """An error that fails again when anybody wants to know what it is."""

    def __str__(self) -> str:
        raise KeyError("secret")

    def __getattribute__(self, name: str) -> object:
        if name in ("__traceback__", "__cause__"):
            raise RuntimeError("secret")
        return super().__getattribute__(name)


def test_an_error_that_fails_to_tell_itself_is_told_without_its_words() -> None:
    assert safe_text(Unspeakable()) == "(its text can't be had: KeyError)"
    told = remote_traceback(Unspeakable(), __file__)
    assert "secret" not in told
    assert "Unspeakable" in told or told.startswith("(the traceback can't be had: ")


def test_a_class_that_does_not_say_where_it_is_from_has_its_bare_name() -> None:
    def refuse(cls: type) -> str:
        raise RuntimeError("secret")

    homeless = type("Secretive", (type,), {"__module__": property(refuse)})("Homeless", (), {})
    assert qualified_name(homeless) == "Homeless"
    assert qualified_name(ValueError) == "ValueError"
