"""Texts of others, cut to a stated size: a name, an error's message, a traceback."""

from __future__ import annotations

MAX_NAME = 255
"""Characters of the name of a function or of an error's type."""
MAX_MESSAGE = 16 * 1024
"""Characters of an error's message."""
MAX_TRACEBACK = 64 * 1024
"""Characters of a traceback."""


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of the text: its head and its tail, and between them how many were cut.

    `limit` is at least 100.
    """
    if len(text) <= limit:
        return text
    # The note is as long as its number, which hardly depends on what the note itself takes away.
    room = limit - len(_note(len(text)))
    tail = room // 2
    return text[: room - tail] + _note(len(text) - room) + text[-tail:]


def _note(count: int) -> str:
    return f" … {count:,} characters cut … "


def shown_name(name: str) -> str:
    """The name on one line, and not too long: for people, never to look something up by it."""
    short = cut(name, MAX_NAME)
    return short if short.isprintable() else "".join(char if char.isprintable() else "�" for char in short)
