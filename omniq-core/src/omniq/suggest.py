"""What an error message suggests: the word that was meant, the command that installs what is missing."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'sqlite'?` when one of the known words is close, else nothing."""
    from difflib import get_close_matches  # only ever needed on the way to an error

    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f", did you mean {by_lower[close[0]]!r}?" if close else ""


def install_command(extra: str) -> str:
    """How to install what one of the extras of omniq-core brings."""
    return f'pip install "omniq-core[{extra}]"'
