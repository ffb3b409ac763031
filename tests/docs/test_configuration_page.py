"""The page about configuration has every setting and every field of workers, with their true defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msgspec.structs import fields
from omniq.config import Settings
from omniq.config.described import CHANGEABLE
from omniq.config.settings import SETTING_PLACES
from omniq.models import ChildProcessWorkerConfig, InProcessWorkerConfig, WorkerConfig

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
SHARES = ("RETRY_FACTOR", "RETRY_JITTER")
"""Numbers that are no durations."""


def said(value: Any, *, is_share: bool = False) -> str:
    """How a default is written."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and not is_share:
        return f"{value:.10g} s"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{getattr(value, 'value', value)}`"


def rows(pattern: str) -> list[Any]:
    """The cells of the rows that look so."""
    return re.findall(rf"^{pattern} [^|]+ \|$", PAGE, re.MULTILINE)


def test_the_table_has_each_setting() -> None:
    found = rows(r"\| `OMNIQ_(\w+)`( \*)? \| `([\w.]+)` \| ([^|]+) \|")
    assert found == [
        (
            name,
            " *" if name.lower() in CHANGEABLE else "",
            SETTING_PLACES[name],
            said(getattr(Settings, name), is_share=name in SHARES),
        )
        for name in Settings.__dataclass_fields__
    ]


def test_the_table_has_each_field_of_workers() -> None:
    structs = (WorkerConfig, InProcessWorkerConfig, ChildProcessWorkerConfig)
    known = {field.name: said(field.default) for struct in structs for field in fields(struct)}
    assert dict(rows(r"\| `(\w+)` \| ([^|]+) \|")) == known
