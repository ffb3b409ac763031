"""The tasks. They live in a module of their own, so that a worker anywhere can import them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

WORD, YEAR, LINK = re.compile(r"[^\W\d_]+"), re.compile(r"\b(?:19|20)\d\d\b"), re.compile(r"https?://[^\s>)]+")


def read(path: str, pause: float) -> dict[str, Any]:
    """What one UTF-8 text says."""
    text = Path(path).read_text("utf-8")
    time.sleep(pause)
    return {
        "file": Path(path).name,
        "words": len(WORD.findall(text)),
        "years": sorted(set(YEAR.findall(text))),
        "links": sorted(set(LINK.findall(text))),
    }


def sum_up(texts: list[dict[str, Any]]) -> dict[str, Any]:
    """What all of them say together."""
    longest = max(texts, key=lambda text: text["words"], default={"file": "-"})
    return {
        "files": len(texts),
        "words": sum(text["words"] for text in texts),
        "longest": longest["file"],
        "years": ", ".join(sorted({year for text in texts for year in text["years"]})),
        "links": len({link for text in texts for link in text["links"]}),
    }
