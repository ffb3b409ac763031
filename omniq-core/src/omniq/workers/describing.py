"""What can be told of an error, whatever its class does when it is asked."""

from __future__ import annotations

import traceback
from types import TracebackType

from omniq.texts import MAX_MESSAGE, MAX_TRACEBACK, cut

MAX_CHAIN = 100
"""Errors that are followed from one to its cause."""


def qualified_name(cls: type) -> str:
    """`module.qualname`; the bare name for builtins."""
    try:
        module, name = type.__getattribute__(cls, "__module__"), type.__getattribute__(cls, "__qualname__")
    except BaseException:  # a class may make properties of them
        return str(_NAME.__get__(cls))
    return _encodable(str(name) if module == "builtins" else f"{module}.{name}")


def safe_text(error: BaseException) -> str:
    """The error's text, cut to `MAX_MESSAGE`; a task's own `__str__` may raise as well."""
    try:
        return _encodable(cut(str(error), MAX_MESSAGE))
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
        return _encodable(cut("".join(traceback.format_exception(type(error), error, frames)), MAX_TRACEBACK))
    except BaseException as second:
        return f"(the traceback can't be had: {qualified_name(type(second))})"


def chain(error: BaseException) -> list[BaseException]:
    """The error and those that led to it."""
    links: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(links) < MAX_CHAIN:
        link = waiting.pop()
        if link is not None and not any(link is known for known in links):
            links.append(link)
            waiting += [_CAUSE.__get__(link), _CONTEXT.__get__(link)]
    return links


def let_go(error: BaseException) -> None:
    """Free the frames that the error passed through, and so what the task held: it may be part of a cycle."""
    for link in chain(error):
        BaseException.with_traceback(link, None)


# As Python itself finds them: a class may define properties of these names.
_NAME = vars(type)["__name__"]
_CAUSE = vars(BaseException)["__cause__"]
_CONTEXT = vars(BaseException)["__context__"]
_TRACEBACK = vars(BaseException)["__traceback__"]


def _frames(error: BaseException) -> TracebackType | None:
    frames: TracebackType | None = _TRACEBACK.__get__(error)
    return frames


def _encodable(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 can't carry; of the very type `str`."""
    return str.encode(text, "utf-8", "backslashreplace").decode()
