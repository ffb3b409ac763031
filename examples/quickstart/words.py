"""The task. It lives in a module of its own, so that a worker anywhere can import it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


def count_words(path: str) -> dict[str, int]:
    """How often each word occurs in a UTF-8 text file. Raises `UnicodeDecodeError` when it isn't one."""
    text = Path(path).read_text("utf-8")
    return dict(Counter(word.casefold() for word in WORD.findall(text)))
