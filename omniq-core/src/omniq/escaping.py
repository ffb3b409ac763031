"""Text from a store, made safe to show: on a terminal it can move no cursor, in a log it can forge no line."""

from __future__ import annotations

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
