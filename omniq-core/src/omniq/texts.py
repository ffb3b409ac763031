"""Texts that are fit to be shown, suggestions, and our loggers."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from functools import lru_cache
from types import TracebackType
from typing import Any


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that escapes texts and errors among its arguments."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As `logging.Logger.log`."""
        if self.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, msg, *map(_safe, args), **kwargs)


def get_logger(name: str) -> SafeLogger:
    """The logger of that name."""
    return SafeLogger(logging.getLogger(name), {})


def _safe(value: object) -> object:
    return escaped(str(value)) if isinstance(value, str | BaseException) else value


# ── suggestions ─────────────────────────────────────────────────────────────


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'sqlite'?` when one of the known words is close, else nothing."""
    from difflib import get_close_matches  # only ever needed on the way to an error

    if len(word) > MAX_NAME:  # no slip of the hand: comparing would take long
        return ""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""


def install_command(extra: str) -> str:
    """How to install what one of the extras of omniq-core brings."""
    return f'pip install "omniq-core[{extra}]"'


# ── texts to show ───────────────────────────────────────────────────────────


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
    return _on_one_line(cut(name, MAX_NAME))


@lru_cache(maxsize=1024)  # of short texts: whatever a task calls its errors, it fills no memory
def _on_one_line(name: str) -> str:
    return name if name.isprintable() else "".join(char if char.isprintable() else "�" for char in name)


# ── what a terminal or a log may get ────────────────────────────────────────

_KEPT_IN_BLOCKS = "\n\t"


def escaped(text: str) -> str:
    """The text on one line: white space is a space, and what else isn't printable is written as `\\x1b` or `\\u202e`.

    That is every control character, every lone surrogate, and whatever is invisible or changes the direction of
    what follows.
    """
    return text if text.isprintable() else "".join(map(_escaped_character, text))


def escaped_block(text: str) -> str:
    """The same for text of several lines, such as a traceback: line feeds and tabs stay."""
    return "".join(char if char in _KEPT_IN_BLOCKS else _escaped_character(char) for char in text)


def escaped_json(text: str) -> str:
    """JSON with JSON's own escapes for what isn't printable; line feeds, which are between its tokens, stay."""
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text)


def _escaped_character(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() else ascii(char)[1:-1]


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


# ── names ───────────────────────────────────────────────────────────────────


_NAME = vars(type)["__name__"]
"""As Python itself finds it: a class may define a property of that name."""


def qualified_name(cls: type) -> str:
    """`module.qualname`; the bare name for builtins."""
    try:
        module, name = type.__getattribute__(cls, "__module__"), type.__getattribute__(cls, "__qualname__")
    except BaseException:  # a class may make properties of them
        return str(_NAME.__get__(cls))
    return encodable(str(name) if module == "builtins" else f"{module}.{name}")


def encodable(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 can't carry; of the very type `str`."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


# ── errors as text ──────────────────────────────────────────────────────────


MAX_CHAIN = 100
"""Errors that are followed from one to its cause."""


def safe_text(error: BaseException) -> str:
    """The error's text, cut to `MAX_MESSAGE`; a task's own `__str__` may raise as well."""
    try:
        return encodable(cut(str(error), MAX_MESSAGE))
    except BaseException as second:
        return f"(its text can't be had: {qualified_name(type(second))})"


def remote_traceback(error: BaseException, hidden: str) -> str:
    """The traceback from the task's own first line on, without the frames of the file `hidden` before it.

    It is cut to `MAX_TRACEBACK`.
    """
    try:
        frames = _frames(error)
        while frames is not None and frames.tb_frame.f_code.co_filename == hidden:
            frames = frames.tb_next
        return encodable(cut("".join(traceback.format_exception(type(error), error, frames)), MAX_TRACEBACK))
    except BaseException as second:
        return f"(the traceback can't be had: {qualified_name(type(second))})"


def chain(error: BaseException) -> list[BaseException]:
    """The error, those that led to it, and those that it is a group of."""
    links: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(links) < MAX_CHAIN:
        link = waiting.pop()
        if link is not None and not any(link is known for known in links):
            links.append(link)
            waiting += [_CAUSE.__get__(link), _CONTEXT.__get__(link)]
            if issubclass(type(link), BaseExceptionGroup):
                waiting += _MEMBERS.__get__(link)
    return links


def let_go(error: BaseException) -> None:
    """Free the frames that the error passed through, and so what the task held: it may be part of a cycle."""
    for link in chain(error):
        BaseException.with_traceback(link, None)


# As Python itself finds them: a class may define properties of these names.
_CAUSE = vars(BaseException)["__cause__"]
_CONTEXT = vars(BaseException)["__context__"]
_MEMBERS = vars(BaseExceptionGroup)["exceptions"]
_TRACEBACK = vars(BaseException)["__traceback__"]


def _frames(error: BaseException) -> TracebackType | None:
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    return frames
